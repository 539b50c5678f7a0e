"""What a sweep came to: every level of every trial, which of them nothing beats, and what became of each trial."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.files import write_atomic, write_json
from edgeprune.pipeline.sweep_trials import Trial, TrialLevel
from edgeprune.recipe.space import Cost, Sweep
from edgeprune.results import as_json

_TITLES: dict[Cost, str] = {"macs": "MACs (fvcore)", "params": "parameters", "int8_bytes": "int8 file, bytes (planned)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A level of a trial."""

    trial: str
    level: TrialLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTable:
    """All levels of a sweep.

    Attributes:
        cost: what accuracy is weighed against.
        points: all of them.
        front: those that no other beats on validation accuracy and cost at once, by rising cost.
    """

    cost: Cost
    points: tuple[Point, ...]
    front: tuple[Point, ...]

    @property
    def cost_title(self) -> str:
        """The cost for a person to read."""
        return _TITLES[self.cost]


def find_front(points: Sequence[Point], cost: Cost) -> tuple[Point, ...]:
    """The Pareto front of validation accuracy and cost; of equals, the first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.level.cost(cost), -point.level.val.value)):
        if not front or point.level.val.value > front[-1].level.val.value:
            front.append(point)
    return tuple(front)


def write_tables(folder: Path, sweep: Sweep, trials: Sequence[Trial]) -> SweepTable:
    """Write ``pareto.md``, ``pareto.json`` and, once there is a level, ``pareto.png``.

    Args:
        folder: of the sweep.
        sweep: its name, goal and objective.
        trials: with the levels they made.
    """
    cost = sweep.objective.cost
    points = tuple(Point(trial=trial.name, level=level) for trial in trials for level in trial.levels)
    table = SweepTable(cost=cost, points=points, front=find_front(points, cost))
    write_json(folder / "pareto.json", table_values(sweep, table, trials))
    write_atomic(folder / "pareto.md", _render(sweep, table, trials))
    if points:
        from edgeprune.pipeline.sweep_picture import draw_sweep

        write_atomic(folder / "pareto.png", draw_sweep(sweep.name, table))
    return table


def table_values(sweep: Sweep, table: SweepTable, trials: Sequence[Trial]) -> dict[str, Any]:
    """The tables as JSON values; accuracy on test is given for the front alone, so that nobody chooses by it."""
    return {
        "sweep": sweep.name,
        "cost": table.cost,
        "front": [_point_values(point, test=True) for point in table.front],
        "levels": [_point_values(point, test=False) for point in table.points],
        "trials": [
            {
                "name": trial.name,
                "state": trial.state,
                "reason": trial.reason,
                "values": trial.values,
                "run": trial.run,
                "levels": [level.level for level in trial.levels],
            }
            for trial in trials
        ],
    }


def _point_values(point: Point, *, test: bool) -> dict[str, Any]:
    level = point.level
    values: dict[str, Any] = as_json(level)
    del values["test"]
    values |= {"trial": point.trial, "val_accuracy": level.val.value}
    if test:
        values |= {"test": as_json(level.test), "test_accuracy": level.test.value, "test_interval": level.test.interval}
    return values


def _render(sweep: Sweep, table: SweepTable, trials: Sequence[Trial]) -> str:
    states = Counter(trial.state for trial in trials)
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common())
    lines = [
        f"# Sweep {sweep.name}",
        "",
        *([sweep.goal, ""] if sweep.goal else []),
        f"{len(trials)} trials ({counted}), {len(table.points)} levels.",
        "",
        "## Pareto front",
        "",
        f"No other level is both more accurate on validation and lower in {table.cost_title}. It was chosen on "
        "validation, among all of them, so that those figures flatter; test images chose nothing.",
        "",
        "| trial | level | validation | test (95 % interval) | MACs (fvcore) | parameters | int8 bytes (planned) |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for point in table.front:
        level = point.level
        validation, costs = f"{level.val.value:.4f} (n={level.val.n})", (level.macs, level.params, level.int8_bytes)
        lines.append(_row(point.trial, level.level, validation, str(level.test), *(f"{cost:,}" for cost in costs)))
    keys = list(sweep.space)
    lines += [
        "",
        "## Trials",
        "",
        _row("trial", "state", *keys, "last level", "validation", table.cost_title, "reason"),
        _row("---", "---", *("---" for _ in keys), "---", "---:", "---:", "---"),
    ]
    for trial in trials:
        tried = (_show(trial.values.get(key)) for key in keys)
        last = trial.levels[-1] if trial.levels else None
        figures = (last.level, f"{last.val.value:.4f}", f"{last.cost(table.cost):,}") if last else ("", "", "")
        lines.append(_row(trial.name, trial.state, *tried, *figures, trial.reason.replace("|", "/")))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
