"""ExecuTorch programs: written by its exporter, run in its own runtime, and the gates of a published one."""

import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_factory import CLASSES, CONFIG, ENVIRONMENT, MEAN, SIZE, STD, facts_for, metadata
from mcu_models import tiny_network
from torch import nn

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.export.executorch_file import write_executorch, write_executorch_int8
from edgeprune.formats import feed_images, parse_metadata
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish import Bundle, FileFacts, GoldenVectors, publish_bundle
from edgeprune.results import Accuracy, Gate
from edgeprune.verify.accuracy import compare_accuracy
from edgeprune.verify.bundle_texts import read_texts
from edgeprune.verify.executorch_runtime import ExecutorchRun, ask_executorch_file, executorch_version, run_executorch
from edgeprune.verify.int8_accuracy import check_float_file, check_int8_file
from edgeprune.verify.question import Question
from edgeprune.verify.replay_executorch import ask_executorch
from edgeprune.zoo import torchvision_models
from edgeprune.zoo.same_padding import use_same_padding


@functools.cache
def pictures() -> np.ndarray:
    """Blocky, so that images differ by more than the noise that pooling averages away."""
    return np.random.default_rng(1).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)


@functools.cache
def images() -> np.ndarray:
    return normalise_pixels(pictures(), MEAN, STD)


@functools.cache
def torch_logits() -> np.ndarray:
    with torch.no_grad():
        return tiny_network()(torch.from_numpy(images())).numpy()


@functools.cache
def float_program() -> bytes:
    return write_executorch(tiny_network(), image_size=SIZE, metadata=metadata().as_text())


@functools.cache
def int8_program() -> bytes:
    return write_executorch_int8(
        tiny_network(), torch.from_numpy(images()), image_size=SIZE, metadata=metadata().as_text()
    )


@functools.cache
def answer(int8: bool) -> ExecutorchRun:
    return ask_executorch_file(int8_program() if int8 else float_program(), images())


def publish(exports: Path) -> Bundle:
    """A bundle with the float program alone."""
    path = exports.parent / "model.pte"
    path.write_bytes(float_program())
    file = FileFacts(
        path="model.pte",
        bytes=path.stat().st_size,
        runtime=executorch_version(),
        accuracy=Accuracy(correct=437, n=526),
        layout="NCHW float32",
    )
    return publish_bundle(
        exports=exports,
        facts=dataclasses.replace(facts_for(path), files=(file,), dense_files=()),
        model_files={"model.pte": path},
        golden=GoldenVectors(
            images=pictures(),
            labels=(0, 1) * 4,
            names=tuple(f"cell{index}.png" for index in range(8)),
            outputs={"model.pte": answer(False).outputs},
            tolerance={"model.pte": 1e-4},
        ),
        config_yaml=CONFIG,
        environment=ENVIRONMENT,
    )


def ask(bundle: Bundle, content: bytes | None = None) -> dict[str, Gate]:
    """The gates of the bundle's program, after its bytes were replaced."""
    if content is not None:
        (bundle.folder / "model.pte").write_bytes(content)
    texts = read_texts(bundle.folder)
    file, golden = texts.input_of("model.pte"), texts.golden_of("model.pte")
    assert file is not None
    assert golden is not None
    question = Question(
        folder=bundle.folder,
        name="model.pte",
        manifest=bundle.manifest,
        texts=texts,
        file=file,
        golden=golden,
        inputs=feed_images(texts.images, file, mean=MEAN, std=STD),
    )
    return {gate.name.split(":")[0]: gate for gate in ask_executorch(question)}


def test_a_float_program_answers_as_torch_does() -> None:
    gates = check_float_file(answer(False).outputs, torch_logits(), path="m", min_agreement=1.0, max_difference=1e-5)
    assert [gate for gate in gates if not gate.passed] == []
    assert answer(False).outputs.shape == (8, len(CLASSES))
    assert answer(False).outputs.dtype == np.float32


def test_an_int8_program_answers_nearly_as_the_float_one() -> None:
    labels = torch_logits().argmax(axis=1)
    gates = check_int8_file(
        answer(True).outputs,
        answer(False).outputs,
        compare_accuracy(file_logits=answer(True).outputs, reference_logits=answer(False).outputs, labels=labels),
        path="m",
        max_drop=0.0,
        min_agreement=1.0,
        min_sqnr_db=20,
    )
    assert [gate for gate in gates if not gate.passed] == []
    # Rounded to 8 bits it cannot be the same.
    assert np.abs(answer(True).outputs - answer(False).outputs).max() > 1e-5


def test_a_nan_weight_fails_the_gates() -> None:
    """XNNPACK runs it without a word."""
    damaged = tiny_network()
    with torch.no_grad():
        damaged[5].weight[0, 0] = float("nan")
    logits = run_executorch(write_executorch(damaged, image_size=SIZE, metadata={}), images())
    gates = check_float_file(logits, torch_logits(), path="m", min_agreement=1.0, max_difference=1e-3)
    assert "logit_difference:m" in {gate.name for gate in gates if not gate.passed}


def test_equal_input_gives_equal_bytes() -> None:
    """Digests in a manifest say whether anything changed."""
    again = write_executorch(tiny_network(), image_size=SIZE, metadata=metadata().as_text())
    assert again == float_program()
    assert str(Path(__file__).parent.parent).encode() not in again


