"""Level ``compact``: the unpruned network without its dead channels, proven to give the same answers.

It comes before any ranking, because it costs nothing.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune import __version__
from edgeprune.audit import audit_cost
from edgeprune.data import Dataset
from edgeprune.errors import InputError
from edgeprune.evaluation import evaluate_network, predict_logits
from edgeprune.files import digest_json, staged_folder
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.dead_channels import DeadSet, largest_difference, list_dead_sets
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, load_record, require_ours, save_record
from edgeprune.pipeline.settings import data_digest
from edgeprune.pipeline.story import RunStory
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.plan.dead import DeadUnits
from edgeprune.recipe import Recipe
from edgeprune.zoo import Checkpoint, checkpoint_digest, is_checkpoint, save_checkpoint

COMPACT = "compact"
# Beside what else was measured of the unpruned network: it is there too when no level came of it.
FINDINGS = "dead.json"
# Largest absolute difference of a logit.
SAME_ANSWER = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRecord:
    """What is dead in the unpruned network, and what came of it.

    Attributes:
        inputs: what decides it.
        groups: one entry a group; none when no set passed the proof.
        refused: sets that failed the proof, a sentence each.
        weights: digest of the level, or an empty string when there is none.
        differences: split to the largest absolute difference of a logit between the level and the unpruned network;
            train and val had to pass, test is reported.
    """

    inputs: Inputs
    groups: tuple[DeadUnits, ...]
    refused: tuple[str, ...]
    weights: str
    differences: dict[str, float]

    @property
    def left(self) -> dict[str, tuple[int, ...]]:
        """Group to dead channels that only the alignment keeps, numbered as in what the first level is cut from."""
        return {units.layer: units.left for units in self.groups if units.left}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compact:
    """Where a schedule starts.

    Attributes:
        folder: the level's, whether it is there or not.
        level: its record, or None when nothing can go.
        dead: what was found.
        up_to_date: all of it was there already.
    """

    folder: Path
    level: LevelRecord | None
    dead: DeadRecord
    up_to_date: bool


def compact_inputs(recipe: Recipe, baseline: Baseline) -> Inputs:
    """Everything that decides the level."""
    prune = recipe.prune
    return Inputs(
        edgeprune=__version__,
        recipe_part=digest_json([data_digest(recipe), prune.scope, list(prune.protect), prune.align]),
        dataset=baseline.dataset.digest,
        parent=baseline.weights,
        baseline=baseline.weights,
    )


def open_compact(
    recipe: Recipe, workspace: Workspace, baseline: Baseline, *, story: RunStory, reporter: Reporter
) -> Compact:
    """Remove the unpruned network's dead channels and keep the level, unless that was done for the same inputs.

    A set of channels goes only when no logit of any train or val image moves by more than ``SAME_ANSWER``; where one
    does, a smaller set is tried.

    Args:
        recipe: scope, protected modules, alignment, normalisation.
        workspace: where the level appears.
        baseline: the unpruned network and its images.
        story: is told what goes; a run that only finds that nothing does is not begun.
        reporter: is told progress, and that nothing goes.

    Raises:
        InputError: the census finds nothing to prune, or the level's folder holds files of others.
    """
    folder = workspace.level_folder(recipe, COMPACT)
    findings = workspace.level_folder(recipe, "dense") / FINDINGS
    inputs = compact_inputs(recipe, baseline)
    known = _load(folder, findings, inputs)
    if known is not None:
        if known.level is not None:
            reporter.say(f"{COMPACT}: up to date ({known.level.val.accuracy.value:.4f} on val)")
        return known
    began = time.perf_counter()
    require_ours(folder)
    network, dataset = baseline.checkpoint.network, baseline.dataset
    proof = _Proof(recipe, network, dataset)
    refused: list[str] = []
    found = None
    for trial in list_dead_sets(recipe, network, dataset, reporter):
        objection = proof.object_to(trial) if trial.plan.removed_now else ""
        if not objection:
            found = trial
            break
        refused.append(objection)
    dead = DeadRecord(
        inputs=inputs,
        groups=found.groups if found is not None else (),
        refused=tuple(refused),
        weights="",
        differences={},
    )
    if found is None or not found.plan.removed_now:
        save_record(findings, dead)
        for line in (*refused, _describe(dead, align=recipe.prune.align)):
            (story if story.run is not None else reporter).say(line)
        return Compact(folder=folder, level=None, dead=dead, up_to_date=False)
    level = _keep(recipe, baseline, found, inputs, folder=folder, story=story, began=began)
    differences = {split: proof.difference(found, split) for split in ("train", "val", "test")}
    dead = replace(dead, weights=level.weights, differences=differences)
    save_record(findings, dead)
    story.say(*refused, _describe(dead, align=recipe.prune.align), *_describe_level(level, dead, baseline))
    story.record(level=COMPACT, achieved=level.plan.achieved, differences=differences)
    return Compact(folder=folder, level=level, dead=dead, up_to_date=False)


def find_compact(recipe: Recipe, workspace: Workspace, baseline: Baseline) -> tuple[Path, LevelRecord]:
    """The level's folder and record, as they are on disk.

    Raises:
        InputError: there is none, it was made of something else, or it is damaged.
    """
    folder = workspace.level_folder(recipe, COMPACT)
    record = load_record(folder / RECORD, LevelRecord)
    wanted = compact_inputs(recipe, baseline)
    command = "make prune with `prune: {compact: true}` in the recipe, and the same DATA"
    if record is None:
        dead = load_record(workspace.level_folder(recipe, "dense") / FINDINGS, DeadRecord)
        if dead is not None and dead.inputs == wanted and not dead.weights:
            raise InputError(
                f"{recipe.name!r} has no level {COMPACT}: {_describe(dead, align=recipe.prune.align)}",
                "make export TARGET=0.6, or another level",
            )
        raise InputError(f"The level {COMPACT} of {recipe.name!r} does not exist.", command)
    differing = [
        what
        for what, field in (
            ("another recipe", "recipe_part"),
            ("other images", "dataset"),
            ("another baseline", "baseline"),
            (f"edgeprune {record.inputs.edgeprune}", "edgeprune"),
        )
        if getattr(record.inputs, field) != getattr(wanted, field)
    ]
    if differing:
        raise InputError(f"The level {COMPACT} in {folder} was made with {' and '.join(differing)}.", command)
    if not is_checkpoint(folder, record.weights):
        raise InputError(f"The checkpoint in {folder} is damaged: it is not what its record names.", command)
    return folder, record


class _Proof:
    """Holds a smaller network's logits against the unpruned one's."""

    def __init__(self, recipe: Recipe, network: nn.Module, dataset: Dataset) -> None:
        self._mean, self._std = recipe.data.mean, recipe.data.std
        self._network = network
        self._splits = {split.name: split for split in (dataset.train, dataset.val, dataset.test)}
        self._reference: dict[str, np.ndarray] = {}
        self._differences: dict[tuple[str, str], float] = {}

    def difference(self, found: DeadSet, name: str) -> float:
        """Largest absolute difference of a logit on a split."""
        split = self._splits[name]
        if name not in self._reference:
            self._reference[name] = predict_logits(self._network, split, mean=self._mean, std=self._std)
        if (found.what, name) not in self._differences:
            logits = predict_logits(found.network, split, mean=self._mean, std=self._std)
            self._differences[found.what, name] = largest_difference(logits, self._reference[name])
        return self._differences[found.what, name]

    def object_to(self, found: DeadSet) -> str:
        """What speaks against a set, or an empty string. Test images have no say."""
        for name in ("train", "val"):
            if not self.difference(found, name) <= SAME_ANSWER:
                return (
                    f"Without the {found.plan.removed_now} channels that are {found.what} a logit on {name} moves by "
                    f"{self.difference(found, name):.1e}, more than {SAME_ANSWER:.0e}: not kept."
                )
        return ""


def _load(folder: Path, findings: Path, inputs: Inputs) -> Compact | None:
    dead = load_record(findings, DeadRecord)
    if dead is None or dead.inputs != inputs:
        return None
    level = load_record(folder / RECORD, LevelRecord) if dead.weights else None
    if dead.weights and not (level is not None and level.inputs == inputs and is_checkpoint(folder, dead.weights)):
        return None
    return Compact(folder=folder, level=level, dead=dead, up_to_date=True)


def _keep(
    recipe: Recipe, baseline: Baseline, found: DeadSet, inputs: Inputs, *, folder: Path, story: RunStory, began: float
) -> LevelRecord:
    data, dataset, source = recipe.data, baseline.dataset, baseline.checkpoint
    val = evaluate_network(found.network, dataset.val, mean=data.mean, std=data.std)
    test = evaluate_network(found.network, dataset.test, mean=data.mean, std=data.std)
    checkpoint = Checkpoint(
        network=found.network, spec=source.spec, classes=source.classes, mean=source.mean, std=source.std
    )
    with staged_folder(folder) as staging:
        save_checkpoint(staging, checkpoint)
        cost = audit_cost(found.network, image_size=data.image_size, weights_file=staging / "model.safetensors")
        level = LevelRecord(
            inputs=inputs,
            level=COMPACT,
            parent_level="dense",
            weights=checkpoint_digest(staging),
            plan=found.plan,
            lr=0.0,
            before_recovery=val,
            best_epoch=0,
            epochs=(),
            val=val,
            test=test,
            cost=cost,
            run=story.started().id,
            seconds=time.perf_counter() - began,
        )
        save_record(staging / RECORD, level)
    return level


def _describe(dead: DeadRecord, *, align: int) -> str:
    """What is dead and what becomes of it, in one line."""
    gone = sum(len(units.gone) for units in dead.groups)
    total = sum(len(units.zero) + len(units.constant) for units in dead.groups)
    left = sum(len(units.left) for units in dead.groups)
    held = sum(len(units.held) for units in dead.groups)
    if not total:
        line = "No channel is dead"
    else:
        constant = sum(len(set(units.gone) & set(units.constant)) for units in dead.groups)
        absorbed = f", {constant} of them with a constant that a bias keeps" if constant else ""
        line = f"{total} channels are dead: {gone} go before any ranking{absorbed}"
        line += f"; {left} stay, to keep align = {align} and one of each layer, and go first later" if left else ""
    return line + (f"; {held} more are constant but not zero, and stay." if held else ".")


def _describe_level(level: LevelRecord, dead: DeadRecord, baseline: Baseline) -> list[str]:
    dense, cost = baseline.dense.cost, level.cost
    moved = ", ".join(f"{value:.1e} on {split}" for split, value in dead.differences.items())
    lines = [
        f"{COMPACT}: {level.plan.removed_now} of {level.plan.prunable} channels, {dense.params - cost.params:,} of "
        f"{dense.params:,} parameters and {dense.macs - cost.macs:,} of {dense.macs:,} MACs (fvcore) saved",
        f"{COMPACT}: largest difference of a logit to the unpruned network: {moved}",
    ]
    if not dead.differences["test"] <= SAME_ANSWER:
        lines.append(f"{COMPACT}: a test image wakes a channel that no train or val image wakes.")
    return lines
