"""What of a sweep goes to a storage and comes from it: the same folders as in the project, under the same names."""

from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.files import write_atomic
from edgeprune.pipeline.sweep_trials import Trial, TrialStore, merge_journal
from edgeprune.pipeline.workspace import Workspace
from edgeprune.storage import Storage

_LEVELS = ("{}-s[0-9][0-9]*", "{}-b-*")
_RUNS = "*_{}_*"


def push_network(storage: Storage, workspace: Workspace, folder: Path) -> None:
    """Send a level or an unpruned network; what lies outside the project stays there."""
    if folder.is_dir() and _is_inside(workspace, folder):
        storage.push_folder(folder, _name(workspace, folder))


def pull_network(storage: Storage, workspace: Workspace, folder: Path) -> None:
    """Fetch a level or an unpruned network, unless it is here."""
    if not folder.exists() and _is_inside(workspace, folder):
        storage.pull_folder(_name(workspace, folder), folder)


def push_runs(storage: Storage, workspace: Workspace, trial: str) -> None:
    """Send the run directories of a trial, after its journal: a run that has ended is entered nowhere any more.

    Args:
        storage: where to.
        workspace: of the trial, whose journal is the trial's own.
        trial: name.
    """
    if workspace.journal.is_file():
        storage.write(_name(workspace, workspace.journal), workspace.journal.read_bytes())
    for run in sorted(workspace.runs.glob(_RUNS.format(trial))):
        storage.push_folder(run, _name(workspace, run))


def pull_journal(storage: Storage, workspace: Workspace) -> None:
    """Fetch a trial's own journal, unless it is here."""
    content = storage.read(_name(workspace, workspace.journal))
    if content is not None and not workspace.journal.exists():
        write_atomic(workspace.journal, content)


def pull_trial(storage: Storage, workspace: Workspace, trial: str) -> None:
    """Fetch the levels and run directories of a trial that are not here, or not whole."""
    for name in (name for pattern in _LEVELS for name in storage.names("models", pattern.format(trial))):
        pull_network(storage, workspace, workspace.root / name)
    for name in storage.names("runs", _RUNS.format(trial)):
        results = workspace.root / name / "results.json"
        # A run that was fetched while it lasted has come to its end there.
        if not results.exists() and (not results.parent.exists() or storage.read(f"{name}/results.json") is not None):
            storage.pull_folder(name, results.parent)


def push_sweep(storage: Storage, workspace: Workspace, store: TrialStore, *, trial: Trial | None = None) -> None:
    """Send what is known of a trial; without one, everything that the sweep's folder holds, tables included."""
    paths = store.folder.rglob("*") if trial is None else store.files(trial.name)
    # What is known of a trial goes last: whoever sees that it has ended shall find its journal too.
    for path in sorted(paths, key=lambda path: (path.suffix == ".json", path)):
        if path.is_file() and not path.name.startswith("."):
            storage.write(_name(workspace, path), path.read_bytes())


def pull_sweep(storage: Storage, workspace: Workspace, store: TrialStore) -> None:
    """Fetch what the sweep is, and the trials that have come further there than here.

    Raises:
        InputError: another sweep has that name there.
    """
    folder = _name(workspace, store.folder)
    mark = storage.read(f"{folder}/{store.mark.name}")
    if mark is not None and store.mark.exists() and store.mark.read_bytes() != mark:
        raise InputError(
            f"{storage.url}/{folder} belongs to another sweep of that name.", "another `name` in the sweep"
        )
    if mark is not None:
        write_atomic(store.mark, mark)
    for name in storage.names(f"{folder}/trials", "*.json"):
        trial = Path(name).stem
        known = store.load([trial])
        if known and known[0].has_ended:
            continue
        state, *others = store.files(trial)
        for path in others:
            content = storage.read(f"{folder}/trials/{path.name}")
            if content is not None:
                write_atomic(path, content)
        merge_journal(workspace.journal, store.journal(trial))
        pull_trial(storage, workspace, trial)
        # Last, as it was sent: a trial that has ended is never asked for again.
        content = storage.read(name)
        if content is not None:
            write_atomic(state, content)


def _is_inside(workspace: Workspace, folder: Path) -> bool:
    return folder.resolve().is_relative_to(workspace.root.resolve())


def _name(workspace: Workspace, path: Path) -> str:
    return path.resolve().relative_to(workspace.root.resolve()).as_posix()
