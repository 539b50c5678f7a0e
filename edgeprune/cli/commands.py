"""The commands: parse, call the pipeline or one stage, have ``console`` print.

Only typer is imported here at module level: ``edgeprune --help`` answers in a fraction of a second, and ``pull`` and
``verify`` work where neither torch nor numpy is installed.
"""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune import __version__
from edgeprune.cli.console import (
    cost_values,
    open_reporter,
    print_costs,
    print_failed_gates,
    print_files,
    print_json,
    print_levels,
    print_plans,
    print_verdict,
)
from edgeprune.cli.devices import devices_app
from edgeprune.errors import EdgepruneError, GateFailedError, InputError, TargetMissingError

if TYPE_CHECKING:
    from edgeprune.pipeline import PruneSummary, Workspace
    from edgeprune.recipe import Recipe

app = typer.Typer(
    name="edgeprune",
    help="Prune a trained image classifier step by step, prove every exported file, publish only what passed.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipeArgument = Annotated[Path, typer.Argument(metavar="[RECIPE]", help="recipe file")]
DataOption = Annotated[str | None, typer.Option("--data", metavar="DIR", help="image folder, instead of the recipe's")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON value instead of text")]
TargetOption = Annotated[str | None, typer.Option("--target", metavar="T", help="channel sparsity in (0, 1), as 0.6")]

_DEFAULT_RECIPE = Path("recipes/elpv96.yaml")


class Requirement(StrEnum):
    """What `verify --require` insists on."""

    manifest = "manifest"
    all = "all"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    del version


@app.command(epilog="Example: edgeprune train recipes/elpv96.yaml --weights none")
def train(
    recipe: RecipeArgument = _DEFAULT_RECIPE,
    data: DataOption = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="W", help="initial weights: none, IMAGENET1K_V1, a .safetensors file or a folder of ours"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the unpruned baseline of a recipe into models/NAME, with its card."""
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe, data_path=data, weights=weights)
    from edgeprune.pipeline import make_baseline
    from edgeprune.results import as_json as plain

    workspace = _workspace()
    with open_reporter(quiet=as_json) as reporter:
        record, made = make_baseline(values, workspace, reporter)
    if as_json:
        print_json({"made": made, "folder": str(workspace.baseline_folder(values)), "record": plain(record)})
        return
    state = "trained" if made else "up to date"
    typer.echo(f"{workspace.baseline_folder(values)}: {state}")
    typer.echo(f"validation accuracy {record.val.accuracy}")
    typer.echo(f"test accuracy       {record.test.accuracy}, ROC AUC {record.test.roc_auc:.4f}")


@app.command(epilog="Example: edgeprune prune recipes/elpv96.yaml --target 0.6")
def prune(
    recipe: RecipeArgument = _DEFAULT_RECIPE,
    target: TargetOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and an estimate of the time")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prune a recipe's baseline along its schedule, recover every level, keep each in models/NAME-sNN.

    The last level is made ready for int8, which may take training: an export need not wait for it then.
    """
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import level_id, parse_target

    wanted = parse_target(target) if target is not None else None
    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline import prune_to_schedule, ready_int8
    from edgeprune.results import as_json as plain

    if dry_run:
        _preview(values, wanted, as_json=as_json)
        return
    with open_reporter(quiet=as_json) as reporter:
        summary = prune_to_schedule(values, _workspace(), reporter, target=wanted)
        if summary.outcomes[-1].record is not None:
            ready_int8(values, _workspace(), reporter, target=summary.outcomes[-1].target)
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


@app.command(epilog="Example: edgeprune audit recipes/elpv96.yaml --target 0.6")
def audit(
    recipe: RecipeArgument = _DEFAULT_RECIPE,
    target: TargetOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count parameters, MACs, peak activation memory and bytes of the finished levels, against the baseline."""
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import parse_target

    wanted = parse_target(target) if target is not None else None
    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline import audit_levels

    with open_reporter(quiet=as_json) as reporter:
        summary = audit_levels(values, _workspace(), reporter, target=wanted)
    costs = {"dense": summary.dense, **summary.levels}
    if as_json:
        print_json({name: cost_values(cost, summary.dense) for name, cost in costs.items()})
        return
    print_costs(costs)


@app.command(epilog="Example: edgeprune export recipes/elpv96.yaml --target 0.6")
def export(
    recipe: RecipeArgument = _DEFAULT_RECIPE,
    target: Annotated[
        str | None, typer.Option("--target", metavar="T", help="channel sparsity in (0, 1), or `all` finished levels")
    ] = None,
    data: DataOption = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="must fit: a name from `edgeprune devices`, or a file like those")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Audit, export, verify and publish a finished level to exports/NAME-sNN. Never prunes."""
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import parse_target

    if target is None:
        raise InputError("TARGET is not set, so there is nothing to export.", "make export TARGET=0.6, or TARGET=all")
    wanted = None if target == "all" else parse_target(target)
    values = read_recipe(recipe, data_path=data, device=device)
    from edgeprune.pipeline import export_levels
    from edgeprune.results import as_json as plain

    workspace = _workspace()
    with open_reporter(quiet=as_json) as reporter:
        outcome = export_levels(values, workspace, reporter, target=wanted)
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


@app.command(epilog="Example: edgeprune verify exports/elpv96-s60 --require all")
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a bundle")],
    require: Annotated[
        Requirement, typer.Option(help="`all` fails when a file could not be checked for want of an extra")
    ] = Requirement.manifest,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle anywhere: every byte against its manifest, metadata, golden vectors in each runtime."""
    from edgeprune.results import Verdict
    from edgeprune.results import as_json as plain
    from edgeprune.verify.bundle import verify_bundle

    check = verify_bundle(bundle)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "passed": check.passed,
                "complete": check.complete,
                "files": plain(check.files),
                "gates": plain(check.gates),
            }
        )
    else:
        for file in check.files:
            typer.echo(str(file))
        print_verdict(Verdict(gates=check.gates))
    if not check.passed:
        failed = [gate.name for gate in check.gates if not gate.passed]
        raise GateFailedError(f"{bundle} failed: {', '.join(failed)}.", "pull the bundle again, or export it again")
    if require is Requirement.all and not check.complete:
        unchecked = sum(file.state != "checked" for file in check.files)
        raise GateFailedError(
            f"{unchecked} files of {bundle} were not checked and --require all was given.",
            "pip install 'edgeprune[verify]', or 'edgeprune[mcu]' where TFLite files are among them",
        )
    if not as_json:
        typer.echo(f"{bundle}: good")


@app.command(epilog="Example: edgeprune pull https://example.com/exports elpv96-s60 --to bundles")
def pull(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="a folder, or the address of a static HTTP server")],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="the bundle; may be left out if it is the only one")
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="where the bundle's folder appears")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Fetch a bundle; every byte is checked against its manifest before anything appears."""
    from edgeprune.publish.pull import pull_bundle
    from edgeprune.results import as_json as plain

    with open_reporter(quiet=as_json) as reporter, reporter.track("pulling") as progress:
        pulled = pull_bundle(source=source, name=name, to=to, say=reporter.say, progress=progress)
    if as_json:
        print_json(plain(pulled) | {"folder": str(pulled.folder)})
        return
    typer.echo(f"{pulled.folder}")
    for line in pulled.usage:
        typer.echo(line)


@app.command("list", epilog="Example: edgeprune list --json")
def list_(
    recipe: RecipeArgument = _DEFAULT_RECIPE,
    as_json: JsonOption = False,
) -> None:
    """List the finished levels of a recipe and the published bundles."""
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe)
    from edgeprune.pipeline import finished_levels

    workspace = _workspace()
    levels = finished_levels(values, workspace)
    bundles = sorted(path.parent.name for path in workspace.exports.glob("*/manifest.json"))
    if as_json:
        print_json({"recipe": values.name, "levels": levels, "bundles": bundles})
        return
    typer.echo(f"levels of {values.name}: {', '.join(levels) or 'none (make prune)'}")
    typer.echo(f"bundles: {', '.join(bundles) or 'none (make export TARGET=0.6)'}")


app.add_typer(devices_app, name="devices")


def _raise_all(failures: list[EdgepruneError]) -> None:
    for failure in failures[1:]:
        typer.echo(f"edgeprune: {failure}", err=True)
    if failures:
        raise failures[0]


def _workspace() -> "Workspace":
    from edgeprune.pipeline import Workspace

    return Workspace(Path())


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

    with open_reporter(quiet=as_json) as reporter:
        baseline = open_baseline(recipe, _workspace(), reporter)
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
