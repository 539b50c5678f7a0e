"""Golden inputs that may be passed on: drawn here, and as good at finding a damaged file as photographs are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import MEAN, SIZE, STD, ask_model, metadata, write_model
from cut_bundles import onnx_bundle

from edgeprune.data import PackedSplit
from edgeprune.embedded import Quantisation
from edgeprune.export.onnx_file import OnnxExport
from edgeprune.pipeline.candidates import Candidate
from edgeprune.pipeline.golden_inputs import GoldenInputs, ask_golden, check_spread, choose_golden
from edgeprune.pipeline.model_file import FLOAT_TOLERANCE_SHARE, ModelFile
from edgeprune.publish import FileFacts, GoldenVectors
from edgeprune.publish.drawn import choose_drawn, draw_images
from edgeprune.recipe import Recipe
from edgeprune.results import Accuracy

LARGE = 1e9


def test_the_same_pictures_come_out_every_time_in_any_size() -> None:
    for size in (16, 33):
        first, again = draw_images(size), draw_images(size)
        assert np.array_equal(first.images, again.images)
        assert first.images.shape == (48, size, size, 3)
        assert first.images.dtype == np.uint8
        assert first.names == again.names


def test_pictures_tell_colours_sides_and_places_apart() -> None:
    """A file that is fed BGR, mirrored or rotated images must answer otherwise, or a golden picture proves little."""
    images = draw_images(32).images.astype(float)
    for name, turned in (
        ("exchanged colours", images[..., ::-1]),
        ("mirrored", images[:, :, ::-1]),
        ("rotated", images[:, ::-1, ::-1]),
        ("one picture for another", np.roll(images, 1, axis=0)),
    ):
        assert np.abs(images - turned).mean(axis=(1, 2, 3)).min() > 5, name


def test_figures_are_drawn_where_the_name_says_so() -> None:
    drawn = draw_images(16)
    assert [name.endswith("-figures") for name in drawn.names] == list(drawn.figures)
    assert 12 <= sum(drawn.figures) <= 24
    assert len(set(drawn.names)) == 48


def test_pictures_are_taken_in_turns_from_every_answer_and_far_apart() -> None:
    outputs = np.asarray([[9, 0], [8, 0], [1, 0], [0, 1], [0, 2], [0, 9]], np.float32)
    assert choose_drawn(outputs, 4, largest=LARGE) == [0, 5, 2, 4]


def test_pictures_on_which_outputs_are_wild_are_left_out_while_there_are_others() -> None:
    """A tolerance is a share of the largest golden output: one of 1000 would let anything pass."""
    outputs = np.asarray([[1000, 0], [3, 0], [0, 2], [1, 0], [0, 900]], np.float32)
    assert set(choose_drawn(outputs, 3, largest=4)) == {1, 2, 3}
    assert set(choose_drawn(outputs, 4, largest=4)) == {1, 2, 3, 4}


def test_answers_that_are_no_numbers_are_left_to_their_gate() -> None:
    outputs = np.asarray([[np.nan, 0], [1, 0], [0, 2]], np.float32)
    assert choose_drawn(outputs, 2, largest=4) == [0, 1]


# --- what they find


@pytest.mark.parametrize(
    "damage",
    [
        lambda images: images[..., ::-1],
        lambda images: images[:, ::-1, ::-1],
        lambda images: images[:, :, ::-1],
        lambda images: np.roll(images, 1, axis=1),
        lambda images: images // 2 * 2,
    ],
    ids=["BGR", "rotated", "mirrored", "shifted by a pixel", "7 bits"],
)
def test_wrong_inputs_move_every_golden_answer_by_more_than_the_tolerance(
    tmp_path: Path, damage: Callable[[np.ndarray], np.ndarray]
) -> None:
    model = write_model(tmp_path / "model.onnx", metadata().as_text())
    drawn = draw_images(SIZE).images
    chosen = choose_drawn(ask_model(model, drawn), 8, largest=LARGE)
    outputs = ask_model(model, drawn[chosen])
    moved = np.abs(ask_model(model, damage(drawn[chosen])) - outputs).max(axis=1)
    assert moved.min() > FLOAT_TOLERANCE_SHARE * np.abs(outputs).max()


def test_answers_that_hardly_move_are_no_golden_answers() -> None:
    """A network that gives one answer to all drawn pictures could be replaced by a constant."""
    test = np.asarray([[0, 10], [4, -6], [8, 0]], np.float32)

    def judge(golden: list[list[float]]) -> bool:
        file = model_file(Path("model.onnx"), outputs=test)
        vectors = GoldenVectors(
            images=np.zeros((2, 8, 8, 3), np.uint8),
            labels=(0, 1),
            names=("a", "b"),
            outputs={"model.onnx": np.asarray(golden, np.float32)},
            tolerance={"model.onnx": 1e-3},
        )
        (gate,) = check_spread(vectors, [file])
        assert gate.name == "golden_spread:model.onnx"
        return gate.passed

    assert judge([[0, 5], [0, 1]])
    assert not judge([[0, 5], [0, 2]])
    assert not judge([[0, 5], [0, 5]])
    assert not judge([[0, 5], [0, float("nan")]])


# --- from the recipe to the bundle


def model_file(path: Path, *, outputs: np.ndarray, quantisation: Quantisation | None = None) -> ModelFile:
    facts = FileFacts(
        path=path.name,
        bytes=1,
        runtime="a runtime",
        accuracy=Accuracy(correct=1, n=2),
        layout="NHWC int8" if quantisation else "NCHW float32",
        input=quantisation,
        output=quantisation,
    )
    return ModelFile(
        path=path,
        facts=facts,
        outputs=outputs,
        logits=outputs.astype(np.float32),
        tolerance_share=None if quantisation else 1e-3,
        gates=(),
    )


def choose(
    tmp_path: Path, make_split: Callable[..., PackedSplit], *, golden: str, classes: tuple[str, ...]
) -> tuple[GoldenInputs, GoldenVectors]:
    model = write_model(tmp_path / "model.onnx", metadata().as_text())
    recipe = Recipe(
        name="tiny",
        data={"image_size": SIZE, "mean": MEAN, "std": STD},
        export={"formats": ("onnx",), "golden": golden},
    )
    test = make_split(6, size=SIZE, name="test")
    outputs = np.asarray([[3, -3]] * 6, np.float32)
    export = OnnxExport(
        path=model, size_bytes=1, opset=18, simplified=True, plain_size_bytes=1, simplify_difference=0.0
    )
    candidate = Candidate(export=export, metadata={}, file_macs=None, padding_difference=0.0, logits=outputs)
    inputs = choose_golden(recipe, test, classes, candidate)
    return inputs, ask_golden(recipe, inputs, [model_file(model, outputs=outputs)])


def test_drawn_inputs_hold_no_image_of_the_data_set_and_are_answered_by_the_file(
    tmp_path: Path, make_split: Callable[..., PackedSplit]
) -> None:
    inputs, vectors = choose(tmp_path, make_split, golden="drawn", classes=("good", "bad"))
    assert inputs.test is None
    assert all(name.startswith("drawn-") for name in inputs.names)
    # What a network answers is the label of a picture that shows none of its classes.
    assert list(vectors.labels) == vectors.outputs["model.onnx"].argmax(axis=1).tolist()
    assert len(np.unique(vectors.outputs["model.onnx"], axis=0)) == 8


def test_a_person_detector_is_told_what_was_drawn(tmp_path: Path, make_split: Callable[..., PackedSplit]) -> None:
    for classes, person in ((("not_person", "person"), 1), (("person", "none"), 0)):
        inputs, _ = choose(tmp_path, make_split, golden="drawn", classes=classes)
        assert [label == person for label in inputs.labels] == [name.endswith("-figures") for name in inputs.names]


def test_without_it_golden_inputs_are_test_images_in_turns(
    tmp_path: Path, make_split: Callable[..., PackedSplit]
) -> None:
    inputs, vectors = choose(tmp_path, make_split, golden="images", classes=("good", "bad"))
    assert inputs.labels == (0, 1, 0, 1, 0, 1)
    assert np.array_equal(inputs.images, make_split(6, size=SIZE, name="test").images)
    assert vectors.outputs["model.onnx"].tolist() == [[3, -3]] * 6


def test_the_card_says_that_golden_images_are_drawn(tmp_path: Path) -> None:
    """Whoever passes the bundle on must know what is in it."""
    drawn, real = ((onnx_bundle(tmp_path / str(flag), drawn=flag) / "README.md").read_text() for flag in (True, False))
    assert "The images in `golden/` are pictures drawn by edgeprune, no photographs" in drawn
    assert "come from test and stand under the images' licence" not in drawn
    assert "The images in `golden/` come from test and stand under the images' licence." in real
