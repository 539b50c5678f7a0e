"""How much the network minds losing channels of one group: each is pruned alone, at several fractions.

Everything starts from the unpruned baseline, and nothing is trained. A finished cell is kept at once, so that an
interrupted run goes on, and another fraction costs only its own cells.
"""

import importlib.util
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeprune import __version__
from edgeprune.batchnorm import recalibrate_batchnorm
from edgeprune.data import PackedSplit, sample_images
from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.evaluation import DIVERGED, evaluate_logits, predict_logits
from edgeprune.files import digest_json, write_atomic, write_json
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.planning import count_groups, score_groups
from edgeprune.pipeline.records import RECORD, Inputs, load_record, require_ours, save_record
from edgeprune.pipeline.sensitivity_picture import draw_sensitivity
from edgeprune.pipeline.sensitivity_table import (
    Cell,
    GroupRow,
    Sensitivity,
    SensitivityRecord,
    render_table,
    sensitivity_factors,
)
from edgeprune.pipeline.settings import data_digest
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan.blocks import cut_blocks
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe
from edgeprune.results import ChannelPlan, GroupPlan, as_json

TABLE, TEXT, PICTURE = "sensitivity.json", "sensitivity.md", "sensitivity.png"
# What decides which channels of a group go first, and which groups there are.
_PRUNE_KEYS = ("scope", "protect", "importance", "coupled", "normalise", "importance_images", "align")

Cut = tuple[int, ...]


def sensitivity_folder(recipe: Recipe, workspace: Workspace) -> Path:
    """Where a recipe's table lies."""
    return workspace.level_folder(recipe, "sensitivity")


def sensitivity_inputs(recipe: Recipe, baseline: Baseline, *, images: int) -> Inputs:
    """What every cell depends on."""
    prune = recipe.prune.model_dump(mode="json")
    part = digest_json([data_digest(recipe), {key: prune[key] for key in _PRUNE_KEYS}, images])
    return Inputs(edgeprune=__version__, recipe_part=part, dataset=baseline.dataset.digest, parent=baseline.weights)


def measure_sensitivity(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, fractions: tuple[float, ...], images: int
) -> Sensitivity:
    """Prune each group alone and keep a table and a picture of what that did.

    Args:
        recipe: its baseline, its groups and its importance.
        workspace: where things lie.
        reporter: is told the progress.
        fractions: of a group's channels, in (0, 1), rising.
        images: train images that BatchNorm is recalibrated on; all of them where there are fewer.

    Raises:
        InputError: the recipe, the data or the baseline cannot be used, or not one block of any group can go.
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("edgeprune sensitivity", "prune", "matplotlib")
    folder = sensitivity_folder(recipe, workspace)
    require_ours(folder)
    baseline = open_baseline(recipe, workspace, reporter)
    images = min(images, len(baseline.dataset.train.labels))
    network = baseline.checkpoint.network
    groups = count_groups(recipe, network)
    scores = score_groups(recipe, network, groups, baseline.dataset, seed=recipe.seed)
    cuts = {
        group.layer: tuple(
            _choose_cut(scores[group.layer], fraction, recipe.prune.align, group.unit) for fraction in fractions
        )
        for group in groups
    }
    if not any(cut for row in cuts.values() for cut in row):
        raise InputError(
            f"Not one block of {recipe.prune.align} channels can go from any group of {recipe.name!r}.",
            "a smaller prune.align",
        )
    cells = _measure_cells(recipe, baseline, reporter, folder, groups=groups, scores=scores, cuts=cuts, images=images)
    table = Sensitivity(
        inputs=sensitivity_inputs(recipe, baseline, images=images),
        name=recipe.name,
        importance=recipe.prune.importance,
        align=recipe.prune.align,
        images=images,
        fractions=fractions,
        unpruned=baseline.dense.val.accuracy,
        whole=cells["", 0],
        rows=tuple(
            GroupRow(
                layer=group.layer,
                channels=group.channels,
                cells=tuple(cells[group.layer, len(cut)] if cut else None for cut in cuts[group.layer]),
            )
            for group in groups
        ),
    )
    factors = {f"{fraction:g}": sensitivity_factors(table, fraction=fraction) for fraction in fractions}
    write_json(folder / TABLE, as_json(table) | {"factors": factors})
    write_atomic(folder / TEXT, render_table(table))
    write_atomic(folder / PICTURE, draw_sensitivity(table))
    return table


def open_sensitivity(recipe: Recipe, workspace: Workspace, baseline: Baseline) -> Sensitivity:
    """The table that was measured last, for whoever plans with it.

    Raises:
        InputError: there is none, or it was measured of something else.
    """
    path = sensitivity_folder(recipe, workspace) / TABLE
    table = load_record(path, Sensitivity)
    if table is None:
        raise InputError(f"{path} does not exist, or cannot be read.", "edgeprune sensitivity with the same recipe")
    if table.inputs != sensitivity_inputs(recipe, baseline, images=table.images):
        raise InputError(
            f"{path} was measured of another baseline, on other images or for another importance.",
            "edgeprune sensitivity with the same recipe",
        )
    return table


def _choose_cut(scores: np.ndarray, fraction: float, align: int, unit: int) -> Cut:
    """The fewest whole blocks that make up a fraction of a group's channels, or all but the last one."""
    # The small slack keeps 0.07 * 100 = 7.000000000000001 from becoming 8.
    wanted = math.ceil(fraction * len(scores) - 1e-6)
    taken: list[int] = []
    for block in cut_blocks(0, scores, align=align, unit=unit):
        if len(taken) >= wanted:
            break
        taken += block.channels
    return tuple(taken)


