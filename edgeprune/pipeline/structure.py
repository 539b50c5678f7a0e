"""What a network's int8 file weighs and how much memory it takes: facts of its shape, known before it is recovered."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeprune.calibration import METHODS
from edgeprune.data import Dataset, sample_images
from edgeprune.export.tflite_file import strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.formats import ModelMetadata
from edgeprune.micro_scratch import cmsis_nn_scratch_bytes
from edgeprune.pipeline.conversions import Conversions
from edgeprune.preprocess import normalise_pixels
from edgeprune.quantise.condition import condition_network
from edgeprune.recipe import Recipe
from edgeprune.tflite_metadata import add_metadata
from edgeprune.verify.liveness import find_peak
from edgeprune.verify.micro import run_micro

# Ranges do not change what a file weighs; some are needed to write one.
_IMAGES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """An int8 file by its shape.

    Attributes:
        flash_bytes: of the file.
        ram_bytes: head of TFLite Micro's arena, by liveness, which it equals.
        ram_at: the layer or operator where memory peaks.
        rest_bytes: the rest of the arena: its tail, in TFLite Micro, and CMSIS-NN's scratch; 0 where not asked for.
    """

    flash_bytes: int
    ram_bytes: int
    ram_at: str
    rest_bytes: int


def measure_structure(
    recipe: Recipe, network: nn.Module, dataset: Dataset, metadata: ModelMetadata, *, whole_arena: bool = False
) -> Structure:
    """Write the int8 file of a network that is not recovered yet, and measure it.

    Args:
        recipe: its ``quantise`` section, normalisation and padding.
        network: not changed.
        dataset: a few train images.
        metadata: what the file would say about itself.
        whole_arena: run the file in TFLite Micro, to see all of its arena.

    Raises:
        EdgepruneError: the network cannot be traced or converted.
    """
    pixels = sample_images(dataset.train, _IMAGES, recipe.seed)
    images = normalise_pixels(pixels, recipe.data.mean, recipe.data.std)
    ready = condition_network(
        network, torch.from_numpy(images), equalise=recipe.quantise.equalise, split=recipe.quantise.split_peak
    )
    model = Conversions(image_size=recipe.data.image_size, rotate=recipe.export.pad == "rotate").convert(ready.network)
    statistics = observe_ranges(model.content, images.transpose(0, 2, 3, 1).copy())
    ranges = choose_ranges(model.content, statistics, METHODS[0])
    content = add_metadata(strip_model(quantise_model(model.content, ranges)), metadata, int8=True)
    peak = find_peak(content)
    rest_bytes = 0
    if whole_arena:
        image = np.zeros((1, recipe.data.image_size, recipe.data.image_size, 3), np.int8)
        rest_bytes = run_micro(content, image).tail_bytes + cmsis_nn_scratch_bytes(content)
    return Structure(
        flash_bytes=len(content),
        ram_bytes=peak.peak_bytes,
        ram_at=model.layers[peak.operator_index] or f"operator {peak.operator_index}",
        rest_bytes=rest_bytes,
    )
