"""Compile an int8 TFLite file for an Arm Ethos-U, with Vela.

The result is again a TFLite file: one custom operator holds the commands and weights of everything that the NPU
runs, and what Vela could not compile stays beside it as an ordinary operator, for the CPU. Needs the package
ethos-u-vela (extra ``mcu``).
"""

import csv
import importlib.util
import io
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edgeprune.embedded import NpuReport
from edgeprune.errors import EdgepruneError, MissingExtraError
from edgeprune.tflite_format import operator_names, read_model

NPU_OPERATOR = "CUSTOM(ethos-u)"
_SECONDS = 600
# `package.KindError: 'Error: words'` of a traceback, `vela: error: words` of its command line.
_RAISED = re.compile(r"^(?:[\w.]*Error|vela): '?(?:[Ee]rror: )?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuCompilation:
    """What Vela made of a file.

    Attributes:
        files: path in the bundle (``vela/<stem>_vela.tflite``, ``vela/<stem>_summary.csv``) to bytes; equal input gives
            equal bytes.
        report: its figures.
    """

    files: dict[str, bytes]
    report: NpuReport


def compile_for_npu(
    content: bytes,
    *,
    stem: str,
    accelerator: str,
    system_config: str,
    memory_mode: str,
    config_file: Path | None = None,
) -> NpuCompilation:
    """Compile for one configuration, in a process of its own: a damaged file takes Vela down with it.

    Args:
        content: an int8 TFLite file.
        stem: its name without the ending; the compiled file is named after it.
        accelerator: Vela's name of it (``ethos-u55-128``).
        system_config, memory_mode: names of sections in the configuration file. Vela's own defaults describe no
            device, so there is none here.
        config_file: in Vela's format; the one that Vela brings by default (``Arm/vela.ini``).

    Raises:
        MissingExtraError: ethos-u-vela is not installed.
        EdgepruneError: Vela refuses the file or the configuration.
    """
    package = importlib.util.find_spec("ethosu")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("edgeprune export", "mcu", "ethosu")
    bundled = Path(next(iter(package.submodule_search_locations))) / "config_files" / "Arm" / "vela.ini"
    options = {
        "--accelerator-config": accelerator,
        "--system-config": system_config,
        "--memory-mode": memory_mode,
        "--config": str((config_file or bundled).resolve()),
        "--output-dir": ".",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"{stem}.tflite").write_bytes(content)
        _run_vela(folder, [f"{stem}.tflite", *(f"{option}={value}" for option, value in options.items())])
        compiled = (folder / f"{stem}_vela.tflite").read_bytes()
        summary = (folder / f"{stem}_summary_{system_config}.csv").read_text(encoding="utf-8")
    return NpuCompilation(
        files={
            f"vela/{stem}_vela.tflite": compiled,
            f"vela/{stem}_summary.csv": "".join(f"{line}\n" for line in summary.splitlines()).encode(),
        },
        report=_read_report(
            content, compiled, summary, accelerator=accelerator, system_config=system_config, memory_mode=memory_mode
        ),
    )


def _run_vela(folder: Path, arguments: list[str]) -> None:
    """Run it with the folder as working directory, so that no path of this machine gets into what it writes."""
    vela = f"Vela {version('ethos-u-vela')}"
    command = [sys.executable, "-m", "ethosu.vela", *arguments]
    try:
        child = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EdgepruneError(f"{vela} compiles the file for longer than {_SECONDS} s.", "another device") from None
    if child.returncode or not list(folder.glob("*_vela.tflite")) or not list(folder.glob("*.csv")):
        reason = _reason(child.stderr) or f"it ended with exit code {child.returncode}"
        raise EdgepruneError(
            f"{vela} does not compile the file: {reason}.",
            "an int8 file, and a system configuration and memory mode that belong to the accelerator",
        )


def _reason(stderr: str) -> str:
    """What was raised, without the traceback; where Vela died without one, the last line that it wrote."""
    raised = list(_RAISED.finditer(stderr))
    lines = stderr[raised[-1].end() :] if raised else (stderr.strip().splitlines() or [""])[-1]
    return " ".join(lines.split()).strip("'. ")


def _read_report(
    content: bytes, compiled: bytes, summary: str, *, accelerator: str, system_config: str, memory_mode: str
) -> NpuReport:
    # Counted in the file: the summary's percentages are of passes, not of the network's operators.
    model = read_model(compiled, origin="the compiled file")
    left = tuple(name for name in operator_names(model) if name != NPU_OPERATOR)
    graph = model.subgraphs[0]
    constants = {tensor.buffer for tensor in graph.tensors}
    stored = sum(len(model.buffers[index].data) for index in constants if model.buffers[index].data is not None)
    (row,) = csv.DictReader(io.StringIO(summary))
    return NpuReport(
        accelerator=accelerator,
        system_config=system_config,
        memory_mode=memory_mode,
        cpu_operators=left,
        npu_operators=len(operator_names(read_model(content))) - len(left),
        sram_bytes=round(float(row["sram_memory_used"]) * 1024),
        flash_bytes=stored,
        file_bytes=len(compiled),
        inferences_per_second=float(row["inferences_per_second"]),
        version=version("ethos-u-vela"),
    )
