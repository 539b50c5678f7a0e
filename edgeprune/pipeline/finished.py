"""Levels that are there: which, whether they are what the recipe says, and what they cost."""

from dataclasses import dataclass
from pathlib import Path

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.budget import Budget
from edgeprune.errors import InputError
from edgeprune.files import write_json
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.compact import COMPACT, find_compact
from edgeprune.pipeline.records import RECORD, LevelRecord, load_record
from edgeprune.pipeline.settings import budget_digest, recovery_digest
from edgeprune.pipeline.teaching import teacher_path, weights_digest
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.recipe import Recipe
from edgeprune.results import CostReport, as_json
from edgeprune.schedule import level_id
from edgeprune.zoo import Checkpoint, is_checkpoint, load_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """Costs of the levels that there are, each against the unpruned network."""

    dense: CostReport
    levels: dict[str, CostReport]


def finished_levels(recipe: Recipe, workspace: Workspace) -> list[str]:
    """Ids of the levels of this name that are on disk, by rising sparsity, whatever recipe made them."""
    found = []
    for path in workspace.models.glob(f"{recipe.name}-[sb]*/{RECORD}"):
        record = load_record(path, LevelRecord)
        if record is not None and path.parent.name == f"{recipe.name}-{record.level}":
            found.append((record.plan.target, record.level))
    return [level for _, level in sorted(found)]


def choose_levels(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    baseline: Baseline,
    *,
    target: float | None,
    budget: Budget | None = None,
    compact: bool = False,
) -> dict[str, tuple[Path, LevelRecord]]:
    """One level, or every finished one of the schedule or a budget that is what the recipe says; the others are named.

    Args:
        recipe: what should have made them.
        workspace: where they lie.
        reporter: is told what is left out, and why.
        baseline: that they descend from.
        target, budget: the level's; neither for all of them.
        compact: the level ``compact``, which belongs to no target.

    Returns:
        Level id to folder and record.

    Raises:
        InputError: the level that was asked for cannot be used, or there is none at all.
    """
    if compact:
        return {COMPACT: find_compact(recipe, workspace, baseline)}
    if budget is not None:
        return {budget.level: open_level(recipe, workspace, baseline, budget.level, None, budget=budget)}
    if target is not None:
        return {level_id(target): open_level(recipe, workspace, baseline, level_id(target), target)}
    chosen = {}
    for level in finished_levels(recipe, workspace):
        try:
            chosen[level] = open_level(recipe, workspace, baseline, level, None)
        except InputError as error:
            reporter.say(f"{level} is left out: {error.problem}")
    if not chosen:
        raise InputError(f"No level of {recipe.name!r} is finished.", "prune first: make prune")
    return chosen


def audit_levels(
    recipe: Recipe, workspace: Workspace, reporter: Reporter, *, target: float | None, budget: Budget | None = None
) -> AuditSummary:
    """Costs of one level, or of every finished one, written to each level's audit.json.

    Raises:
        InputError: the level that was asked for does not exist, or there is none.
    """
    baseline = open_baseline(recipe, workspace, reporter)
    costs = {}
    for level, (folder, _) in choose_levels(
        recipe, workspace, reporter, baseline, target=target, budget=budget
    ).items():
        checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
        costs[level] = audit_level(checkpoint, folder, dense=baseline.dense.cost)
    return AuditSummary(dense=baseline.dense.cost, levels=costs)


def open_level(
    recipe: Recipe,
    workspace: Workspace,
    baseline: Baseline,
    level: str,
    target: float | None,
    *,
    budget: Budget | None = None,
) -> tuple[Path, LevelRecord]:
    """A finished level's folder and record.

    Raises:
        InputError: it does not exist, was made of something else, or is damaged; the command that makes it is named.
    """
    folder = workspace.level_folder(recipe, level)
    record = load_record(folder / RECORD, LevelRecord)
    command = _command(record, target, budget)
    if record is None:
        there = ", ".join(finished_levels(recipe, workspace)) or "none"
        raise InputError(f"The level {level} of {recipe.name!r} does not exist (finished: {there}).", command)
    if record.inputs.dataset != baseline.dataset.digest:
        raise InputError(
            f"The level {level} in {folder} was made with other images than {baseline.dataset.source} gives now.",
            f"the DATA that it was pruned with; or {command}",
        )
    inputs = record.inputs
    follows_parent = recipe.recover.teacher == "previous"
    teacher = inputs.parent if follows_parent else weights_digest(teacher_path(recipe, workspace))
    differing = [
        what
        for what, found, wanted_now in (
            ("another recipe", inputs.recipe_part, (budget_digest if inputs.budget else recovery_digest)(recipe)),
            ("another baseline", inputs.baseline, baseline.weights),
            ("another teacher", inputs.teacher, teacher),
            (f"edgeprune {inputs.edgeprune}", inputs.edgeprune, __version__),
        )
        if found != wanted_now
    ]
    if differing:
        raise InputError(f"The level {level} in {folder} was made by {' and '.join(differing)}.", command)
    if not is_checkpoint(folder, record.weights):
        raise InputError(f"The checkpoint in {folder} is damaged: it is not what its record names.", command)
    return folder, record


def _command(record: LevelRecord | None, target: float | None, budget: Budget | None) -> str:
    """What makes a level, or makes it again."""
    bounds = str(budget) if budget is not None else (record.inputs.budget if record is not None else "")
    if bounds:
        device = budget.device if budget is not None else ""
        named = f" DEVICE={device}" if device else ""
        return f'make prune BUDGET="{bounds}"{named}, with the same RECIPE and DATA'
    wanted = target if target is not None else (record.plan.target if record is not None else None)
    return f"make prune TARGET={wanted:g}, with the same RECIPE and DATA" if wanted is not None else "make prune"


def audit_level(checkpoint: Checkpoint, folder: Path, *, dense: CostReport) -> CostReport:
    """Count what a level costs and keep it as audit.json, beside what the unpruned network costs."""
    cost = audit_cost(
        checkpoint.network, image_size=checkpoint.spec.image_size, weights_file=folder / "model.safetensors"
    )
    write_json(folder / "audit.json", {"level": as_json(cost), "dense": as_json(dense)})
    return cost
