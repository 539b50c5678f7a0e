"""Gates on a TFLite file itself: would a small device's runtime read it as it was meant?"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError
from edgeprune.micro_operators import RESOLVER_METHODS
from edgeprune.results import Gate, at_most
from edgeprune.tflite_format import ALIGNMENT, operator_names, read_model

if TYPE_CHECKING:
    import numpy as np

_FLOAT32, _INT32 = 0, 2
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_PADS = ("PAD", "PADV2", "MIRROR_PAD")
# An accumulator adds its products on top of the bias: half of int32 is left to them.
_MAX_BIAS_SHARE = 0.5
_INT32_LIMIT = 2.0**31


def check_tflite(content: bytes, *, path: str, int8: bool, promise_no_pad: bool) -> list[Gate]:
    """Gates of one file, each named after it.

    Args:
        content: the file.
        path: its name in the bundle.
        int8: every tensor between operators must be int8, and TFLite Micro must have every operator.
        promise_no_pad: the recipe's padding leaves no PAD operator.

    Returns:
        ``readable`` alone when it cannot be read; else also ``external_buffers``, ``unaligned_buffers``,
        ``bad_weights``, ``tensor_names``, and where they apply ``micro_operators``, ``float_operators``,
        ``bias_fits_int32``, ``asymmetric_weights`` and ``pad_operators``.
    """
    try:
        model = read_model(content, origin=path)
        kinds = operator_names(model)
    except InputError as error:
        return [Gate(name=f"readable:{path}", figure="refused", limit="TFLite", passed=False, detail=error.problem)]
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))
    gates = [
        Gate(name=f"readable:{path}", figure=len(kinds), limit="TFLite", passed=bool(kinds), detail=counted),
        _check_external(model, path),
        _check_alignment(content, model, path),
        _check_weights(model, path),
        _check_names(model, path),
    ]
    if int8:
        gates += [_check_micro(kinds, path), _check_types(model, kinds, path), _check_biases(model, path)]
        gates.append(_check_symmetry(model, kinds, path))
    if promise_no_pad:
        pads = [kind for kind in kinds if kind in _PADS]
        gates.append(at_most(f"pad_operators:{path}", len(pads), 0, "SAME padding needs none"))
    return gates


def _check_external(model: Any, path: str) -> Gate:
    # TFLite Micro ignores the offset and computes with garbage, without an error.
    outside = [index for index, buffer in enumerate(model.buffers) if buffer.offset > 1 or buffer.size > 1]
    return at_most(f"external_buffers:{path}", len(outside), 0, "buffers outside the flatbuffer")


def _check_alignment(content: bytes, model: Any, path: str) -> Gate:
    import numpy as np

    view = np.frombuffer(content, np.uint8)
    odd = sum((buffer.ctypes.data - view.ctypes.data) % ALIGNMENT != 0 for buffer in _raw_buffers(view))
    detail = f"{len(model.buffers)} buffers, those with data at multiples of {ALIGNMENT} bytes"
    return at_most(f"unaligned_buffers:{path}", odd, 0, detail)


def _raw_buffers(view: "np.ndarray") -> "list[np.ndarray]":
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(view, 0)
    found = [model.Buffers(index) for index in range(model.BuffersLength())]
    return [buffer.DataAsNumpy() for buffer in found if buffer.DataLength()]


def _check_weights(model: Any, path: str) -> Gate:
    """NaN and infinity in float weights, and weight matrices that are nothing but zeros."""
    import numpy as np

    bad = []
    for index, data in _constants(model):
        tensor = model.subgraphs[0].tensors[index]
        if tensor.type == _FLOAT32 and not np.isfinite(data.view(np.float32)).all():
            bad.append(f"tensor {index} has NaN or infinity")
        elif len(tensor.shape) > 1 and tensor.type != _INT32 and not data.any():
            bad.append(f"tensor {index} is all zeros")
    return at_most(f"bad_weights:{path}", len(bad), 0, "; ".join(bad[:3]) or "finite, and none all zeros")


def _check_names(model: Any, path: str) -> Gate:
    spent = sum(len(tensor.name or b"") for graph in model.subgraphs for tensor in graph.tensors)
    return at_most(f"tensor_names:{path}", spent, 0, "bytes of names that nothing reads")


def _check_micro(kinds: tuple[str, ...], path: str) -> Gate:
    missing = sorted(set(kinds) - set(RESOLVER_METHODS))
    detail = ", ".join(missing) or "TFLite Micro has all of them"
    return at_most(f"micro_operators:{path}", len(missing), 0, detail)


def _check_types(model: Any, kinds: tuple[str, ...], path: str) -> Gate:
    graph = model.subgraphs[0]
    floating = [
        kind
        for kind, operator in zip(kinds, graph.operators, strict=True)
        if any(graph.tensors[i].type == _FLOAT32 for i in (*operator.inputs, *operator.outputs) if i >= 0)
    ]
    return at_most(f"float_operators:{path}", len(floating), 0, ", ".join(floating[:5]) or "int8 throughout")


def _check_biases(model: Any, path: str) -> Gate:
    """An overflowing bias turns a network to noise, without an error, and stands at the end of int32's range."""
    import numpy as np

    largest, where = 0.0, "no bias"
    for index, data in _constants(model):
        tensor = model.subgraphs[0].tensors[index]
        if tensor.type != _INT32 or tensor.quantization is None or tensor.quantization.scale is None:
            continue
        reach = float(np.abs(data.view(np.int32).astype(np.float64)).max()) / _INT32_LIMIT
        if reach >= largest:
            largest, where = reach, f"largest bias over 2**31, in tensor {index}"
    return at_most(f"bias_fits_int32:{path}", largest, _MAX_BIAS_SHARE, where)


def _check_symmetry(model: Any, kinds: tuple[str, ...], path: str) -> Gate:
    """TFLite Micro never reads a weight's zero point; a compiler for an NPU may, and then answers differently."""
    graph = model.subgraphs[0]
    used = {
        int(index)
        for kind, operator in zip(kinds, graph.operators, strict=True)
        if kind in _WEIGHTED
        for index in operator.inputs[1:3]
        if index >= 0
    }
    rules = {index: graph.tensors[index].quantization for index in used}
    shifted = [
        i for i, rule in rules.items() if rule is not None and rule.zeroPoint is not None and any(rule.zeroPoint)
    ]
    detail = "weights and biases with a zero point that is not 0"
    return at_most(f"asymmetric_weights:{path}", len(shifted), 0, detail)


def _constants(model: Any) -> "list[tuple[int, np.ndarray]]":
    import numpy as np

    found = []
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data):
            found.append((index, np.frombuffer(bytes(bytearray(data)), np.uint8)))
    return found
