"""A sweep: many recipes as ordinary runs, side by side, what is poor stopped early, what is finished never made again.

All that a sweep knows lies in ``runs/<sweep>/``, a file a trial, written before the trial begins and whenever it has
come further. A sweep that was interrupted is the same command again: it reads those files and goes on.
"""

from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.pipeline.sweep_course import SweepCourse
from edgeprune.pipeline.sweep_crew import open_crew
from edgeprune.pipeline.sweep_share import pull_sweep, push_sweep
from edgeprune.pipeline.sweep_table import SweepTable, write_tables
from edgeprune.pipeline.sweep_trials import Trial, TrialStore, hold_lock
from edgeprune.pipeline.workspace import Reporter, Workspace
from edgeprune.recipe.space import SweepFile
from edgeprune.storage import open_storage


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSummary:
    """How a sweep ended.

    Attributes:
        folder: ``runs/<sweep>``.
        trials: in the order of their numbers.
        table: every level of theirs, and which are on the Pareto front.
        made: whether anything was done.
    """

    folder: Path
    trials: tuple[Trial, ...]
    table: SweepTable
    made: bool


def run_sweep(
    file: SweepFile,
    workspace: Workspace,
    reporter: Reporter,
    *,
    address: str | None = None,
    storage: str | None = None,
    retry_failed: bool = False,
) -> SweepSummary:
    """Run the trials of a sweep that are not finished yet, and write its tables.

    Args:
        file: what to try.
        workspace: where things lie.
        reporter: is told of levels and trials.
        address: of a Ray cluster; None for this machine alone.
        storage: address of a place that all machines share, or None.
        retry_failed: run failed trials again.

    Raises:
        InputError: the sweep's folder belongs to another one or is in use, no trial can be run, or the base's images or
            network cannot be used.
        EdgepruneError: the cluster lost its last machine.
        MissingExtraError: Ray, Optuna or what the storage needs is not installed.
    """
    if storage is not None and storage.startswith("memory:"):
        raise InputError(f"--storage {storage} is seen by no other process.", "file:///shared/folder")
    shared = open_storage(storage) if storage is not None else None
    store = TrialStore(workspace.runs / file.sweep.name)
    if shared is not None:
        pull_sweep(shared, workspace, store)
    store.claim(file)
    with hold_lock(store.folder / ".lock", wait=False):
        course = SweepCourse(file, workspace, reporter, store, shared, retry_failed=retry_failed)
        made = course.has_more
        try:
            if made:
                course.prepare()
                _run_trials(course, file, reporter, address=address)
        finally:
            # An interrupted sweep too has a table of what it came to so far.
            table = write_tables(store.folder, file.sweep, course.trials)
        if shared is not None:
            push_sweep(shared, workspace, store)
    return SweepSummary(folder=store.folder, trials=course.trials, table=table, made=made)


def _run_trials(course: SweepCourse, file: SweepFile, reporter: Reporter, *, address: str | None) -> None:
    resources = file.sweep.resources
    with (
        open_crew(address=address, cpus=resources.cpus, gpus=resources.gpus) as crew,
        reporter.track(file.sweep.name) as progress,
    ):
        while course.start_trials(crew) or crew.busy:
            progress(course.ended, file.sweep.count)
            course.handle(crew, *crew.wait())
    if course.has_more:
        raise EdgepruneError(
            f"No machine of the cluster is left that has {resources.cpus} processors for a trial; "
            f"{course.ended} of {file.sweep.count} trials have ended.",
            "the same command once there is one",
        )
