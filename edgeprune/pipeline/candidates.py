"""Candidates: exported files that no gate has seen yet."""

import math
from dataclasses import dataclass, replace
from importlib.metadata import distributions, version
from pathlib import Path

import numpy as np

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.evaluation import predict_logits
from edgeprune.export.onnx_file import OnnxExport, write_onnx
from edgeprune.files import digest_file, digest_json
from edgeprune.formats import LAYOUT, ModelMetadata
from edgeprune.logits import scaled_difference
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.records import RECORD, KeptExport, LevelRecord, load_record, save_record
from edgeprune.plan import find_groups
from edgeprune.preprocess import normalise_pixels
from edgeprune.prune import pad_channels
from edgeprune.recipe import Recipe
from edgeprune.verify.onnx_runtime import run_onnx
from edgeprune.zoo import Checkpoint

MODEL = "model.onnx"
# Real images on which onnxsim's graph is proven, and which the latency measurement cycles through.
PROBE_IMAGES = 16
# onnxruntime's fast kernels need channels in fours; recipes that keep the log's exact counts are padded at export.
FAST_MULTIPLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file on disk that no gate has seen yet.

    Attributes:
        export: the file, and what was proven while it was written.
        metadata: what was written into it.
        file_macs: multiply-accumulates of the file, counter fvcore, where channels were padded; else None.
        padding_difference: scaled difference of the padded network's logits in torch; 0 where nothing was padded.
        logits: of the file in onnxruntime on the test split, shape (n, classes).
    """

    export: OnnxExport
    metadata: dict[str, str]
    file_macs: int | None
    padding_difference: float
    logits: np.ndarray


def make_candidate(
    recipe: Recipe, baseline: Baseline, checkpoint: Checkpoint, folder: Path, *, record: LevelRecord | None
) -> Candidate:
    """Export a level, or the unpruned network where there is no record."""
    size, data, test = checkpoint.spec.image_size, recipe.data, baseline.dataset.test
    network, file_macs, difference = checkpoint.network, None, 0.0
    if recipe.prune.align % FAST_MULTIPLE:
        groups = find_groups(network, image_size=size, scope=recipe.prune.scope, protect=())
        network = pad_channels(network, groups, multiple=FAST_MULTIPLE)
        file_macs = audit_cost(network, image_size=size).macs
        difference = scaled_difference(
            predict_logits(network, test, mean=data.mean, std=data.std),
            predict_logits(checkpoint.network, test, mean=data.mean, std=data.std),
        )
    metadata = describe_level(
        recipe, baseline, record, layout=LAYOUT, macs=file_macs or (record or baseline.dense).cost.macs
    ).as_text()
    images = normalise_pixels(np.asarray(test.images), data.mean, data.std)
    weights = record.weights if record else baseline.weights
    key = digest_json([weights, metadata, recipe.export.dynamic_batch, recipe.prune.align, runtimes()])
    export = _reuse_export(folder / "candidates", key)
    if export is None:
        export = write_onnx(
            network,
            folder / "candidates" / MODEL,
            image_size=size,
            dynamic_batch=recipe.export.dynamic_batch,
            metadata=metadata,
            probe=images[:PROBE_IMAGES],
        )
        if math.isfinite(export.simplify_difference):
            kept = KeptExport(key=key, sha256=digest_file(export.path), export=export)
            save_record(folder / "candidates" / RECORD, kept)
    return Candidate(
        export=export,
        metadata=metadata,
        file_macs=file_macs,
        padding_difference=difference,
        logits=run_onnx(export.path, images),
    )


def describe_level(
    recipe: Recipe, baseline: Baseline, record: LevelRecord | None, *, layout: str, macs: int
) -> ModelMetadata:
    """What a file says about itself; the unpruned network's where there is no record."""
    return ModelMetadata(
        name=recipe.name,
        level=record.level if record else "dense",
        version=__version__,
        labels=baseline.dataset.classes,
        image_size=recipe.data.image_size,
        mean=recipe.data.mean,
        std=recipe.data.std,
        layout=layout,
        rotate_180=layout != LAYOUT and recipe.export.pad == "rotate",
        target=record.plan.target if record else 0.0,
        achieved=record.plan.achieved if record else 0.0,
        macs=f"{macs} fvcore",
        accuracy=f"{(record or baseline.dense).test.accuracy} on test, torch",
        data_digest=baseline.dataset.digest,
        recipe_digest=recipe.digest,
    )


def _reuse_export(candidates: Path, key: str) -> OnnxExport | None:
    """The file of an earlier export of the same weights; the unpruned network is exported once for all levels."""
    kept = load_record(candidates / RECORD, KeptExport)
    path = candidates / MODEL
    if kept is None or kept.key != key or not path.is_file() or digest_file(path) != kept.sha256:
        return None
    return replace(kept.export, path=path)


def runtimes() -> dict[str, str]:
    """Versions of what makes and runs the files; of the extra ``mcu`` only what is installed."""
    wanted = ("torch", "onnx", "onnxruntime", "onnxsim")
    mcu = ("litert-torch", "ai-edge-litert", "ai-edge-quantizer", "tflite-micro")
    found = {each.name for each in distributions()}
    return {name: version(name) for name in (*wanted, *(each for each in mcu if each in found))}
