"""The very file that ships, in TFLite Micro: its answers, and the arena that it needs."""

import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.verify.child import run_child

if TYPE_CHECKING:
    import numpy as np

_ALLOCATION = re.compile(r"Arena allocation (head|tail) (\d+) bytes")


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
    if importlib.util.find_spec("tflite_micro") is None:
        raise MissingExtraError("edgeprune", "mcu", "tflite_micro")
    from importlib.metadata import version

    runtime = f"tflite-micro {version('tflite-micro')}"
    arguments = () if arena_bytes is None else (str(arena_bytes),)
    child = run_child("micro_child.py", content, inputs, *arguments, runtime=runtime)
    sizes = {part: int(count) for part, count in _ALLOCATION.findall(child.stderr)}
    if child.outputs is None or set(sizes) != {"head", "tail"}:
        lines = [line for line in child.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith(("Traceback", " "))), f"exit {child.returncode}")
        raise InputError(f"The file does not run in {runtime}: {reason.strip()}", "export the level again")
    return MicroRun(outputs=child.outputs, head_bytes=sizes["head"], tail_bytes=sizes["tail"], runtime=runtime)
