"""From a float TFLite model to an int8 one: ranges observed once, then one file for each way to choose them.

ai-edge-quantizer's own calibration knows one method, a moving average of extremes, with which logits saturate. It
takes ranges from outside, so they come from ``edgeprune.calibration``; quantising again with others costs 0.05 s.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgeprune import calibration
from edgeprune.calibration import ActivationStatistics, merge, summarise
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.export.quiet import quiet_native
from edgeprune.export.tflite_file import FloatModel
from edgeprune.tflite_format import inline_buffers, operator_names, read_model, write_model

if TYPE_CHECKING:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

Range = tuple[float, float]

_BATCH = 16


def observe_ranges(
    content: bytes, images: "np.ndarray", *, progress: Callable[[int, int], None] | None = None
) -> dict[str, ActivationStatistics]:
    """Statistics of every tensor that is computed, by name, in LiteRT's own float kernels.

    Args:
        content: a float model with tensor names, as ``convert_network`` gives it.
        images: normalised, float32, shape (n, height, width, 3), shuffled.
        progress: called with images done and images in all.

    Raises:
        InputError: it is no TFLite file, or a tensor is NaN or infinite; names the operator that makes the first.
    """
    import numpy as np

    model = read_model(content)
    graph = model.subgraphs[0]
    names = {int(graph.inputs[0]): ""} | {int(o): "" for each in graph.operators for o in each.outputs}
    names = {index: graph.tensors[index].name.decode() for index in names}
    with quiet_native():
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
            num_threads=1,
        )
        interpreter.allocate_tensors()
    seen: dict[str, ActivationStatistics] = {}
    for start in range(0, len(images), _BATCH):
        values: dict[int, list[np.ndarray]] = {index: [] for index in names}
        for image in images[start : start + _BATCH]:
            interpreter.set_tensor(int(graph.inputs[0]), image[None])
            interpreter.invoke()
            for index, kept in values.items():
                kept.append(interpreter.get_tensor(index))
        for index, name in names.items():
            try:
                found = summarise(np.concatenate(values[index]))
            except ValueError:
                raise _not_finite(model, index) from None
            seen[name] = merge(seen[name], found) if name in seen else found
        if progress is not None:
            progress(min(start + _BATCH, len(images)), len(images))
    return seen


def _not_finite(model: "schema.ModelT", tensor: int) -> InputError:
    graph = model.subgraphs[0]
    makers = [
        (kind, operator)
        for kind, operator in zip(operator_names(model), graph.operators, strict=True)
        if tensor in operator.outputs
    ]
    kind, operator = makers[0] if makers else ("image", None)
    if operator is None or kind != "PADV2":
        return InputError(
            f"int8 has no range for what the {kind} gives on the calibration images: it is NaN or infinite.",
            "look at the level's weights and log, or leave tflite_int8 out of export.formats",
        )
    height, width = (int(size) for size in graph.tensors[operator.inputs[0]].shape[1:3])
    return InputError(
        f"A max-pool over {height} x {width} pixels is padded with minus infinity, for which int8 has no value.",
        "a pool with an odd kernel and half of it as padding (3 with 1) and no ceil_mode, or leave tflite_int8 out of "
        "export.formats",
    )


def choose_ranges(content: bytes, statistics: Mapping[str, ActivationStatistics], method: str) -> dict[str, Range]:
    """A range for every tensor, by one of ``calibration.METHODS``; never narrower than a step that can be divided by.

    Tensors that only a hard-swish reads start at -3 at the lowest: below, its output is zero.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    kinds = operator_names(model)
    readers: dict[str, set[str]] = {}
    for operator, kind in zip(graph.operators, kinds, strict=True):
        for index in operator.inputs:
            readers.setdefault(graph.tensors[index].name.decode(), set()).add(kind)
    return calibration.choose_ranges(statistics, method, readers=readers)


def place_ranges(model: FloatModel, ranges: Mapping[str, Range], *, otherwise: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges by tensor name, from ranges by the place in the network that computes the tensor.

    Args:
        model: its ``layers`` are the places.
        ranges: as quantisation-aware recovery has learned with; ``input`` names the input.
        otherwise: by tensor name, for tensors of other places.
    """
    graph = read_model(model.content).subgraphs[0]
    places = {int(graph.inputs[0]): "input"}
    for operator, layer in zip(graph.operators, model.layers, strict=True):
        places[int(operator.outputs[0])] = layer
    known = {graph.tensors[index].name.decode(): ranges[place] for index, place in places.items() if place in ranges}
    return {
        name: (known[name][0], max(known[name][1], known[name][0] + calibration.LEAST_RANGE))
        if name in known
        else fallback
        for name, fallback in otherwise.items()
    }


def quantise_model(content: bytes, ranges: Mapping[str, Range]) -> bytes:
    """An int8 model: int8 in and out, weights symmetric and per channel, activations affine and per tensor.

    Args:
        content: a float model with tensor names.
        ranges: low and high of every tensor that is computed.

    Returns:
        The flatbuffer with every buffer inside and 16-byte aligned; tensor names are still there.

    Raises:
        EdgepruneError: the quantizer cannot handle an operator.
    """
    import numpy as np

    try:
        with quiet_native():
            from ai_edge_quantizer import quantizer, recipe

            calibrated = {
                name: {"min": np.asarray([low], np.float32), "max": np.asarray([high], np.float32)}
                for name, (low, high) in ranges.items()
            }
            maker = quantizer.Quantizer(content, recipe.static_wi8_ai8())
            result = bytes(maker.quantize(calibrated, enable_progress_report=False).quantized_model)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgepruneError(
            f"ai-edge-quantizer cannot make an int8 model: {reason}",
            "leave tflite_int8 out of export.formats, or replace the operator that is named there",
        ) from error
    return write_model(inline_buffers(read_model(result), result))
