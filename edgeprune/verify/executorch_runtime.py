"""An ExecuTorch program (.pte) in ExecuTorch's own runtime: its answers, and what it says about itself.

The runtime's Python binding needs torch, so it runs in a process of its own; there, a damaged file hurts nobody.
"""

import importlib.util
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.verify.child import run_child

if TYPE_CHECKING:
    import numpy as np

# What the runtime logs (`[program.cpp:154] words`) and what Python raises, but not its guesses about the processor.
_COMPLAINT = re.compile(r"^(?:\[(?!cpuinfo)\w+\.cpp:\d+\] |[\w.]*Error: )(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorchRun:
    """What the runtime made of a file.

    Attributes:
        outputs: float32, shape (n, classes).
        properties: what the file says about itself: name to text.
    """

    outputs: "np.ndarray"
    properties: dict[str, str]


def executorch_version() -> str:
    """Name and version of the runtime."""
    from importlib.metadata import version

    return f"ExecuTorch {version('executorch')}"


def run_executorch(content: bytes, inputs: "np.ndarray") -> "np.ndarray":
    """Outputs of a file for many images, one a call; arguments and errors as for ``ask_executorch_file``.

    Returns:
        float32, shape (n, classes).
    """
    return ask_executorch_file(content, inputs).outputs


def ask_executorch_file(content: bytes, inputs: "np.ndarray") -> ExecutorchRun:
    """Run a file and read its properties.

    Args:
        content: the file.
        inputs: normalised images, float32, shape (n, 3, height, width), n >= 1.

    Raises:
        MissingExtraError: executorch or torch is not installed.
        InputError: it is no ExecuTorch program, is damaged, or takes other images.
    """
    import numpy as np

    # executorch itself does not ask pip for torch.
    for module in ("executorch", "torch"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("edgeprune", "executorch", module)
    if inputs.ndim != 4 or inputs.dtype != np.float32 or len(inputs) == 0:
        raise InputError(
            f"The file takes float32 images of shape (3, height, width), given {inputs.dtype} {inputs.shape}.",
            "feed it as preprocess.json says",
        )
    child = run_child("executorch_child.py", content, inputs, runtime=executorch_version())
    if child.outputs is None:
        # The first complaint says most: what Python raises afterwards is an error code.
        complaint = _COMPLAINT.search(child.stderr)
        reason = complaint[1] if complaint else f"the runtime ended with exit code {child.returncode}"
        raise InputError(
            f"The file does not run in {executorch_version()}: {reason.strip(' .')}.", "export the level again"
        )
    return ExecutorchRun(outputs=child.outputs, properties=json.loads(child.notes))
