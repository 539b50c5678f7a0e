"""Levels that are there: which, whether they are what the recipe says, and what they cost."""

from dataclasses import dataclass
from pathlib import Path

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.errors import InputError
from edgeprune.files import write_json
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.records import RECORD, LevelRecord, load_record
from edgeprune.pipeline.settings import recovery_digest
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.recipe import Recipe
from edgeprune.results import CostReport, as_json
from edgeprune.schedule import level_id
from edgeprune.zoo import Checkpoint, checkpoint_digest, load_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSummary:
    """Costs of the levels that there are, each against the unpruned network."""

    dense: CostReport
    levels: dict[str, CostReport]


def finished_levels(recipe: Recipe, workspace: Workspace) -> list[str]:
    """Levels of a recipe that are on disk, by rising sparsity; those of another recipe's making are found out later."""
    found = []
    for path in workspace.models.glob(f"{recipe.name}-s*/{RECORD}"):
        record = load_record(path, LevelRecord)
        if record is not None and path.parent.name == f"{recipe.name}-{record.level}":
            found.append((record.plan.target, record.level))
    return [level for _, level in sorted(found)]


def audit_levels(recipe: Recipe, workspace: Workspace, reporter: Reporter, *, target: float | None) -> AuditSummary:
    """Costs of one level, or of every finished one, written to each level's audit.json.

    Raises:
        InputError: the level that was asked for does not exist.
    """
    baseline = open_baseline(recipe, workspace, reporter)
    names = [level_id(target)] if target is not None else finished_levels(recipe, workspace)
    costs = {}
    for name in names:
        folder, record = open_level(recipe, workspace, baseline, name, target)
        checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
        costs[record.level] = audit_level(checkpoint, folder)
    return AuditSummary(dense=baseline.dense.cost, levels=costs)


def open_level(
    recipe: Recipe, workspace: Workspace, baseline: Baseline, level: str, target: float | None
) -> tuple[Path, LevelRecord]:
    """A finished level's folder and record.

    Raises:
        InputError: it does not exist, was made of something else, or is damaged; the command that makes it is named.
    """
    folder = workspace.level_folder(recipe, level)
    record = load_record(folder / RECORD, LevelRecord)
    wanted = target if target is not None else (record.plan.target if record is not None else None)
    command = f"make prune TARGET={wanted:g}" if wanted is not None else "make prune"
    if record is None:
        there = ", ".join(finished_levels(recipe, workspace)) or "none"
        raise InputError(f"The level {level} of {recipe.name!r} does not exist (finished: {there}).", command)
    if (
        record.inputs.recipe_part != recovery_digest(recipe)
        or record.inputs.dataset != baseline.dataset.digest
        or record.inputs.edgeprune != __version__
    ):
        raise InputError(
            f"The level {level} in {folder} was made by another recipe, other images or another edgeprune.", command
        )
    if checkpoint_digest(folder) != record.weights:
        raise InputError(f"The weights in {folder} are not those that its record names.", command)
    return folder, record


def audit_level(checkpoint: Checkpoint, folder: Path) -> CostReport:
    """Count what a level costs and keep it as audit.json."""
    cost = audit_cost(
        checkpoint.network, image_size=checkpoint.spec.image_size, weights_file=folder / "model.safetensors"
    )
    write_json(folder / "audit.json", {"cost": as_json(cost), "macs_fvcore": cost.macs})
    return cost
