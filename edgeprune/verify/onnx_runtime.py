"""Run an ONNX file in onnxruntime, the way every gate and every bundle check does.

Needs numpy and onnxruntime only, so that a bundle can be checked where nothing else is installed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession


def open_session(path: Path, *, threads: int = 1) -> "InferenceSession":
    """Load a file for the CPU: sequential execution, quiet.

    Args:
        path: the ONNX file.
        threads: intra-operator threads, >= 1.

    Raises:
        InputError: the file is missing, or onnxruntime cannot load it (its reason is in the sentence).
    """
    import onnxruntime

    if not path.is_file():
        raise InputError(f"{path} does not exist.", "check the path, or export the level again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # 4 is FATAL: what goes wrong arrives as an exception, and a stage does not print.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}",
            "export the level again, or pull the bundle again",
        ) from None


def run_onnx(
    path: Path, inputs: "np.ndarray", threads: int = 1, batch: int = 1, *, session: "InferenceSession | None" = None
) -> "np.ndarray":
    """Logits of a file for many images.

    Args:
        path: the ONNX file: one input, one output, the first dimension 1 or free.
        inputs: normalised images, float32, shape (n, channels, height, width).
        threads: intra-operator threads; ignored when a session is given.
        batch: images per call where the first dimension is free; a static 1 is always run image by image.
        session: from ``open_session``, to load the file once for several calls.

    Returns:
        float32, shape (n, classes).

    Raises:
        InputError: the file cannot be loaded, has other inputs and outputs, or does not take images of this shape.
    """
    import numpy as np

    session = session or open_session(path, threads=threads)
    sources, results = session.get_inputs(), session.get_outputs()
    if len(sources) != 1 or len(results) != 1:
        raise InputError(
            f"{path} has {len(sources)} inputs and {len(results)} outputs, not one of each.", "export the level again"
        )
    expected = sources[0].shape
    fits = inputs.ndim == len(expected) and all(
        not isinstance(wanted, int) or wanted == given
        for wanted, given in zip(expected[1:], inputs.shape[1:], strict=True)
    )
    static = isinstance(expected[0], int)
    if not fits or (static and expected[0] != 1) or len(inputs) == 0:
        raise InputError(
            f"{path} takes images of shape {_shown(expected)}, given {_shown(inputs.shape)}.",
            "resize the images to the size in preprocess.json",
        )
    step = 1 if static else batch
    inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    names, name = [results[0].name], sources[0].name
    try:
        logits = [session.run(names, {name: inputs[start : start + step]})[0] for start in range(0, len(inputs), step)]
    except Exception as error:  # as above: no common base class
        reason = " ".join(str(error).split())
        raise InputError(f"{path} fails in onnxruntime while it runs: {reason}", "export the level again") from None
    return np.concatenate(logits).astype(np.float32, copy=False)


def read_metadata(path: Path) -> dict[str, str]:
    """The file's own metadata, as onnxruntime reads it.

    Raises:
        InputError: as ``open_session``.
    """
    return dict(open_session(path).get_modelmeta().custom_metadata_map)


def _shown(shape: "list[int | str | None] | tuple[int, ...]") -> str:
    return " x ".join("?" if size is None else str(size) for size in shape)
