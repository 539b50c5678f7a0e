"""``edgeprune train`` and ``edgeprune prune``: networks are made."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.cli.console import open_reporter, print_json, print_levels, print_plans
from edgeprune.cli.options import (
    DEFAULT_RECIPE,
    BudgetOption,
    DataOption,
    DeviceOption,
    JsonOption,
    MaxFlashOption,
    MaxLatencyOption,
    MaxMacsOption,
    MaxParamsOption,
    MaxRamOption,
    RecipeArgument,
    TargetOption,
    open_workspace,
    read_bounds,
)
from edgeprune.distributed import is_follower, join_team
from edgeprune.errors import InputError, TargetMissingError

if TYPE_CHECKING:
    from edgeprune.budget import Budget
    from edgeprune.pipeline import PruneSummary, Workspace
    from edgeprune.recipe import Recipe


def train(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    data: DataOption = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="W", help="initial weights: none, IMAGENET1K_V1, a .safetensors file or a folder of ours"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the unpruned baseline of a recipe into models/NAME, with its card.

    It uses a GPU when there is one (EDGEPRUNE_DEVICE=cpu keeps it off), and every process that torchrun starts:
    torchrun --nproc-per-node=2 -m edgeprune train RECIPE. Killed, it goes on after its last finished epoch.
    """
    if is_follower():
        _follow()
        return
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe, data_path=data, weights=weights)
    from edgeprune.pipeline import make_baseline
    from edgeprune.results import as_json as plain

    with _shared_workspace() as workspace, open_reporter(quiet=as_json) as reporter:
        record, made = make_baseline(values, workspace, reporter)
    if as_json:
        print_json({"made": made, "folder": str(workspace.baseline_folder(values)), "record": plain(record)})
        return
    state = "trained" if made else "up to date"
    typer.echo(f"{workspace.baseline_folder(values)}: {state}")
    typer.echo(f"validation accuracy {record.val.accuracy}")
    typer.echo(f"test accuracy       {record.test.accuracy}, ROC AUC {record.test.roc_auc:.4f}")


