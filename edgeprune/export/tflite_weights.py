"""The same network with other weights, without converting it again: a conversion takes seconds, a copy none."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgeprune.export.tflite_file import WEIGHTED, FloatModel
from edgeprune.tflite_format import operator_names, read_model, write_model

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def replace_weights(model: FloatModel, before: "nn.Module", after: "nn.Module") -> FloatModel | None:
    """Write the weights of one network where those of another stand.

    Channels may have gone where one layer writes what the next ones read. Converters add constants to biases (3 for a
    hard sigmoid); what stands in the file beyond the network's own bias is kept.

    Args:
        model: as ``before`` was converted.
        before, after: BatchNorm folded.

    Returns:
        The model that ``after`` would be converted to; None where that cannot be told from the file: the networks have
        other layers, or a layer's weights do not stand in the file as they stand in the network.
    """
    from torch import nn

    if _describe(before) != _describe(after):
        return None
    content = read_model(model.content)
    graph = content.subgraphs[0]
    operators = list(zip(graph.operators, operator_names(content), model.layers, strict=True))
    layers = {name for name, module in before.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    weighted = [each for each in operators if each[1] in WEIGHTED]
    # Equal constants of two layers may be one in the file, and need not stay equal.
    readers = Counter(int(index) for operator in graph.operators for index in operator.inputs)
    shared = any(readers[int(index)] > 1 for operator, _, _ in weighted for index in operator.inputs[1:])
    if shared or sorted(name for _, _, name in weighted) != sorted(layers):
        return None
    resized = set()
    for operator, kind, name in weighted:
        old: Any = before.get_submodule(name)
        new: Any = after.get_submodule(name)
        if len(operator.inputs) != 3 or not _write_layer(content, operator, kind, old, new):
            return None
        if old.weight.shape[0] != new.weight.shape[0]:
            resized.add(int(operator.outputs[0]))
    if not all(_fits(graph, operator, kind, resized) for operator, kind, _ in operators):
        return None
    return FloatModel(content=write_model(content), layers=model.layers)


def _write_layer(content: Any, operator: Any, kind: str, old: Any, new: Any) -> bool:
    pairs = ((old.weight, new.weight), (old.bias, new.bias))
    for tensor, (stands, comes) in zip(operator.inputs[1:], pairs, strict=True):
        if not _replace(content, tensor, _as_stored(stands, kind), _as_stored(comes, kind)):
            return False
    result = content.subgraphs[0].tensors[operator.outputs[0]]
    result.shape = [*result.shape[:-1], new.weight.shape[0]]
    result.shapeSignature = None
    return True


def _describe(network: "nn.Module") -> list[tuple[object, ...]]:
    """Names, kinds and geometry of all layers; not their numbers of channels."""
    geometry = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return [
        (name, type(module), *(getattr(module, key, None) for key in geometry))
        for name, module in network.named_modules()
    ]


def _replace(content: Any, tensor: int, stands: "np.ndarray | None", comes: "np.ndarray | None") -> bool:
    import numpy as np

    place = content.subgraphs[0].tensors[tensor]
    buffer = content.buffers[place.buffer]
    if stands is None or comes is None or buffer.data is None:
        return False
    found = np.frombuffer(bytes(bytearray(buffer.data)), np.float32)
    if found.size != stands.size:
        return False
    added = np.float32(round(float(np.median(found - stands.ravel())), 3)) if stands.ndim == 1 else np.float32(0)
    if not np.array_equal(found, stands.ravel() + added):
        return False
    buffer.data = np.frombuffer(np.ascontiguousarray(comes + added, np.float32).tobytes(), np.uint8)
    # A depthwise convolution's weights have a leading axis of one.
    place.shape = [1, *comes.shape] if len(place.shape) > comes.ndim else list(comes.shape)
    return True


def _fits(graph: Any, operator: Any, kind: str, resized: set[int]) -> bool:
    """Whether an operator reads as many channels as it is given now."""
    read = [int(index) for index in operator.inputs if int(index) in resized]
    if not read:
        return True
    channels = int(graph.tensors[operator.inputs[0]].shape[-1])
    return kind in ("CONV_2D", "FULLY_CONNECTED") and int(graph.tensors[operator.inputs[1]].shape[-1]) == channels


def _as_stored(values: Any, kind: str) -> "np.ndarray | None":
    """Rows, columns and input channels last; a depthwise convolution's channels last of all."""
    if values is None:
        return None
    array: np.ndarray = values.detach().numpy()
    if array.ndim != 4:
        return array
    return array[:, 0].transpose(1, 2, 0) if kind == "DEPTHWISE_CONV_2D" else array.transpose(0, 2, 3, 1)
