"""Device profiles: TOML files in which each figure has its public source, and a figure without one stays absent."""

import difflib
import functools
import json
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgeprune.errors import InputError
from edgeprune.manifest import Record
from edgeprune.micro_operators import RESOLVER_METHODS

# RAM that firmware needs beside the arena: stack, C library and drivers. Neither a camera's frame buffer nor the
# scratch of CMSIS-NN's kernels is in it. An allowance, not a measurement: what the linker says of the firmware counts.
RESERVE_BYTES = 32 * 1024
# TensorFlow's documentation puts the bare interpreter at 16 KB on a Cortex-M3. The rest is for about a dozen kernels
# (CMSIS-NN has several variants of each convolution), start-up code and C library. An allowance, too.
KERNEL_BYTES = 128 * 1024

_PACKAGE = "edgeprune.devices"
_SUFFIX = ".toml"
# What must have a source when it is given.
_SOURCED = ("core", "clock_hz", "ram_bytes", "flash_bytes", "alignment", "runtimes", "reserve_bytes", "kernel_bytes")

Bytes = Annotated[int, Field(gt=0, lt=2**48)]
Hertz = Annotated[int, Field(ge=10**6, lt=10**11)]
Text = Annotated[str, Field(min_length=1)]


class Npu(Record):
    """An accelerator beside the core.

    Attributes:
        name: as its maker calls it.
        accelerator, system_config, memory_mode: as Vela names them; empty when Vela does not compile for it.
        sram_bytes: on-chip memory that its activations may take; None where no public source says so.
        note: what a reader must know.
        source: of all of these.
    """

    name: Text
    accelerator: str = ""
    system_config: str = ""
    memory_mode: str = ""
    sram_bytes: Bytes | None = None
    note: str = ""
    source: Text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({bool(word) for word in (self.accelerator, self.system_config, self.memory_mode)}) > 1:
            raise ValueError("accelerator, system_config and memory_mode belong together: give all three, or none")
        return self


class Measurement(Record):
    """A public latency measurement of this core, which estimates start from.

    Attributes:
        benchmark: network and input that were run.
        macs: its multiply-accumulates.
        counter: what they count.
        ms: milliseconds of one inference.
        clock_hz: of the core when it was measured.
        runtime: inference engine and kernels.
        source: who published it, and where.
    """

    benchmark: Text
    macs: Annotated[int, Field(gt=0)]
    counter: Text
    ms: Annotated[float, Field(gt=0)]
    clock_hz: Hertz
    runtime: Text
    source: Text


class DeviceProfile(Record):
    """One board.

    Attributes:
        id: the name on the command line, and of its file.
        board: full name.
        core: ``cortex-m7``, ``xtensa-lx7``, ...; the one that runs inference.
        clock_hz: its highest rated clock, unless the note says otherwise.
        ram_bytes: largest RAM in one piece that inference can have; ``ram_note`` says which.
        flash_bytes: memory for firmware and model together.
        alignment: channels of a tensor that its kernels handle at a time.
        runtimes: that run there.
        operator_list: ``operators`` in the file: the runtime whose operators count.
        reserve_bytes: RAM for all but the arena.
        kernel_bytes: flash for all but the model.
        note: what a reader must know.
        npu: accelerator; None without one.
        latency: public measurement of this core; None where there is none.
        sources: figure to where it stands.
    """

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    board: Text
    core: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    clock_hz: Hertz | None = None
    ram_bytes: Bytes | None = None
    ram_note: str = ""
    flash_bytes: Bytes | None = None
    alignment: Annotated[int, Field(ge=1, le=1024)] | None = None
    runtimes: Annotated[tuple[Literal["tflite_micro", "litert", "executorch"], ...], Field(min_length=1)]
    operator_list: Literal["tflite_micro", "litert"] = Field(alias="operators")
    reserve_bytes: Bytes = RESERVE_BYTES
    kernel_bytes: Bytes = KERNEL_BYTES
    note: str = ""
    npu: Npu | None = None
    latency: Measurement | None = None
    sources: dict[str, Text]

    @property
    def operators(self) -> frozenset[str] | None:
        """Operators that may be in a file, as the schema names them; None for every builtin one."""
        return frozenset(RESOLVER_METHODS) if self.operator_list == "tflite_micro" else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = {name for name in _SOURCED if getattr(self, name) is not None}
        allowances = {"reserve_bytes": RESERVE_BYTES, "kernel_bytes": KERNEL_BYTES}
        ours = {name for name, value in allowances.items() if getattr(self, name) == value}
        if unsourced := sorted(given - ours - set(self.sources)):
            raise ValueError(f"[sources] does not say where {unsourced[0]} comes from; leave out what nobody publishes")
        if idle := sorted(set(self.sources) - given):
            raise ValueError(f"[sources] names {idle[0]}, which is not given")
        if (self.ram_bytes is None) != (not self.ram_note):
            raise ValueError("ram_note says which RAM ram_bytes is: give both, or neither")
        if self.operator_list not in self.runtimes:
            raise ValueError(f"operators = {self.operator_list!r} is not among its runtimes")
        return self


