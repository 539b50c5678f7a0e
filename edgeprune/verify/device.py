"""Gates on a device that a file must fit: RAM, flash, and operators that its runtime has."""

from collections.abc import Collection, Mapping

from edgeprune.devices.fit import outside_operators
from edgeprune.embedded import DeviceFit
from edgeprune.results import Gate


def check_fit(fit: DeviceFit) -> tuple[Gate, ...]:
    """RAM and flash: bytes needed against bytes there.

    Where no public source gives what the device has, the gate passes and says ``not published``.
    """
    ram = (
        f"{fit.arena_head_bytes:,} activations + {fit.arena_tail_bytes:,} runtime (a 64-bit host's: an upper bound) "
        f"+ {fit.reserve_bytes:,} reserve, on {fit.board}"
    )
    flash = f"{fit.model_bytes:,} model + {fit.kernel_bytes:,} allowance for kernels, on {fit.board}"
    return (
        _within(f"device_ram:{fit.device}", fit.ram_needed_bytes, fit.ram_bytes, ram + _help_for("RAM", fit)),
        _within(f"device_flash:{fit.device}", fit.flash_needed_bytes, fit.flash_bytes, flash + _help_for("Flash", fit)),
    )


def _help_for(what: str, fit: DeviceFit) -> str:
    """What would help, as ``fit_device`` has put it; empty where nothing is short."""
    told = next((problem for problem in fit.problems if problem.startswith(what)), "")
    helps = told.partition("What would help: ")[2].rstrip(".")
    return f"; what would help: {helps}" if helps else ""


def check_operators(operators: Mapping[str, int], allowed: Collection[str] | None, *, path: str, device: str) -> Gate:
    """Operators of a file that the device's list does not have: none may be there.

    Args:
        operators: of the file, as the schema names them, with how often.
        allowed: the device's list; None allows every builtin operator.
        path: of the file.
        device: id of the profile.
    """
    outside = outside_operators(operators, allowed)
    kinds = f"{len(operators)} kinds of operators in {path}"
    return Gate(
        name=f"device_operators:{device}",
        figure=len(outside),
        limit="<= 0",
        passed=not outside,
        detail=f"{kinds}, without a kernel: {', '.join(outside)}" if outside else kinds,
    )


def _within(name: str, needed: int, there: int | None, breakdown: str) -> Gate:
    if there is None:
        return Gate(name=name, figure=needed, limit="not published", passed=True, detail=breakdown)
    # Not `at_most`, which would round bytes to six digits.
    spare = there - needed
    detail = f"{breakdown}; {spare:,} bytes to spare" if spare >= 0 else f"{breakdown}; {-spare:,} bytes short"
    return Gate(name=name, figure=needed, limit=f"<= {there}", passed=needed <= there, detail=detail)
