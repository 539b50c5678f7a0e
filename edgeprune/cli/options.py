"""Arguments and options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeprune.pipeline import Workspace

RecipeArgument = Annotated[Path, typer.Argument(metavar="[RECIPE]", help="recipe file")]
DataOption = Annotated[str | None, typer.Option("--data", metavar="DIR", help="image folder, instead of the recipe's")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON value instead of text")]
TargetOption = Annotated[str | None, typer.Option("--target", metavar="T", help="channel sparsity in (0, 1), as 0.6")]

BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="B", help='bounds to meet: "flash=300KB ram=64KB macs=4M params=400k", any of them'
    ),
]

DEFAULT_RECIPE = Path("recipes/elpv96.yaml")


def open_workspace() -> "Workspace":
    """The current folder as a project's."""
    from edgeprune.pipeline import Workspace

    return Workspace(Path())
