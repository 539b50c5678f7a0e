"""Which file of a bundle is run, and in which runtime: the nearest to the device that is installed here."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.formats import FileInput, PreprocessRecord, feed_images
from edgeprune.verify.bundle_texts import BundleTexts
from edgeprune.verify.litert import litert_version, open_litert
from edgeprune.verify.onnx_runtime import open_session

if TYPE_CHECKING:
    import numpy as np

# In the order of choice: what a board computes, what equals that within one step, what runs anywhere.
RUNTIMES = {
    "tflm": "tflite_micro",
    "tflite": "ai_edge_litert",
    "onnx": "onnxruntime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A model file, loaded.

    Attributes:
        file: what it is fed and gives.
        runtime: name and version.
        ask: from one input with a batch of 1, as ``feed_images`` makes it, to the outputs, shape (1, classes).
    """

    file: FileInput
    runtime: str
    ask: "Callable[[np.ndarray], np.ndarray]"


def open_runner(folder: Path, texts: BundleTexts, *, runtime: str | None) -> Runner:
    """Load a file of a bundle whose bytes are right.

    Args:
        folder, texts: of the bundle.
        runtime: one of ``RUNTIMES``; None takes the first of them that is installed and has a file.

    Raises:
        MissingExtraError: it is not installed, or none of them is.
        InputError: the bundle has no file for it, or the runtime does not take it.
    """
    suited = {name: file for name in RUNTIMES if (file := _file_for(name, texts)) is not None}
    if runtime is not None and runtime not in suited:
        others = f"--runtime {next(iter(suited))}" if suited else "another bundle"
        raise InputError(f"{folder} has no file for the runtime {runtime}.", others)
    if not suited:
        raise InputError(f"{folder} has no file for {', '.join(RUNTIMES)}.", "another bundle")
    installed = [name for name in suited if importlib.util.find_spec(RUNTIMES[name]) is not None]
    name = runtime or next(iter(installed), list(suited)[-1])
    if name not in installed:
        raise MissingExtraError("edgeprune demo" + (f" --runtime {name}" if runtime else ""), "demo", RUNTIMES[name])
    path = folder / suited[name].path
    load = {"tflm": _load_micro, "tflite": _load_litert, "onnx": _load_onnx}[name]
    try:
        runner = load(path, suited[name])
        # An image of the wrong size is refused only when it is fed.
        answer = runner.ask(_blank(texts.rule, suited[name]))
    except Exception as error:  # onnxruntime's own errors have no public base class
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{path} does not run in {name}: {reason}.", f"edgeprune verify {folder}") from None
    if answer.shape != (1, len(texts.labels)):
        raise InputError(
            f"{path} answers with shape {answer.shape}, and {folder} names {len(texts.labels)} labels.",
            f"edgeprune verify {folder}",
        )
    return runner


def _blank(rule: PreprocessRecord, file: FileInput) -> "np.ndarray":
    import numpy as np

    pixels = np.zeros((1, rule.image_size, rule.image_size, 3), np.uint8)
    return feed_images(pixels, file, mean=rule.mean, std=rule.std)


def _file_for(runtime: str, texts: BundleTexts) -> FileInput | None:
    if runtime == "onnx":
        return next((file for file in texts.rule.files if file.path.endswith(".onnx")), None)
    lite = [file for file in texts.rule.files if file.path.endswith(".tflite")]
    int8 = next((file for file in lite if file.input.dtype == "int8"), None)
    return int8 if runtime == "tflm" else int8 or next(iter(lite), None)


def _load_onnx(path: Path, file: FileInput) -> Runner:
    import onnxruntime

    session = open_session(path)
    place, result = session.get_inputs()[0].name, session.get_outputs()[0].name

    def ask(inputs: "np.ndarray") -> "np.ndarray":
        outputs: np.ndarray = session.run([result], {place: inputs})[0]
        return outputs

    return Runner(file=file, runtime=f"onnxruntime {onnxruntime.__version__}", ask=ask)


def _load_litert(path: Path, file: FileInput) -> Runner:
    # Of int8, the reference kernels: those equal TFLite Micro's within one step, the optimised ones do not.
    model = open_litert(path.read_bytes(), reference=file.input.dtype == "int8")
    model.allocate_tensors()
    place, result = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]

    def ask(inputs: "np.ndarray") -> "np.ndarray":
        model.set_tensor(place, inputs)
        model.invoke()
        outputs: np.ndarray = model.get_tensor(result)
        return outputs

    return Runner(file=file, runtime=litert_version(), ask=ask)


def _load_micro(path: Path, file: FileInput) -> Runner:
    from importlib.metadata import version

    from tflite_micro import runtime

    model: Any = runtime.Interpreter.from_bytes(path.read_bytes())

    def ask(inputs: "np.ndarray") -> "np.ndarray":
        model.set_input(inputs, 0)
        model.invoke()
        outputs: np.ndarray = model.get_output(0)
        return outputs.reshape(1, -1)

    return Runner(file=file, runtime=f"tflite-micro {version('tflite-micro')}", ask=ask)
