"""``edgeprune devices``: the boards that edgeprune knows, and where each figure comes from."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.console import make_table, print_json, show_table
from edgeprune.cli.options import JsonOption

if TYPE_CHECKING:
    from edgeprune.devices import DeviceProfile

devices_app = typer.Typer(
    help="List the boards that edgeprune knows; `show NAME` gives sources.",
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
