"""Gates on what Vela says about a file for an Ethos-U: nothing left to the CPU, and memory within the device."""

from collections import Counter

from edgeprune.embedded import NpuReport
from edgeprune.results import Gate, at_most


def check_npu(report: NpuReport, *, sram_bytes: int | None, flash_bytes: int | None, path: str) -> tuple[Gate, ...]:
    """Hold a compiled file against the device.

    Args:
        report: of the file.
        sram_bytes: on-chip memory that the NPU's activations may take; None where no public source gives it.
        flash_bytes: of the device; None likewise.
        path: of the file that was compiled.

    Returns:
        Gates ``npu_cpu_operators``, ``npu_sram_bytes`` and ``npu_flash_bytes``, each with the file's name.
    """
    left = ", ".join(f"{count} {name}" for name, count in sorted(Counter(report.cpu_operators).items()))
    where = f"Vela {report.version}, {report.accelerator}, {report.system_config}, {report.memory_mode}"
    return (
        at_most(
            f"npu_cpu_operators:{path}",
            len(report.cpu_operators),
            0,
            f"{f'{left} left to the CPU; ' if left else ''}{report.npu_operators} on the NPU; {where}; "
            f"Vela's estimate is {report.inferences_per_second:.1f} inferences per second without the CPU's part",
        ),
        _within(f"npu_sram_bytes:{path}", report.sram_bytes, sram_bytes, f"activations by Vela's count; {where}"),
        _within(
            f"npu_flash_bytes:{path}",
            report.file_bytes,
            flash_bytes,
            f"the compiled file, {report.flash_bytes:,} of it weights and commands; {where}",
        ),
    )


def _within(name: str, needed: int, there: int | None, detail: str) -> Gate:
    if there is None:
        # No figure to fail against; the gate shows what is needed all the same.
        return Gate(name=name, figure=needed, limit="not published", passed=True, detail=detail)
    short = f"{needed - there:,} bytes short; " if needed > there else ""
    return Gate(name=name, figure=needed, limit=f"<= {there}", passed=needed <= there, detail=short + detail)
