"""The commands in the order of ``--help``, each with its example: parse, call the pipeline or one stage, print.

Only typer is imported here at module level: ``edgeprune --help`` answers in a fraction of a second, and ``pull`` and
``verify`` work where neither torch nor numpy is installed.
"""

from typing import Annotated

import typer

from edgeprune import __version__
from edgeprune.cli.console import print_json
from edgeprune.cli.data import data_app
from edgeprune.cli.demo import demo
from edgeprune.cli.devices import devices_app
from edgeprune.cli.exporting import audit, export
from edgeprune.cli.inspecting import census, sensitivity
from edgeprune.cli.making import prune, train
from edgeprune.cli.options import DEFAULT_RECIPE, JsonOption, RecipeArgument, open_workspace
from edgeprune.cli.receiving import pull, verify
from edgeprune.cli.sweep import sweep

app = typer.Typer(
    name="edgeprune",
    help="Prune a trained image classifier step by step, prove every exported file, publish only what passed.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


def list_(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    as_json: JsonOption = False,
) -> None:
    """List the finished levels of a recipe and the published bundles."""
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe)
    from edgeprune.pipeline import finished_levels

    workspace = open_workspace()
    levels = finished_levels(values, workspace)
    bundles = sorted(path.parent.name for path in workspace.exports.glob("*/manifest.json"))
    if as_json:
        print_json({"recipe": values.name, "levels": levels, "bundles": bundles})
        return
    typer.echo(f"levels of {values.name}: {', '.join(levels) or 'none (make prune)'}")
    typer.echo(f"bundles: {', '.join(bundles) or 'none (make export TARGET=0.6)'}")


for _name, _command, _example in (
    ("train", train, "recipes/elpv96.yaml --weights none"),
    ("census", census, "--network mobilenet_v2 --image-size 96 --json"),
    ("sensitivity", sensitivity, "recipes/elpv96.yaml --fractions 0.25,0.5,0.75"),
    ("prune", prune, "recipes/elpv96.yaml --target 0.6"),
    ("sweep", sweep, "recipes/sweep.yaml --storage file:///shared/sweeps"),
    ("audit", audit, "recipes/elpv96.yaml --target 0.6"),
    ("export", export, "recipes/elpv96.yaml --target 0.6"),
    ("verify", verify, "exports/elpv96-s60 --require all"),
    ("pull", pull, "https://example.com/exports elpv96-s60 --to bundles"),
    ("demo", demo, "exports/elpv96-s60 photo.jpg --threshold 0.6"),
    ("list", list_, "--json"),
):
    app.command(_name, epilog=f"Example: edgeprune {_name} {_example}")(_command)
app.add_typer(devices_app, name="devices")
app.add_typer(data_app, name="data")
