"""Trials of a sweep: their recipes, and what is known of each, as files in ``runs/<sweep>/trials/``."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeprune import __version__
from edgeprune.errors import InputError
from edgeprune.files import digest_json, read_json, write_atomic, write_json
from edgeprune.pipeline.records import load_record, save_record
from edgeprune.pipeline.settings import training_digest
from edgeprune.recipe import Recipe, parse_recipe
from edgeprune.recipe.space import Cost, SweepFile, replace_keys
from edgeprune.results import Accuracy
from edgeprune.runs import describe_changes

State = Literal["running", "finished", "stopped", "failed", "lost"]
_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialLevel:
    """A level that a trial made.

    Attributes:
        level: its id, ``s60``.
        target: channel sparsity asked for.
        val, test: accuracy of the kept epoch. Nothing is chosen by ``test``.
        params, macs: as audited.
        int8_bytes: of the int8 file, as planned: within a percent of the file itself.
    """

    level: str
    target: float
    val: Accuracy
    test: Accuracy
    params: int
    macs: int
    int8_bytes: int

    def cost(self, name: Cost) -> int:
        """One of the three costs."""
        return {"params": self.params, "macs": self.macs, "int8_bytes": self.int8_bytes}[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is known of a trial.

    Attributes:
        name: of its recipe, and of its levels' folders.
        values: dotted key to value, where it differs from the base; empty for a recipe that is run as it is.
        state: ``running`` also when the sweep was interrupted meanwhile; ``stopped`` early, as one of the worse;
            ``failed`` for the reason given; ``lost`` with its worker, more often than the sweep retries.
        reason: one sentence, where there is one.
        levels: in the order they were made.
        run: id of its run directory, or an empty string.
        deaths: of workers that had it.
        worker: machine and process that has it, or had it last.
    """

    name: str
    values: dict[str, Any]
    state: State = "running"
    reason: str = ""
    levels: tuple[TrialLevel, ...] = ()
    run: str = ""
    deaths: int = 0
    worker: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether a sweep that goes on leaves it as it is."""
        return self.state in {"finished", "stopped", "failed"}


def trial_name(file: SweepFile, index: int) -> str:
    """Name of a trial; a recipe that is run as it is keeps its own.

    Args:
        file: the sweep.
        index: from 0.
    """
    return file.recipes[index].name if file.recipes else f"{file.sweep.name}-t{index:03d}"


def trial_recipe(file: SweepFile, index: int, values: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial: the base with other values, and the base's unpruned network unless they change that too.

    Raises:
        InputError: the values do not go together.
    """
    if file.recipes:
        return file.recipes[index]
    base, name = file.base, trial_name(file, index)
    assert base is not None
    # In the order of the file: a run is only resumed by a recipe with the same text.
    tried = ", ".join(f"{key}={values[key]}" for key in file.sweep.space)
    changed = replace_keys(base, values) | {"name": name, "goal": f"trial of {file.sweep.name}: {tried}"}
    recipe = parse_recipe(changed, origin=name)
    if recipe.model.baseline is not None:
        return recipe  # the recipe says which network all of them start from
    digest = training_digest(recipe)
    own = f"{file.sweep.name}-base-{digest[:_DIGITS]}"
    baseline = f"models/{base.name if digest == training_digest(base) else own}"
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"baseline": baseline})})


class TrialStore:
    """The folder of a sweep: what it is, and its trials.

    Args:
        folder: ``runs/<sweep>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, file: SweepFile) -> None:
        """Write down what the sweep is, or check that it is what was written down.

        Raises:
            InputError: the folder holds another sweep, or something else.
        """
        named = [recipe for recipe in (file.base, *file.recipes) if recipe is not None]
        identity = {
            **file.sweep.identity,
            "recipes": {recipe.name: recipe.without_local_paths().model_dump(mode="json") for recipe in named},
        }
        now = {"digest": digest_json(identity), "edgeprune": __version__, "identity": identity}
        path = self.mark
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise InputError(f"{self.folder} is there already and is no sweep.", "another `name` in the sweep")
            write_json(path, now)
        before = read_json(path)
        if before["digest"] != now["digest"] or before["edgeprune"] != __version__:
            changes = describe_changes(before["identity"], identity)
            changes += (
                [] if before["edgeprune"] == __version__ else [f"edgeprune {__version__} ({before['edgeprune']})"]
            )
            shown = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
            raise InputError(
                f"{self.folder} belongs to another sweep of that name: {shown}.",
                "another `name` in the sweep, or move that folder away",
            )
        write_atomic(self.folder / "config.yaml", file.sweep.to_yaml())

    @property
    def mark(self) -> Path:
        """The file that says what the sweep is."""
        return self.folder / "sweep.json"

    def save(self, trial: Trial) -> None:
        """Keep what is known of a trial."""
        save_record(self.files(trial.name)[0], trial)

    def save_recipe(self, recipe: Recipe) -> None:
        """Keep a trial's recipe, for `edgeprune prune` and `edgeprune export`."""
        write_atomic(self.files(recipe.name)[1], recipe.to_yaml())

    def journal(self, name: str) -> Path:
        """The entries of a trial's runs, which the project's journal gets too."""
        return self.folder / "trials" / f"{name}.md"

    def files(self, name: str) -> tuple[Path, Path, Path]:
        """What is known of a trial, its recipe, its journal."""
        return self.folder / "trials" / f"{name}.json", self.folder / "trials" / f"{name}.yaml", self.journal(name)

    def load(self, names: list[str]) -> list[Trial]:
        """The trials that were begun, of these names and in their order."""
        found = (load_record(self.files(name)[0], Trial) for name in names)
        return [trial for trial in found if trial is not None]


@contextmanager
def hold_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """One process of this machine at a time; a lock ends with its process, however that ends.

    Raises:
        InputError: another process holds it, and this one does not want to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path.parent} is being worked on by another process.", "wait until that one ends"
            ) from None
        yield


def merge_journal(journal: Path, trial: Path) -> None:
    """Append the entries of a trial's own journal, if there is one, that are not in the project's yet."""
    text = trial.read_text(encoding="utf-8") if trial.is_file() else ""
    before = journal.read_bytes() if journal.exists() else b"# Journal of runs\n"
    for entry in text.split("\n---\n\n**Run:** ")[1:]:
        run = entry.partition("\n")[0]
        if f"**Run:** {run}\n".encode() not in before:
            before += f"\n---\n\n**Run:** {entry.rstrip()}\n\n".encode()
            write_atomic(journal, before)
