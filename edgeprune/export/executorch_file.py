"""From a network to ExecuTorch programs (.pte), float and int8, whose layers XNNPACK runs.

What a file says about itself is stored as ExecuTorch programs store such things: each property is a method without
inputs that returns a text, ``get_name`` for the property ``name``. Any of its runtimes can call them.
"""

import copy
import importlib.util
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgepruneError, MissingExtraError
from edgeprune.export.quiet import quiet_native

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

_PREFIX = "get_"
_BATCH = 32


def write_executorch(network: "nn.Module", *, image_size: int, metadata: dict[str, str]) -> bytes:
    """A float program; the network is left as it is. Equal inputs give equal bytes.

    Args:
        network: from (1, 3, image_size, image_size) float32 to (1, classes); converted in evaluation mode.
        image_size: height and width of the input, pixels.
        metadata: property to text, see ``ModelMetadata.as_text``.

    Raises:
        MissingExtraError: executorch is not installed.
        EdgepruneError: it cannot convert the network.
    """
    import torch

    _require_executorch()
    copied = _copy(network)
    try:
        with quiet_native(), torch.no_grad():
            return _lower(torch.export.export(copied, (torch.zeros(1, 3, image_size, image_size),)), metadata)
    except Exception as error:  # torch.export's, the partitioner's and the serialiser's errors share no base class
        raise _cannot_convert(network, error) from error


def write_executorch_int8(
    network: "nn.Module", calibration: "Tensor", *, image_size: int, metadata: dict[str, str]
) -> bytes:
    """An int8 program with float images in and logits out; the network is left as it is. Equal inputs, equal bytes.

    Weights are per output channel and symmetric, activations per tensor and affine, with ranges from torchao's
    histograms; BatchNorm is folded into the convolution before it.

    Args:
        network: as for ``write_executorch``.
        calibration: images that ranges are taken from, normalised, shape (n, 3, image_size, image_size).
        image_size: height and width of the input, pixels.
        metadata: property to text.

    Raises:
        MissingExtraError: executorch is not installed.
        EdgepruneError: it cannot convert the network.

    Source:
        PyTorch 2 Export quantization, as the documentation of ExecuTorch's XNNPACK backend describes it.
    """
    import torch

    _require_executorch()
    wanted = (3, image_size, image_size)
    if tuple(calibration.shape[1:]) != wanted or len(calibration) == 0:
        raise ValueError(f"calibration images have shape {tuple(calibration.shape)}, not (n, {wanted})")
    copied = _copy(network)
    images = calibration.to(torch.float32)
    try:
        with quiet_native(), torch.no_grad():
            quantised = _quantise(copied, images)
            return _lower(torch.export.export(quantised, (torch.zeros(1, *wanted),)), metadata)
    except Exception as error:
        raise _cannot_convert(network, error) from error


def _quantise(network: "nn.Module", images: "Tensor") -> "nn.Module":
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    # A batch of one would be traced as a constant.
    batches = images.repeat(2, 1, 1, 1) if len(images) == 1 else images
    traced = torch.export.export(network, (batches[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(traced.module(check_guards=False), quantizer)
    # Parts of almost one size, so that none is left with a single image.
    for part in batches.tensor_split(-(-len(batches) // _BATCH)):
        prepared(part)
    converted: nn.Module = convert_pt2e(prepared)
    return converted


def _lower(program: "ExportedProgram", metadata: dict[str, str]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    properties = {f"{_PREFIX}{key}": value for key, value in sorted(metadata.items())}
    edge: Any = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods=properties or None
    )
    return bytes(edge.to_executorch().buffer)


def _copy(network: "nn.Module") -> "nn.Module":
    import torch

    copied = copy.deepcopy(network).cpu().eval()
    # XNNPACK chooses its own layout, and refuses weights that lie in another.
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return copied


def _require_executorch() -> None:
    # It brings torchao, which quantises.
    if importlib.util.find_spec("executorch") is None:
        raise MissingExtraError("export to ExecuTorch", "executorch", "executorch")


def _cannot_convert(network: "nn.Module", error: Exception) -> EdgepruneError:
    lines = str(error).strip().splitlines()
    return EdgepruneError(
        f"ExecuTorch cannot convert {type(network).__name__}: {lines[0] if lines else type(error).__name__}",
        "replace the operator that is named there, or leave executorch out of export.formats",
    )
