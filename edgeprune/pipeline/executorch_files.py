"""The ExecuTorch files of one level, float and int8 through XNNPACK, run in ExecuTorch's own runtime."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune.data import Dataset
from edgeprune.export.executorch_file import write_executorch, write_executorch_int8
from edgeprune.files import write_atomic
from edgeprune.formats import ModelMetadata
from edgeprune.pipeline.int8 import Int8Network
from edgeprune.pipeline.model_file import FLOAT_TOLERANCE_SHARE, INT8_TOLERANCE_SHARE, ModelFile
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.verify.accuracy import compare_accuracy
from edgeprune.verify.executorch_runtime import run_executorch
from edgeprune.verify.int8_accuracy import check_float_file, check_int8_file

FLOAT, INT8 = "model.pte", "model_int8.pte"


def make_executorch_files(
    recipe: Recipe,
    dataset: Dataset,
    network: nn.Module,
    chosen: Int8Network,
    folder: Path,
    *,
    metadata: ModelMetadata,
    torch_logits: np.ndarray,
) -> tuple[ModelFile, ModelFile]:
    """Write both files and run them on the whole test split.

    Args:
        recipe: limits, normalisation.
        dataset: its test split.
        network: the level.
        chosen: what the int8 file is made from.
        folder: where the files are written.
        metadata: what they say about themselves.
        torch_logits: of the level in torch on the test split.

    Raises:
        MissingExtraError: executorch is not installed.
        EdgepruneError: it cannot convert the network.
    """
    data, limits, size = recipe.data, recipe.verify, recipe.data.image_size
    labels = np.asarray(dataset.test.labels)
    inputs = normalise_pixels(np.asarray(dataset.test.images), data.mean, data.std)
    content = write_executorch(network, image_size=size, metadata=metadata.as_text())
    write_atomic(folder / FLOAT, content)
    logits = run_executorch(content, inputs)
    gates = check_float_file(
        logits,
        torch_logits,
        path=FLOAT,
        min_agreement=limits.min_agreement,
        max_difference=limits.max_logit_difference,
    )
    runtime = f"ExecuTorch {version('executorch')}"
    compared = compare_accuracy(file_logits=logits, reference_logits=torch_logits, labels=labels)
    float_file = ModelFile(
        path=folder / FLOAT,
        facts=FileFacts(
            path=FLOAT, bytes=len(content), runtime=runtime, accuracy=compared.accuracy, layout="NCHW float32"
        ),
        outputs=logits,
        logits=logits,
        tolerance_share=FLOAT_TOLERANCE_SHARE,
        gates=tuple(gates),
    )
    content = write_executorch_int8(
        chosen.network, torch.from_numpy(chosen.images), image_size=size, metadata=metadata.as_text()
    )
    write_atomic(folder / INT8, content)
    logits = run_executorch(content, inputs)
    gates = check_int8_file(
        logits,
        float_file.logits,
        labels,
        path=INT8,
        max_drop=limits.max_int8_drop,
        min_agreement=limits.min_int8_agreement,
        min_sqnr_db=limits.min_int8_sqnr_db,
    )
    compared = compare_accuracy(file_logits=logits, reference_logits=float_file.logits, labels=labels)
    int8_file = ModelFile(
        path=folder / INT8,
        facts=FileFacts(
            path=INT8,
            bytes=len(content),
            runtime=runtime,
            accuracy=compared.accuracy,
            layout="NCHW float32",
            float_path=FLOAT,
            paired_p=compared.p_value,
            calibration=f"XNNPACK's own, {len(chosen.images)} train images",
        ),
        outputs=logits,
        logits=logits,
        tolerance_share=INT8_TOLERANCE_SHARE,
        gates=tuple(gates),
    )
    return float_file, int8_file
