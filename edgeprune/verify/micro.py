"""The very file that ships, in TFLite Micro: its answers, and the arena that it needs."""

import importlib.util
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np

_ALLOCATION = re.compile(r"Arena allocation (head|tail) (\d+) bytes")
_SECONDS = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroRun:
    """What TFLite Micro made of a file.

    Attributes:
        outputs: as the file stores them, shape (n, classes).
        head_bytes, tail_bytes: the arena's two parts, by the recording allocator.
        runtime: name and version.
    """

    outputs: "np.ndarray"
    head_bytes: int
    tail_bytes: int
    runtime: str


def run_micro(content: bytes, inputs: "np.ndarray", *, arena_bytes: int | None = None) -> MicroRun:
    """Run a file in TFLite Micro, in a process of its own.

    Args:
        content: the file.
        inputs: as the file stores them, shape (n, height, width, 3).
        arena_bytes: size of the arena; ample by default.

    Raises:
        MissingExtraError: tflite-micro is not installed.
        InputError: it does not run there: an operator that TFLite Micro lacks, an arena too small, a damaged file.
    """
    import numpy as np

    if importlib.util.find_spec("tflite_micro") is None:
        raise MissingExtraError("edgeprune", "mcu", "tflite_micro")
    from importlib.metadata import version

    runtime = f"tflite-micro {version('tflite-micro')}"
    with tempfile.TemporaryDirectory() as folder:
        model, given, found = (Path(folder) / name for name in ("model.tflite", "inputs.npy", "outputs.npy"))
        model.write_bytes(content)
        np.save(given, np.ascontiguousarray(inputs), allow_pickle=False)
        command = [sys.executable, str(Path(__file__).with_name("micro_child.py")), str(model), str(given), str(found)]
        if arena_bytes is not None:
            command.append(str(arena_bytes))
        try:
            child = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                f"The file runs longer than {_SECONDS} s in {runtime}.", "export the level again"
            ) from None
        sizes = {part: int(count) for part, count in _ALLOCATION.findall(child.stderr)}
        if child.returncode or not found.is_file() or set(sizes) != {"head", "tail"}:
            lines = [line for line in child.stderr.splitlines() if line.strip()]
            reason = next(
                (line for line in lines if not line.startswith(("Traceback", " "))), f"exit {child.returncode}"
            )
            raise InputError(f"The file does not run in {runtime}: {reason.strip()}", "export the level again")
        return MicroRun(
            outputs=np.load(found, allow_pickle=False),
            head_bytes=sizes["head"],
            tail_bytes=sizes["tail"],
            runtime=runtime,
        )
