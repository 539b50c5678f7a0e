"""The part of the size report about devices: what fits where, and what Vela estimates for an Ethos-U."""

from edgeprune.embedded import DeviceFit, NpuReport
from edgeprune.publish.facts import BundleFacts
from edgeprune.publish.figures import escape_cell


def fit_lines(facts: BundleFacts) -> list[str]:
    """Lines of Markdown: a row a device with RAM and flash, needed and there; empty where nothing was asked."""
    if not facts.fits:
        return []
    first = facts.fits[0]
    asked = f"the device asked for, `{facts.device}`" if facts.device else "every device profile"
    lines = [
        "## Does it fit?",
        "",
        f"For {asked}, in bytes. RAM needed = activations (arena head, and on Cortex-M an allowance for "
        "CMSIS-NN's scratch) + runtime (arena tail, a 64-bit host's: an upper bound) + a reserve of "
        f"{first.reserve_bytes:,}{_unless_equal(facts, 'reserve_bytes')} for the stack and what else runs. "
        f"Flash needed = model + an allowance of {first.kernel_bytes:,}"
        f"{_unless_equal(facts, 'kernel_bytes')} for the kernels. Latency is an estimate, never a measurement.",
        "",
        "| device | fits | RAM needed | of | activations | runtime | reserve | flash needed | of | model | kernels | "
        "latency, ms, estimate |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_fit_row(fit) for fit in facts.fits),
        "",
    ]
    problems = [f"- `{fit.device}`: {problem}" for fit in facts.fits for problem in fit.problems]
    if problems:
        lines += ["What does not fit, and what would help:", "", *problems, ""]
    sources = dict.fromkeys(
        f"- `{fit.device}`: {fit.latency_source}" for fit in facts.fits if fit.latency_ms is not None
    )
    if sources:
        lines += ["Latency is estimated from:", "", *sources, ""]
    return lines


def npu_lines(npu: NpuReport | None) -> list[str]:
    """Lines of Markdown on Vela's report; empty where there is none."""
    if npu is None:
        return []
    left = ", ".join(f"`{escape_cell(name)}`" for name in npu.cpu_operators)
    return [
        "## Ethos-U",
        "",
        f"Compiled by Vela {npu.version} for `{npu.accelerator}`, system configuration `{npu.system_config}`, memory "
        f"mode `{npu.memory_mode}`. Its figures are estimates, not measurements.",
        "",
        "| | |",
        "|---|---:|",
        f"| operators on the NPU | {npu.npu_operators} |",
        f"| operators left to the CPU | {len(npu.cpu_operators)}{f' ({left})' if left else ''} |",
        f"| SRAM, bytes | {npu.sram_bytes:,} |",
        f"| flash, weights and commands, bytes | {npu.flash_bytes:,} |",
        f"| compiled file, bytes | {npu.file_bytes:,} |",
        f"| inferences per second, Vela's estimate | {npu.inferences_per_second:,.1f} |",
        "",
    ]


def _fit_row(fit: DeviceFit) -> str:
    # A device whose data sheet gives no figure is not called fitting: what is not known is shown as such.
    known = fit.ram_bytes is not None and fit.flash_bytes is not None
    verdict = ("yes" if known else "as far as known") if fit.fits else "**no**"
    cells = (
        f"{escape_cell(fit.board)} (`{fit.device}`)",
        verdict,
        f"{fit.ram_needed_bytes:,}",
        _known(fit.ram_bytes),
        f"{fit.arena_head_bytes:,}",
        f"{fit.arena_tail_bytes:,}",
        f"{fit.reserve_bytes:,}",
        f"{fit.flash_needed_bytes:,}",
        _known(fit.flash_bytes),
        f"{fit.model_bytes:,}",
        f"{fit.kernel_bytes:,}",
        "" if fit.latency_ms is None else f"{fit.latency_ms:,.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _unless_equal(facts: BundleFacts, field: str) -> str:
    return "" if len({getattr(fit, field) for fit in facts.fits}) == 1 else " (and other figures, see the column)"


def _known(value: int | None) -> str:
    return "not published" if value is None else f"{value:,}"
