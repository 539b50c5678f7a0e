"""Gates on the ONNX file itself: valid, whole, finite, named as promised, without traces of this machine.

Every gate reads the bytes that ship, never what the exporter says it wrote.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from edgeprune.errors import InputError
from edgeprune.results import Gate
from edgeprune.verify.onnx_runtime import open_session, read_metadata, run_onnx

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import ModelProto, TensorProto

_OPSET = 18
_SIGNATURE = "input -> logits"
# Places where files of a person or a build live: POSIX, macOS, Windows drives.
_LOCAL_PATHS = r"/home/|/tmp/|/root\b|/Users/|/var/folders/|\b[A-Za-z]:\\"


def check_graph(path: Path) -> tuple[Gate, ...]:
    """Check a file by its content, and that onnxruntime runs it at all.

    Args:
        path: the ONNX file.

    Returns:
        Gates ``onnx_checker`` (with strict shape inference), ``onnxruntime_runs``, ``opset``, ``single_file``,
        ``finite_weights``, ``names`` and ``no_local_paths``; only the first, failed, when the file is not ONNX at all.
    """
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    try:
        model = ModelProto.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        return (_checker_gate(f"cannot be read: {error}"),)
    messages = tuple(_walk(model))
    return (
        _check_validity(model),
        _check_running(path),
        _check_opset(model),
        _check_single_file(messages),
        _check_finite(messages),
        _check_names(model),
        _check_local_paths(messages),
    )


def check_metadata(path: Path, expected: dict[str, str]) -> Gate:
    """Check that the file carries this metadata; keys beyond it are allowed.

    Needs numpy and onnxruntime only. A file that cannot be loaded fails the gate.

    Args:
        path: the ONNX file.
        expected: required keys and their values.
    """
    try:
        found = read_metadata(path)
    except InputError as error:
        return Gate(name="metadata", figure="unreadable", limit="0 keys differ", passed=False, detail=error.problem)
    differing = sorted(key for key, value in expected.items() if found.get(key) != value)
    detail = f"{len(expected)} keys compared"
    if differing:
        key = differing[0]
        shown = repr(found[key]) if key in found else "missing"
        detail = f"{key} is {shown}, expected {expected[key]!r}; differing keys: {', '.join(differing)}"
    passed = not differing and bool(expected)
    return Gate(name="metadata", figure=len(differing), limit="0 keys differ", passed=passed, detail=detail)


def _walk(message: "Message") -> "Iterator[Message]":
    """A message and every message inside it: graphs, nodes, attributes, tensors, types, metadata."""
    from google.protobuf.message import Message

    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _walk(part)


def _checker_gate(problem: str) -> Gate:
    return Gate(
        name="onnx_checker",
        figure="invalid" if problem else "valid",
        limit="valid",
        passed=not problem,
        detail=problem or "onnx.checker with strict shape inference",
    )


def _check_validity(model: "ModelProto") -> Gate:
    import onnx

    try:
        # From bytes, so that tensors outside the file are not looked for beside it.
        onnx.checker.check_model(model.SerializeToString(), full_check=True)
    except Exception as error:  # ValidationError, InferenceError and what C++ throws share no base class
        return _checker_gate(" ".join(str(error).split())[:500] or type(error).__name__)
    return _checker_gate("")


def _check_running(path: Path) -> Gate:
    import numpy as np

    # onnx.checker lets through a convolution whose weights do not fit its input; onnxruntime finds it as it runs.
    try:
        session = open_session(path)
        shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
        run_onnx(path, np.zeros(shape, np.float32), session=session)
    except InputError as error:
        problem = error.problem
    else:
        problem = ""
    figure = "fails" if problem else "runs"
    detail = problem or "one image of zeros"
    return Gate(name="onnxruntime_runs", figure=figure, limit="runs", passed=not problem, detail=detail)


def _check_opset(model: "ModelProto") -> Gate:
    found = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    shown = ", ".join(f"{domain} {version}" for domain, version in sorted(found.items())) or "none"
    passed = found == {"ai.onnx": _OPSET}
    return Gate(name="opset", figure=shown, limit=f"ai.onnx {_OPSET}", passed=passed, detail="as written in the file")


def _check_single_file(messages: "tuple[Message, ...]") -> Gate:
    tensors = _tensors(messages)
    outside = [tensor.name for tensor in tensors if _is_external(tensor)]
    detail = f"{len(tensors)} tensors" + (f", outside the file: {', '.join(outside[:3])}" if outside else "")
    limit = "0 tensors outside the file"
    return Gate(name="single_file", figure=len(outside), limit=limit, passed=not outside, detail=detail)


def _check_finite(messages: "tuple[Message, ...]") -> Gate:
    import numpy as np
    from onnx import AttributeProto, numpy_helper

    count, where = 0, []
    for message in messages:
        if isinstance(message, AttributeProto):
            bad = sum(not np.isfinite(value) for value in (message.f, *message.floats))
            name = f"attribute {message.name}"
        elif _is_tensor(message) and not _is_external(message):
            name = message.name or "a constant"
            try:
                values = numpy_helper.to_array(message)
            except Exception as error:  # a damaged tensor can fail in as many ways as it can be damaged
                detail = f"{name} cannot be read: {' '.join(str(error).split())[:300]}"
                return Gate(name="finite_weights", figure="unreadable", limit="0 values", passed=False, detail=detail)
            # bfloat16 and float8 are of kind V, which numpy itself does not compute with.
            values = values.astype(np.float32) if values.dtype.kind == "V" else values
            bad = int(np.count_nonzero(~np.isfinite(values))) if values.dtype.kind in "fc" else 0
        else:
            continue
        if bad:
            count += bad
            where.append(name)
    detail = f"NaN or infinity in {', '.join(where[:3])}" if where else "no NaN, no infinity in weights and attributes"
    return Gate(name="finite_weights", figure=count, limit="0 values", passed=count == 0, detail=detail)


def _check_names(model: "ModelProto") -> Gate:
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [value for value in model.graph.input if value.name not in weights]
    results = list(model.graph.output)
    shown = f"{', '.join(value.name for value in sources)} -> {', '.join(value.name for value in results)}"
    first = [_first_dimension(value.type.tensor_type.shape) for value in (*sources, *results)]
    passed = shown == _SIGNATURE and first in ([1, 1], ["batch", "batch"])
    detail = f"first dimensions {first}, wanted 1 or `batch` on both"
    return Gate(name="names", figure=shown, limit=_SIGNATURE, passed=passed, detail=detail)


def _first_dimension(shape: "Message") -> int | str:
    from onnx import TensorShapeProto

    assert isinstance(shape, TensorShapeProto)
    if not shape.dim:
        return "none"
    size: int | str = shape.dim[0].dim_param or shape.dim[0].dim_value
    return size


def _check_local_paths(messages: "tuple[Message, ...]") -> Gate:
    pattern = re.compile("|".join((_LOCAL_PATHS, *_own_traces())))
    texts = [text for message in messages for text in _texts(message)]
    found = [text for text in texts if pattern.search(text)]
    detail = f"{len(texts)} texts searched"
    if found:
        match = pattern.search(found[0])
        assert match is not None
        start = max(match.start() - 20, 0)
        detail = f"for example {found[0][start : match.end() + 40]!r}"
    limit = "0 texts with an absolute path or a user name"
    return Gate(name="no_local_paths", figure=len(found), limit=limit, passed=not found, detail=detail)


def _own_traces() -> Iterator[str]:
    """Patterns of this user's name as a part of a path, and of the working directory."""
    folder = str(Path.cwd())
    if len(folder) > 1:
        yield re.escape(folder) + r"(?![\w-])"
    try:
        import os
        import pwd

        user = pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        # Windows, or a container whose user has no entry: the general patterns remain.
        return
    # Short names (`ci`, `pi`) are parts of ordinary words and of module paths.
    if len(user) > 3:
        yield r"[/\\]" + re.escape(user) + r"(?![\w-])"


def _texts(message: "Message") -> Iterator[str]:
    for field, value in message.ListFields():
        # raw_data holds numbers; every other bytes field (`s`, `strings`, `string_data`) holds text.
        if field.type in (field.TYPE_STRING, field.TYPE_BYTES) and field.name != "raw_data":
            for text in (value,) if isinstance(value, str | bytes) else value:
                yield text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _tensors(messages: "tuple[Message, ...]") -> "list[TensorProto]":
    return [message for message in messages if _is_tensor(message)]


def _is_tensor(message: "Message") -> "TypeGuard[TensorProto]":
    from onnx import TensorProto

    return isinstance(message, TensorProto)


def _is_external(tensor: "TensorProto") -> bool:
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL
