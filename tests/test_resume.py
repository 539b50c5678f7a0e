"""Training that is killed goes on after the last epoch that it finished, to the weights of one that was not."""

import dataclasses
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from command import EDGEPRUNE, ENVIRONMENT, Ask
from tiny import make_images, write_recipe
from torch import nn
from torch.nn import functional

from edgeprune.data import Dataset, augment_batch
from edgeprune.learning import Fit, FitSettings, Unfinished, choose_rate, fit_network
from edgeprune.learning import unfinished as unfinished_module
from edgeprune.pipeline import Workspace, make_baseline, prune_to_schedule
from edgeprune.pipeline.workspace import SilentReporter
from edgeprune.quantise.condition import condition_network
from edgeprune.quantise.recover_int8 import recover_int8
from edgeprune.recipe import read_recipe
from edgeprune.recover import Distillation, recover_accuracy
from edgeprune.zoo import checkpoint_digest

GREY = (0.5, 0.5, 0.5)
EPOCHS = 5
turning = partial(augment_batch, flip_horizontal=True, quarter_turns=True)
# Everything that has a state of its own between epochs, apart and together.
OPTIONS: dict[str, dict[str, Any]] = {
    "dropout and order": {},
    "augmentation": {"augment": turning},
    "averaged weights": {"ema": 0.9},
    "mixing": {"augment": turning, "mixup": 0.3, "paste": 0.5},
    "the last epoch": {"keep": "last"},
    "patience": {"patience": 2, "lr": choose_rate("constant", lr=1e-9, warmup_epochs=0, epochs=EPOCHS)},
}

pytestmark = pytest.mark.usefixtures("one_thread")


class StruckError(Exception):
    """Stands for whatever ends a process."""


def strike(epoch: int) -> Callable[[Any], None]:
    def tell(record: Any) -> None:
        if record.epoch == epoch:
            raise StruckError

    return tell


def settings_with(**changed: Any) -> FitSettings:
    values: dict[str, Any] = {
        "mean": GREY, "std": GREY, "lr": choose_rate("cosine", lr=0.02, warmup_epochs=1, epochs=EPOCHS),
        "epochs": EPOCHS, "patience": None, "batch_size": 16, "weight_decay": 0.01, "bn_momentum": 0.1,
        "augment": None, "seed": 0,
    }  # fmt: skip
    return FitSettings(**values | changed)


@pytest.fixture
def fit(dataset: Dataset, tiny_network: Callable[..., nn.Module]) -> Callable[..., Fit]:
    def run(settings: FitSettings | None = None, **arguments: Any) -> Fit:
        return fit_network(
            tiny_network(seed=1),
            train=dataset.train,
            val=dataset.val,
            loss=lambda step: functional.cross_entropy(step.logits, step.labels),
            settings=settings or settings_with(),
            **arguments,
        )

    return run


def keeping(folder: Path, key: str = "k", said: list[str] | None = None) -> Unfinished:
    return Unfinished(folder=folder, key=key, say=[].append if said is None else said.append)


def assert_same(one: Fit, other: Fit) -> None:
    assert one.best_epoch == other.best_epoch
    for a, b in zip(one.epochs, other.epochs, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)
    first, second = one.network.state_dict(), other.network.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_fit_that_goes_on_ends_with_the_same_bits(fit: Callable[..., Fit], tmp_path: Path, option: str) -> None:
    settings, said = settings_with(**OPTIONS[option]), list[str]()
    with pytest.raises(StruckError):
        fit(settings, unfinished=keeping(tmp_path / "u"), on_epoch=strike(2))
    torch.rand(7)  # another process has drawn other numbers
    resumed = fit(settings, unfinished=keeping(tmp_path / "u", said=said))
    assert_same(resumed, fit(settings))
    assert said == [f"Training goes on after epoch 2 of {EPOCHS}."]
    assert resumed.resumed_after == 2 < len(resumed.epochs)
    assert resumed.seconds_before == pytest.approx(sum(record.seconds for record in resumed.epochs[:2]))


