"""Where things lie below the project's folder, and how a long step tells what it does."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeprune.distributed import ALONE, Team
from edgeprune.recipe import Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Folders below one root.

    Attributes:
        root: the project's folder; the command line uses the current one.
        team: the processes that share the work of training there.
    """

    root: Path
    team: Team = ALONE

    @property
    def models(self) -> Path:
        """Baselines and levels."""
        return self.root / "models"

    @property
    def exports(self) -> Path:
        """Bundles; only publish writes here."""
        return self.root / "exports"

    @property
    def runs(self) -> Path:
        """Run directories; nothing is ever deleted here."""
        return self.root / "runs"

    @property
    def journal(self) -> Path:
        """The journal of all runs."""
        return self.root / "JOURNAL.md"

    @property
    def cache(self) -> Path:
        """Decoded images, which can be made again."""
        return self.root / ".cache" / "edgeprune"

    @property
    def unfinished(self) -> Path:
        """How far interrupted training has come, a folder for each network that is being made."""
        return self.cache / "unfinished"

    def baseline_folder(self, recipe: Recipe) -> Path:
        """The unpruned checkpoint of a recipe."""
        return self.root / recipe.model.baseline if recipe.model.baseline else self.models / recipe.name

    def level_folder(self, recipe: Recipe, level: str) -> Path:
        """A level's checkpoint, or what was measured of the baseline (level ``dense``)."""
        return self.models / f"{recipe.name}-{level}"


class Reporter(Protocol):
    """Whoever shows a person what is going on."""

    def say(self, line: str) -> None:
        """Show one line."""

    def track(self, title: str) -> AbstractContextManager[Progress]:
        """Show progress while the block runs; the block calls it with what is done and what there is in all."""


class SilentReporter:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Ignore a line."""

    @contextmanager
    def track(self, title: str) -> Iterator[Progress]:
        """Ignore progress."""
        del title
        yield lambda done, total: None
