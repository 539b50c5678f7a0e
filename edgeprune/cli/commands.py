"""The commands: parse, call the pipeline or one stage, have ``console`` print.

Only typer is imported here at module level: ``edgeprune --help`` answers in a fraction of a second, and ``pull`` and
``verify`` work where neither torch nor numpy is installed.
"""

import errno
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune import __version__
from edgeprune.cli.console import (
    cost_values,
    open_reporter,
    outcome_values,
    print_costs,
    print_failed_gates,
    print_json,
    print_levels,
    print_plans,
    print_verdict,
)
from edgeprune.errors import EdgepruneError, GateFailedError, InputError, MissingExtraError, TargetMissingError

if TYPE_CHECKING:
    from edgeprune.pipeline import Workspace
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
_INTERRUPTED = 130
_READER_GONE = 141
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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
    """Prune a recipe's baseline along its schedule, recover every level, keep each in models/NAME-sNN."""
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import level_id, parse_target

    wanted = parse_target(target) if target is not None else None
    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline import prune_to_schedule
    from edgeprune.results import as_json as plain

    if dry_run:
        _preview(values, wanted, as_json=as_json)
        return
    with open_reporter(quiet=as_json) as reporter:
        summary = prune_to_schedule(values, _workspace(), reporter, target=wanted)
    finished = [outcome for outcome in summary.outcomes if outcome.record is not None]
    if as_json:
        print_json(
            {
                "prunable_channels": summary.prunable,
                "baseline": plain(summary.baseline.dense),
                "levels": [outcome_values(outcome) for outcome in summary.outcomes],
                "stopped": summary.stopped,
                "run": str(summary.run) if summary.run else None,
            }
        )
    else:
        print_levels(summary.outcomes, summary.baseline.dense.cost)
        if summary.run is None:
            typer.echo("Every level is up to date.")
        if finished:
            last = finished[-1]
            typer.echo(f"Next: make export TARGET={last.target:g}")
    if wanted is not None and summary.outcomes[-1].record is None:
        best = f"TARGET={finished[-1].target:g}, the last level that was made" if finished else "a lower TARGET"
        raise TargetMissingError(
            f"The level {level_id(wanted)} is missing at the end: {summary.outcomes[-1].reason}", f"export {best}"
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
    as_json: JsonOption = False,
) -> None:
    """Audit, export, verify and publish a finished level to exports/NAME-sNN. Never prunes."""
    from edgeprune.recipe import read_recipe
    from edgeprune.schedule import level_id, parse_target

    if target is None:
        raise InputError("TARGET is not set, so there is nothing to export.", "make export TARGET=0.6, or TARGET=all")
    wanted = None if target == "all" else parse_target(target)
    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline import export_level, finished_levels
    from edgeprune.results import as_json as plain

    workspace = _workspace()
    levels = finished_levels(values, workspace) if wanted is None else [level_id(wanted)]
    if not levels:
        raise InputError(f"No level of {values.name!r} is finished, so there is nothing to export.", "make prune")
    results, failures = [], []
    with open_reporter(quiet=as_json) as reporter:
        for level in levels:
            try:
                results.append(export_level(values, workspace, reporter, level=level, target=wanted))
            except EdgepruneError as error:
                # One level that fails does not keep the others from their bundles.
                failures.append((level, error))
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
                    for result in results
                ],
                "failed": [{"level": level, "problem": error.problem} for level, error in failures],
            }
        )
    else:
        for result in results:
            if result.up_to_date:
                typer.echo(f"{result.bundle}: up to date")
            else:
                print_verdict(result.verdict)
                typer.echo(
                    f"{result.bundle}: published; model.onnx {result.file_bytes:,} bytes "
                    f"(unpruned {result.dense_file_bytes:,})"
                )
        for level in (level for level, failure in failures if isinstance(failure, GateFailedError)):
            print_failed_gates(workspace.level_folder(values, level) / "verify.json")
    _raise_all([failure for _, failure in failures])


@app.command(epilog="Example: edgeprune verify exports/elpv96-s60 --require all")
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a bundle")],
    require: Annotated[
        Requirement, typer.Option(help="`all` fails when a file could not be checked for want of an extra")
    ] = Requirement.manifest,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle anywhere: every byte against its manifest, metadata, golden vectors in onnxruntime."""
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
            "pip install 'edgeprune[verify]'",
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


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a gate or target failed, 2 bad input, 130 interrupted."""
    try:
        _run(sys.argv[1:] or ["--help"])
    except EdgepruneError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgeprune"):
            raise
        _fail(MissingExtraError(f"edgeprune {sys.argv[1]}", "prune", (error.name or "").partition(".")[0]))
    except KeyboardInterrupt:
        typer.echo("edgeprune: interrupted; what is finished stays, the same command goes on from there.", err=True)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Somebody closed the other end (`edgeprune list | head -1`). That is no failure, nor did the command end
        # well: a verdict that nobody read must not come out as 0. So it ends as other programs do there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_READER_GONE)
    except OSError as error:
        _fail(_explain(error))


def _run(arguments: list[str]) -> None:
    # Not `app()`, which answers an interruption by returning and a closed pipe by exit code 1.
    command = typer.main.get_command(app)
    try:
        with command.make_context("edgeprune", arguments) as context:
            command.invoke(context)
    except typer.Exit:
        pass  # --help and --version end here
    except typer.TyperException as error:
        where = getattr(error, "ctx", None)  # only a wrong use of a command names it
        raise InputError(
            " ".join(error.format_message().split()).rstrip(".") + ".",
            f"{where.command_path if where else 'edgeprune'} --help",
        ) from None
    sys.stdout.flush()


def _explain(error: OSError) -> EdgepruneError:
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return EdgepruneError(
            f"{error.filename or 'A file'} could not be written: {reason}; it was left as it was.",
            "free some space there; the same command goes on from what is finished",
        )
    return InputError(
        f"{error.filename or 'A file'} cannot be used: {reason}.",
        "check that path, what lies there and who may write it",
    )


def _fail(error: EdgepruneError) -> None:
    typer.echo(f"edgeprune: {error}", err=True)
    sys.exit(error.exit_code)


def _raise_all(failures: list[EdgepruneError]) -> None:
    for failure in failures[1:]:
        typer.echo(f"edgeprune: {failure}", err=True)
    if failures:
        raise failures[0]


def _workspace() -> "Workspace":
    from edgeprune.pipeline import Workspace

    return Workspace(Path())


def _preview(recipe: "Recipe", target: float | None, *, as_json: bool) -> None:
    from edgeprune.pipeline import estimate_seconds, open_baseline, preview_plans
    from edgeprune.results import as_json as plain

    with open_reporter(quiet=as_json) as reporter:
        baseline = open_baseline(recipe, _workspace(), reporter)
        plans = preview_plans(recipe, baseline, target=target)
        seconds = estimate_seconds(recipe, baseline, levels=len(plans))
    if as_json:
        print_json({"plans": plain(plans), "seconds_at_most": round(seconds)})
        return
    print_plans(plans)
    typer.echo(f"{len(plans)} levels of at most {recipe.recover.epochs} epochs: about {seconds / 60:.1f} minutes here.")
