"""``edgeprune sweep``: many recipes at once, on this machine or on a Ray cluster."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.cli.console import make_table, open_reporter, print_json, show_table
from edgeprune.cli.options import DataOption, JsonOption, open_workspace
from edgeprune.distributed import join_team
from edgeprune.errors import EdgepruneError

if TYPE_CHECKING:
    from edgeprune.pipeline.sweep import SweepSummary

DEFAULT_SWEEP = Path("recipes/sweep.yaml")


def sweep(
    sweep: Annotated[Path, typer.Argument(metavar="[SWEEP]", help="sweep file")] = DEFAULT_SWEEP,
    *,
    data: DataOption = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="shared place for results, as file:///shared/x or s3://bucket/x"),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="A", envvar="RAY_ADDRESS", help="a Ray cluster; without it, this machine alone"),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run trials that failed again")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try many recipes, stop poor ones early, list what nothing beats: runs/SWEEP with a table and a picture.

    Each trial is an ordinary run with levels in models/NAME-sNN. The same command again goes on where it stopped.
    """
    from edgeprune.recipe.space import read_sweep

    values = read_sweep(sweep, data_path=data)
    from edgeprune.pipeline.sweep import run_sweep
    from edgeprune.pipeline.sweep_table import table_values

    # Unpruned networks that are missing are trained in this process, on the best device it has.
    with open_reporter(quiet=as_json) as reporter, join_team() as team:
        workspace = replace(open_workspace(), team=team)
        summary = run_sweep(
            values, workspace, reporter, address=ray_address, storage=storage, retry_failed=retry_failed
        )
    if as_json:
        print_json(
            {"folder": str(summary.folder), "made": summary.made}
            | table_values(values.sweep, summary.table, summary.trials)
        )
    else:
        _print_summary(summary)
    without = [trial for trial in summary.trials if trial.state in {"failed", "lost"}]
    if len(without) == len(summary.trials):
        raise EdgepruneError(
            f"All {len(without)} trials failed; the first: {without[0].reason}",
            "mend what it says, then the same command with --retry-failed",
        )


def _print_summary(summary: "SweepSummary") -> None:
    table = make_table("trial", "level", "val", "test (95 % interval)", "MACs fvcore", "params", "int8 bytes")
    for point in summary.table.front:
        level = point.level
        low, high = level.test.interval
        table.add_row(
            point.trial,
            level.level,
            f"{level.val.value:.4f}",
            f"{level.test.value:.4f} ({low:.4f} to {high:.4f})",
            f"{level.macs:,}",
            f"{level.params:,}",
            f"{level.int8_bytes:,}",
        )
    show_table(table)
    typer.echo(
        f"Trials: {len(summary.trials)}, levels: {len(summary.table.points)}; none beats those above in validation "
        f"accuracy and {summary.table.cost_title} at once."
    )
    if not summary.made:
        typer.echo("Every trial is up to date.")
    typer.echo(f"{summary.folder}: pareto.md, pareto.json, pareto.png")
    if summary.table.front:
        best = summary.table.front[-1]
        recipe = summary.folder / "trials" / f"{best.trial}.yaml"
        # The level of a budget is asked for by the recipe itself.
        target = "" if best.level.level.startswith("b-") else f" --target {best.level.target:g}"
        typer.echo(f"Next: edgeprune export {recipe}{target}")
