"""What one file of a level answers to other images than test's, in the runtime that proved it."""

from pathlib import Path

import numpy as np

from edgeprune.embedded import Quantisation
from edgeprune.pipeline.tflite_files import tflite_inputs
from edgeprune.preprocess import normalise_pixels
from edgeprune.recipe import Recipe
from edgeprune.verify.executorch_runtime import run_executorch
from edgeprune.verify.litert import run_litert
from edgeprune.verify.micro import run_micro
from edgeprune.verify.onnx_runtime import run_onnx

_BATCH = 32


def answer_images(recipe: Recipe, path: Path, images: np.ndarray, *, quantisation: Quantisation | None) -> np.ndarray:
    """Outputs as the file stores them, shape (n, classes).

    Args:
        recipe: normalisation, rotation.
        path: of the file; its ending says which runtime it is for.
        images: uint8, shape (n, height, width, 3), upright.
        quantisation: of the file's input; None where that is float32.
    """
    if path.suffix == ".tflite":
        content, inputs = path.read_bytes(), tflite_inputs(recipe, images, quantisation)
        if quantisation is not None:
            return run_micro(content, inputs).outputs
        return run_litert(content, inputs, reference=False, batch=_BATCH)
    inputs = normalise_pixels(images, recipe.data.mean, recipe.data.std)
    return run_executorch(path.read_bytes(), inputs) if path.suffix == ".pte" else run_onnx(path, inputs)
