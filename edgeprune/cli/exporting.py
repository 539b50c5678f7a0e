"""``edgeprune audit`` and ``edgeprune export``: what finished levels cost, and from levels to bundles."""

from typing import Annotated

import typer

from edgeprune.cli.console import (
    cost_values,
    open_reporter,
    print_costs,
    print_failed_gates,
    print_files,
    print_json,
    print_verdict,
)
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
from edgeprune.errors import EdgepruneError, GateFailedError, InputError


def audit(
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
    as_json: JsonOption = False,
) -> None:
    """Count parameters, MACs, peak activation memory and bytes of the finished levels, against the baseline."""
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import parse_target

    wanted = parse_target(target) if target is not None else None
    typed = read_bounds(budget, flash=max_flash, ram=max_ram, macs=max_macs, params=max_params, latency=max_latency)
    values = read_recipe(recipe, data_path=data, device=device)
    from edgeprune.pipeline import audit_levels, choose_bounds

    values, bounds = choose_bounds(values, typed=typed, device=device, target=wanted)
    with open_reporter(quiet=as_json) as reporter:
        summary = audit_levels(values, open_workspace(), reporter, target=wanted, budget=bounds)
    costs = {"dense": summary.dense, **summary.levels}
    if as_json:
        print_json({name: cost_values(cost, summary.dense) for name, cost in costs.items()})
        return
    print_costs(costs)


def export(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="T", help="channel sparsity in (0, 1), `compact`, or `all` finished levels"),
    ] = None,
    budget: BudgetOption = None,
    max_flash: MaxFlashOption = None,
    max_ram: MaxRamOption = None,
    max_macs: MaxMacsOption = None,
    max_params: MaxParamsOption = None,
    max_latency: MaxLatencyOption = None,
    device: DeviceOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Audit, export, verify and publish a finished level to exports/NAME-sNN. Never prunes."""
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import parse_target

    wanted = None if target in {None, "all", "compact"} else parse_target(str(target))
    typed = read_bounds(budget, flash=max_flash, ram=max_ram, macs=max_macs, params=max_params, latency=max_latency)
    values = read_recipe(recipe, data_path=data, device=device)
    if target is None and typed is None and device is None and values.budget.bounds is None:
        raise InputError("TARGET is not set, so there is nothing to export.", "make export TARGET=0.6, or TARGET=all")
    from edgeprune.pipeline import choose_bounds, export_levels
    from edgeprune.results import as_json as plain

    if target in {"all", "compact"}:
        bounds = None
    else:
        values, bounds = choose_bounds(values, typed=typed, device=device, target=wanted)
    workspace = open_workspace()
    with open_reporter(quiet=as_json) as reporter:
        outcome = export_levels(values, workspace, reporter, target=wanted, budget=bounds, compact=target == "compact")
    if as_json:
        print_json(
            {
                "bundles": [
                    {
                        "level": result.level,
                        "bundle": str(result.bundle),
                        "up_to_date": result.up_to_date,
                        "model_bytes": result.file_bytes,
                        "dense_model_bytes": result.dense_file_bytes,
                        "gates": plain(result.verdict.gates),
                    }
                    for result in outcome.summaries
                ],
                "failed": [{"level": level, "problem": error.problem} for level, error in outcome.failures.items()],
            }
        )
    else:
        for result in outcome.summaries:
            if result.up_to_date:
                typer.echo(f"{result.bundle}: up to date")
            else:
                print_verdict(result.verdict)
                print_files(result.bundle / "size_report.json")
                typer.echo(
                    f"{result.bundle}: published; model.onnx {result.file_bytes:,} bytes "
                    f"(unpruned {result.dense_file_bytes:,})"
                )
        for level, failure in outcome.failures.items():
            if isinstance(failure, GateFailedError):
                print_failed_gates(workspace.level_folder(values, level) / "verify.json")
    _raise_all(list(outcome.failures.values()))


def _raise_all(failures: list[EdgepruneError]) -> None:
    for failure in failures[1:]:
        typer.echo(f"edgeprune: {failure}", err=True)
    if failures:
        raise failures[0]
