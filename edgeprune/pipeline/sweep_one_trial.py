"""One trial as an ordinary prune run, which tells of its levels as it goes.

A trial that is told to stop leaves an interrupted run behind, which `edgeprune prune` continues.
"""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeprune.distributed import join_team
from edgeprune.errors import InputError
from edgeprune.files import digest_json
from edgeprune.pipeline.baseline import Baseline, make_baseline, open_baseline
from edgeprune.pipeline.bounds import choose_bounds
from edgeprune.pipeline.budgets import prune_to_budget
from edgeprune.pipeline.finished import finished_levels, open_level
from edgeprune.pipeline.levels import prune_to_schedule
from edgeprune.pipeline.records import LevelRecord
from edgeprune.pipeline.sweep_share import pull_journal, pull_network, pull_trial, push_network, push_runs
from edgeprune.pipeline.sweep_trials import TrialLevel, TrialStore, hold_lock
from edgeprune.pipeline.workspace import Progress, Workspace
from edgeprune.plan.cost_model import trace_costs
from edgeprune.recipe import Recipe
from edgeprune.schedule import level_id, plan_steps
from edgeprune.storage import Storage, open_storage
from edgeprune.zoo import load_checkpoint

_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A trial as it is handed to a worker.

    Attributes:
        recipe: of the trial.
        sweep: name of the sweep.
        root: the project's folder on the machine that orders.
        mark: text of ``runs/<sweep>/sweep.json``; where it is not found, the machine does not see that folder.
        storage: address of a shared place, or an empty string.
    """

    recipe: Recipe
    sweep: str
    root: str
    mark: str
    storage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a worker has to tell.

    Attributes:
        kind: ``level`` waits for an answer, ``end`` does not.
        worker: machine and process.
        level: that was made, or found.
        state, reason: how the trial ended.
        levels: all of them, at the end of a trial that finished.
        run: id of the run directory, or an empty string.
        journal: the trial's own journal.
    """

    kind: Literal["level", "end"]
    worker: str = ""
    level: TrialLevel | None = None
    state: Literal["finished", "stopped", "failed"] = "finished"
    reason: str = ""
    levels: tuple[TrialLevel, ...] = ()
    run: str = ""
    journal: str = ""


@dataclass(frozen=True, slots=True)
class TrialWorkspace(Workspace):
    """The project as a trial sees it: its journal is its own, since others write theirs at the same time."""

    trial_journal: Path = Path()

    @property
    def journal(self) -> Path:
        """The trial's journal; the sweep appends it to the project's."""
        return self.trial_journal


class _LevelReporter:
    """Looks for finished levels whenever something long is about to begin."""

    def __init__(self, trial: "_Trial", tell: Callable[[TrialLevel], None]) -> None:
        self._trial, self._tell = trial, tell

    def say(self, line: str) -> None:
        """The run's own log has every line."""

    @contextmanager
    def track(self, title: str) -> Iterator[Progress]:
        """Before a level is recovered, those before it are told."""
        del title
        for level in self._trial.new_levels():
            self._tell(level)
        yield lambda done, total: None


class _Trial:
    """What a trial has made so far."""

    def __init__(self, recipe: Recipe, workspace: Workspace, storage: Storage | None) -> None:
        self._recipe, self._workspace, self._storage = recipe, workspace, storage
        self._told: dict[str, TrialLevel] = {}
        prune = recipe.prune
        self._steps = {level_id(step) for step in plan_steps(prune.schedule, prune.targets, prune.steps)}
        self.baseline: Baseline | None = None

    def new_levels(self) -> list[TrialLevel]:
        """Levels of the schedule that are what this recipe makes of this baseline, and were not told yet."""
        if self.baseline is None:
            return []
        found = []
        for level in finished_levels(self._recipe, self._workspace):
            if level in self._told or level not in self._steps:
                continue
            try:
                _, record = open_level(self._recipe, self._workspace, self.baseline, level, None)
            except InputError:
                continue  # an older one, which will be made again
            found.append(self.describe(record))
        return found

    def describe(self, record: LevelRecord) -> TrialLevel:
        """A level with all of its costs; sent to the storage, if there is one."""
        if record.level not in self._told:
            recipe, folder = self._recipe, self._workspace.level_folder(self._recipe, record.level)
            network = load_checkpoint(folder, own_factory=recipe.model.network).network
            planned = trace_costs(
                network,
                (),
                image_size=recipe.data.image_size,
                rotate=recipe.export.pad == "rotate",
                split_peak=recipe.quantise.split_peak,
            )
            if self._storage is not None:
                # The run first: with all of its levels there and no run to close, another machine would have none.
                push_runs(self._storage, self._workspace, recipe.name)
                push_network(self._storage, self._workspace, folder)
            self._told[record.level] = TrialLevel(
                level=record.level,
                target=record.plan.target,
                val=record.val.accuracy,
                test=record.test.accuracy,
                params=record.cost.params,
                macs=record.cost.macs,
                int8_bytes=planned.cost({}).flash_bytes,
            )
        return self._told[record.level]