@functools.cache
def list_devices() -> tuple[DeviceProfile, ...]:
    """Every profile that comes with edgeprune, sorted by id."""
    return tuple(_parse(_shipped()[name].read_bytes(), name, origin=f"{name}{_SUFFIX}") for name in sorted(_shipped()))


def load_device(name: str) -> DeviceProfile:
    """The profile of a device.

    Args:
        name: an id, or the path of a TOML file like ours (it ends in ``.toml``).

    Raises:
        InputError: no such device or file, or a file that does not fit; what is wrong is named.
    """
    if name.endswith(_SUFFIX):
        path = Path(name)
        try:
            return _parse(path.read_bytes(), path.stem, origin=name)
        except OSError as error:
            raise InputError(
                f"The device profile {name} cannot be read: {error.strerror or error}.",
                "`edgeprune devices` lists those that come with edgeprune",
            ) from None
    shipped = _shipped()
    if name not in shipped:
        near = difflib.get_close_matches(name.lower(), shipped, n=3, cutoff=0.4)
        raise InputError(
            f"There is no device {name!r} among the {len(shipped)} profiles.",
            f"{', '.join(near)}; `edgeprune devices` lists all, and a file of your own ends in {_SUFFIX}"
            if near
            else f"a name that `edgeprune devices` lists, or a file of your own that ends in {_SUFFIX}",
        )
    return _parse(shipped[name].read_bytes(), name, origin=f"{name}{_SUFFIX}")


@functools.cache
def _shipped() -> dict[str, Traversable]:
    files = resources.files(_PACKAGE).iterdir()
    return {file.name.removesuffix(_SUFFIX): file for file in files if file.name.endswith(_SUFFIX)}


def _parse(content: bytes, stem: str, *, origin: str) -> DeviceProfile:
    remedy = "`edgeprune devices show stm32f746 --json` has every key"
    try:
        values = tomllib.loads(content.decode("utf-8"))
        # Through JSON, where a list stands for a tuple even when types are strict.
        profile = DeviceProfile.model_validate_json(json.dumps(values, default=str))
    except ValidationError as failure:
        raise InputError(f"The device profile {origin} is refused: {_clause(failure)}.", remedy) from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The device profile {origin} is not TOML: {reason}.", "mend that line") from None
    if profile.id != stem:
        raise InputError(
            f"The device profile {origin} has the id {profile.id!r}, which is another device's.", f'id = "{stem}"'
        )
    return profile


def _clause(failure: ValidationError) -> str:
    error: Any = failure.errors()[0]
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        model = {"npu": Npu, "latency": Measurement}.get(str(error["loc"][0]), DeviceProfile)
        known = [field.alias or name for name, field in model.model_fields.items()]
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.4)
        return f"unknown key `{where}`" + (f", perhaps `{near[0]}`" if near else "")
    if error["type"] == "missing":
        return f"the key `{where}` is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    # A rule about several keys has no value to show.
    return message if error["type"] == "value_error" else f"{where} = {error['input']!r} does not fit ({message})"
