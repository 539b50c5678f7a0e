"""``edgeprune census`` and ``edgeprune sensitivity``: what can be pruned, what it is worth, how much it hurts."""

import math
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.console import make_table, open_reporter, print_json, show_table
from edgeprune.cli.options import DEFAULT_RECIPE, DataOption, JsonOption, RecipeArgument, open_workspace
from edgeprune.errors import InputError

if TYPE_CHECKING:
    from edgeprune.dependencies import ChannelGroup
    from edgeprune.pipeline import PricedCensus, Sensitivity

_ALIGNMENTS = (1, 2, 4, 8, 16, 32)
# What torchvision's networks are trained on, so that their parameters are the published ones.
_USUAL_SIZE, _USUAL_CLASSES = 224, 1000


class Scope(StrEnum):
    """As the recipe's `prune.scope`."""

    expand = "expand"
    all = "all"


def census(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="recipe file")] = None,
    *,
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="a network by name, in place of a recipe; it needs no data")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="N", min=16, max=1024, help="pixels, with --network; 224 by default")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="outputs, with --network; 1000 by default")
    ] = None,
    level: Annotated[
        str | None, typer.Option(metavar="L", help="a level of the recipe, as s60, in place of its baseline")
    ] = None,
    scope: Annotated[Scope | None, typer.Option(help="in place of the recipe's; all by default with --network")] = None,
    align: Annotated[
        int | None, typer.Option(metavar="A", help="channels of a block, in place of the recipe's")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the channels that can only go together: layers, share of parameters, MACs and peak RAM."""
    if align is not None and align not in _ALIGNMENTS:
        raise InputError(f"--align {align} is none of {', '.join(map(str, _ALIGNMENTS))}.", "--align 8")
    if network is not None:
        for given, name in ((recipe, "RECIPE"), (level, "--level")):
            if given is not None:
                raise InputError(f"{name} and --network cannot both say what to look at.", f"leave out {name}")
    elif image_size is not None or classes is not None:
        raise InputError(
            "A recipe's network has its image size and its classes already.",
            "--network NAME, or neither --image-size nor --classes",
        )
    if network is not None:
        from edgeprune.pipeline import census_of_network

        found = census_of_network(
            network,
            image_size=image_size or _USUAL_SIZE,
            classes=classes or _USUAL_CLASSES,
            scope=scope.value if scope is not None else "all",
            align=align or 8,
        )
    else:
        from edgeprune.recipe import read_recipe

        values = read_recipe(recipe or DEFAULT_RECIPE)
        from edgeprune.pipeline import census_of_recipe

        found = census_of_recipe(
            values,
            open_workspace(),
            level=level or "dense",
            scope=scope.value if scope is not None else None,
            align=align,
        )
    if as_json:
        print_json(_census_values(found))
    else:
        _print_census(found)


def _print_census(census: "PricedCensus") -> None:
    table = make_table("group", "coupled layers", "channels", "unit", "params", "MACs (fvcore)", "peak RAM")
    for group, price in zip(census.groups, census.prices, strict=True):
        table.add_row(
            group.layer,
            _shorten(_coupled(group), shown=1),
            str(group.channels),
            str(group.unit),
            f"{price.params_share:.1%}",
            f"{price.macs_share:.1%}",
            f"{price.ram_share:.1%}" if price.ram_share else "",
        )
    show_table(table)
    by_reason: dict[str, list[str]] = {}
    for layer, reason in census.left_alone.items():
        by_reason.setdefault(reason, []).append(layer)
    for reason, layers in by_reason.items():
        typer.echo(f"left alone: {_shorten(layers, shown=3)}: {reason}")
    cost = census.cost
    typer.echo(
        f"{census.network} at {census.image_size} pixels, scope {census.scope}: {len(census.groups)} groups of "
        f"{census.channels:,} channels reach {census.params_share:.1%} of {cost.params:,} parameters and "
        f"{census.macs_share:.1%} of {cost.macs:,} MACs."
    )
    typer.echo(
        f"Peak RAM as int8 is {cost.ram_bytes:,} bytes, at {cost.ram_at}; {census.ram_share:.1%} of it in groups."
    )


def _census_values(census: "PricedCensus") -> dict[str, Any]:
    from edgeprune.results import as_json as plain

    return {
        "network": census.network,
        "image_size": census.image_size,
        "scope": census.scope,
        "align": census.align,
        "cost": plain(census.cost),
        "groups": [
            {
                "layer": group.layer,
                "channels": group.channels,
                "unit": group.unit,
                "block": math.lcm(census.align, group.unit),
                "coupled": [
                    {"layer": member.layer, "side": member.side, "channels": len(member.indices)}
                    for member in group.members
                ],
                "ram_bytes": round(price.ram_share * census.cost.ram_bytes),
                **{key: value for key, value in plain(price).items() if key != "layer"},
            }
            for group, price in zip(census.groups, census.prices, strict=True)
        ],
        "left_alone": census.left_alone,
        "reached": {
            "groups": len(census.groups),
            "channels": census.channels,
            "params_share": census.params_share,
            "macs_share": census.macs_share,
            "ram_share": census.ram_share,
        },
    }


def _coupled(group: "ChannelGroup") -> list[str]:
    """The other layers, each once: one that makes the channels may read them too."""
    return [layer for layer in dict.fromkeys(member.layer for member in group.members) if layer != group.layer]


def _shorten(layers: list[str], *, shown: int) -> str:
    more = len(layers) - shown
    return ", ".join(layers[:shown]) + (f" and {more} more" if more > 0 else "")


def sensitivity(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    data: DataOption = None,
    fractions: Annotated[
        str, typer.Option(metavar="F,F", help="shares of a group's channels to remove, each in (0, 1)")
    ] = "0.25,0.5,0.75",
    images: Annotated[
        int, typer.Option(metavar="N", min=2, help="train images that BatchNorm is recalibrated on")
    ] = 512,
    as_json: JsonOption = False,
) -> None:
    """Prune each group alone at several fractions, measure what that does, draw it: models/NAME-sensitivity."""
    wanted = _parse_fractions(fractions)
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline import measure_sensitivity, sensitivity_folder
    from edgeprune.results import as_json as plain

    workspace = open_workspace()
    with open_reporter(quiet=as_json) as reporter:
        table = measure_sensitivity(values, workspace, reporter, fractions=wanted, images=images)
    folder = sensitivity_folder(values, workspace)
    if as_json:
        print_json({"folder": str(folder), "table": plain(table)})
        return
    _print_sensitivity(table)
    typer.echo(f"{folder}: sensitivity.md, sensitivity.json, sensitivity.png")


def _parse_fractions(text: str) -> tuple[float, ...]:
    found = []
    for part in text.split(","):
        try:
            fraction = float(part)
        except ValueError:
            fraction = math.nan
        if not 0 < fraction < 1:
            raise InputError(
                f"--fractions holds {part.strip()!r}, which is no number in (0, 1).", "--fractions 0.25,0.5,0.75"
            )
        found.append(fraction)
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise InputError(f"--fractions {text} does not rise.", "--fractions 0.25,0.5,0.75")
    return tuple(found)


def _print_sensitivity(table: "Sensitivity") -> None:
    shown = make_table("group", "channels", *(f"{fraction:.0%}" for fraction in table.fractions))
    for row in table.rows:
        shown.add_row(
            row.layer,
            str(row.channels),
            *(
                "one block" if cell is None else f"{table.change(cell):+.1f}, {cell.divergence:.4f} ({cell.removed})"
                for cell in row.cells
            ),
        )
    show_table(shown)
    typer.echo(
        f"Change of validation accuracy in points, divergence in nats (channels removed); with all channels "
        f"{table.whole.accuracy.value:.4f}, BatchNorm recalibrated on {table.images} train images."
    )
