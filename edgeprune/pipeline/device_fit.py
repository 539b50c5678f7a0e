"""What the devices say to a level: does the int8 file fit, and what does an Ethos-U's compiler make of it."""

from dataclasses import dataclass

from edgeprune.devices import DeviceProfile, fit_device, list_devices
from edgeprune.embedded import DeviceFit, NpuReport
from edgeprune.export.vela import compile_for_npu
from edgeprune.micro_scratch import cmsis_nn_scratch_bytes
from edgeprune.pipeline.model_file import ModelFile
from edgeprune.results import Gate
from edgeprune.verify.device import check_fit, check_operators
from edgeprune.verify.npu import check_npu

# Cores whose kernels are CMSIS-NN's, which ask for scratch that the reference kernels do without.
_CMSIS_NN = "cortex-m"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFits:
    """Where a level fits.

    Attributes:
        fits: of the device that was asked for, or of every profile.
        npu: what Vela says; None without an Ethos-U.
        files: what Vela wrote, path in the bundle to bytes.
        gates: of the device that was asked for; none without one.
    """

    fits: tuple[DeviceFit, ...]
    npu: NpuReport | None
    files: dict[str, bytes]
    gates: tuple[Gate, ...]


def fit_devices(file: ModelFile, device: DeviceProfile | None, *, macs: int) -> DeviceFits:
    """Hold an int8 file against one device, with gates, or against every profile, for the table.

    Args:
        file: int8, run in TFLite Micro.
        device: the profile asked for; None for all.
        macs: of one image, counter fvcore.

    Raises:
        MissingExtraError: the device has an Ethos-U, and Vela is not installed.
        EdgepruneError: Vela cannot compile the file.
    """
    if device is None:
        return DeviceFits(
            fits=tuple(_fit(file, each, macs=macs, npu=None) for each in list_devices()), npu=None, files={}, gates=()
        )
    npu: NpuReport | None = None
    files: dict[str, bytes] = {}
    gates: list[Gate] = []
    if device.npu is not None and device.npu.accelerator:
        compiled = compile_for_npu(
            file.path.read_bytes(),
            stem=file.path.stem,
            accelerator=device.npu.accelerator,
            system_config=device.npu.system_config,
            memory_mode=device.npu.memory_mode,
        )
        npu, files = compiled.report, compiled.files
        gates += check_npu(npu, sram_bytes=device.npu.sram_bytes, flash_bytes=device.flash_bytes, path=file.facts.path)
    fit = _fit(file, device, macs=macs, npu=npu)
    gates += [
        *check_fit(fit),
        check_operators(dict(file.facts.operators or {}), device.operators, path=file.facts.path, device=device.id),
    ]
    return DeviceFits(fits=(fit,), npu=npu, files=files, gates=tuple(gates))


def _fit(file: ModelFile, device: DeviceProfile, *, macs: int, npu: NpuReport | None) -> DeviceFit:
    assert file.facts.arena is not None
    return fit_device(
        device,
        arena=file.facts.arena,
        model_bytes=file.facts.bytes,
        macs=macs,
        operators=dict(file.facts.operators or {}),
        npu=npu,
        scratch_bytes=cmsis_nn_scratch_bytes(file.path.read_bytes()) if device.core.startswith(_CMSIS_NN) else 0,
    )
