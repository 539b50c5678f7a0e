"""What is measured about a file for a small device: frozen values of plain numbers, shared by the stages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How an int8 tensor stands for real numbers: ``real = scale * (stored - zero_point)``.

    Attributes:
        scale: > 0.
        zero_point: in [-128, 127].
    """

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaReport:
    """TFLite Micro's tensor memory for one file, as its recording allocator tells it.

    Attributes:
        head_bytes: activations and scratch; the part that decides whether a network fits.
        tail_bytes: persistent structures on this 64-bit host: an upper bound of a 32-bit device's.
        liveness_bytes: the peak of live tensors by our own computation over the file.
        peak_operator: index of the operator that runs at that peak.
        peak_layer: the network's own name for it (``features.0``), or the operator's where none is known.
        runtime: name and version.
    """

    head_bytes: int
    tail_bytes: int
    liveness_bytes: int
    peak_operator: int
    peak_layer: str
    runtime: str

    @property
    def arena_bytes(self) -> int:
        """Head and tail together: what the array in the firmware must hold."""
        return self.head_bytes + self.tail_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFigures:
    """One operator of an int8 file beside the same one in float.

    Attributes:
        index: position in the graph.
        operator: as the schema names it (``CONV_2D``).
        layer: the network's own name for it (``features.1.block.0``), or empty.
        sqnr_db: signal to quantisation noise of its output, decibels.
        weight_scale_ratio: largest over smallest per-channel weight scale; None without weights.
        low, high: range that its output can express.
    """

    index: int
    operator: str
    layer: str
    sqnr_db: float
    weight_scale_ratio: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuReport:
    """What Vela says about a file for one Ethos-U configuration; throughput is Vela's estimate, not a measurement.

    Attributes:
        accelerator: Vela's name of the configuration (``ethos-u55-128``).
        system_config, memory_mode: as given to Vela.
        cpu_operators: operators that it left to the CPU.
        npu_operators: operators that it compiled.
        sram_bytes: activations in on-chip memory.
        flash_bytes: compiled weights and commands, off chip.
        file_bytes: the compiled file.
        inferences_per_second: estimate; it leaves out what runs on the CPU.
        version: of Vela.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    cpu_operators: tuple[str, ...]
    npu_operators: int
    sram_bytes: int
    flash_bytes: int
    file_bytes: int
    inferences_per_second: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """Whether a file fits one device. RAM and flash are bytes; None where no public source gives the device's figure.

    Attributes:
        device: the profile's name.
        board: its full name.
        ram_bytes, flash_bytes: what the device has.
        arena_head_bytes, arena_tail_bytes, reserve_bytes: what RAM is needed: activations, runtime, a stated reserve.
        model_bytes, kernel_bytes: what flash is needed: the file, and a stated allowance for the kernels.
        latency_ms: estimate, or None where there is no public measurement of that core.
        latency_source: what it is estimated from.
        problems: one sentence for each thing that does not fit, with the shortfall in bytes and what would help.
    """

    device: str
    board: str
    ram_bytes: int | None
    flash_bytes: int | None
    arena_head_bytes: int
    arena_tail_bytes: int
    reserve_bytes: int
    model_bytes: int
    kernel_bytes: int
    latency_ms: float | None
    latency_source: str
    problems: tuple[str, ...]

    @property
    def ram_needed_bytes(self) -> int:
        """Activations, runtime and reserve."""
        return self.arena_head_bytes + self.arena_tail_bytes + self.reserve_bytes

    @property
    def flash_needed_bytes(self) -> int:
        """Model and kernels."""
        return self.model_bytes + self.kernel_bytes

    @property
    def fits(self) -> bool:
        """True when nothing speaks against it."""
        return not self.problems