def run_trial(order: Order, tell: Callable[[TrialLevel], None]) -> Event:
    """Run a trial, or the rest of one.

    Args:
        order: what to run.
        tell: is told of each level before the next one is recovered; ends the trial by what it raises.

    Returns:
        The end of it.

    Raises:
        EdgepruneError: the recipe cannot be run, or this machine does not see the project.
    """
    with join_team() as team:
        return _run(order, tell, replace(_find_workspace(order), team=team))


def _run(order: Order, tell: Callable[[TrialLevel], None], workspace: TrialWorkspace) -> Event:
    recipe, bounds = choose_bounds(order.recipe, typed=None, device=None, target=None)
    storage = open_storage(order.storage) if order.storage else None
    # Recipes name images, teachers and networks of one's own relative to the project.
    os.chdir(workspace.root)
    if storage is not None:
        pull_network(storage, workspace, workspace.baseline_folder(recipe))
        pull_trial(storage, workspace, recipe.name)
        pull_journal(storage, workspace)
    trial = _Trial(recipe, workspace, storage)
    reporter = _LevelReporter(trial, tell)
    # Another trial of this machine may want the same unpruned network.
    with hold_lock(workspace.cache / f"{workspace.baseline_folder(recipe).name}.lock"):
        if not workspace.baseline_folder(recipe).exists():
            make_baseline(recipe, workspace, reporter)
    trial.baseline = open_baseline(recipe, workspace, reporter)
    if bounds is not None:
        outcome = prune_to_budget(recipe, workspace, reporter, budget=bounds, target=None)
        records, run, reason = [outcome.record], outcome.run, ""
    else:
        summary = prune_to_schedule(recipe, workspace, reporter)
        records = [outcome.record for outcome in summary.outcomes if outcome.record is not None]
        run, reason = summary.run, summary.stopped or next((o.reason for o in summary.outcomes if o.reason), "")
    levels = tuple(trial.describe(record) for record in records)
    journal = workspace.journal.read_text(encoding="utf-8") if workspace.journal.is_file() else ""
    if storage is not None:
        push_network(storage, workspace, workspace.baseline_folder(recipe))
        push_runs(storage, workspace, recipe.name)  # a run that only had to be closed
    return Event(
        kind="end",
        reason=reason,
        levels=levels,
        run=run.name if run is not None else "",
        journal=journal,
    )


def _find_workspace(order: Order) -> TrialWorkspace:
    root = Path(order.root)
    mark = root / "runs" / order.sweep / "sweep.json"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != order.mark:
        if not order.storage:
            raise InputError(
                f"{platform.node()} does not see {order.root}, the folder of the project.",
                "a folder that all machines share, or --storage",
            )
        # Another project may have a sweep of that name, and networks of the same names.
        place = f"{order.sweep}-{digest_json([order.storage, order.mark])[:_DIGITS]}"
        root = Path(tempfile.gettempdir()) / f"edgeprune-{os.getuid()}" / place
        root.mkdir(parents=True, exist_ok=True)
    return TrialWorkspace(root, trial_journal=TrialStore(root / "runs" / order.sweep).journal(order.recipe.name))
