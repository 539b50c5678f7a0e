"""The TFLite side of an export: which files a level becomes, and what the unpruned network's would cost beside them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune import __version__
from edgeprune.errors import MissingExtraError
from edgeprune.evaluation import predict_logits
from edgeprune.files import digest_json
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.candidates import describe_level, runtimes
from edgeprune.pipeline.int8 import choose_int8
from edgeprune.pipeline.mcu import (
    FLOAT_LAYOUT,
    INT8_LAYOUT,
    TfliteCandidate,
    convert_level,
    make_float_file,
    make_int8_file,
)
from edgeprune.pipeline.records import LevelRecord, load_record, save_record
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.zoo import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFiles:
    """The unpruned network's TFLite files, as they were measured.

    Attributes:
        key: digest of everything that decides them.
        files: one entry a file.
    """

    key: str
    files: tuple[FileFacts, ...]


def make_tflite_files(
    recipe: Recipe,
    reporter: Reporter,
    baseline: Baseline,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    record: LevelRecord | None,
    torch_logits: np.ndarray,
) -> tuple[TfliteCandidate, ...]:
    """The TFLite files that the recipe asks for, each written, run on the test split and judged.

    Args:
        recipe: formats, int8 settings, limits.
        reporter: is told what goes on.
        baseline: data set, and what the unpruned network costs.
        checkpoint: the level.
        folder: of the level; candidates and the int8 choice are kept there.
        record: of the level; None for the unpruned network.
        torch_logits: of the level in torch on the test split.

    Raises:
        MissingExtraError: a package of the extra ``mcu`` is not installed.
        EdgepruneError: the network cannot be converted or quantised.
    """
    if "tflite" not in recipe.export.formats:
        return ()
    _require_mcu()
    title = record.level if record else "dense"
    weights, macs = record.weights if record else baseline.weights, (record or baseline.dense).cost.macs
    key = digest_json(
        [__version__, weights, baseline.dataset.digest, recipe.part_digest("data", "augment", "quantise"), runtimes()]
    )
    chosen = choose_int8(recipe, baseline.dataset, checkpoint.network, folder, reporter, key=key, title=title)
    reporter.say(f"{title}: converting to TFLite, and running it in LiteRT and TFLite Micro")
    # The level itself: conditioning is exact only to the third digit, which is nothing to int8 and much to float.
    plain = convert_level(recipe, checkpoint.network)
    float_file = make_float_file(
        recipe,
        baseline.dataset,
        plain,
        folder / "candidates",
        metadata=describe_level(recipe, baseline, record, layout=FLOAT_LAYOUT, macs=macs),
        torch_logits=torch_logits,
    )
    if "tflite_int8" not in recipe.export.formats:
        return (float_file,)
    model = convert_level(recipe, chosen.network)
    int8_file = make_int8_file(
        recipe,
        baseline.dataset,
        chosen,
        model,
        folder / "candidates",
        metadata=describe_level(recipe, baseline, record, layout=INT8_LAYOUT, macs=macs),
        float_file=float_file,
    )
    return float_file, int8_file


def make_dense_facts(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, baseline: Baseline
) -> tuple[FileFacts, ...]:
    """What the unpruned network's TFLite files weigh and score; made once, since every level is held against them."""
    if "tflite" not in recipe.export.formats:
        return ()
    _require_mcu()
    folder = workspace.level_folder(recipe, "dense")
    kept = load_record(folder / "tflite.json", DenseFiles)
    key = digest_json([__version__, baseline.weights, baseline.dataset.digest, recipe.digest, runtimes()])
    if kept is None or kept.key != key:
        network, data = baseline.checkpoint.network, recipe.data
        files = make_tflite_files(
            recipe,
            reporter,
            baseline,
            baseline.checkpoint,
            folder,
            record=None,
            torch_logits=predict_logits(network, baseline.dataset.test, mean=data.mean, std=data.std),
        )
        kept = DenseFiles(key=key, files=tuple(file.facts for file in files))
        save_record(folder / "tflite.json", kept)
    return kept.files


def _require_mcu() -> None:
    for module in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer", "tflite_micro"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("edgeprune export", "mcu", module)