def test_a_fit_struck_again_and_again_ends_all_the_same(fit: Callable[..., Fit], tmp_path: Path) -> None:
    for epoch in range(1, EPOCHS):
        with pytest.raises(StruckError):
            fit(unfinished=keeping(tmp_path), on_epoch=strike(epoch))
    assert_same(fit(unfinished=keeping(tmp_path)), fit())


def test_a_fit_that_had_finished_is_not_trained_again(fit: Callable[..., Fit], tmp_path: Path) -> None:
    """The moment between the last epoch and the folder of the finished network."""
    whole = fit(unfinished=keeping(tmp_path))
    assert_same(fit(unfinished=keeping(tmp_path), on_epoch=strike(EPOCHS)), whole)


def test_remembered_answers_of_the_teacher_go_on_too(
    dataset: Dataset, tiny_network: Callable[..., nn.Module], tmp_path: Path
) -> None:
    def run(**arguments: Any) -> Fit:
        return recover_accuracy(
            tiny_network(seed=1),
            teacher=teacher,
            dataset=dataset,
            distillation=Distillation(alpha=0.5, temperature=4.0, cache_teacher=True),
            settings=settings_with(augment=turning),
            **arguments,
        )

    teacher, asked = tiny_network(seed=9), [0]
    teacher.register_forward_hook(lambda _, inputs, __: asked.__setitem__(0, asked[0] + len(inputs[0])))
    whole, all_asked = run(), asked[0]
    with pytest.raises(StruckError):
        run(unfinished=keeping(tmp_path), on_epoch=strike(3))
    assert_same(run(unfinished=keeping(tmp_path)), whole)
    assert asked[0] == 2 * all_asked


def test_training_for_int8_goes_on_with_its_ranges(
    dataset: Dataset, tiny_network: Callable[..., nn.Module], tmp_path: Path
) -> None:
    images = torch.from_numpy(dataset.train.images[:32]).permute(0, 3, 1, 2).float() / 127.5 - 1
    folded = condition_network(tiny_network(seed=1), images, equalise=True, split=False).network

    def run(**arguments: Any) -> Any:
        return recover_int8(
            folded, images=images, method="min_max", dataset=dataset, mean=GREY, std=GREY, epochs=3, lr=1e-3,
            batch_size=16, augment=turning, seed=0, **arguments,
        )  # fmt: skip

    whole = run()
    with pytest.raises(StruckError):
        run(unfinished=keeping(tmp_path), on_epoch=strike(2))
    resumed = run(unfinished=keeping(tmp_path))
    assert resumed.ranges == whole.ranges
    state = whole.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.network.state_dict().items())


