"""Does a file fit a device: RAM and flash against what the board has, and what would help where they fall short."""

from collections.abc import Collection, Mapping

from edgeprune.devices.latency import estimate_latency_ms, explain_latency
from edgeprune.devices.profile import DeviceProfile
from edgeprune.embedded import ArenaReport, DeviceFit, NpuReport

# Vela's memory modes in which the activations stay in the system's own RAM, and the NPU's is only a cache.
_CACHED = "Dedicated_"


def fit_device(
    profile: DeviceProfile,
    *,
    arena: ArenaReport,
    model_bytes: int,
    macs: int,
    operators: Mapping[str, int],
    npu: NpuReport | None = None,
    scratch_bytes: int = 0,
) -> DeviceFit:
    """Hold one int8 file against one device.

    With Vela's report, activations, model and latency are the compiled file's: it is what the device runs. On a Linux
    board the arena is still TFLite Micro's; LiteRT plans activations much alike but keeps weights in RAM too, in a
    form of its own, which ``reserve_bytes`` of those boards has ample room for.

    Args:
        profile: of the device.
        arena: what TFLite Micro measured for the file.
        model_bytes: of the file.
        macs: of one image.
        operators: of the file, as the schema names them, with how often.
        npu: what Vela says about it for this device.
        scratch_bytes: allowance for what optimised kernels ask of the arena on top; counted with the activations.
    """
    activations, stored = arena.head_bytes + scratch_bytes, model_bytes
    latency_ms, latency_source = estimate_latency_ms(profile, macs), explain_latency(profile)
    if npu is not None:
        stored = npu.file_bytes
        if not npu.memory_mode.startswith(_CACHED):
            activations = npu.sram_bytes
        latency_ms = 1000 / npu.inferences_per_second if npu.inferences_per_second > 0 else None
        latency_source = (
            f"Vela {npu.version}'s own estimate for {npu.accelerator}, {npu.system_config}; it leaves out what runs on "
            "the CPU."
        )
    problems = [
        *_ram_problem(profile, arena, activations, operators),
        *_flash_problem(profile, stored),
        *_operator_problem(profile, operators),
        *_npu_problems(profile, npu),
    ]
    return DeviceFit(
        device=profile.id,
        board=profile.board,
        ram_bytes=profile.ram_bytes,
        flash_bytes=profile.flash_bytes,
        arena_head_bytes=activations,
        arena_tail_bytes=arena.tail_bytes,
        reserve_bytes=profile.reserve_bytes,
        model_bytes=stored,
        kernel_bytes=profile.kernel_bytes,
        latency_ms=latency_ms,
        latency_source=latency_source,
        problems=tuple(problems),
    )


def _ram_problem(
    profile: DeviceProfile, arena: ArenaReport, activations: int, operators: Mapping[str, int]
) -> list[str]:
    needed = activations + arena.tail_bytes + profile.reserve_bytes
    if profile.ram_bytes is None or needed <= profile.ram_bytes:
        return []
    helps = [f"fewer channels where activations peak ({arena.peak_layer})", "a smaller image"]
    if "PAD" in operators or "PADV2" in operators:
        helps.insert(0, "no PAD operators (`model: {pad: same}`, or `export: {pad: rotate}` without training)")
    return [
        f"RAM is {needed - profile.ram_bytes:,} bytes short: {needed:,} needed ({activations:,} activations, "
        f"{arena.tail_bytes:,} runtime, {profile.reserve_bytes:,} reserve), {profile.ram_bytes:,} there. What would "
        f"help: {', '.join(helps)}, or a device with more."
    ]


def _flash_problem(profile: DeviceProfile, stored: int) -> list[str]:
    needed = stored + profile.kernel_bytes
    if profile.flash_bytes is None or needed <= profile.flash_bytes:
        return []
    return [
        f"Flash is {needed - profile.flash_bytes:,} bytes short: {needed:,} needed ({stored:,} model, "
        f"{profile.kernel_bytes:,} kernels), {profile.flash_bytes:,} there. What would help: a higher TARGET, or a "
        "device with more."
    ]


def _operator_problem(profile: DeviceProfile, operators: Mapping[str, int]) -> list[str]:
    outside = outside_operators(operators, profile.operators)
    if not outside:
        return []
    return [
        f"Its runtime has no kernel for {', '.join(outside)}. What would help: a network without, or a device that "
        "runs LiteRT."
    ]


def _npu_problems(profile: DeviceProfile, npu: NpuReport | None) -> list[str]:
    problems = []
    if npu is not None and npu.cpu_operators:
        problems.append(
            f"Vela leaves {len(npu.cpu_operators)} operators to the CPU ({', '.join(dict.fromkeys(npu.cpu_operators))})"
            ". What would help: a network without them."
        )
    room = profile.npu.sram_bytes if profile.npu else None
    if npu is not None and room is not None and npu.sram_bytes > room:
        problems.append(
            f"The NPU's memory is {npu.sram_bytes - room:,} bytes short: {npu.sram_bytes:,} needed, {room:,} there. "
            "What would help: fewer channels in the early layers, or a smaller image."
        )
    return problems


def outside_operators(operators: Mapping[str, int], allowed: Collection[str] | None) -> tuple[str, ...]:
    """Operators that a device's list does not have, sorted; custom and unknown ones are on no list.

    >>> outside_operators({"CONV_2D": 3, "CUSTOM(MyOp)": 1}, None)
    ('CUSTOM(MyOp)',)
    """
    # A builtin operator is written in capitals, digits and underscores; brackets and blanks mark the others.
    builtin = {name for name in operators if name.isascii() and name.isupper() and name.isidentifier()}
    return tuple(sorted(set(operators) - set(builtin if allowed is None else allowed)))
