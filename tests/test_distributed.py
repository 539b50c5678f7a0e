"""Two processes do what one does: the same weights, one writer, and an end with a sentence when one of them dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import shared_fit
import torch
from command import ENVIRONMENT, Ask
from safetensors.torch import load_file
from tiny import make_images, write_recipe
from torch import nn

from edgeprune.distributed import ALONE, Team, is_follower, join_team
from edgeprune.errors import InputError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "edgeprune"]

pytestmark = pytest.mark.usefixtures("one_thread")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What one process computes alone, and what each of two has in the end."""
    folder = tmp_path_factory.mktemp("shared")
    around = ENVIRONMENT | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "EDGEPRUNE_DEVICE": "cpu",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, shared_fit.__file__, str(folder)], env=around | {"RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    shared_fit.share(ALONE, folder / "alone.safetensors")
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert json.loads((folder / "heard.json").read_text()) == ["all"]
    return [load_file(folder / f"{name}.safetensors") for name in ("alone", "rank-0", "rank-1")]


def starting_with(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


def test_two_processes_end_with_the_same_bits(shared: list[dict[str, torch.Tensor]]) -> None:
    """Parts whose BatchNorm trains too, and the records that decide which epoch is kept and when to stop."""
    _, first, second = shared
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_learn_what_one_does(shared: list[dict[str, torch.Tensor]]) -> None:
    """Batches of 15 in parts of 8 and 7: a mean of the parts' means would be another gradient."""
    alone, first, _ = shared
    for name, value in starting_with("frozen.", alone).items():
        torch.testing.assert_close(first[name], value, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(first["records"], alone["records"], rtol=1e-4, atol=1e-5)
    start = shared_fit.make_network(shared_fit.Frozen).head.weight
    assert not torch.allclose(first["frozen.head.weight"], start, atol=1e-2)


def test_batchnorm_that_trains_sees_all_parts(shared: list[dict[str, torch.Tensor]]) -> None:
    """Each process normalises by its own part, so that weights differ a little; statistics are those of all parts."""
    alone, first, _ = shared
    for name, value in starting_with("living.", alone).items():
        torch.testing.assert_close(first[name], value, rtol=0.3, atol=0.1)
    norm = "living.stem.1.running_mean"
    torch.testing.assert_close(first[norm], alone[norm], rtol=0.05, atol=0.02)


def test_recalibration_is_over_all_images(shared: list[dict[str, torch.Tensor]]) -> None:
    """Three batches, two for one process and one for the other."""
    alone, first, _ = shared
    for name, value in starting_with("recalibrated.", alone).items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def test_logits_are_of_all_images_in_their_order(shared: list[dict[str, torch.Tensor]]) -> None:
    alone, first, _ = shared
    torch.testing.assert_close(first["logits"], alone["logits"], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- one process


def test_alone_nothing_is_added_told_or_waited_for() -> None:
    value = torch.ones(2)
    ALONE.add(value)
    ALONE.average([value], share=0.5)
    ALONE.meet()
    ALONE.tell(kind="train")
    assert value.tolist() == [1, 1]
    assert ALONE.total([1.5, 2]) == [1.5, 2]
    assert ALONE.leads
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("rank", "size", "follows"), [(None, None, False), ("0", "1", False), ("0", "2", False), ("1", "2", True)]
)
def test_only_ranks_above_zero_of_a_team_follow(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, size: str | None, follows: bool
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert is_follower() is follows


@pytest.mark.parametrize("asked", ["gpu", "cuda"])
def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("EDGEPRUNE_DEVICE", asked)
    with pytest.raises(InputError, match=f"EDGEPRUNE_DEVICE={asked}"), join_team():
        pass


def test_the_best_device_is_taken_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRUNE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with join_team() as team:
        assert (team.device, team.bfloat16) == ("cuda", True)
    monkeypatch.setenv("EDGEPRUNE_DEVICE", "cpu")
    with join_team() as team:
        assert (team.device, team.bfloat16) == ("cpu", False)


def test_steps_are_compiled_only_when_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRUNE_COMPILE", raising=False)
    with join_team() as team:
        assert team.compiler == ""
    monkeypatch.setenv("EDGEPRUNE_COMPILE", "inductor")
    with join_team() as team:
        assert team.compiler == "inductor"
    monkeypatch.setenv("EDGEPRUNE_COMPILE", "fast")
    with pytest.raises(InputError, match="EDGEPRUNE_COMPILE=fast is no backend"), join_team():
        pass


def test_a_compiled_fit_is_the_same_fit() -> None:
    """As far as capturing goes; ``inductor`` takes minutes and rounds in another order."""
    torch.compiler.reset()
    plain, compiled = (shared_fit.fit(Team(compiler=compiler), nn.BatchNorm2d) for compiler in ("", "eager"))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert compiled.epochs[-1].train_loss == pytest.approx(plain.epochs[-1].train_loss, rel=1e-5)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], value)


def test_a_network_without_batchnorm_has_nothing_to_average() -> None:
    Team(size=2).average([], share=0.5)


def test_batches_too_small_to_share_are_refused() -> None:
    """Before anybody waits for anybody."""
    with pytest.raises(InputError, match="8 processes cannot share batches of 15 images"):
        shared_fit.fit(Team(size=8), nn.BatchNorm2d)


def test_training_in_bfloat16_gives_a_float32_network_near_the_other() -> None:
    """The same way through the code as on a GPU, on a device that every machine has."""
    half, full = (shared_fit.fit(Team(bfloat16=switch), nn.BatchNorm2d) for switch in (True, False))
    assert {value.dtype for value in half.network.parameters()} == {torch.float32}
    assert half.epochs[-1].train_loss == pytest.approx(full.epochs[-1].train_loss, rel=0.1)
    assert half.epochs[-1].train_loss != full.epochs[-1].train_loss


# ---------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("team") / "project"
    make_images(root / "images", per_class=24)
    write_recipe(
        root / "tiny.yaml", Path("images"), train={"epochs": 3, "batch_size": 16, "lr": 0.003},
        prune={"targets": [0.3]}, recover={"epochs": 2, "batch_size": 16},
    )  # fmt: skip
    return root


def start_team(root: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, *command], cwd=root, env=ENVIRONMENT | {"EDGEPRUNE_DEVICE": "cpu"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def process_of_rank(rank: int, launcher: int) -> int:
    """The process that the launcher started for a rank (Linux)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise LookupError(rank)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the process by /proc")
def test_a_process_that_dies_ends_the_run_with_a_sentence_and_it_goes_on(project: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    team = start_team(root, "train", "tiny.yaml")
    assert team.stdout is not None
    for line in team.stdout:
        if "[train | epoch 1/3]" in line:
            break
    os.kill(process_of_rank(1, team.pid), signal.SIGKILL)
    struck = time.monotonic()
    _, errors = team.communicate(timeout=120)
    assert time.monotonic() - struck < 30
    assert team.returncode != 0
    assert errors.count("edgeprune: ") == 1
    assert "processes" in errors
    assert "  try: the same command: training goes on after the last finished epoch" in errors
    team = start_team(root, "train", "tiny.yaml")
    out, errors = team.communicate(timeout=240)
    assert team.returncode == 0, errors
    assert out.count("Training goes on after epoch 1 of 3.") == 1
    assert out.count("[train | epoch 3/3]") == 1
    assert "edgeprune: " not in errors


@pytest.mark.long
def test_a_schedule_is_made_by_a_team_with_one_writer(project: Path, tmp_path: Path, ask: Ask) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    assert ask("train", "tiny.yaml", at=root).code == 0
    team = start_team(root, "prune", "tiny.yaml", "--json")
    out, errors = team.communicate(timeout=240)
    assert team.returncode == 0, errors
    (level,) = json.loads(out)["levels"]  # one JSON value: nobody else has printed
    assert level["level"] == "s30"
    (run,) = (root / "runs").iterdir()
    assert (run / "log.txt").read_text().count("epoch 2/2]") == 1
    assert (root / "JOURNAL.md").read_text().count("**Run:**") == 1
    assert not list((root / ".cache/edgeprune/unfinished").iterdir())
    # What was made is what one process takes for its own.
    assert "Every level is up to date." in ask("prune", "tiny.yaml", at=root).out