def test_what_another_recipe_left_is_told_and_forgotten(fit: Callable[..., Fit], tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(StruckError):
        fit(unfinished=keeping(tmp_path / "u", key="theirs"), on_epoch=strike(2))
    assert_same(fit(unfinished=keeping(tmp_path / "u", said=said)), fit())
    assert said == [f"{tmp_path / 'u'} holds epochs of another recipe, images or version: training starts anew."]
    assert json.loads((tmp_path / "u" / "progress.json").read_text())["key"] == "k"


@pytest.mark.parametrize("how", ["weights", "json", "missing"])
def test_what_is_damaged_is_told_and_not_gone_on_from(fit: Callable[..., Fit], tmp_path: Path, how: str) -> None:
    said: list[str] = []
    folder = tmp_path / "u"
    with pytest.raises(StruckError):
        fit(unfinished=keeping(folder), on_epoch=strike(2))
    (weights,) = folder.glob("epoch-*.safetensors")
    if how == "weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "json":
        (folder / "progress.json").write_text('{"key": "k"}')
    else:
        weights.unlink()
    assert_same(fit(unfinished=keeping(folder, said=said)), fit())
    (sentence,) = said
    assert sentence.startswith(f"{folder} cannot be gone on from: ")
    assert sentence.endswith(". Training starts anew.")


@pytest.mark.parametrize("last_written", ["epoch-3", "best-", "progress"])
def test_a_process_killed_while_it_keeps_an_epoch_has_the_one_before(
    fit: Callable[..., Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_written: str
) -> None:
    """Struck just before each of the files is written; nothing is cleaned up behind it."""

    def write(original: Callable[..., None], path: Path, content: Any) -> None:
        third = path.name.startswith("epoch-3") or (tmp_path / "epoch-3.safetensors").exists()
        if third and path.name.startswith(last_written):
            raise StruckError
        original(path, content)

    settings = settings_with(keep="last")
    with monkeypatch.context() as patch:
        for name in ("write_atomic", "write_json"):
            patch.setattr(unfinished_module, name, partial(write, getattr(unfinished_module, name)))
        with pytest.raises(StruckError):
            fit(settings, unfinished=keeping(tmp_path))
    said: list[str] = []
    assert_same(fit(settings, unfinished=keeping(tmp_path, said=said)), fit(settings))
    assert said == [f"Training goes on after epoch 2 of {EPOCHS}."]


def test_only_two_files_of_tensors_are_kept_and_nothing_is_pickled(fit: Callable[..., Fit], tmp_path: Path) -> None:
    result = fit(unfinished=keeping(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"best-{result.best_epoch}.safetensors", f"epoch-{EPOCHS}.safetensors", "progress.json",
    ]  # fmt: skip
    keeping(tmp_path).clear()
    assert not tmp_path.exists()


# ---------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume") / "project"
    make_images(root / "images", per_class=24)
    write_recipe(
        root / "tiny.yaml", Path("images"), train={"epochs": 3, "batch_size": 16, "lr": 0.003},
        prune={"targets": [0.3]}, recover={"epochs": 3, "patience": 3, "batch_size": 16},
    )  # fmt: skip
    return root


class StrikingReporter(SilentReporter):
    """Hears every line; at one of them the process ends, as far as anybody can tell."""

    def __init__(self, line: str = "") -> None:
        self.lines: list[str] = []
        self._line = line

    def say(self, line: str) -> None:
        self.lines.append(line)
        if self._line and self._line in line:
            raise StruckError


@pytest.mark.long
def test_baseline_and_level_go_on_and_leave_nothing_behind(project: Path, tmp_path: Path) -> None:
    recipe = read_recipe(project / "tiny.yaml", data_path=str(project / "images"))
    whole, struck = Workspace(tmp_path / "whole"), Workspace(tmp_path / "struck")
    for make, line, folder in (
        (make_baseline, "[train | epoch 2/3]", "tiny"),
        (prune_to_schedule, "[target 30.0% | epoch 2/3]", "tiny-s30"),
    ):
        make(recipe, whole, SilentReporter())
        with pytest.raises(StruckError):
            make(recipe, struck, StrikingReporter(line))
        assert list(struck.unfinished.iterdir())
        reporter = StrikingReporter()
        make(recipe, struck, reporter)
        assert "Training goes on after epoch 2 of 3." in reporter.lines
        assert not any(line in said for said in reporter.lines)
        assert checkpoint_digest(struck.models / folder) == checkpoint_digest(whole.models / folder)
        record = json.loads((struck.models / folder / "record.json").read_text())
        assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]
        assert not list(struck.unfinished.iterdir())


@pytest.mark.long
def test_a_command_killed_by_the_system_goes_on_with_the_epoch(project: Path, tmp_path: Path, ask: Ask) -> None:
    whole, root = (Path(shutil.copytree(project, tmp_path / name)) for name in ("whole", "struck"))
    assert ask("train", "tiny.yaml", at=whole).code == 0
    process = subprocess.Popen(
        [*EDGEPRUNE, "train", "tiny.yaml"], cwd=root, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for printed in process.stdout:
        if "[train | epoch 2/3]" in printed:
            process.kill()
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    answer = ask("train", "tiny.yaml", at=root)
    assert (answer.code, answer.err) == (0, "")
    assert "Training goes on after epoch 2 of 3." in answer.out
    assert checkpoint_digest(root / "models" / "tiny") == checkpoint_digest(whole / "models" / "tiny")
