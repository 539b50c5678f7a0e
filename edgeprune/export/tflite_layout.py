"""What a converter leaves beside the layers, settled: padding in channels-first islands, averages of one pixel.

litert-torch keeps ``F.pad`` channels first. Where only the convolution reads the padded tensor that vanishes again;
where a shortcut reads its source too (ResNet), TRANSPOSE, PAD and TRANSPOSE stay between the two. Here transposes that
undo each other go, paddings are moved into channels last, and a PAD that is what TensorFlow calls SAME becomes the
convolution's own. Averages over a single pixel go as well.

Before a strided max-pool it pads with minus infinity, for which int8 has no value: such a pool becomes two that need no
padding operator. Nothing is computed otherwise: the gates hold the file against torch.
"""

import copy
from typing import TYPE_CHECKING, Any

from edgeprune.tflite_format import operator_names

if TYPE_CHECKING:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_SAME, _VALID = 0, 1
_REDUCTIONS = ("SUM", "MEAN")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_FLOAT32 = 0


def settle_layout(model: "schema.ModelT") -> "schema.ModelT":
    """Remove TRANSPOSE, PAD, SUM and MEAN operators that the layers can do without, and PADV2; changes the model.

    Args:
        model: float, as litert-torch converts it, every buffer inside.
    """
    graph = model.subgraphs[0]
    kinds = {id(operator): kind for operator, kind in zip(graph.operators, operator_names(model), strict=True)}
    for operator in graph.operators:
        if kinds[id(operator)] == "TRANSPOSE" and _constant(model, operator.inputs[1]).tolist() == _TO_LAST:
            _undo_transpose(model, operator, kinds)
    for operator in graph.operators:
        if kinds[id(operator)] in _CONVOLUTIONS and operator.builtinOptions.padding == _VALID:
            _absorb_pad(model, operator, kinds)
        if kinds[id(operator)] in _REDUCTIONS:
            _skip_reduction(model, operator, kinds)
        if kinds[id(operator)] == "MAX_POOL_2D" and operator.builtinOptions.padding == _VALID:
            _pool_in_steps(model, operator, kinds)
    _drop_unread(graph)
    return model


def _undo_transpose(model: "schema.ModelT", operator: Any, kinds: dict[int, str]) -> None:
    """``last(first(x))`` is x, and ``last(pad(first(x)))`` is a pad of x."""
    graph = model.subgraphs[0]
    before = _maker(graph, operator.inputs[0])
    if before is not None and _is_to_first(model, before, kinds):
        _read_instead(graph, operator.outputs[0], before.inputs[0])
        return
    if before is None or kinds[id(before)] != "PAD":
        return
    source = _maker(graph, before.inputs[0])
    if source is None or not _is_to_first(model, source, kinds):
        return
    # This operator becomes the pad, so that it stands where its result is read.
    pads = _constant(model, before.inputs[1]).reshape(4, 2)[_TO_LAST]
    operator.opcodeIndex = before.opcodeIndex
    operator.builtinOptionsType, operator.builtinOptions = before.builtinOptionsType, before.builtinOptions
    operator.inputs = _indices(source.inputs[0], _add_constant(model, before.inputs[1], pads))
    kinds[id(operator)] = "PAD"


