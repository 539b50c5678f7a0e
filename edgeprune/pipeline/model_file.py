"""One model file of a level that was written and run on the whole test split, in whatever runtime it is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.data import PackedSplit
from edgeprune.publish.facts import FileFacts, GoldenVectors
from edgeprune.results import Gate

_GOLDEN_IMAGES = 8
# Other processors sum in another order; a wrong preprocessing or a wrong file is off by whole logits.
FLOAT_TOLERANCE_SHARE = 1e-3
# With int8 inside and float outside: where one value is rounded the other way, the next layers carry it on.
INT8_TOLERANCE_SHARE = 0.05
# Stored values in TFLite Micro against LiteRT's reference kernels.
MICRO_TOLERANCE_LSB = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file on disk, what it answered, and what its gates say.

    Attributes:
        path: on disk.
        facts: as the bundle tells them.
        outputs: what it gave for every test image: float32 logits, or stored int8 values.
        logits: the same as real numbers, float32.
        tolerance_share: by which another machine may differ, as a share of the largest golden logit; None for stored
            int8 values, which may be one step apart.
        gates: every check of this file.
    """

    path: Path
    facts: FileFacts
    outputs: np.ndarray
    logits: np.ndarray
    tolerance_share: float | None
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
        tolerance={file.facts.path: _tolerance(file, chosen) for file in files},
    )


def _tolerance(file: ModelFile, chosen: list[int]) -> float:
    if file.tolerance_share is None:
        return MICRO_TOLERANCE_LSB
    return file.tolerance_share * max(1.0, float(np.abs(file.outputs[chosen]).max()))
