"""Gates on an int8 ONNX file: is it int8 where it counts, and does onnxruntime compute what the file says?

A convolution whose input, weights or result lack a scale still runs, in float; weights that saturate and biases that
overflow still give numbers. None of it raises an error anywhere.
"""

import math
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.results import Gate, at_most
from edgeprune.verify.onnx_pairs import PAIRS, PairGraph, WeightedLayer

if TYPE_CHECKING:
    import numpy as np

# The default operator set has integer operators too; runtimes make them from the pairs, each in its own way.
_INTEGER = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_INTEGER_KERNELS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
# With AVX2 two products of bytes meet in 16 bits: 2 x 255 x 64 = 32,640 fits, 2 x 255 x 65 does not.
_MAX_WEIGHT = 64
# An accumulator adds its products on top of the bias: half of int32 is left to them.
_MAX_BIAS_SHARE = 0.5
_INT32_LIMIT = 2.0**31
# float32 products round; a bias that was scaled for something else is off by far more.
_MAX_BIAS_SCALE_ERROR = 1e-5


def check_onnx_int8(content: bytes, *, path: str) -> list[Gate]:
    """Gates of one file, each named after it.

    Args:
        content: the file.
        path: its name in the bundle.

    Returns:
        ``onnx_checker`` alone when it is no valid ONNX file; else also ``foreign_operators``, ``float_layers``,
        ``weight_range``, ``asymmetric_weights``, ``bad_scales``, ``bias_fits_int32``, ``bias_scale_error``,
        ``bad_weights`` and ``float_kernels``.
    """
    import onnx

    try:
        onnx.checker.check_model(content, full_check=True)
        graph = PairGraph(onnx.ModelProto.FromString(content))
    except Exception as error:  # DecodeError, ValidationError, InferenceError and numpy's share no base class
        problem = " ".join(str(error).split())[:500] or type(error).__name__
        return [Gate(name=f"onnx_checker:{path}", figure="invalid", limit="valid", passed=False, detail=problem)]
    detail = "onnx.checker with strict shape inference"
    gates = [
        Gate(name="onnx_checker", figure="valid", limit="valid", passed=True, detail=detail),
        _check_operators(graph),
        _check_layers(graph),
        _check_weight_range(graph),
        _check_symmetry(graph),
        _check_scales(graph),
        _check_biases(graph),
        _check_bias_scales(graph),
        _check_weights(graph),
        _check_kernels(content),
    ]
    return [replace(gate, name=f"{gate.name}:{path}") for gate in gates]


def _check_operators(graph: PairGraph) -> Gate:
    foreign = [node.op_type for node in graph.nodes if node.domain not in ("", "ai.onnx") or node.op_type in _INTEGER]
    pairs = Counter(node.op_type for node in graph.nodes if node.op_type in PAIRS)
    detail = ", ".join(foreign[:5]) or ", ".join(f"{count} {kind}" for kind, count in sorted(pairs.items()))
    return at_most("foreign_operators", len(foreign), 0, detail)


def _check_layers(graph: PairGraph) -> Gate:
    """Layers that a runtime has to compute in float, because something about them has no scale."""
    problems = [f"{layer.name}: {why}" for layer in graph.layers if (why := _why_float(graph, layer))]
    detail = "; ".join(problems[:3]) or f"{len(graph.layers)} layers, uint8 times int8 per channel"
    # A file without a layer proves nothing.
    return at_most("float_layers", len(problems) if graph.layers else float("nan"), 0, detail)


def _why_float(graph: PairGraph, layer: WeightedLayer) -> str:
    import numpy as np

    weight, source = layer.weight, layer.source
    if weight is None or weight.stored is None or weight.stored.dtype != np.int8:
        return "its weights are not int8"
    along = weight.axis % weight.stored.ndim == layer.output_axis
    channels = weight.stored.shape[layer.output_axis]
    if weight.scale is None or weight.scale.shape != (channels,) or not along:
        return "its weights have not one scale for each output channel"
    if source is None or source.zero_point is None or source.zero_point.dtype != np.uint8:
        return "its input is not uint8"
    if source.scale is None or source.scale.size != 1:
        return "its input has not one scale"
    if "Conv" in layer.node.op_type and not graph.is_rounded(layer.node.output[0]):
        return "its result is not rounded"
    return ""


def _check_weight_range(graph: PairGraph) -> Gate:
    import numpy as np

    # int8 has no +128: the absolute value of -128 is taken in a wider type.
    reach = [(int(np.abs(stored.astype(np.int64)).max()), name) for name, stored in _stored_weights(graph)]
    largest, name = max(reach, default=(float("nan"), "no layer"))
    return at_most("weight_range", largest, _MAX_WEIGHT, f"largest stored weight, in {name}")


