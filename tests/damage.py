"""Tools to spoil a real bundle in one place and keep all else in step, as a mistaken or hostile publisher would."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from bundle_factory import reseal
from onnx import numpy_helper

from edgeprune.cpp_literals import write_bytes
from edgeprune.embedded import Quantisation
from edgeprune.formats import (
    ModelMetadata,
    PreprocessRecord,
    encode_record,
    feed_images,
    make_file_input,
    parse_metadata,
)
from edgeprune.manifest import FileEntry, make_manifest
from edgeprune.tflite_format import operator_names, read_model, write_model
from edgeprune.tflite_metadata import add_metadata, read_metadata
from edgeprune.tflite_metadata.standard import pack_labels
from edgeprune.verify.bundle_texts import read_texts

FLOAT32, INT32, INT8 = 0, 2, 9
INT8_FILE = "model_int8.tflite"


def rewrite_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Read, change, write."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rewrite_text(path: Path, pattern: str, replacement: str) -> None:
    """Replace the one place that fits; a damage that finds nothing to damage is an error of the test."""
    text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
    assert count == 1, (path.name, pattern, count)
    path.write_text(text)


def entry_of(values: dict[str, Any], path: str) -> dict[str, Any]:
    """Of ``preprocess.json`` or ``golden.json``: what is said of one file."""
    return next(entry for entry in values["files"] if entry["path"] == path)


def store_int8(folder: Path, content: bytes) -> None:
    """Put an int8 file into a bundle, and into its firmware, so that the array is not what gives it away."""
    (folder / INT8_FILE).write_bytes(content)
    rewrite_text(folder / "c/model_data.h", r"kModelBytes = \d+;", f"kModelBytes = {len(content)};")
    source = folder / "c/model_data.cc"
    opening, array, _ = source.read_text().partition(" EDGEPRUNE_FLASH = {\n")
    closing = source.read_text()[source.read_text().index("\n};\n") :]
    source.write_text(opening + array + write_bytes(content) + closing)


def edit_tflite(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a TFLite file's graph; buffers stay aligned and the labels packed."""
    content = (folder / name).read_bytes()
    model = read_model(content)
    change(model)
    changed = pack_labels(write_model(model), read_metadata(content, origin=name).labels)
    if name == INT8_FILE:
        store_int8(folder, changed)
    else:
        (folder / name).write_bytes(changed)


def pack_plainly(model: Any) -> bytes:
    """As the schema's generated code writes it: bytes wherever they fall, and buffers outside where they are."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def edit_metadata(folder: Path, changes: dict[str, object], *, names: tuple[str, ...] | None = None) -> None:
    """Change what model files say about themselves, in every place where they say it."""
    for path in sorted(folder.glob("model*")):
        if names is not None and path.name not in names:
            continue
        if path.suffix == ".tflite":
            content = path.read_bytes()
            fields = _changed(read_metadata(content, origin=path.name), changes)
            marked = add_metadata(content, fields, int8="_int8" in path.name)
            if path.name == INT8_FILE:
                store_int8(folder, marked)
            else:
                path.write_bytes(marked)
        else:
            model = onnx.load(path)
            properties = {each.key: each.value for each in model.metadata_props}
            onnx.helper.set_model_props(
                model, _changed(parse_metadata(properties, origin=path.name), changes).as_text()
            )
            onnx.save(model, path)


def _changed(fields: ModelMetadata, changes: dict[str, object]) -> ModelMetadata:
    return ModelMetadata.model_validate({**fields.model_dump(), **changes})


def edit_onnx(folder: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change an ONNX file's graph."""
    model = onnx.load(folder / name)
    change(model)
    onnx.save(model, folder / name)