def prune(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    target: TargetOption = None,
    budget: BudgetOption = None,
    max_flash: MaxFlashOption = None,
    max_ram: MaxRamOption = None,
    max_macs: MaxMacsOption = None,
    max_params: MaxParamsOption = None,
    max_latency: MaxLatencyOption = None,
    device: DeviceOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and an estimate of the time")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prune a recipe's baseline along its schedule, recover every level, keep each in models/NAME-sNN.

    The last level is made ready for int8, which may take training: an export need not wait for it then. With a budget,
    one more level is cut from the last one (from the baseline, without a target) until its int8 file meets every bound.

    It uses a GPU when there is one (EDGEPRUNE_DEVICE=cpu keeps it off), and for recovery every process that torchrun
    starts: torchrun --nproc-per-node=2 -m edgeprune prune RECIPE. Killed, it goes on after its last finished epoch.
    """
    if is_follower():
        _follow()
        return
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import level_id, parse_target

    wanted = parse_target(target) if target is not None else None
    typed = read_bounds(budget, flash=max_flash, ram=max_ram, macs=max_macs, params=max_params, latency=max_latency)
    values = read_recipe(recipe, data_path=data, device=device)
    from edgeprune.pipeline import choose_bounds, prune_to_schedule, ready_int8
    from edgeprune.results import as_json as plain

    values, bounds = choose_bounds(values, typed=typed, device=device, target=wanted)
    if dry_run and bounds is not None:
        raise InputError(
            f"--dry-run shows the plans of a schedule, not of a budget ({bounds}).",
            "leave it out: the plan is told before anything is recovered, and can be interrupted there",
        )
    if dry_run:
        _preview(values, wanted, as_json=as_json)
        return
    if bounds is not None:
        _prune_to_budget(recipe, values, bounds, wanted, data, as_json=as_json)
        return
    with _shared_workspace() as workspace, open_reporter(quiet=as_json) as reporter:
        summary = prune_to_schedule(values, workspace, reporter, target=wanted)
        if summary.outcomes[-1].record is not None:
            ready_int8(values, workspace, reporter, target=summary.outcomes[-1].target)
    if as_json:
        print_json(
            {
                "prunable_channels": summary.prunable,
                "baseline": plain(summary.baseline.dense),
                "levels": [outcome.as_values() for outcome in summary.outcomes],
                "stopped": summary.stopped,
                "run": str(summary.run) if summary.run else None,
            }
        )
    else:
        print_levels(summary.outcomes, summary.baseline.dense.cost)
        if summary.run is None:
            typer.echo("Every level is up to date.")
        typer.echo(f"Next: {_advise_export(recipe, data, summary)}")
    if wanted is not None and summary.outcomes[-1].record is None:
        raise TargetMissingError(
            f"The level {level_id(wanted)} is missing at the end: {summary.outcomes[-1].reason}",
            _advise_export(recipe, data, summary),
        )


@contextmanager
def _shared_workspace() -> Iterator["Workspace"]:
    """The current folder as a project's, with all processes that share the work."""
    with join_team() as team:
        yield replace(open_workspace(), team=team)


def _follow() -> None:
    from edgeprune.pipeline.following import follow_leader

    follow_leader(Path())


def _prune_to_budget(
    path: Path, recipe: "Recipe", budget: "Budget", target: float | None, data: str | None, *, as_json: bool
) -> None:
    from edgeprune.pipeline import prune_to_budget, ready_int8
    from edgeprune.results import as_json as plain

    with _shared_workspace() as workspace, open_reporter(quiet=as_json) as reporter:
        outcome = prune_to_budget(recipe, workspace, reporter, budget=budget, target=target)
        ready_int8(recipe, workspace, reporter, target=None, budget=budget)
    if as_json:
        print_json(
            {
                "level": outcome.level,
                "budget": str(budget),
                "up_to_date": outcome.up_to_date,
                "record": plain(outcome.record),
                "run": str(outcome.run) if outcome.run else None,
            }
        )
        return
    record = outcome.record
    typer.echo(f"{outcome.level}: {budget}")
    typer.echo(f"validation accuracy {record.val.accuracy}")
    typer.echo(f"test accuracy       {record.test.accuracy}")
    words = ["edgeprune", "export", str(path), "--budget", str(budget)]
    # With a target, channels stay in the recipe's blocks, so the export has to know of it.
    words += ["--target", f"{target:g}"] if target is not None else []
    words += ["--device", str(recipe.export.device)] if recipe.export.device else []
    words += ["--data", data] if data else []
    typer.echo(f"Next: {shlex.join(words)}")


def _advise_export(recipe: Path, data: str | None, summary: "PruneSummary") -> str:
    """The command that exports the last level that is good enough."""
    good = [
        outcome.target
        for outcome in summary.outcomes
        if outcome.record is not None and outcome.record.val.accuracy.value >= summary.threshold
    ]
    if not good:
        return "no level kept its accuracy: a lower target, more epochs, or a lower threshold in the recipe"
    words = ["edgeprune", "export", str(recipe), "--target", f"{good[-1]:g}", *(["--data", data] if data else [])]
    return shlex.join(words)


def _preview(recipe: "Recipe", target: float | None, *, as_json: bool) -> None:
    from edgeprune.pipeline import estimate_seconds, open_baseline, preview_plans
    from edgeprune.results import as_json as plain

    with _shared_workspace() as workspace, open_reporter(quiet=as_json) as reporter:
        baseline = open_baseline(recipe, workspace, reporter)
        preview = preview_plans(recipe, baseline, target=target)
        seconds = estimate_seconds(recipe, baseline, levels=len(preview.plans))
    if as_json:
        print_json(plain(preview) | {"seconds_at_most": round(seconds)})
        return
    print_plans(preview.plans)
    for problem in preview.unreachable:
        typer.echo(f"n/a: {problem}")
    typer.echo(
        f"{len(preview.plans)} levels of at most {recipe.recover.epochs} epochs: about {seconds / 60:.1f} minutes here."
    )