def _measure_cells(
    recipe: Recipe,
    baseline: Baseline,
    reporter: Reporter,
    folder: Path,
    *,
    groups: tuple[ChannelGroup, ...],
    scores: dict[str, np.ndarray],
    cuts: dict[str, tuple[Cut, ...]],
    images: int,
) -> dict[tuple[str, int], Cell]:
    """Every cell by its group and the number of channels that go; those on disk are not measured again."""
    inputs = sensitivity_inputs(recipe, baseline, images=images)
    record = load_record(folder / RECORD, SensitivityRecord)
    if record is None or record.inputs != inputs:
        record = SensitivityRecord(inputs=inputs, cells=())
    done = {(cell.layer, cell.removed): cell for cell in record.cells}
    wanted = {(group.layer, len(cut)): (group, cut) for group in groups for cut in cuts[group.layer] if cut}
    missing = [key for key in wanted if key not in done]
    if ("", 0) in done and not missing:
        return done

    network, dataset, size = baseline.checkpoint.network, baseline.dataset, recipe.data.image_size
    sample = sample_images(dataset.train, images, recipe.seed)

    def answer(pruned: nn.Module) -> np.ndarray:
        recalibrated = recalibrate_batchnorm(pruned, sample, mean=recipe.data.mean, std=recipe.data.std)
        return predict_logits(recalibrated, dataset.val, mean=recipe.data.mean, std=recipe.data.std)

    with reporter.track(f"pruning {len(groups)} groups alone") as progress:
        began = time.perf_counter()
        # Recalibration alone moves the answers more than most groups do: against the network as it was trained, their
        # cells would all look alike.
        reference = answer(network)
        if ("", 0) not in done:
            trained = predict_logits(network, dataset.val, mean=recipe.data.mean, std=recipe.data.std)
            done["", 0] = _cell(
                "", removed=0, importance=0.0, logits=reference, against=trained, val=dataset.val, began=began
            )
        for key in missing:
            progress(len(done), 1 + len(wanted))
            began = time.perf_counter()
            group, cut = wanted[key]
            pruned = remove_channels(network, groups, _plan(recipe, group, cut), image_size=size)
            done[key] = _cell(
                group.layer,
                removed=len(cut),
                importance=float(scores[group.layer][list(cut)].sum()),
                logits=answer(pruned),
                against=reference,
                val=dataset.val,
                began=began,
            )
            save_record(folder / RECORD, SensitivityRecord(inputs=inputs, cells=tuple(done.values())))
    return done


def _plan(recipe: Recipe, group: ChannelGroup, cut: Cut) -> ChannelPlan:
    kept = tuple(sorted(set(range(group.channels)) - set(cut)))
    return ChannelPlan(
        target=len(cut) / group.channels,
        prunable=group.channels,
        groups=(GroupPlan(layer=group.layer, channels=group.channels, kept=kept),),
        importance=recipe.prune.importance,
        align=recipe.prune.align,
    )


def _cell(
    layer: str,
    *,
    removed: int,
    importance: float,
    logits: np.ndarray,
    against: np.ndarray,
    val: PackedSplit,
    began: float,
) -> Cell:
    return Cell(
        layer=layer,
        removed=removed,
        importance=importance,
        accuracy=evaluate_logits(logits, val, seconds=0.0).accuracy,
        divergence=mean_divergence(against, logits),
        seconds=time.perf_counter() - began,
    )


def mean_divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of class distributions from reference ones, in nats.

    Args:
        reference, logits: shape (n, classes).

    Returns:
        Not negative; ``DIVERGED`` where a logit is not finite.
    """
    true = torch.from_numpy(reference).double().log_softmax(dim=1)
    found = torch.from_numpy(logits).double().log_softmax(dim=1)
    divergence = float(functional.kl_div(found, true, reduction="batchmean", log_target=True))
    return max(divergence, 0.0) if math.isfinite(divergence) else DIVERGED