def onnx_tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """A constant by its name."""
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def edit_constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace a constant's values."""
    tensor = onnx_tensor(model, name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def weight_pair(model: onnx.ModelProto, kind: str = "Conv", index: int = 0, which: int = 1) -> list[str]:
    """Names of stored values, scale and zero point that an int8 layer's weights (or bias: 2) come through."""
    layer = [node for node in model.graph.node if node.op_type == kind][index]
    return list(next(node for node in model.graph.node if layer.input[which] in node.output).input)


def weights_of(model: Any, operator: int, *, which: int = 1) -> np.ndarray:
    """A copy of a TFLite operator's weights (or bias: 2), in their shape."""
    tensor = model.subgraphs[0].tensors[model.subgraphs[0].operators[operator].inputs[which]]
    dtype = {FLOAT32: np.float32, INT32: np.int32, INT8: np.int8}[tensor.type]
    raw = bytes(bytearray(model.buffers[tensor.buffer].data))
    return np.frombuffer(raw, dtype).reshape(tensor.shape).copy()


def set_weights(model: Any, operator: int, values: np.ndarray, *, which: int = 1) -> None:
    """Store what ``weights_of`` gave."""
    tensor = model.subgraphs[0].tensors[model.subgraphs[0].operators[operator].inputs[which]]
    model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def operator_at(model: Any, kind: str, index: int = 0) -> int:
    """Position of an operator of a kind in the graph; -1 for the last one."""
    return [place for place, name in enumerate(operator_names(model)) if name == kind][index]


def opcode(model: Any, kind: str) -> int:
    """Index of an operator's code, added where the file has none."""
    number = getattr(schema.BuiltinOperator, kind)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_tensor(model: Any, like: int, *, kind: int | None = None) -> int:
    """A new activation with the shape of another, float32 where ``kind`` says so."""
    graph, source = model.subgraphs[0], model.subgraphs[0].tensors[like]
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer, tensor.name = source.shape, source.type, 0, b""
    tensor.hasRank, tensor.quantization = True, source.quantization
    if kind is not None:
        tensor.type, tensor.quantization = kind, None
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_constant(model: Any, values: np.ndarray, kind: int) -> int:
    """A new constant tensor."""
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.shape, tensor.type, tensor.buffer, tensor.name = list(values.shape), kind, len(model.buffers) - 1, b""
    tensor.hasRank = True
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def insert_operator(model: Any, place: int, kind: str, inputs: list[int], outputs: list[int]) -> Any:
    """A new operator before the one at that place."""
    operator = schema.OperatorT()
    operator.opcodeIndex = opcode(model, kind)
    operator.inputs, operator.outputs = inputs, outputs
    model.subgraphs[0].operators.insert(place, operator)
    return operator


def fit_firmware_operators(folder: Path) -> None:
    """Write the resolver for the operators that the int8 file has now."""
    from edgeprune.micro_operators import RESOLVER_METHODS

    kinds = sorted(set(operator_names(read_model((folder / INT8_FILE).read_bytes()))))
    lines = "".join(
        f"  if (resolver->{RESOLVER_METHODS.get(kind, 'AddUnknown')}() != kTfLiteOk) return kTfLiteError;\n"
        for kind in kinds
    )
    rewrite_text(folder / "c/op_resolver.h", r"(?:^  if \(resolver->\w+\(\) .*\n)+", lines)
    rewrite_text(folder / "c/op_resolver.h", r"kOperatorKinds = \d+;", f"kOperatorKinds = {len(kinds)};")


def edit_images(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change every golden image, one after the other."""
    height, width, _ = json.loads((folder / "golden/golden.json").read_text())["shape"]
    for path in sorted((folder / "golden").glob("*.rgb")):
        image = np.fromfile(path, np.uint8).reshape(height, width, 3)
        path.write_bytes(np.ascontiguousarray(change(image)).tobytes())


def set_mean(folder: Path, mean: tuple[float, float, float]) -> None:
    """Another mean in ``preprocess.json``, with the integer arithmetic that follows from it."""
    path = folder / "preprocess.json"
    rule = PreprocessRecord.model_validate_json(path.read_bytes()).model_copy(update={"mean": mean})
    files = []
    for file in rule.files:
        source, result = file.input.quantisation, file.output.quantisation
        files.append(
            make_file_input(
                file.path,
                layout=file.layout,
                image_size=rule.image_size,
                classes=file.output.shape[-1],
                mean=mean,
                std=rule.std,
                input_quantisation=source and Quantisation(scale=source.scale, zero_point=source.zero_point),
                output_quantisation=result and Quantisation(scale=result.scale, zero_point=result.zero_point),
                rotate_180=file.rotate_180,
                dynamic_batch=file.dynamic_batch,
            )
        )
    path.write_bytes(encode_record(rule.model_copy(update={"files": tuple(files)})))


def write_vectors(folder: Path) -> None:
    """Raw golden inputs and outputs again, from the images, preprocessing and expected outputs as they stand."""
    texts = read_texts(folder)
    for golden in texts.golden.files:
        file = texts.input_of(golden.path)
        assert file is not None
        fed = feed_images(texts.images[: len(golden.vectors)], file, mean=texts.rule.mean, std=texts.rule.std)
        for index, vector in enumerate(golden.vectors):
            (folder / vector.input).write_bytes(fed[index].tobytes())
            outputs = np.asarray(golden.outputs[index], np.dtype(golden.output.dtype))
            (folder / vector.output).write_bytes(outputs.tobytes())


def rename_model(folder: Path, old: str, new: str) -> None:
    """Another name for a model file, in every text and in the manifest; what the file is stays."""
    from edgeprune.manifest import parse_manifest

    before, after = (f"golden/{name.replace('.', '_')}" for name in (old, new))
    (folder / old).rename(folder / new)
    (folder / before).rename(folder / after)
    for name in ("preprocess.json", "golden/golden.json", "verify.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(f"{before}/", f"{after}/").replace(old, new))
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), origin="manifest.json")
    files = [
        FileEntry.model_validate(
            {**entry.model_dump(), "path": entry.path.replace(f"{before}/", f"{after}/") if entry.path != old else new}
        )
        for entry in manifest.files
    ]
    renamed = make_manifest(name=manifest.name, level=manifest.level, version=manifest.edgeprune, files=files)
    (folder / "manifest.json").write_bytes(encode_record(renamed))
    reseal(folder)
