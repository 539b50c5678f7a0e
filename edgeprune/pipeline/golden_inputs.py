"""Golden inputs of a level: test images, or drawn pictures where photographs may not be passed on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.data import PackedSplit
from edgeprune.pipeline.answers import answer_images
from edgeprune.pipeline.candidates import Candidate
from edgeprune.pipeline.model_file import MICRO_TOLERANCE_LSB, ModelFile
from edgeprune.publish.drawn import choose_drawn, draw_images
from edgeprune.publish.facts import GoldenVectors
from edgeprune.recipe import Recipe
from edgeprune.results import Gate, at_least

_GOLDEN_IMAGES = 8
# A file that was damaged must show on drawn pictures as it would on photographs: its answers have to move as far.
_MIN_SPREAD = 0.25
# Where the classes are persons and none, what was drawn is known.
_PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenInputs:
    """Images before any file but one was asked.

    Attributes:
        images: uint8, shape (n, image_size, image_size, 3).
        labels, names: one an image.
        test: their places in the test split; None where they were drawn.
    """

    images: np.ndarray
    labels: tuple[int, ...]
    names: tuple[str, ...]
    test: tuple[int, ...] | None


def choose_golden(recipe: Recipe, test: PackedSplit, classes: tuple[str, ...], onnx: Candidate) -> GoldenInputs:
    """In turns from every class, so that a network that always gives one answer cannot pass.

    Args:
        recipe: which kind of images.
        test: where photographs come from.
        classes: in the order of the outputs.
        onnx: the float file, which is asked about drawn pictures: those on which its answers differ most are taken,
            and what it answers is their label, unless persons were drawn for a person detector.
    """
    if recipe.export.golden == "images":
        chosen = _in_turns(test)
        return GoldenInputs(
            images=np.asarray(test.images[chosen]),
            labels=tuple(int(test.labels[index]) for index in chosen),
            names=tuple(test.names[index] for index in chosen),
            test=tuple(chosen),
        )
    drawn = draw_images(recipe.data.image_size)
    outputs = answer_images(recipe, onnx.export.path, drawn.images, quantisation=None)
    labels = outputs.argmax(axis=1)
    if len(classes) == 2 and _PERSON in classes:
        person = classes.index(_PERSON)
        labels = np.where(drawn.figures, person, 1 - person)
    chosen = choose_drawn(outputs, _GOLDEN_IMAGES, largest=float(np.abs(onnx.logits).max()))
    return GoldenInputs(
        images=drawn.images[chosen],
        labels=tuple(int(labels[index]) for index in chosen),
        names=tuple(drawn.names[index] for index in chosen),
        test=None,
    )


def ask_golden(recipe: Recipe, golden: GoldenInputs, files: Sequence[ModelFile]) -> GoldenVectors:
    """The images with what each file gives for them: looked up for test images, which all were run on."""
    outputs = {}
    for file in files:
        if golden.test is not None:
            outputs[file.facts.path] = file.outputs[list(golden.test)]
        else:
            outputs[file.facts.path] = answer_images(recipe, file.path, golden.images, quantisation=file.facts.input)
    return GoldenVectors(
        images=golden.images,
        labels=golden.labels,
        names=golden.names,
        outputs=outputs,
        tolerance={file.facts.path: _tolerance(file, outputs[file.facts.path]) for file in files},
    )


def check_spread(golden: GoldenVectors, files: Sequence[ModelFile]) -> tuple[Gate, ...]:
    """Gates ``golden_spread:<path>``: over drawn pictures, outputs must cover a good part of what they do over test."""
    gates = []
    for file in files:
        path = file.facts.path
        ours, theirs = (
            float(np.ptp(outputs.astype(np.float64), axis=0).max()) for outputs in (golden.outputs[path], file.outputs)
        )
        detail = f"outputs range over {ours:g} on the golden images, over {theirs:g} on test"
        gates.append(at_least(f"golden_spread:{path}", ours / theirs if theirs else float("nan"), _MIN_SPREAD, detail))
    return tuple(gates)


def _in_turns(test: PackedSplit) -> list[int]:
    by_class = [np.flatnonzero(np.asarray(test.labels) == label) for label in np.unique(test.labels)]
    rounds = max(len(indices) for indices in by_class)
    in_turns = [int(indices[turn]) for turn in range(rounds) for indices in by_class if turn < len(indices)]
    return in_turns[:_GOLDEN_IMAGES]


def _tolerance(file: ModelFile, outputs: np.ndarray) -> float:
    if file.tolerance_share is None:
        return MICRO_TOLERANCE_LSB
    return file.tolerance_share * max(1.0, float(np.abs(outputs).max()))
