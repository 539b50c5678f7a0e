"""A file in a runtime that runs in a process of its own, where what is damaged hurts nobody."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError

if TYPE_CHECKING:
    import numpy as np

# TFLite Micro's plain kernels take 5 s an image for a ResNet-18 at 224 pixels.
_SECONDS, _SECONDS_AN_IMAGE = 600, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRun:
    """How the process ended.

    Attributes:
        outputs: what it wrote, shape (n, classes); None where it failed.
        notes: what it wrote beside them, ending in ``.json``; empty where it wrote nothing.
        returncode: of the process.
        stderr: what it printed there.
    """

    outputs: "np.ndarray | None"
    notes: str
    returncode: int
    stderr: str


def run_child(script: str, content: bytes, inputs: "np.ndarray", *arguments: str, runtime: str) -> ChildRun:
    """Run ``python SCRIPT MODEL INPUTS OUTPUTS [ARGUMENTS]``, where the inputs and outputs are .npy files.

    Args:
        script: beside this module; run as a file, so that nothing of edgeprune but it is imported.
        content: the model file.
        inputs: one row an image.
        arguments: more for the script.
        runtime: name and version, for errors.

    Raises:
        InputError: it does not come to an end.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        model, given, found = (Path(folder) / name for name in ("model", "inputs.npy", "outputs.npy"))
        model.write_bytes(content)
        np.save(given, np.ascontiguousarray(inputs), allow_pickle=False)
        places = (Path(__file__).with_name(script), model, given, found)
        command = [sys.executable, *map(str, places), *arguments]
        seconds = _SECONDS + _SECONDS_AN_IMAGE * len(inputs)
        try:
            child = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                f"The file runs longer than {seconds:,} s on {len(inputs):,} images in {runtime}.",
                "a smaller network, or a machine that does less beside it",
            ) from None
        notes = found.with_suffix(".json")
        good = child.returncode == 0 and found.is_file()
        return ChildRun(
            outputs=np.load(found, allow_pickle=False) if good else None,
            notes=notes.read_text(encoding="utf-8") if notes.is_file() else "",
            returncode=child.returncode,
            stderr=child.stderr,
        )
