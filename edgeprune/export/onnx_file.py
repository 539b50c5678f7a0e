"""One ONNX file from one network: opset 18, no second file, no build paths, the same bytes every time.

The exporter leaves about 250 KB of its own notes in the graph (stack traces with paths of the machine it ran on),
numbers its nodes by counters, and writes the opset it likes. All of that is replaced here and checked on the result.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import EdgepruneError
from edgeprune.export.quiet import quiet
from edgeprune.files import write_atomic
from edgeprune.logits import scaled_difference

if TYPE_CHECKING:
    import numpy as np
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import GraphProto, ModelProto
    from torch import nn

OPSET = 18
INPUT_NAME = "input"
OUTPUT_NAME = "logits"
# Both graphs run the same kernels on the same weights: only a fused operator may round differently.
_MAX_SIMPLIFY_DIFFERENCE = 1e-5
_RANDOM_PROBES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExport:
    """What was written, and how far onnxsim's graph was from the exporter's.

    Attributes:
        path: the file.
        size_bytes: of the file.
        opset: version of the default operator set, as it stands in the file.
        simplified: onnxsim's graph was the smaller one, and equal, and is the one in the file.
        plain_size_bytes: size of the exporter's own graph, cleaned alike.
        simplify_difference: largest logit difference over the largest logit between the two graphs in onnxruntime, on
            the probe images and on random ones; NaN when either graph gives NaN or infinity.
    """

    path: Path
    size_bytes: int
    opset: int
    simplified: bool
    plain_size_bytes: int
    simplify_difference: float


def write_onnx(
    network: "nn.Module",
    path: Path,
    *,
    image_size: int,
    dynamic_batch: bool,
    metadata: dict[str, str],
    probe: "np.ndarray",
) -> OnnxExport:
    """Export a network to one ONNX file with the input ``input`` and the output ``logits``.

    Two exports of equal weights are equal bytes, wherever and whenever they run. The network is left as it is.

    Args:
        network: from (n, 3, image_size, image_size) float32 to (n, classes); exported in evaluation mode.
        path: the file; its folder is made.
        image_size: height and width of the input, pixels.
        dynamic_batch: the first dimension is free and named ``batch`` instead of 1.
        metadata: written into the file, sorted by key; nothing else is.
        probe: normalised real images, float32, shape (n, 3, image_size, image_size), to prove the simplified graph
            equal on.

    Raises:
        EdgepruneError: the network cannot be exported, or the exporter wrote another opset or a second file.
        OSError: the file cannot be written; nothing is left behind.
    """
    plain = _trace(network, image_size=image_size, dynamic_batch=dynamic_batch)
    simple = _simplify(plain)
    plain_bytes, simple_bytes = (finish_model(model, metadata) for model in (plain, simple))
    difference = _largest_difference(simple_bytes, plain_bytes, probe)
    simplified = difference <= _MAX_SIMPLIFY_DIFFERENCE and len(simple_bytes) < len(plain_bytes)
    content = simple_bytes if simplified else plain_bytes
    write_atomic(path, content)
    return OnnxExport(
        path=path,
        size_bytes=len(content),
        opset=OPSET,
        simplified=simplified,
        plain_size_bytes=len(plain_bytes),
        simplify_difference=difference,
    )


def _trace(network: "nn.Module", *, image_size: int, dynamic_batch: bool) -> "ModelProto":
    import torch

    # A copy, because evaluation mode and memory layout are changes, and the caller's network may be in training.
    copied = copy.deepcopy(network).cpu().eval()
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # torch.export takes a dimension of 1 for a constant, so a free one is traced with 2.
    example = torch.zeros(2 if dynamic_batch else 1, 3, image_size, image_size)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                copied,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=shapes,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise EdgepruneError(
            f"torch {torch.__version__} cannot export {type(network).__name__} to ONNX: {_first_line(error)}",
            "export: {dynamic_batch: false}" if dynamic_batch else "replace the operator that is named there",
        ) from error
    assert program is not None
    return program.model_proto


def _simplify(model: "ModelProto") -> "ModelProto":
    import onnxsim

    try:
        with quiet():
            # Its own check uses random numbers of its own; ours, on real images, comes after.
            simplified, _ = onnxsim.simplify(model, check_n=0)
    except (RuntimeError, ValueError) as error:
        raise EdgepruneError(
            f"onnxsim cannot read the exported graph: {_first_line(error)}",
            "install the version of onnxsim in constraints.txt",
        ) from error
    return simplified  # type: ignore[no-any-return]


def finish_model(model: "ModelProto", metadata: dict[str, str]) -> bytes:
    """Strip, rename, stamp and serialise; asserts what the exporter was asked for."""
    from onnx import ModelProto

    result = ModelProto()
    result.CopyFrom(model)
    _strip(result)
    _rename(result.graph)
    # Shapes in between cost a few KB, differ between the two graphs, and every reader infers them again.
    del result.graph.value_info[:]
    result.graph.name = "edgeprune"
    result.producer_name = "edgeprune"
    result.ClearField("producer_version")
    for key in sorted(metadata):
        result.metadata_props.add(key=key, value=metadata[key])
    _check(result)
    content: bytes = result.SerializeToString(deterministic=True)
    return content


def _strip(message: "Message") -> None:
    """Remove doc strings and metadata from a message and everything inside it."""
    from google.protobuf.message import Message

    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                _strip(part)


def _rename(graph: "GraphProto") -> None:
    """Number nodes and values in the order of the graph; inputs, outputs and weights keep their names."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    # Weights carry the names of the checkpoint's tensors; constants of the exporter carry a counter.
    names = {name: name for name in kept}
    constants = [tensor for tensor in graph.initializer if "." not in tensor.name and tensor.name not in kept]
    names |= {tensor.name: f"constant_{index}" for index, tensor in enumerate(constants)}
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        for position, output in enumerate(node.output):
            if output and output not in names:
                names[output] = f"{node.name}_output" + (f"_{position}" if position else "")
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    _rename_uses(graph, names)


def _rename_uses(graph: "GraphProto", names: dict[str, str]) -> None:
    # Branches and loop bodies see the values around them, so the same names hold inside.
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                _rename_uses(inner, names)


def _check(model: "ModelProto") -> None:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        raise EdgepruneError(
            f"The exporter wrote operator sets {opsets}, not {OPSET} of the default one only.",
            "install the versions of torch and onnxscript in constraints.txt",
        )
    external = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if external:
        raise EdgepruneError(
            f"The exporter put {len(external)} tensors outside the file ({external[0]} ...).",
            "install the versions of torch and onnxscript in constraints.txt",
        )


def _largest_difference(one: bytes, other: bytes, probe: "np.ndarray") -> float:
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((_RANDOM_PROBES, *probe.shape[1:]), dtype=np.float32)
    images = np.concatenate([probe.astype(np.float32, copy=False), noise])
    first, second = (_run(content, images) for content in (one, other))
    return scaled_difference(first, second)


def _run(content: bytes, images: "np.ndarray") -> "np.ndarray":
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run([OUTPUT_NAME], {INPUT_NAME: image[None]})[0] for image in images])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise EdgepruneError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported graph: {_first_line(error)}",
            "replace the operator that is named there",
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