def _absorb_pad(model: "schema.ModelT", operator: Any, kinds: dict[int, str]) -> None:
    graph = model.subgraphs[0]
    pad = _maker(graph, operator.inputs[0])
    if pad is None or kinds[id(pad)] != "PAD":
        return
    options = operator.builtinOptions
    sizes = [int(size) for size in graph.tensors[pad.inputs[0]].shape]
    kernel = [int(size) for size in graph.tensors[operator.inputs[1]].shape[1:3]]
    strides, dilations = (
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
    )
    wanted = [[0, 0], [0, 0], [0, 0], [0, 0]]
    for axis in (0, 1):
        size, reach = sizes[1 + axis], dilations[axis] * (kernel[axis] - 1) + 1
        total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
        wanted[1 + axis] = [total // 2, total - total // 2]
    if _constant(model, pad.inputs[1]).reshape(4, 2).tolist() == wanted:
        options.padding = _SAME
        operator.inputs = _indices(pad.inputs[0], *operator.inputs[1:])


def _pool_in_steps(model: "schema.ModelT", operator: Any, kinds: dict[int, str]) -> None:
    """Maxima of windows around every pixel first, then those that the stride asks for: no padding, the same answers.

    Windows of ``2 p + 1`` pixels that begin ``p`` outside the image are centred on the pixels 0, s, 2 s, ... With a
    stride of one, TensorFlow's SAME centres a window on every pixel; a pool of one pixel with the stride s takes its
    pick. That is exact for values of any sign, and the tensor between is smaller than a padded one.
    """
    graph = model.subgraphs[0]
    pad = _maker(graph, operator.inputs[0])
    if pad is None or kinds[id(pad)] != "PADV2" or not _pads_with_minus_infinity(model, pad):
        return
    options, pads = operator.builtinOptions, _constant(model, pad.inputs[1]).reshape(4, 2).tolist()
    before = [int(size) for size in graph.tensors[pad.inputs[0]].shape]
    after = [int(size) for size in graph.tensors[operator.outputs[0]].shape]
    for axis, kernel, stride in ((1, options.filterHeight, options.strideH), (2, options.filterWidth, options.strideW)):
        if kernel != 2 * pads[axis][0] + 1 or after[axis] != -(-before[axis] // stride):
            return
    if pads[0] != [0, 0] or pads[3] != [0, 0] or sum(pad.outputs[0] in each.inputs for each in graph.operators) > 1:
        return
    # The padding becomes the first of the two, so that every operator stays at its place.
    graph.tensors[pad.outputs[0]].shape, graph.tensors[pad.outputs[0]].shapeSignature = _indices(*before), None
    pad.opcodeIndex, pad.builtinOptionsType = operator.opcodeIndex, operator.builtinOptionsType
    pad.builtinOptions = copy.copy(options)
    pad.builtinOptions.padding, pad.builtinOptions.strideH, pad.builtinOptions.strideW = _SAME, 1, 1
    pad.inputs = _indices(pad.inputs[0])
    kinds[id(pad)] = "MAX_POOL_2D"
    options.filterHeight = options.filterWidth = 1


def _pads_with_minus_infinity(model: "schema.ModelT", pad: Any) -> bool:
    import numpy as np

    tensor = model.subgraphs[0].tensors[pad.inputs[2]]
    data = model.buffers[tensor.buffer].data
    if tensor.type != _FLOAT32 or data is None:
        return False
    return bool(np.isneginf(np.frombuffer(bytes(bytearray(data)), np.float32)).all())


def _skip_reduction(model: "schema.ModelT", operator: Any, kinds: dict[int, str]) -> None:
    """Over axes of one element it copies; in int8, TFLite Micro's SUM rounds otherwise than LiteRT's."""
    graph = model.subgraphs[0]
    source, result = int(operator.inputs[0]), int(operator.outputs[0])
    shape = [int(size) for size in graph.tensors[source].shape]
    if result in graph.outputs or any(shape[axis] != 1 for axis in _constant(model, operator.inputs[1])):
        return
    readers = [each for each in graph.operators if result in each.inputs]
    same = shape == [int(size) for size in graph.tensors[result].shape]
    if not same:
        if any(kinds[id(each)] != "FULLY_CONNECTED" for each in readers):
            return
        for each in readers:
            # It flattens what it reads, and gives (n, outputs).
            each.builtinOptions.keepNumDims = False
    _read_instead(graph, result, source)


def _is_to_first(model: "schema.ModelT", operator: Any, kinds: dict[int, str]) -> bool:
    return kinds[id(operator)] == "TRANSPOSE" and _constant(model, operator.inputs[1]).tolist() == _TO_FIRST


def _maker(graph: Any, tensor: int) -> Any:
    """The operator that computes a tensor; None for inputs and constants."""
    return next((operator for operator in graph.operators if tensor in operator.outputs), None)


def _read_instead(graph: Any, tensor: int, other: int) -> None:
    for operator in graph.operators:
        operator.inputs = _indices(*(other if index == tensor else index for index in operator.inputs))
    graph.outputs = _indices(*(other if index == tensor else index for index in graph.outputs))


def _constant(model: "schema.ModelT", tensor: int) -> "np.ndarray":
    import numpy as np

    data = model.buffers[model.subgraphs[0].tensors[tensor].buffer].data
    return np.frombuffer(bytes(bytearray(data)) if data is not None else b"", np.int32)


def _add_constant(model: "schema.ModelT", like: int, values: "np.ndarray") -> int:
    """A new int32 constant with the shape of another one."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    tensor, buffer = copy.copy(graph.tensors[like]), schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values, np.int32).tobytes(), np.uint8)
    tensor.buffer = len(model.buffers)
    tensor.name = (tensor.name or b"") + b"/channels_last"
    model.buffers.append(buffer)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _drop_unread(graph: Any) -> None:
    while True:
        read = {int(index) for operator in graph.operators for index in operator.inputs}
        read |= {int(index) for index in graph.outputs}
        kept = [operator for operator in graph.operators if read & {int(index) for index in operator.outputs}]
        if len(kept) == len(graph.operators):
            return
        graph.operators = kept


def _indices(*values: int) -> "np.ndarray":
    import numpy as np

    return np.asarray(values, np.int32)
