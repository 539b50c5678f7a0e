"""A TFLite file in LiteRT: the optimised kernels that a phone or a PC runs, or the reference ones that TFLM equals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeprune.embedded import Quantisation
from edgeprune.errors import InputError
from edgeprune.tflite_format import read_model

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIo:
    """What a file is fed and gives, one image a call.

    Attributes:
        input_shape, output_shape: with the batch of 1.
        dtype: of both, ``float32`` or ``int8``.
        input, output: what int8 values stand for; None for float32.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: str
    input: Quantisation | None
    output: Quantisation | None


def litert_version() -> str:
    """Name and version of the runtime."""
    from importlib.metadata import version

    return f"LiteRT {version('ai-edge-litert')}"


def read_io(content: bytes) -> FileIo:
    """Shapes, element type and quantisation of a file's input and output.

    Raises:
        InputError: no TFLite file, not one input and one output, or of other element types than float32 and int8.
    """
    graph = read_model(content).subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"The file has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, not one of each.",
            "export the level again",
        )
    source, result = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    names = {0: "float32", 9: "int8"}  # the schema's numbers
    if source.type not in names or source.type != result.type:
        raise InputError(
            f"The file takes elements of type {source.type} and gives {result.type}, not float32 or int8 for both.",
            "export the level again",
        )
    dtype = names[source.type]
    return FileIo(
        input_shape=tuple(int(size) for size in source.shape),
        output_shape=tuple(int(size) for size in result.shape),
        dtype=dtype,
        input=_quantisation(source) if dtype == "int8" else None,
        output=_quantisation(result) if dtype == "int8" else None,
    )


def _quantisation(tensor: Any) -> Quantisation:
    rule = tensor.quantization
    if rule is None or rule.scale is None or len(rule.scale) != 1:
        raise InputError("An int8 input or output has no scale.", "export the level again")
    return Quantisation(scale=float(rule.scale[0]), zero_point=int(rule.zeroPoint[0]))


def dequantise(stored: "np.ndarray", quantisation: Quantisation) -> "np.ndarray":
    """Stored int8 values as the real numbers that they stand for, float32.

    >>> import numpy as np
    >>> dequantise(np.asarray([-128, 0], np.int8), Quantisation(scale=0.5, zero_point=-128))
    array([ 0., 64.], dtype=float32)
    """
    import numpy as np

    return (stored.astype(np.float32) - np.float32(quantisation.zero_point)) * np.float32(quantisation.scale)


def open_litert(content: bytes, *, reference: bool, threads: int = 1) -> Any:
    """An interpreter for a file; its tensors are not allocated yet.

    Args:
        content: the file.
        reference: the reference kernels, see ``run_litert``.
        threads: >= 1.

    Raises:
        ValueError: LiteRT does not accept the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    return Interpreter(model_content=content, experimental_op_resolver_type=kernels, num_threads=threads)


def run_litert(
    content: bytes,
    inputs: "np.ndarray",
    *,
    reference: bool,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> "np.ndarray":
    """Outputs of a file for many images, in one thread.

    Args:
        content: the file.
        inputs: as the file stores them: float32 or int8, shape (n, height, width, 3).
        reference: run the reference kernels (``BUILTIN_REF``), which TFLite Micro equals; the optimised ones differ by
            up to 41 steps of the last place.
        batch: images a call; the outputs do not depend on it.
        progress: called with images done and images in all.

    Returns:
        As the file stores them, shape (n, classes).

    Raises:
        InputError: it is no TFLite file, does not run, or takes other images.
    """
    import numpy as np

    file = read_io(content)
    if inputs.shape[1:] != file.input_shape[1:] or str(inputs.dtype) != file.dtype or len(inputs) == 0:
        raise InputError(
            f"The file takes {file.dtype} images of shape {file.input_shape[1:]}, given {inputs.dtype} {inputs.shape}.",
            "feed it as preprocess.json says",
        )
    outputs = []
    try:
        interpreter = open_litert(content, reference=reference)
        place, result = (
            details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details)
        )
        size = 0
        for start in range(0, len(inputs), batch):
            part = np.ascontiguousarray(inputs[start : start + batch])
            if len(part) != size:
                size = len(part)
                interpreter.resize_tensor_input(place, part.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(place, part)
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(result).reshape(len(part), -1).copy())
            if progress is not None:
                progress(start + len(part), len(inputs))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"The file does not run in {litert_version()}: {reason}", "export the level again") from None
    return np.concatenate(outputs)
