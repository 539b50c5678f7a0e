"""``edgeprune devices``: boards that edgeprune knows, the sources of their figures, and how fast this machine is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.console import make_table, open_reporter, print_json, show_table
from edgeprune.cli.options import DEFAULT_RECIPE, DataOption, JsonOption, RecipeArgument, open_workspace

if TYPE_CHECKING:
    from edgeprune.devices import DeviceProfile
    from edgeprune.pipeline import MeasuredLatency

devices_app = typer.Typer(
    help="List the boards that edgeprune knows; `show NAME` gives sources; `measure` times this machine.",
    epilog="Example: edgeprune devices --json",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@devices_app.callback(invoke_without_command=True)
def _list(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from edgeprune.devices import list_devices

    profiles = list_devices()
    if as_json:
        print_json([_values(profile) for profile in profiles])
        return
    table = make_table("id", "board", "core", "MHz", "RAM bytes", "flash bytes", "NPU", "runtimes")
    for profile in profiles:
        table.add_row(
            profile.id,
            profile.board,
            profile.core,
            f"{profile.clock_hz / 1e6:g}" if profile.clock_hz else "",
            _bytes(profile.ram_bytes),
            _bytes(profile.flash_bytes),
            (profile.npu.accelerator or profile.npu.name) if profile.npu else "",
            ", ".join(profile.runtimes),
        )
    show_table(table)
    typer.echo("RAM is the largest block in one piece. One with its sources: edgeprune devices show stm32f746")


@devices_app.command(epilog="Example: edgeprune devices show stm32f746")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a name of the list, or a TOML file like those")],
    as_json: JsonOption = False,
) -> None:
    """Show one board: every figure with its public source."""
    from edgeprune.devices import load_device

    profile = load_device(name)
    if as_json:
        print_json(_values(profile))
        return
    typer.echo(f"{profile.id}: {profile.board}")
    table = make_table("figure", "value", "source")
    for row in _rows(profile):
        table.add_row(*row)
    show_table(table)
    if profile.ram_note:
        typer.echo(f"RAM: {profile.ram_note}.")
    if profile.note:
        typer.echo(profile.note)
    if profile.npu is not None and profile.npu.note:
        typer.echo(profile.npu.note)


@devices_app.command(epilog="Example: edgeprune devices measure recipes/elpv96.yaml")
def measure(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    data: DataOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="measure even where the table is up to date: the machine was busy then")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time a recipe's unpruned network on this machine, layer by layer, for bounds on latency: models/NAME-latency."""
    from edgeprune.recipe import read_recipe

    values = read_recipe(recipe, data_path=data)
    from edgeprune.pipeline import latency_folder, measure_latency_table
    from edgeprune.results import as_json as plain

    workspace = open_workspace()
    with open_reporter(quiet=as_json) as reporter:
        measured = measure_latency_table(values, workspace, reporter, again=again)
    folder = latency_folder(values, workspace)
    if as_json:
        print_json({"folder": str(folder), "table": plain(measured)})
        return
    _print_latency(measured)
    typer.echo(f"{folder}: latency.json")


def _print_latency(measured: "MeasuredLatency") -> None:
    table = make_table("layer", "kind", "MACs (fvcore)", "ms", "of the call")
    for each in measured.layers:
        table.add_row(each.layer, each.kind, f"{each.macs:,}", f"{each.ms:.4f}", f"{each.ms / measured.call_ms:.1%}")
    table.add_row("fixed", "", "", f"{measured.fixed_ms:.4f}", f"{measured.fixed_ms / measured.call_ms:.1%}")
    show_table(table)
    typer.echo(f"{measured.call_ms:.3f} ms a call: {measured.runtime}, {measured.cpu}; {measured.protocol}.")


def _rows(profile: "DeviceProfile") -> Iterator[tuple[str, str, str]]:
    """Figure, value and source of everything in a profile."""
    for figure in ("core", "clock_hz", "ram_bytes", "flash_bytes", "alignment", "runtimes"):
        yield figure, _text(getattr(profile, figure)), profile.sources.get(figure, "")
    for figure in ("reserve_bytes", "kernel_bytes"):
        yield figure, _text(getattr(profile, figure)), profile.sources.get(figure, "edgeprune's default allowance")
    for part in ("npu", "latency"):
        section = getattr(profile, part)
        if section is None:
            continue
        for field in type(section).model_fields:
            value = getattr(section, field)
            if field not in ("note", "source") and value not in (None, ""):
                yield f"{part}.{field}", _text(value), section.source


def _values(profile: "DeviceProfile") -> dict[str, Any]:
    return profile.model_dump(mode="json", by_alias=True)


def _text(value: Any) -> str:
    if value is None:
        return "not published"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
