"""From a float ONNX model to an int8 one that takes its place: float images in, float logits out, int8 in between.

onnxruntime's own quantizer writes the file; ranges come from ``edgeprune.calibration``, observed once for all methods.
Only what decides whether a convolution runs in int8 is rounded: its input, its weights, its output. Element-wise
operators between them (hard-swish, the gate of squeeze-excite) have no int8 kernel in onnxruntime, and stay float.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeprune import calibration
from edgeprune.calibration import ActivationStatistics, merge, summarise
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.export.onnx_file import INPUT_NAME, finish_model
from edgeprune.export.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from onnx import GraphProto, ModelProto, NodeProto

Range = tuple[float, float]

# On CPUs with AVX2 but without VNNI, two products of an unsigned and a signed byte are added in 16 bits, and saturate:
# 2 x 255 x 64 = 32,640 still fits. What rounds weights beforehand must use the same number of steps.
WEIGHT_STEPS = 64
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_CLIPPING = ("Relu", "Clip")
# Their values are the input's, so that they keep its scale.
_SAME_VALUES = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_BATCH = 16


def observe_onnx(
    content: bytes, images: "np.ndarray", *, progress: Callable[[int, int], None] | None = None
) -> dict[str, ActivationStatistics]:
    """Statistics of every tensor that may get a scale, by name, in onnxruntime's own float kernels.

    Args:
        content: a float model, as ``write_onnx`` writes it.
        images: normalised, float32, shape (n, 3, height, width), shuffled.
        progress: called with images done and images in all.

    Raises:
        InputError: it is no ONNX file.
        EdgepruneError: onnxruntime cannot run it.
    """
    import numpy as np

    model = _read(content)
    names = [name for name in _find_scaled(model.graph) if name != INPUT_NAME]
    session = _open(model, names)
    seen: dict[str, ActivationStatistics] = {}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        runs = [session.run(names, {INPUT_NAME: image[None]}) for image in batch]
        values = [batch, *(np.concatenate(parts) for parts in zip(*runs, strict=True))]
        for name, tensor in zip((INPUT_NAME, *names), values, strict=True):
            found = summarise(tensor)
            seen[name] = merge(seen[name], found) if name in seen else found
        if progress is not None:
            progress(start + len(batch), len(images))
    return seen


def choose_onnx_ranges(content: bytes, statistics: Mapping[str, ActivationStatistics], method: str) -> dict[str, Range]:
    """A range for every tensor, by one of ``calibration.METHODS``; never narrower than a step that can be divided by.

    Tensors that only a hard-swish reads start at -3 at the lowest: below, its output is zero.

    Raises:
        InputError: it is no ONNX file.
    """
    readers: dict[str, set[str]] = {}
    for node in _read(content).graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return calibration.choose_ranges(statistics, method, readers=readers)


def quantise_onnx(float_model: bytes, ranges: Mapping[str, Range], *, metadata: dict[str, str]) -> bytes:
    """An int8 model: QuantizeLinear and DequantizeLinear around the same operators, so that any runtime reads it.

    Activations are unsigned, affine and per tensor; weights signed, symmetric and per output channel, in
    [-64, 64]; biases int32. Input and output keep their names, shapes and float32. Equal inputs give equal bytes.

    Args:
        float_model: as ``write_onnx`` writes it, of a conditioned network.
        ranges: low <= 0 and high >= 0 of every tensor that ``observe_onnx`` names; after a ReLU or clip they must lie
            within its bounds, as observed ones do, because the range does its work then.
        metadata: written into the file, sorted by key; the float model's is left behind.

    Raises:
        InputError: it is no ONNX file.
        EdgepruneError: a range is missing, or the quantizer cannot handle an operator.
    """
    import onnx

    model = _read(float_model)
    missing = [name for name in _find_scaled(model.graph) if name not in ranges]
    if missing:
        raise EdgepruneError(
            f"{len(missing)} tensors have no range ({missing[0]} ...).",
            "choose ranges from statistics of the same file",
        )
    try:
        with quiet():
            quantizer = _quantizer(onnx.shape_inference.infer_shapes(model, strict_mode=True), ranges)
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    except Exception as error:  # onnx's and onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EdgepruneError(
            f"onnxruntime's quantizer cannot make an int8 model: {reason}",
            "leave onnx_int8 out of export.formats, or replace the operator that is named there",
        ) from error
    result = quantizer.model.model
    _drop_bias_zero_points(result.graph)
    return finish_model(result, metadata)


def _quantizer(model: "ModelProto", ranges: Mapping[str, Range]) -> Any:
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    # Says that shapes are known; without it they are inferred through files in the folder for temporary ones.
    model.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    known = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    weights = {tensor.name for tensor in model.graph.initializer}
    computed = [node for node in model.graph.node if node.op_type in _WEIGHTED and not _has_weights(node, weights)]
    return QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, known),
        nodes_to_quantize=[],
        nodes_to_exclude=[node.name for node in computed],
        op_types_to_quantize=[*_WEIGHTED, *_CLIPPING, *_SAME_VALUES],
        extra_options={
            "ActivationSymmetric": False,
            "WeightSymmetric": True,
            # A fully connected layer runs in int8 with a float result: logits need no scale.
            "OpTypesToExcludeOutputQuantization": ["Gemm"],
        },
    )


def _find_scaled(graph: "GraphProto") -> list[str]:
    """Inputs of operators with weights, results of all but fully connected ones, and what clips those on the way.

    A convolution without a scale on its result runs in float, and so does a matrix product that a bias is added to.
    """
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        if _has_weights(node, weights):
            found[node.input[0]] = None
            if node.op_type != "Gemm":
                found[node.output[0]] = None
        elif node.op_type in _CLIPPING and node.input[0] in found:
            found[node.output[0]] = None
    return list(found)


def _has_weights(node: "NodeProto", weights: Iterable[str]) -> bool:
    return node.op_type in _WEIGHTED and node.input[1] in weights


def _drop_bias_zero_points(graph: "GraphProto") -> None:
    """Zeros, four bytes a channel, that int32 tensors have anyway; 2.6 % of the reference network's file."""
    from onnx import TensorProto

    biases = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT32}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in biases:
            del node.input[2:]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _open(model: "ModelProto", outputs: list[str]) -> Any:
    """A session with these tensors as outputs."""
    import onnxruntime

    del model.graph.output[:]
    for name in outputs:
        model.graph.output.add(name=name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise EdgepruneError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported graph: {reason}",
            "replace the operator that is named there",
        ) from error


def _read(content: bytes) -> "ModelProto":
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    try:
        model: ModelProto = ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{len(content)} bytes are no ONNX file: {error}", "export the level again") from None
    if not model.graph.node:
        raise InputError(f"{len(content)} bytes are no ONNX file: no operators.", "export the level again")
    return model
