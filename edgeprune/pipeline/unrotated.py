"""What the turn by 180 degrees changed: nothing in the answers, and so many bytes of the arena."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from edgeprune.data import Dataset
from edgeprune.export.tflite_int8 import quantise_model
from edgeprune.logits import scaled_difference
from edgeprune.pipeline.conversions import Conversions
from edgeprune.pipeline.int8 import Int8Network
from edgeprune.pipeline.model_file import ModelFile
from edgeprune.preprocess import normalise_pixels
from edgeprune.recipe import Recipe
from edgeprune.results import Gate, at_most
from edgeprune.verify.litert import read_io, run_litert
from edgeprune.verify.micro import run_micro

_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrotated:
    """The plain export beside the rotated one.

    Attributes:
        gates: equality of the answers; none where nothing was rotated.
        arena_head_bytes: of the plain int8 file, with its PAD operators; None where nothing was rotated.
    """

    gates: tuple[Gate, ...] = ()
    arena_head_bytes: int | None = None


def compare_unrotated(
    recipe: Recipe,
    dataset: Dataset,
    network: nn.Module,
    chosen: Int8Network,
    conversions: Conversions,
    *,
    float_file: ModelFile,
) -> Unrotated:
    """Export a rotated level once more as it is, and hold the two against each other on the whole test split.

    Args:
        recipe: normalisation, limits, and whether anything was rotated.
        dataset: its test split.
        network: the level.
        chosen: its int8 version.
        conversions: without rotation.
        float_file: the rotated float file.

    Returns:
        Gate ``rotation_difference:<path>``, and the arena head that the rotation saves from.
    """
    if recipe.export.pad != "rotate":
        return Unrotated()
    data = recipe.data
    images = normalise_pixels(np.asarray(dataset.test.images), data.mean, data.std).transpose(0, 2, 3, 1)
    plain = conversions.convert(network)
    logits = run_litert(plain.content, np.ascontiguousarray(images), reference=False, batch=_BATCH)
    gate = at_most(
        f"rotation_difference:{float_file.facts.path}",
        scaled_difference(float_file.logits, logits),
        recipe.verify.max_logit_difference,
        f"fed rotated images, against the plain export fed upright ones, {len(logits)} test images",
    )
    model = conversions.convert(chosen.network)
    content = quantise_model(model.content, chosen.choose_ranges(model))
    blank = np.zeros((1, *read_io(content).input_shape[1:]), np.int8)
    return Unrotated(gates=(gate,), arena_head_bytes=run_micro(content, blank).head_bytes)