@pytest.mark.long
def test_equal_input_gives_equal_int8_bytes() -> None:
    again = write_executorch_int8(
        tiny_network(), torch.from_numpy(images()), image_size=SIZE, metadata=metadata().as_text()
    )
    assert again == int8_program()


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_a_program_says_what_it_is(int8: bool) -> None:
    assert parse_metadata(answer(int8).properties, origin="m") == metadata()


def test_converting_says_nothing_and_leaves_the_network_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    """The exporter logs, warns and writes to descriptor 2; and it folds BatchNorm in what it is given."""
    network = tiny_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    write_executorch_int8(network, torch.from_numpy(images()[:1]), image_size=SIZE, metadata={})
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence() -> None:
    class Hesitant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(EdgepruneError, match="ExecuTorch cannot convert Hesitant: ") as error:
        write_executorch(Hesitant(), image_size=SIZE, metadata={})
    assert "\n" not in error.value.problem


def test_calibration_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have shape \(2, 3, 8, 8\)"):
        write_executorch_int8(tiny_network(), torch.zeros(2, 3, 8, 8), image_size=SIZE, metadata={})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda content: content[:-500], "File size is too small"),
        (lambda content: b"not a program at all" * 100, "Program identifier"),
        (lambda content: content[:300] + bytes(300) + content[600:], "truncated or corrupt"),
    ],
    ids=["cut short", "foreign", "overwritten"],
)
def test_a_damaged_program_is_an_input_error(damage, named: str) -> None:
    with pytest.raises(InputError, match=r"The file does not run in ExecuTorch 1\.5\.1: ") as error:
        run_executorch(damage(float_program()), images())
    assert named in error.value.problem


@pytest.mark.parametrize(
    "given",
    [np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 3, SIZE, SIZE)), np.zeros((0, 3, SIZE, SIZE), np.float32)],
    ids=["another size", "doubles", "none"],
)
def test_other_images_than_the_program_takes_are_refused(given: np.ndarray) -> None:
    with pytest.raises(InputError, match="The file"):
        run_executorch(float_program(), given)


def test_without_executorch_the_extra_is_named_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that cannot be run here is not a bad one."""
    bundle = publish(tmp_path / "exports")
    for name in [name for name in sys.modules if name.split(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingExtraError, match=r"edgeprune\[executorch\]"):
        run_executorch(b"", images())
    with pytest.raises(MissingExtraError, match=r"edgeprune\[executorch\]"):
        write_executorch(tiny_network(), image_size=SIZE, metadata={})
    assert ask(bundle) == {}


def test_a_published_program_answers_as_it_did(tmp_path: Path) -> None:
    gates = ask(publish(tmp_path / "exports"))
    assert set(gates) == {"metadata", "golden"}
    assert [gate for gate in gates.values() if not gate.passed] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": CLASSES[::-1]},
        pytest.param({"mean": (0.5, 0.456, 0.406)}, marks=pytest.mark.long),
        pytest.param({"level": "s30"}, marks=pytest.mark.long),
    ],
    ids=["labels reversed", "wrong mean", "of another level"],
)
def test_a_program_with_other_metadata_is_found(tmp_path: Path, changes: dict[str, object]) -> None:
    other = write_executorch(tiny_network(), image_size=SIZE, metadata=metadata(**changes).as_text())
    gates = ask(publish(tmp_path / "exports"), other)
    assert [name for name, gate in gates.items() if not gate.passed] == ["metadata"]
    assert next(iter(changes)) in gates["metadata"].detail


def test_a_program_without_metadata_is_found(tmp_path: Path) -> None:
    gates = ask(publish(tmp_path / "exports"), write_executorch(tiny_network(), image_size=SIZE, metadata={}))
    assert not gates["metadata"].passed
    assert "`name` does not fit" in gates["metadata"].detail


def test_a_program_with_other_weights_is_found(tmp_path: Path) -> None:
    other = tiny_network()
    with torch.no_grad():
        other[5].weight.mul_(1.1)
    gates = ask(publish(tmp_path / "exports"), write_executorch(other, image_size=SIZE, metadata=metadata().as_text()))
    assert [name for name, gate in gates.items() if not gate.passed] == ["golden"]


def test_a_cut_published_program_is_found(tmp_path: Path) -> None:
    gates = ask(publish(tmp_path / "exports"), float_program()[:-100])
    assert not gates["metadata"].passed
    assert gates["metadata"].figure == "refused"


@pytest.mark.long
def test_the_reference_network_runs_in_executorch_and_shrinks_to_a_third_in_int8() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = use_same_padding(torchvision_models().mobilenet_v3_small(num_classes=2)).eval()
        given = torch.randn(4, 3, 96, 96)
    plain = write_executorch(network, image_size=96, metadata={})
    with torch.no_grad():
        wanted = network(given).numpy()
    difference = np.abs(run_executorch(plain, given.numpy()) - wanted).max()
    assert difference <= 1e-5 * np.abs(wanted).max()
    small = write_executorch_int8(network, given, image_size=96, metadata={})
    assert len(small) < len(plain) / 3
    assert run_executorch(small, given.numpy()).shape == (4, 2)
