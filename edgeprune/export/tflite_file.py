"""From a network to a TFLite flatbuffer: NHWC in, no second file, no names, the same bytes every time.

litert-torch converts; what it leaves in the file (about 127 KB of tensor names with our module paths) is used to say
which layer an operator came from, and then stripped.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.errors import EdgepruneError, MissingExtraError
from edgeprune.export.quiet import quiet_native
from edgeprune.export.tflite_layout import settle_layout
from edgeprune.tflite_format import inline_buffers, operator_names, read_model, write_model

if TYPE_CHECKING:
    from torch import nn

# Operators that hold a layer's weights.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatModel:
    """A float TFLite model that still has its tensors' names, which the quantizer needs.

    Attributes:
        content: the flatbuffer.
        layers: for each operator, the module it came from (``features.0.0``), or an empty text.
    """

    content: bytes
    layers: tuple[str, ...]


def convert_network(network: "nn.Module", *, image_size: int) -> FloatModel:
    """Convert to TFLite with NHWC input; the network is left as it is.

    Args:
        network: from (1, 3, image_size, image_size) float32 to (1, classes); converted in evaluation mode.
        image_size: height and width of the input, pixels.

    Raises:
        MissingExtraError: litert-torch is not installed.
        EdgepruneError: it cannot convert the network.
    """
    import torch

    try:
        with quiet_native():
            import litert_torch
    except ImportError as error:
        raise MissingExtraError("export to TFLite", "mcu", error.name or "litert_torch") from None
    copied = copy.deepcopy(network).cpu().eval()
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    wrapped = litert_torch.to_channel_last_io(copied, args=[0]).eval()
    try:
        with quiet_native(), torch.no_grad():
            converted = litert_torch.convert(wrapped, (torch.zeros(1, image_size, image_size, 3),))
            content = bytes(converted.model_content())
    except Exception as error:  # MLIR's, torch.export's and the converter's errors share no base class
        raise EdgepruneError(
            f"litert-torch cannot convert {type(network).__name__} to TFLite: {_first_line(error)}",
            "replace the operator that is named there, or leave tflite and tflite_int8 out of export.formats",
        ) from error
    content = write_model(settle_layout(inline_buffers(read_model(content), content)))
    return FloatModel(content=content, layers=_layers_of(content, copied))


def strip_model(content: bytes) -> bytes:
    """The same model without tensor names, subgraph names and the converter's own metadata; buffers inside, aligned.

    Args:
        content: as a converter or quantizer wrote it.

    Raises:
        InputError: it is no TFLite file.
    """
    model = inline_buffers(read_model(content), content)
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b""
    model.subgraphs[0].name = b""
    # The converter's own notes: its buffers are emptied by `_drop_unused`.
    model.metadata = []
    model.description = b"edgeprune"
    used = {0, *(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return write_model(model)


def _layers_of(content: bytes, network: "nn.Module") -> tuple[str, ...]:
    model = read_model(content)
    graph = model.subgraphs[0]
    kinds = operator_names(model)
    layers = []
    for operator, kind in zip(graph.operators, kinds, strict=True):
        text = (graph.tensors[operator.outputs[0]].name or b"").decode(errors="replace")
        found = [path for path in (_module_path(part, network) for part in text.split(";")) if path]
        # A fused operator carries the names of all its parts; the one with weights says most.
        weighted = [path for path in found if _has_matrix(network.get_submodule(path))]
        wanted = (weighted if kind in WEIGHTED else []) or found
        layers.append(wanted[0] if wanted else "")
    # The last operator carries the output's name; the layer that no other one took is its own.
    left = [name for name, module in network.named_modules() if _has_matrix(module) and name not in layers]
    unnamed = [index for index, kind in enumerate(kinds) if kind in WEIGHTED and not layers[index]]
    if len(unnamed) == len(left) == 1:
        layers[unnamed[0]] = left[0]
    return tuple(layers)


def _has_matrix(module: "nn.Module") -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() > 1


def _module_path(text: str, network: "nn.Module") -> str:
    """``.../Sequential_features/..._0/...`` as ``features.0``: each part ends in a child's name."""
    module, path = network, []
    for part in text.split("/"):
        children = [name for name, _ in module.named_children() if part.endswith(f"_{name}")]
        if children:
            name = max(children, key=len)
            path.append(name)
            module = module.get_submodule(name)
    return ".".join(path)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
