"""The ExecuTorch files of one level, float and int8 through XNNPACK, run in ExecuTorch's own runtime."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune.data import Dataset
from edgeprune.export.executorch_file import write_executorch, write_executorch_int8
from edgeprune.files import write_atomic
from edgeprune.formats import ModelMetadata
from edgeprune.pipeline.file_judgement import Judgement, judge_float, judge_int8
from edgeprune.pipeline.int8 import Int8Network
from edgeprune.pipeline.model_file import FLOAT_TOLERANCE_SHARE, INT8_TOLERANCE_SHARE, ModelFile
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.verify.executorch_runtime import executorch_version, run_executorch

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
    data, test, size = recipe.data, dataset.test, recipe.data.image_size
    inputs = normalise_pixels(np.asarray(test.images), data.mean, data.std)
    content = write_executorch(network, image_size=size, metadata=metadata.as_text())
    logits = run_executorch(content, inputs)
    judged = judge_float(recipe, test, logits, torch_logits, path=FLOAT)
    float_file = _as_model_file(
        folder,
        content,
        logits,
        judged,
        FileFacts(
            path=FLOAT,
            bytes=len(content),
            runtime=executorch_version(),
            accuracy=judged.accuracy,
            layout="NCHW float32",
        ),
    )
    content = write_executorch_int8(
        chosen.network, torch.from_numpy(chosen.images), image_size=size, metadata=metadata.as_text()
    )
    logits = run_executorch(content, inputs)
    judged = judge_int8(recipe, test, logits, float_file.logits, path=INT8)
    int8_file = _as_model_file(
        folder,
        content,
        logits,
        judged,
        FileFacts(
            path=INT8,
            bytes=len(content),
            runtime=executorch_version(),
            accuracy=judged.accuracy,
            layout="NCHW float32",
            float_path=FLOAT,
            paired_p=judged.paired_p,
            calibration=f"XNNPACK's own, {len(chosen.images)} train images",
        ),
    )
    return float_file, int8_file


def _as_model_file(folder: Path, content: bytes, logits: np.ndarray, judged: Judgement, facts: FileFacts) -> ModelFile:
    path = folder / facts.path
    write_atomic(path, content)
    return ModelFile(
        path=path,
        facts=facts,
        outputs=logits,
        logits=logits,
        tolerance_share=INT8_TOLERANCE_SHARE if facts.float_path else FLOAT_TOLERANCE_SHARE,
        gates=judged.gates,
    )
