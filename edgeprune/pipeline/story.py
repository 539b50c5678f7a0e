"""The story of a run in the wording of the log: told to a person and kept in the run directory."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from edgeprune.learning import EpochRecord
from edgeprune.pipeline.records import DenseRecord, LevelRecord
from edgeprune.pipeline.workspace import Reporter
from edgeprune.recipe import Recipe
from edgeprune.runs import RunDirectory

# Target, its level or None, and the reason why there is none.
Row = tuple[float, LevelRecord | None, str]


class RunStory:
    """Says lines and logs them; the first line makes the run directory, so that a run with nothing to do has none.

    Args:
        reporter: is told every line.
        opening: makes the lines that begin the story.
        start: makes the run directory.
    """

    def __init__(
        self, reporter: Reporter, *, opening: Callable[[], tuple[str, ...]], start: Callable[[], RunDirectory]
    ) -> None:
        self.opening = opening
        self.run: RunDirectory | None = None
        self._reporter = reporter
        self._start = start

    def started(self) -> RunDirectory:
        """The run directory; the first call makes it and tells the opening."""
        if self.run is None:
            self.run = self._start()
            self._reporter.say(f"Run: {self.run.path}")
            for line in self.opening():
                self._reporter.say(line)
                self.run.log(line)
        return self.run

    def say(self, *lines: str) -> None:
        """Tell and log lines."""
        run = self.started()
        for line in lines:
            self._reporter.say(line)
            run.log(line)

    def record(self, **values: Any) -> None:
        """Keep a measurement."""
        self.started().record(**values)


def opening_lines(recipe: Recipe, dense: DenseRecord, *, prunable: int, threshold: float) -> tuple[str, ...]:
    """Census, baseline, and the values that take effect: what stands first in a run's log."""
    recover, prune, cost = recipe.recover, recipe.prune, dense.cost
    return (
        f"Total prunable channels ({'expand convs' if prune.scope == 'expand' else 'all'}): {prunable}",
        f"Baseline accuracy: {dense.val.accuracy.value:.4f} (eval {dense.val.seconds:.1f}s)",
        f"Baseline complexity: params={cost.params:,} ({cost.params / 1e6:.2f}M) | "
        f"MACs={cost.macs_thop:,} ({cost.macs_thop / 1e6:.2f}M) by thop, {cost.macs:,} by fvcore",
        f"Effective values: importance={prune.importance} align={prune.align} alpha={recover.alpha} "
        f"temperature={recover.temperature} epochs={recover.epochs} patience={recover.patience} lr={recover.lr} "
        f"lr_high={recover.lr_high} from {recover.lr_high_threshold} recalibration={recipe.recalibrate.split} "
        f"teacher={recover.teacher} threshold={threshold:.4f} seed={recipe.seed}{_further(recipe)}",
    )


# What the log's own line names; the others are told where they differ from their defaults.
_NAMED = frozenset(
    {"importance", "align", "alpha", "temperature", "epochs", "patience", "lr", "lr_high", "lr_high_threshold",
     "teacher", "targets", "scope", "max_drop", "min_accuracy"}
)  # fmt: skip


def _further(recipe: Recipe) -> str:
    changed = {
        f"{title}.{key}": value
        for title in ("prune", "activations", "recover")
        for key, value in getattr(recipe, title).model_dump(exclude_defaults=True).items()
        if key not in _NAMED
    }
    return "".join(f" {key}={value}" for key, value in changed.items())


def epoch_line(title: str, epoch: EpochRecord, epochs: int) -> str:
    """One epoch in the wording of the log."""
    return (
        f"[{title} | epoch {epoch.epoch}/{epochs}] train loss {epoch.train_loss:.4f} acc {epoch.train_accuracy:.4f} | "
        f"val loss {epoch.val_loss:.4f} acc {epoch.val_accuracy:.4f} | time {epoch.seconds:.1f}s"
    )


def closing_table(rows: Iterable[Row]) -> list[str]:
    """The log's closing table: a target and its accuracy a line; on test, since validation chose the epochs."""
    lines = ["target  accuracy (test)"]
    for target, record, reason in rows:
        lines.append(f"{target:.2%} {record.test.accuracy}" if record else f"{target:.2%} n/a ({reason})")
    return lines


def state_facts(rows: Sequence[Row], *, baseline: float, threshold: float) -> list[str]:
    """What can be said of a run without an opinion; accuracies are on validation, where decisions are made.

    Args:
        rows: one a target, in schedule order.
        baseline: validation accuracy of the unpruned network.
        threshold: validation accuracy below which the run stops.
    """
    levels = [record for _, record, _ in rows if record is not None]
    if not levels:
        return ["No level was made."]
    accuracies = [baseline, *(record.val.accuracy.value for record in levels)]
    drops = [before - after for before, after in pairwise(accuracies)]
    worst = max(range(len(drops)), key=drops.__getitem__)
    within = [record.level for record in levels if record.val.accuracy.value >= threshold]
    frugal = max(levels, key=lambda record: record.val.accuracy.value / record.cost.macs)
    macs = f"{frugal.cost.macs:,} MACs, fvcore"
    n = levels[0].val.accuracy.n
    largest = f"Largest single-step drop: {drops[worst]:.4f}, at {levels[worst].level}"
    facts = [
        f"{largest if drops[worst] > 0 else 'No step lost accuracy'} (val, n={n}).",
        f"Levels at or above the threshold {threshold:.4f}: {', '.join(within) or 'none'}.",
        f"Best accuracy per MAC: {frugal.level} ({frugal.val.accuracy.value:.4f} at {macs}).",
    ]
    missing = [f"{target:.2%}" for target, record, _ in rows if record is None]
    if missing:
        facts.append(f"Not reached: {', '.join(missing)}.")
    return facts
