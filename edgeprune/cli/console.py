"""What the command line shows: tables, progress bars, JSON. rich is imported where something is drawn."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from edgeprune.pipeline import Outcome
    from edgeprune.pipeline.workspace import Progress
    from edgeprune.results import ChannelPlan, CostReport, Verdict


class ConsoleReporter:
    """Lines on standard output, and a progress bar on standard error when that is a terminal.

    Args:
        quiet: show nothing, because standard output carries JSON.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def say(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._quiet:
            return
        if self._bar is not None and sys.stdout.isatty():
            # Through the bar's own console, or the line would be drawn over.
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            typer.echo(line)

    @contextmanager
    def track(self, title: str) -> Iterator["Progress"]:
        """Draw a bar while the block runs; none when standard error is not a terminal."""
        if self._quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            self._bar = bar
            try:
                yield lambda done, total: bar.update(task, completed=done, total=total)
            finally:
                self._bar = None


@contextmanager
def open_reporter(*, quiet: bool) -> Iterator[ConsoleReporter]:
    """A reporter for one command."""
    yield ConsoleReporter(quiet=quiet)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_levels(outcomes: Iterable["Outcome"], dense: "CostReport") -> None:
    """The closing table: what every target cost and kept."""
    table = make_table("target", "achieved", "val", "test (95 % interval)", "params", "MACs fvcore", "")
    for outcome in outcomes:
        record = outcome.record
        if record is None:
            table.add_row(f"{outcome.target:.2%}", "n/a", "", outcome.reason, "", "", "")
            continue
        low, high = record.test.accuracy.interval
        table.add_row(
            f"{outcome.target:.2%}",
            f"{record.plan.achieved:.2%}",
            f"{record.val.accuracy.value:.4f}",
            f"{record.test.accuracy.value:.4f} ({low:.4f} to {high:.4f})",
            _against(record.cost.params, dense.params),
            _against(record.cost.macs, dense.macs),
            "up to date" if outcome.up_to_date else "made",
        )
    show_table(table)


def print_costs(costs: Mapping[str, "CostReport"]) -> None:
    """Costs of several levels against the first, then by operator and by block."""
    names, reports = list(costs), list(costs.values())
    dense = reports[0]
    table = make_table("figure", *names)
    table.add_row("parameters", *(_against(report.params, dense.params) for report in reports))
    table.add_row("MACs (fvcore)", *(_against(report.macs, dense.macs) for report in reports))
    table.add_row("MACs (thop)", *(_against(report.macs_thop, dense.macs_thop) for report in reports))
    for operator, macs in dense.macs_by_operator.items():
        table.add_row(
            f"  {operator}", *(_against(report.macs_by_operator.get(operator, 0), macs) for report in reports)
        )
    table.add_row(
        "peak activation bytes",
        *(_against(report.peak_activation_bytes, dense.peak_activation_bytes) for report in reports),
    )
    table.add_row("  at", *(report.peak_activation_at for report in reports))
    sizes = (_against(report.checkpoint_bytes, dense.checkpoint_bytes) for report in reports)
    table.add_row("weights file bytes", *sizes)
    for index, block in enumerate(dense.blocks):
        table.add_row(f"MACs in {block.name}", *(_against(report.blocks[index].macs, block.macs) for report in reports))
    show_table(table)


def print_plans(plans: Iterable["ChannelPlan"]) -> None:
    """Channels that each target would leave, layer by layer, if all went at once today."""
    plans = list(plans)
    if not plans:
        return
    table = make_table("layer", "channels", *(f"{plan.target:.2%}" for plan in plans))
    for index, group in enumerate(plans[0].groups):
        table.add_row(group.layer, str(group.channels), *(str(len(plan.groups[index].kept)) for plan in plans))
    table.add_row("removed", "", *(str(plan.removed_now) for plan in plans))
    table.add_row("achieved", "", *(f"{plan.achieved:.2%}" for plan in plans))
    show_table(table)
    typer.echo("One cut from today's weights; recovery between the steps changes the ranking of later ones.")


def print_verdict(verdict: "Verdict") -> None:
    """Every gate with its figure, limit and verdict."""
    _print_gates([(gate.name, gate.figure, gate.limit, gate.passed, gate.detail) for gate in verdict.gates])


def print_failed_gates(path: Path) -> None:
    """The gates of a level that was not published, from its verify.json."""
    if path.is_file():
        gates = json.loads(path.read_text(encoding="utf-8"))["gates"]
        _print_gates([(gate["name"], gate["figure"], gate["limit"], gate["passed"], gate["detail"]) for gate in gates])


def print_files(size_report: Path) -> None:
    """The model files of a bundle, from its size_report.json: bytes, accuracy in their runtimes, RAM."""
    values = json.loads(size_report.read_text(encoding="utf-8"))
    dense = {file["path"]: file for file in values["dense_files"]}
    table = make_table("file", "bytes", "accuracy on test", "proved in", "arena bytes (head + tail)")
    for file in values["files"]:
        before, accuracy, arena = dense.get(file["path"]), file["accuracy"], file["arena"]
        table.add_row(
            file["path"],
            _against(file["bytes"], before["bytes"]) if before else f"{file['bytes']:,}",
            f"{accuracy['correct'] / accuracy['n']:.4f}",
            file["runtime"],
            f"{arena['head_bytes']:,} + {arena['tail_bytes']:,}" if arena else "",
        )
    show_table(table)


def cost_values(cost: "CostReport", dense: "CostReport") -> dict[str, Any]:
    """A cost report as JSON values, with its shares of the unpruned network."""
    from edgeprune.results import as_json

    values: dict[str, Any] = as_json(cost)
    return values | {
        "macs_fvcore": cost.macs,
        "against_dense": {
            "params": cost.params / dense.params,
            "macs_fvcore": cost.macs / dense.macs,
            "macs_thop": cost.macs_thop / dense.macs_thop,
            "peak_activation_bytes": cost.peak_activation_bytes / dense.peak_activation_bytes,
        },
    }


def _print_gates(rows: Iterable[tuple[str, Any, str, bool, str]]) -> None:
    table = make_table("gate", "figure", "limit", "", "what")
    for name, figure, limit, passed, detail in rows:
        shown = f"{figure:.6g}" if isinstance(figure, float) else str(figure)
        table.add_row(name, shown, limit, "passed" if passed else "FAILED", detail)
    show_table(table)


def make_table(*columns: str) -> Any:
    """An empty table; the first column is never broken, the others are folded."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def show_table(table: Any) -> None:
    """Print a table."""
    from rich.console import Console

    # Figures must survive a pipe: without a terminal, rich would cut tables at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(table)
    # Printed by the one way that everything else goes: rich itself ends the program when a pipe is closed.
    typer.echo(drawn.get(), nl=False)


def _against(value: int, dense: int) -> str:
    return f"{value:,} ({value / dense:.0%})" if dense else f"{value:,}"