def _check_symmetry(graph: PairGraph) -> Gate:
    shifted = [
        rule.node.name
        for layer in graph.layers
        for rule in (layer.weight, layer.bias)
        if rule is not None and rule.zero_point is not None and rule.zero_point.any()
    ]
    detail = ", ".join(shifted[:3]) or "zero points of weights and biases are 0"
    return at_most("asymmetric_weights", len(shifted), 0, detail)


def _check_scales(graph: PairGraph) -> Gate:
    """Scales that are no positive number, and pairs that round with one rule and give back with another."""
    import numpy as np

    problems = []
    for rule in graph.rules:
        if rule.scale is None or not (np.isfinite(rule.scale) & (rule.scale > 0)).all():
            problems.append(f"{rule.node.name} has no positive finite scale")
        before = graph.rule(rule.node.input[0])
        if before is not None and not before.agrees(rule):
            problems.append(f"{rule.node.name} gives back by another rule than {before.node.name} rounds")
    return at_most("bad_scales", len(problems), 0, "; ".join(problems[:3]) or f"{len(graph.rules)} rules")


def _check_biases(graph: PairGraph) -> Gate:
    """An overflowing bias turns a network to noise, without an error, and stands at the end of int32's range."""
    import numpy as np

    biases = [(layer.name, layer.bias.stored) for layer in graph.layers if layer.bias is not None]
    largest_of = [(name, np.abs(b.astype(np.float64)).max()) for name, b in biases if b is not None and b.size]
    reach = [(float(largest) / _INT32_LIMIT, name) for name, largest in largest_of]
    largest, name = max(reach, default=(0.0, "no bias"))
    return at_most("bias_fits_int32", largest, _MAX_BIAS_SHARE, f"largest bias over 2**31, in {name}")


def _check_bias_scales(graph: PairGraph) -> Gate:
    """Integer kernels never read a bias's own scale: they add it to products of input and weight."""
    biased = [layer for layer in graph.layers if len(layer.node.input) > 2 and layer.node.input[2]]
    errors = [(_bias_scale_error(layer), layer.name) for layer in biased]
    # One NaN among them must be what the gate sees; `max` alone may pass over it.
    worst, name = max(errors, key=lambda each: math.inf if math.isnan(each[0]) else each[0], default=(0.0, "no bias"))
    return at_most("bias_scale_error", worst, _MAX_BIAS_SCALE_ERROR, f"largest relative difference, in {name}")


def _bias_scale_error(layer: WeightedLayer) -> float:
    import numpy as np

    scales = [rule.scale if rule is not None else None for rule in (layer.source, layer.weight, layer.bias)]
    if any(scale is None or scale.size == 0 for scale in scales):
        return float("nan")
    source, weight, bias = (np.asarray(scale, np.float64) for scale in scales)
    if bias.size not in (1, weight.size):
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.abs(bias / (source * weight) - 1).max())


def _check_weights(graph: PairGraph) -> Gate:
    """NaN and infinity in anything float, and weights that are nothing but zeros."""
    import numpy as np

    bad = [f"{name} has NaN or infinity" for name, value in graph.constants.items() if not _is_finite(value)]
    bad += [f"{name} multiplies by zeros only" for name, stored in _stored_weights(graph) if not np.any(stored)]
    return at_most("bad_weights", len(bad), 0, "; ".join(bad[:3]) or "finite, and none all zeros")


def _is_finite(value: "np.ndarray") -> bool:
    import numpy as np

    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _stored_weights(graph: PairGraph) -> "list[tuple[str, np.ndarray]]":
    weights = [(layer.name, layer.stored) for layer in graph.layers]
    return [(name, stored) for name, stored in weights if stored is not None and stored.size]


def _check_kernels(content: bytes) -> Gate:
    """What onnxruntime makes of the file as it loads it: layers that are left over for float kernels."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            optimised = PairGraph(onnx.ModelProto.FromString(path.read_bytes()))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            detail = " ".join(str(error).split())[:500]
            return at_most("float_kernels", float("nan"), 0, f"onnxruntime cannot load it: {detail}")
    integer = Counter(node.op_type for node in optimised.nodes if node.op_type in _INTEGER_KERNELS)
    made = ", ".join(f"{count} {kind}" for kind, count in sorted(integer.items()))
    left = [f"{layer.node.op_type} {layer.name}" for layer in optimised.layers]
    detail = f"onnxruntime {onnxruntime.__version__}: {made}" + (f"; in float {', '.join(left[:3])}" if left else "")
    return at_most("float_kernels", len(left), 0, detail)
