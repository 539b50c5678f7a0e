"""One model file of a level that was written and run on the whole test split, in whatever runtime it is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.data import PackedSplit
from edgeprune.publish.facts import FileFacts, GoldenVectors
from edgeprune.results import Gate

_GOLDEN_IMAGES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file on disk, what it answered, and what its gates say.

    Attributes:
        path: on disk.
        facts: as the bundle tells them.
        outputs: what it gave for every test image: float32 logits, or stored int8 values.
        logits: the same as real numbers, float32.
        tolerance: by which another machine may differ: logits, or steps of the last place.
        gates: every check of this file.
    """

    path: Path
    facts: FileFacts
    outputs: np.ndarray
    logits: np.ndarray
    tolerance: float
    gates: tuple[Gate, ...]


def choose_golden(test: PackedSplit) -> list[int]:
    """Indices of test images in turns from every class, so that a network that always gives one answer cannot pass."""
    by_class = [np.flatnonzero(np.asarray(test.labels) == label) for label in np.unique(test.labels)]
    rounds = max(len(indices) for indices in by_class)
    in_turns = [int(indices[turn]) for turn in range(rounds) for indices in by_class if turn < len(indices)]
    return in_turns[:_GOLDEN_IMAGES]


def golden_vectors(test: PackedSplit, chosen: list[int], files: Sequence[ModelFile]) -> GoldenVectors:
    """The chosen test images with what each file gave for them."""
    return GoldenVectors(
        images=np.asarray(test.images[chosen]),
        labels=tuple(int(test.labels[index]) for index in chosen),
        names=tuple(test.names[index] for index in chosen),
        outputs={file.facts.path: file.outputs[chosen] for file in files},
        tolerance={file.facts.path: file.tolerance for file in files},
    )


def logit_tolerance(logits: np.ndarray) -> float:
    """By how much a float file may differ elsewhere: other processors sum in another order.

    A wrong preprocessing or a wrong file is off by whole logits.
    """
    return 1e-3 * max(1.0, float(np.abs(logits).max()))


def int8_tolerance(logits: np.ndarray) -> float:
    """By how much a file with int8 inside and float outside may differ elsewhere.

    Where another processor rounds one value the other way, the next layers carry it on.
    """
    return 0.05 * max(1.0, float(np.abs(logits).max()))
