"""One model file of a level that was written and run on the whole test split, in whatever runtime it is for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.publish.facts import FileFacts
from edgeprune.results import Gate

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
