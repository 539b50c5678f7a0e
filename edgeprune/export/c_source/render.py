"""Every file of ``c/``: the texts in ``templates/`` with the measured values of one int8 file."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeprune.camera import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from edgeprune.cpp_literals import namespace_of, write_bytes, write_decision, write_float, write_rows, write_string
from edgeprune.embedded import ArenaReport, Quantisation
from edgeprune.errors import InputError
from edgeprune.formats import ModelMetadata
from edgeprune.micro_operators import RESOLVER_METHODS
from edgeprune.micro_scratch import cmsis_nn_scratch_bytes
from edgeprune.preprocess import IntegerPreprocess

_TEMPLATES = Path(__file__).with_name("templates")
_PLACE = re.compile(r"@([a-z_0-9]+|GUARD)@")
_ALIGNMENT = 16
_ROTATED = (
    "**The network is fed the image rotated by 180 degrees** (`_rot180` in its name): its kernels are rotated too,\n"
    "which saves the memory that padding took, and its answers are the same. `PreprocessFrame` rotates while it\n"
    "writes, at no cost: give it upright frames."
)
_UPRIGHT = (
    "Frames are upright, as the training images were; where the camera is mounted upside down, turn the frame first."
)
_TRUE_LABELS = "the true classes; the network may be wrong about them."
_DRAWN_LABELS = "what was drawn, where the classes are persons and none, or else what the float network answers."


def render_c_source(
    *,
    model: bytes,
    model_path: str,
    metadata: ModelMetadata,
    operators: Mapping[str, int],
    arena: ArenaReport,
    input: Quantisation,  # noqa: A002  it is the tensor's name everywhere
    output: Quantisation,
    integer: IntegerPreprocess,
    golden_images: np.ndarray,
    golden_inputs: np.ndarray,
    golden_outputs: np.ndarray,
    golden_labels: tuple[int, ...],
    tolerance_lsb: int,
    decision_difference: int | None = None,
    drawn: bool = False,
) -> dict[str, bytes]:
    """The firmware side of an int8 file as C++17 source. Equal arguments give equal bytes.

    Args:
        model: the file that ships.
        model_path: its name in the bundle.
        metadata: what it says about itself: bundle, labels, size, rotation.
        operators: its operators and how many there are of each, named as the schema names them.
        arena: what TFLite Micro needed on this host.
        input, output: quantisation of the file's tensors.
        integer: the preprocessing of its input.
        golden_images: uint8, shape (n, height, width, 3), upright; each costs its pixels twice in flash.
        golden_inputs: int8, shape (n, height, width, 3), as the file is fed.
        golden_outputs: int8, shape (n, classes), as TFLite Micro gave them.
        golden_labels: true classes, indices.
        tolerance_lsb: by how many steps another implementation may differ.
        decision_difference: where two classes are cut, in steps, see ``edgeprune.threshold``; None for argmax.
        drawn: golden images are drawn pictures.

    Returns:
        Path in the bundle, below ``c/``, to the file's bytes.

    Raises:
        InputError: TFLite Micro has no such operator, or the image size is outside the range of the firmware's resize.
        ValueError: the golden arrays do not fit each other.
    """
    missing = sorted(set(operators) - set(RESOLVER_METHODS))
    if missing:
        raise InputError(
            f"{model_path} has the operator {', '.join(missing)}, which TFLite Micro has not.",
            "leave `c` out of export.formats, or choose a network without it",
        )
    size, classes = metadata.image_size, len(metadata.labels)
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise InputError(
            f"image_size is {size}; the firmware's resize is for {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}.",
            "leave `c` out of export.formats, or choose another data.image_size",
        )
    count = len(golden_labels)
    _require("golden images", golden_images, (count, size, size, 3), np.uint8)
    _require("golden inputs", golden_inputs, (count, size, size, 3), np.int8)
    _require("golden outputs", golden_outputs, (count, classes), np.int8)
    scratch = cmsis_nn_scratch_bytes(model)
    whole = arena.head_bytes + arena.tail_bytes + scratch
    namespace = namespace_of(f"{metadata.name}-{metadata.level}")
    values = {
        "bundle": f"{metadata.name}-{metadata.level}",
        "namespace": namespace,
        "GUARD": namespace.upper(),
        "model_path": model_path,
        "model_bytes": str(len(model)),
        "sha256": hashlib.sha256(model).hexdigest(),
        "model_data": write_bytes(model),
        "image_size": str(size),
        "input_bytes": str(size * size * 3),
        "classes": str(classes),
        "labels": "\n".join(f"    {write_string(label)}," for label in metadata.labels),
        "label_list": "\n".join(f"    {index} {label}" for index, label in enumerate(metadata.labels)),
        "input_scale": write_float(input.scale),
        "input_zero_point": str(input.zero_point),
        "output_scale": write_float(output.scale),
        "output_zero_point": str(output.zero_point),
        "multiplier": ", ".join(map(str, integer.multiplier)),
        "offset": ", ".join(map(str, integer.offset)),
        "shift": str(integer.shift),
        "rotate_180": "true" if metadata.rotate_180 else "false",
        "rotation": _ROTATED if metadata.rotate_180 else _UPRIGHT,
        "arena_runtime": arena.runtime,
        "arena_head": str(arena.head_bytes),
        "arena_tail": str(arena.tail_bytes),
        "arena_scratch": str(scratch),
        "arena_bytes": str(-(-whole // _ALIGNMENT) * _ALIGNMENT),
        "operator_kinds": str(len(operators)),
        "operators": "\n".join(
            f"  if (resolver->{RESOLVER_METHODS[kind]}() != kTfLiteOk) return kTfLiteError;"
            for kind in sorted(operators)
        ),
        "decision": "" if decision_difference is None else f"\n{write_decision(decision_difference)}\n",
        "deciding": "" if decision_difference is None else _deciding(metadata.labels, decision_difference),
        "kind": "drawn" if drawn else "real",
        "golden_truth": _DRAWN_LABELS if drawn else _TRUE_LABELS,
        "golden_images": str(count),
        "golden_bytes": str(2 * count * size * size * 3),
        "golden_labels": ", ".join(map(str, golden_labels)),
        "tolerance_lsb": str(tolerance_lsb),
        "pixels": "\n".join(f"{{\n{write_bytes(image.tobytes())}\n}}," for image in golden_images),
        "inputs": write_rows(golden_inputs.reshape(count, -1)),
        "outputs": write_rows(golden_outputs),
    }
    return {f"c/{path.name}": _fill(path, values) for path in sorted(_TEMPLATES.iterdir())}


def _deciding(labels: tuple[str, ...], difference: int) -> str:
    return f"""
## Deciding

The bundle has a threshold, chosen on images held out of training (`threshold.json`): `{labels[1]}` is decided where
`output[1] - output[0] > {difference}`, in whole numbers, without softmax. After `Classify`:

```cpp
const int32_t decided = net::DecideLabel(net::Interpreter()->output(0)->data.int8);  // index into kLabels
```

`result.label` is the larger output alone. Raise `kDecisionDifference` for fewer false alarms, lower it to miss less,
and measure on images of the place where the device will hang.
"""


def _require(what: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{what} are {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")


def _fill(path: Path, values: Mapping[str, str]) -> bytes:
    return _PLACE.sub(lambda place: values[place[1]], path.read_text(encoding="utf-8")).encode()
