"""A teacher in a file: a TFLite or ONNX classifier, run in batches on the images that the student sees."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.preprocess import Triple

# What a softmax gives in float sums to one; int8 answers of one are recognised by their step of 1/256 from 0 upwards.
_SUM_TOLERANCE = 0.02
_SOFTMAX_STEP = 1 / 256
_LEAST_PROBABILITY = 1e-4


class FileTeacher(nn.Module):
    """A network in a file as a module: the student's normalised images in, logits of the student's classes out.

    Images are un-normalised, resized to the size that the file wants (bicubic, antialiased), normalised as it wants
    and quantised where its input is int8. Probabilities are read as their logarithms. No gradient passes.

    Args:
        path: a .tflite or .onnx file with one image input of fixed size (NHWC or NCHW, three channels, float32, int8
            or uint8) and one output, shape (n, classes).
        student_mean, student_std: normalisation of the images it will be shown.
        mean, std: normalisation that it was trained with, in units of [0, 1] pixels.
        order: for each class of the student, the position of the teacher's output.

    Raises:
        InputError: the file cannot be read, or has other inputs or outputs.
        MissingExtraError: the runtime that it needs is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        student_mean: Triple,
        student_std: Triple,
        mean: Triple,
        std: Triple,
        order: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.path, self._order = path, list(order)
        self._gives_probabilities: bool | None = None
        self._runner = _TfliteRunner(path) if path.suffix == ".tflite" else _OnnxRunner(path)
        outputs = self._runner.classes
        if outputs <= max(order) or outputs != len(order):
            raise InputError(
                f"The teacher {path} gives {outputs} outputs, the student has {len(order)} classes.",
                "a teacher of the same classes, and `teacher: {classes: [...]}` when their order differs",
            )
        # Of a normalised pixel: back to [0, 1], then as the teacher has it.
        self._scale, self._shift = (
            torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
            for values in (
                [own / other for own, other in zip(student_std, std, strict=True)],
                [(a - b) / c for a, b, c in zip(student_mean, mean, std, strict=True)],
            )
        )
        bounds = torch.tensor([[(bound - m) / s for m, s in zip(mean, std, strict=True)] for bound in (0.0, 1.0)])
        self._low, self._high = bounds.view(2, 1, 3, 1, 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FileTeacher":
        """Itself: nothing in it ever changes, and a runtime cannot be copied."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32, shape (n, classes), of normalised images of shape (n, 3, height, width), on their device."""
        pixels = images.detach().float().cpu() * self._scale + self._shift
        if pixels.shape[2:] != self._runner.size:
            pixels = functional.interpolate(pixels, self._runner.size, mode="bicubic", antialias=True)
        # Bicubic overshoots at edges, which no camera's pixel does.
        pixels = pixels.clamp(self._low, self._high)
        try:
            answers = torch.from_numpy(self._runner.run(pixels.numpy()))
        except EdgepruneError:  # of a signal that came meanwhile
            raise
        except Exception as error:  # onnxruntime's own errors have no public base class
            raise _unreadable(self.path, error) from None
        if self._gives_probabilities is None:
            # Once for the file: what a batch is taken for must not depend on who else is in it.
            self._gives_probabilities = self._runner.gives_softmax or bool(
                (answers >= 0).all() and ((answers.sum(dim=1) - 1).abs() < _SUM_TOLERANCE).all()
            )
        if self._gives_probabilities:
            # Of many classes in steps of 1/256, most round to nothing and the rest no longer sums to one.
            sums = answers.sum(dim=1, keepdim=True).clamp(min=_LEAST_PROBABILITY)
            answers = (answers / sums).clamp(min=_LEAST_PROBABILITY).log()
        return answers[:, self._order].to(images.device)


class _TfliteRunner:
    """A TFLite file in LiteRT; the batch is resized when another number of images comes."""

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError("a .tflite teacher", "mcu", "ai_edge_litert") from None
        try:
            interpreter = Interpreter(model_content=path.read_bytes(), num_threads=torch.get_num_threads())
            interpreter.allocate_tensors()
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreadable(path, error) from None
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        shape = tuple(int(side) for side in inputs[0]["shape"])
        self._last = shape[-1] == 3
        _require_classifier(path, shape, len(inputs), tuple(outputs[0]["shape"]), len(outputs))
        self.size = shape[1:3] if self._last else shape[2:]
        self.classes = int(outputs[0]["shape"][-1])
        self._batch, self._input, self._output = shape[0], inputs[0], outputs[0]
        dtype, (step, lowest) = outputs[0]["dtype"], outputs[0]["quantization"]
        self.gives_softmax = dtype != np.float32 and step == _SOFTMAX_STEP and lowest == np.iinfo(dtype).min

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Answers, float32, shape (n, classes), to normalised pixels of shape (n, 3, height, width)."""
        values = _quantise(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1) if self._last else pixels), self._input)
        if len(values) != self._batch:
            self._interpreter.resize_tensor_input(self._input["index"], values.shape)
            self._interpreter.allocate_tensors()
            self._batch = len(values)
        self._interpreter.set_tensor(self._input["index"], values)
        self._interpreter.invoke()
        answers: np.ndarray = self._interpreter.get_tensor(self._output["index"])
        if answers.dtype != np.float32:
            scale, zero_point = self._output["quantization"]
            answers = ((answers.astype(np.float32) - zero_point) * scale).astype(np.float32)
        return answers


class _OnnxRunner:
    """An ONNX file in onnxruntime; in batches where its first dimension is free, else image by image."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("an .onnx teacher", "verify", "onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no public base class
            raise _unreadable(path, error) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        # Only how many images there are may be free: a side that is would become one of a single pixel.
        shape = (1, *(side if isinstance(side, int) else -1 for side in inputs[0].shape[1:]))
        _require_classifier(path, shape, len(inputs), tuple(outputs[0].shape), len(outputs))
        if inputs[0].type != "tensor(float)":
            raise InputError(
                f"The teacher {path} takes {inputs[0].type}, not tensor(float).", "the file before it was converted"
            )
        self._last = shape[-1] == 3
        self.size = shape[1:3] if self._last else shape[2:]
        self.classes = int(outputs[0].shape[-1])
        self._name, self._free = inputs[0].name, not isinstance(inputs[0].shape[0], int)
        self.gives_softmax = False

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Answers, float32, shape (n, classes), to normalised pixels of shape (n, 3, height, width)."""
        values = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1) if self._last else pixels)
        step = len(values) if self._free else 1
        parts = [
            self._session.run(None, {self._name: values[start : start + step]})[0]
            for start in range(0, len(values), step)
        ]
        return np.concatenate(parts).astype(np.float32)


def _quantise(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    quantised: np.ndarray = np.clip(np.rint(values / scale + zero_point), limits.min, limits.max)
    return quantised.astype(details["dtype"])


def _require_classifier(
    path: Path, shape: tuple[int, ...], inputs: int, answers: tuple[object, ...], outputs: int
) -> None:
    sized = len(shape) == 4 and min(shape) > 0 and 3 in (shape[1], shape[3])
    if inputs == outputs == 1 and sized and len(answers) == 2:
        return
    raise InputError(
        f"The teacher {path} has {inputs} inputs and {outputs} outputs, of shapes {list(shape)} and {list(answers)}.",
        "a file of an image classifier: one RGB image of fixed size in, one row of classes out",
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(f"The teacher {path} cannot be read: {reason}", "a .tflite or .onnx file that its runtime loads")
