"""Operator by operator: what int8 makes of each tensor beside the same network in float."""

from typing import TYPE_CHECKING, Any

from edgeprune.embedded import OperatorFigures
from edgeprune.errors import InputError
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.litert import read_io

if TYPE_CHECKING:
    import numpy as np

_SILENT_DB = 120.0


def compare_operators(
    float_content: bytes, int8_content: bytes, images: "np.ndarray", *, layers: tuple[str, ...]
) -> tuple[OperatorFigures, ...]:
    """Run both files on the same images with every tensor kept, and compare the output of each operator.

    Args:
        float_content, int8_content: of the same network, operators in the same order.
        images: normalised, float32, shape (n, height, width, 3).
        layers: the network's own name for each operator, or an empty text.

    Returns:
        One entry an operator. Noise is measured against the signal without its mean; a tensor without noise has 120 dB.

    Raises:
        InputError: the files have not the same operators.
    """
    import numpy as np

    model, plain = read_model(int8_content), read_model(float_content)
    kinds = operator_names(model)
    if operator_names(plain) != kinds or len(layers) != len(kinds):
        raise InputError("The int8 file has not the operators of the float one.", "export the level again")
    file = read_io(int8_content)
    assert file.input is not None
    stored = np.clip(np.round(images / file.input.scale) + file.input.zero_point, -128, 127).astype(np.int8)
    wanted, found = _collect(float_content, images), _collect(int8_content, stored)
    graph = model.subgraphs[0]
    figures = []
    for index, (kind, layer, operator) in enumerate(zip(kinds, layers, graph.operators, strict=True)):
        tensor = graph.tensors[operator.outputs[0]]
        scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
        signal = wanted[index]
        noise = float(np.square((found[index].astype(np.float32) - zero) * scale - signal).sum())
        power = float(np.square(signal - signal.mean()).sum())
        level = 10 * np.log10(max(power, 1e-30) / noise) if noise > 0 else _SILENT_DB
        figures.append(
            OperatorFigures(
                index=index,
                operator=kind,
                layer=layer,
                sqnr_db=round(float(min(level, _SILENT_DB)), 2),
                weight_scale_ratio=_scale_ratio(graph, operator),
                low=scale * (-128 - zero),
                high=scale * (127 - zero),
            )
        )
    return tuple(figures)


def _collect(content: bytes, inputs: "np.ndarray") -> "list[np.ndarray]":
    import warnings

    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graph = read_model(content).subgraphs[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping every tensor takes memory is known
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
            num_threads=1,
        )
    interpreter.allocate_tensors()
    kept: list[list[np.ndarray]] = [[] for _ in graph.operators]
    for image in inputs:
        interpreter.set_tensor(int(graph.inputs[0]), image[None])
        interpreter.invoke()
        for values, operator in zip(kept, graph.operators, strict=True):
            values.append(interpreter.get_tensor(int(operator.outputs[0])))
    return [np.concatenate(values) for values in kept]


def _scale_ratio(graph: Any, operator: Any) -> float | None:
    if len(operator.inputs) < 2:
        return None
    rule = graph.tensors[operator.inputs[1]].quantization
    if rule is None or rule.scale is None or len(rule.scale) < 2:
        return None
    return float(max(rule.scale) / min(rule.scale))
