"""The int8 version of a level: chosen once, kept beside the level, and ready before anything is exported."""

import importlib.util
from importlib.metadata import version
from pathlib import Path

from torch import nn

from edgeprune import __version__
from edgeprune.budget import Budget
from edgeprune.errors import MissingExtraError
from edgeprune.files import digest_json
from edgeprune.learning import Unfinished
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.conversions import Conversions
from edgeprune.pipeline.finished import choose_levels
from edgeprune.pipeline.int8 import RECORD, Int8Network, Int8Record, choose_int8
from edgeprune.pipeline.records import LevelRecord, load_record
from edgeprune.pipeline.settings import data_digest
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.recipe import Recipe
from edgeprune.zoo import load_checkpoint

INT8_FORMATS = frozenset({"onnx_int8", "tflite_int8", "executorch"})
# What decides how an int8 network is chosen; trials run in the last two.
_MAKERS = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")
_MODULES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer", "tflite_micro")


def require_mcu() -> None:
    """Raise MissingExtraError when a package of the extra ``mcu`` is not installed."""
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("edgeprune export", "mcu", module)


def ready_int8(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, target: float | None, budget: Budget | None = None
) -> None:
    """Choose the int8 version of a finished level, training included, so that an export need not wait for it.

    Does nothing where the recipe has no int8 format, or the extra ``mcu`` is not installed.

    Raises:
        InputError: the level does not exist or was made by another recipe.
    """
    installed = all(importlib.util.find_spec(module) is not None for module in _MODULES)
    if not installed or not INT8_FORMATS & set(recipe.export.formats):
        return
    baseline = open_baseline(recipe, workspace, reporter)
    levels = choose_levels(recipe, workspace, reporter, baseline, target=target, budget=budget)
    for folder, record in levels.values():
        _ready(recipe, reporter, baseline, folder=folder, record=record)


def _ready(recipe: Recipe, reporter: Reporter, baseline: Baseline, *, folder: Path, record: LevelRecord) -> None:
    key = _key(recipe, baseline, record)
    kept = load_record(folder / RECORD, Int8Record)
    if kept is not None and kept.key == key:
        return
    checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
    conversions = Conversions(image_size=recipe.data.image_size, rotate=False)
    choose_level_int8(
        recipe, reporter, baseline, checkpoint.network, folder=folder, record=record, conversions=conversions
    )


def choose_level_int8(
    recipe: Recipe,
    reporter: Reporter,
    baseline: Baseline,
    network: nn.Module,
    *,
    folder: Path,
    record: LevelRecord | None,
    conversions: Conversions,
) -> Int8Network:
    """The int8 version of a level, or of the unpruned network where there is no record.

    Args:
        recipe: its ``quantise`` section, data and augmentation.
        reporter: is told what goes on.
        baseline: data set.
        network: of the level.
        folder: where the outcome is kept; the unpruned network's may lie beside its checkpoint instead, as shipped.
        record: of the level.
        conversions: of this network.
    """
    key = _key(recipe, baseline, record)
    if record is None:
        shipped = load_record(baseline.folder / RECORD, Int8Record)
        if shipped is not None and shipped.key == key:
            folder = baseline.folder
    title = record.level if record else "dense"
    unfinished = Unfinished(folder=baseline.workspace.unfinished / f"{folder.name}-int8", key=key, say=reporter.say)
    return choose_int8(
        recipe,
        baseline.dataset,
        network,
        conversions,
        reporter,
        folder=folder,
        key=key,
        title=title,
        unfinished=unfinished,
    )


def _key(recipe: Recipe, baseline: Baseline, record: LevelRecord | None) -> str:
    return digest_json(
        [
            __version__,
            record.weights if record else baseline.weights,
            baseline.dataset.digest,
            data_digest(recipe, "augment", "quantise"),
            {name: version(name) for name in _MAKERS},
        ]
    )
