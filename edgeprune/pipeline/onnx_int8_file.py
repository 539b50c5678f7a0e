"""The int8 ONNX file of one level: every calibration tried on validation, the best one written and run on test."""

from collections import Counter
from pathlib import Path

import numpy as np

from edgeprune.calibration import METHODS
from edgeprune.data import Dataset
from edgeprune.export.onnx_file import write_onnx
from edgeprune.export.onnx_int8 import choose_onnx_ranges, observe_onnx, quantise_onnx
from edgeprune.files import write_atomic
from edgeprune.formats import ModelMetadata
from edgeprune.pipeline.candidates import MODEL, PROBE_IMAGES, Candidate, runtimes
from edgeprune.pipeline.file_judgement import judge_int8
from edgeprune.pipeline.int8 import Int8Network, best_trial, rate_trial
from edgeprune.pipeline.model_file import INT8_TOLERANCE_SHARE, ModelFile
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.verify.onnx_int8 import check_onnx_int8
from edgeprune.verify.onnx_runtime import run_onnx

INT8_MODEL = "model_int8.onnx"
# The float network that the int8 file is made from; no file of a bundle.
_SOURCE = "int8_source.onnx"


def make_onnx_int8_file(
    recipe: Recipe,
    dataset: Dataset,
    chosen: Int8Network,
    folder: Path,
    *,
    metadata: ModelMetadata,
    float_file: Candidate,
) -> ModelFile:
    """Write the int8 ONNX file and run it on the whole test split.

    Args:
        recipe: limits, normalisation, calibration.
        dataset: ranges come from ``train``, the choice from ``val``, figures from ``test``.
        chosen: conditioned, or trained for int8; its images are what ranges are taken from.
        folder: where the file is written.
        metadata: what it says about itself.
        float_file: what it is held against.

    Raises:
        EdgepruneError: the network cannot be quantised.
    """
    data = recipe.data
    write_onnx(
        chosen.network,
        folder / _SOURCE,
        image_size=data.image_size,
        dynamic_batch=recipe.export.dynamic_batch,
        metadata={},
        probe=chosen.images[:PROBE_IMAGES],
    )
    path = folder / INT8_MODEL
    contents = _quantise(recipe, chosen, (folder / _SOURCE).read_bytes(), metadata=metadata)
    val = normalise_pixels(np.asarray(dataset.val.images), data.mean, data.std)
    wanted, trials = run_onnx(float_file.export.path, val), []
    for method, content in contents.items():
        write_atomic(path, content)
        found = run_onnx(path, val)
        trials.append(rate_trial(method, found, wanted=wanted, labels=np.asarray(dataset.val.labels)))
    best = best_trial(trials)
    content = contents[best.method]
    write_atomic(path, content)
    test = dataset.test
    logits = run_onnx(path, normalise_pixels(np.asarray(test.images), data.mean, data.std))
    judged = judge_int8(recipe, test, logits, float_file.logits, path=INT8_MODEL)
    facts = FileFacts(
        path=INT8_MODEL,
        bytes=len(content),
        runtime=f"onnxruntime {runtimes()['onnxruntime']}",
        accuracy=judged.accuracy,
        layout="NCHW float32",
        float_path=MODEL,
        paired_p=judged.paired_p,
        operators=_count_operators(content),
        calibration=f"{best.method}, {len(chosen.images)} train images",
        remedies=tuple(f"calibration {trial.method}: {trial}" for trial in trials),
    )
    return ModelFile(
        path=path,
        facts=facts,
        outputs=logits,
        logits=logits,
        tolerance_share=INT8_TOLERANCE_SHARE,
        gates=(*check_onnx_int8(content, path=INT8_MODEL), *judged.gates),
    )


def _quantise(recipe: Recipe, chosen: Int8Network, source: bytes, *, metadata: ModelMetadata) -> dict[str, bytes]:
    """One file for each way to choose ranges that is to be tried."""
    statistics = observe_onnx(source, chosen.images)
    methods = METHODS if recipe.quantise.calibration == "auto" else (recipe.quantise.calibration,)
    return {
        method: quantise_onnx(source, choose_onnx_ranges(source, statistics, method), metadata=metadata.as_text())
        for method in methods
    }


def _count_operators(content: bytes) -> dict[str, int]:
    import onnx

    return dict(Counter(node.op_type for node in onnx.ModelProto.FromString(content).graph.node))
