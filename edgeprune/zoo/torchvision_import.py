"""torchvision beside a CPU-only torch.

PyPI's torchvision wheel for Linux links CUDA. Beside a CPU-only torch its C++ library does not load, and then the
import fails with "operator torchvision::nms does not exist". Declaring the schemas of the two operators whose shape
functions torchvision registers at import is enough for its models, which use neither.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

# The declarations live as long as the object that made them.
_declarations: list[torch.library.Library] = []


def torchvision_models() -> ModuleType:
    """``torchvision.models``, imported whichever torch is installed; a normal install stays untouched."""
    if "torchvision" not in sys.modules and not _operators_load():
        # "FRAGMENT" and not "DEF": somebody else in this process may have declared the name space already.
        fragment = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                fragment.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _declarations.append(fragment)
    return importlib.import_module("torchvision.models")


def _operators_load() -> bool:
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    libraries = [path for path in Path(spec.origin).parent.glob("_C*") if path.suffix in {".so", ".pyd"}]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
