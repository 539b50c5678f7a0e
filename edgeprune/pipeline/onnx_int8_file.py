"""The int8 ONNX file of one level: every calibration tried on validation, the best one written and run on test."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.calibration import METHODS
from edgeprune.data import Dataset
from edgeprune.evaluation import predict_logits
from edgeprune.export.onnx_file import write_onnx
from edgeprune.export.onnx_int8 import choose_onnx_ranges, observe_onnx, quantise_onnx
from edgeprune.files import write_atomic
from edgeprune.formats import ModelMetadata
from edgeprune.pipeline.candidates import MODEL, PROBE_IMAGES, Candidate, runtimes
from edgeprune.pipeline.int8 import Int8Network, Trial
from edgeprune.pipeline.model_file import ModelFile, int8_tolerance
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.results import Accuracy
from edgeprune.verify.accuracy import compare_accuracy
from edgeprune.verify.int8_accuracy import check_int8_file
from edgeprune.verify.onnx_int8 import check_onnx_int8
from edgeprune.verify.onnx_runtime import open_session, run_onnx

INT8_MODEL = "model_int8.onnx"
# The float network that the int8 file is made from; no file of a bundle.
_SOURCE = "int8_source.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    content: bytes
    trial: Trial


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
    data, limits = recipe.data, recipe.verify
    write_onnx(
        chosen.network,
        folder / _SOURCE,
        image_size=data.image_size,
        dynamic_batch=recipe.export.dynamic_batch,
        metadata={},
        probe=chosen.images[:PROBE_IMAGES],
    )
    tried = _try_methods(recipe, dataset, chosen, (folder / _SOURCE).read_bytes(), folder, metadata=metadata)
    best = max(tried, key=lambda each: (each.trial.accuracy.correct, each.trial.sqnr_db))
    path = folder / INT8_MODEL
    write_atomic(path, best.content)
    test = dataset.test
    logits = run_onnx(path, normalise_pixels(np.asarray(test.images), data.mean, data.std))
    labels = np.asarray(test.labels)
    gates = check_int8_file(
        logits,
        float_file.logits,
        labels,
        path=INT8_MODEL,
        max_drop=limits.max_int8_drop,
        min_agreement=limits.min_int8_agreement,
        min_sqnr_db=limits.min_int8_sqnr_db,
    )
    compared = compare_accuracy(file_logits=logits, reference_logits=float_file.logits, labels=labels)
    facts = FileFacts(
        path=INT8_MODEL,
        bytes=len(best.content),
        runtime=f"onnxruntime {runtimes()['onnxruntime']}",
        accuracy=compared.accuracy,
        layout="NCHW float32",
        float_path=MODEL,
        paired_p=compared.p_value,
        operators=_count_operators(best.content),
        calibration=f"{best.trial.method}, {len(chosen.images)} train images",
        remedies=tuple(f"calibration {each.trial.method}: {each.trial}" for each in tried),
    )
    return ModelFile(
        path=path,
        facts=facts,
        outputs=logits,
        logits=logits,
        tolerance=int8_tolerance(logits),
        gates=(*check_onnx_int8(best.content, path=INT8_MODEL), *gates),
    )


def _try_methods(
    recipe: Recipe, dataset: Dataset, chosen: Int8Network, source: bytes, folder: Path, *, metadata: ModelMetadata
) -> list[_Try]:
    settings, data, val = recipe.quantise, recipe.data, dataset.val
    images = normalise_pixels(np.asarray(val.images), data.mean, data.std)
    wanted = predict_logits(chosen.network, val, mean=data.mean, std=data.std)
    statistics = observe_onnx(source, chosen.images)
    tried = []
    for method in METHODS if settings.calibration == "auto" else (settings.calibration,):
        ranges = choose_onnx_ranges(source, statistics, method)
        content = quantise_onnx(source, ranges, metadata=metadata.as_text())
        path = folder / INT8_MODEL
        write_atomic(path, content)
        logits = run_onnx(path, images, session=open_session(path))
        noise = float(np.square(logits - wanted).sum())
        trial = Trial(
            method=method,
            accuracy=Accuracy(correct=int((logits.argmax(axis=1) == np.asarray(val.labels)).sum()), n=len(val.labels)),
            agreement=float((logits.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
            sqnr_db=float(10 * np.log10(np.square(wanted).sum() / max(noise, 1e-12))),
        )
        tried.append(_Try(content=content, trial=trial))
    return tried


def _count_operators(content: bytes) -> dict[str, int]:
    import onnx

    return dict(Counter(node.op_type for node in onnx.ModelProto.FromString(content).graph.node))
