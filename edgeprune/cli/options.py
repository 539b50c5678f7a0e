"""Arguments and options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.errors import InputError

if TYPE_CHECKING:
    from edgeprune.budget import Budget
    from edgeprune.pipeline import Workspace

RecipeArgument = Annotated[Path, typer.Argument(metavar="[RECIPE]", help="recipe file")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="image folder, list, or id of a data set, instead of the recipe's"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON value instead of text")]
TargetOption = Annotated[str | None, typer.Option("--target", metavar="T", help="channel sparsity in (0, 1), as 0.6")]

BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="B",
        help='bounds to meet: "flash=300KB ram=64KB macs=4M params=400k latency=0.4ms", any of them; none for none',
    ),
]
MaxFlashOption = Annotated[str | None, typer.Option(metavar="A", help="as flash= of --budget, like 300KB")]
MaxRamOption = Annotated[str | None, typer.Option(metavar="A", help="as ram= of --budget, like 64KiB")]
MaxMacsOption = Annotated[str | None, typer.Option(metavar="A", help="as macs= of --budget, like 4M")]
MaxParamsOption = Annotated[str | None, typer.Option(metavar="A", help="as params= of --budget, like 400k")]
MaxLatencyOption = Annotated[str | None, typer.Option(metavar="A", help="as latency= of --budget, like 0.4ms")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="D",
        help="must fit: a name from `edgeprune devices`, or a file like those; without TARGET and BUDGET, its RAM and "
        "flash are the budget",
    ),
]

DEFAULT_RECIPE = Path("recipes/elpv96.yaml")


def open_workspace() -> "Workspace":
    """The current folder as a project's."""
    from edgeprune.pipeline import Workspace

    return Workspace(Path())


def read_bounds(budget: str | None, **largest: str | None) -> "Budget | None":
    """The bounds that were typed, in one text or option by option; None where there is none.

    Args:
        budget: text of --budget.
        largest: bound to amount, of --max-flash and the like.

    Raises:
        InputError: one of them cannot be read, or a bound stands in both.
    """
    from edgeprune.budget import describe_amount, parse_budget, read_budget

    typed = {name: amount for name, amount in largest.items() if amount is not None}
    if not typed:
        return parse_budget(budget) if budget is not None else None
    bounds = read_budget(typed)
    if budget is None:
        return bounds
    whole = parse_budget(budget)
    twice = next((name for name in bounds.bounds if name in whole.bounds), None)
    if twice is not None:
        word = twice.partition("_")[0]
        raise InputError(
            f"{word} is bounded twice: {describe_amount(word, whole.bounds[twice])} by --budget, {typed[word]} by "
            f"--max-{word}.",
            "one of the two",
        )
    return whole.tightened(bounds)
