"""The two entries in a model's list of metadata, and the zip behind the model."""

import json
import struct
import zipfile
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.formats import ModelMetadata, parse_metadata
from edgeprune.tflite_format import inline_buffers, read_model, write_model
from edgeprune.tflite_metadata.standard import (
    LABELS_FILE,
    StandardMetadata,
    decode_standard,
    encode_standard,
    pack_labels,
    unpack_labels,
)

if TYPE_CHECKING:
    from ai_edge_litert import schema_py_generated as schema

STANDARD_ENTRY = "TFLITE_METADATA"
OWN_ENTRY = "EDGEPRUNE_METADATA"

# What damaged tables and damaged zips make their readers raise.
_DAMAGE = (
    *(struct.error, IndexError, TypeError, ValueError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, KeyError, RuntimeError, EOFError, OSError),
)


def add_metadata(content: bytes, fields: ModelMetadata, *, int8: bool) -> bytes:
    """The same model with the standard metadata, ours, and the labels packed behind it.

    Equal arguments give equal bytes. Metadata that is already there under these names is replaced.

    Args:
        content: a model with one input (1, height, width, 3) and one output (1, classes).
        fields: what is said; its labels hold no line breaks, since the standard stores one label a line.
        int8: the input is int8; the standard's least and largest values are then the stored ones.

    Raises:
        InputError: it is no TFLite file, or a label is empty or has a line break.
        ValueError: the model's input is of another type.
    """
    for label in fields.labels:
        if not label or label.splitlines() != [label]:
            raise InputError(
                f"The class name {label!r} cannot be a line of {LABELS_FILE}.", "rename that class, then export again"
            )
    model = inline_buffers(read_model(content), content)
    _set_entry(model, STANDARD_ENTRY, encode_standard(fields, *_find_extremes(model, fields, int8=int8)))
    _set_entry(model, OWN_ENTRY, json.dumps(fields.as_text(), sort_keys=True).encode())
    return pack_labels(write_model(model), fields.labels)


def read_metadata(content: bytes, *, origin: str) -> ModelMetadata:
    """Our own entry of a file, checked field by field.

    Raises:
        InputError: it is no TFLite file, has no such entry, or a field does not fit; the sentence names it.
    """
    entry = _find_entry(content, OWN_ENTRY, origin=origin)
    try:
        properties = json.loads(entry)
        if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
            raise ValueError("it is no object of texts")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: {OWN_ENTRY} is not readable ({error}).", "export it again") from None
    return parse_metadata(properties, origin=origin)


def read_standard(content: bytes, *, origin: str = "the model") -> StandardMetadata:
    """The standard's entry of a file, and the labels packed behind it, read by the schema's field numbers.

    Raises:
        InputError: it is no TFLite file, has no such entry, the entry or the zip is damaged, or it does not describe
            one RGB image of fixed square size with its normalisation and one output with labels.
    """
    entry = _find_entry(content, STANDARD_ENTRY, origin=origin)
    try:
        return decode_standard(entry, lambda name: unpack_labels(content, name))
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{origin}: {STANDARD_ENTRY} is not readable ({reason}).", "export it again") from None


def _set_entry(model: "schema.ModelT", name: str, content: bytes) -> None:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    entries = model.metadata or []
    found = [entry for entry in entries if entry.name == name.encode()]
    if found:
        buffer = model.buffers[found[0].buffer]
    else:
        entry, buffer = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*entries, entry]
    buffer.data = np.frombuffer(content, np.uint8)


def _find_entry(content: bytes, name: str, *, origin: str) -> bytes:
    model = read_model(content, origin=origin)
    found = [entry for entry in model.metadata or [] if entry.name == name.encode()]
    if len(found) != 1:
        raise InputError(f"{origin} has {len(found)} entries {name}, not one.", "export it again")
    index = found[0].buffer
    data = model.buffers[index].data if index < len(model.buffers) else None
    if data is None or not len(data):
        raise InputError(f"{origin}: the entry {name} points to no bytes.", "export it again")
    return bytes(bytearray(data))


def _find_extremes(model: "schema.ModelT", fields: ModelMetadata, *, int8: bool) -> tuple[list[float], list[float]]:
    """Least and largest value of each channel of the input tensor: of black and of white pixels."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.type != (schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32):
        raise ValueError(f"int8 is {int8}, but the input is of type {tensor.type}")
    channels = list(zip(fields.mean, fields.std, strict=True))
    low, high = [-mean / std for mean, std in channels], [(1 - mean) / std for mean, std in channels]
    if int8:
        scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
        low, high = (
            [float(min(max(round(value / scale) + zero_point, -128), 127)) for value in values]
            for values in (low, high)
        )
    return low, high
