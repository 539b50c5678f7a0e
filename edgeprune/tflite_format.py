"""TFLite flatbuffers as TFLite Micro needs them: read into objects, written with every buffer inside and aligned.

The quantizer puts weights above 256 KiB behind the flatbuffer and notes only their place; TFLite Micro ignores the
note and computes with garbage, without an error. So what ships is always written by ``write_model``, and gates read
with ``read_model``. Needs the package ai-edge-litert (extra ``mcu``), no torch.
"""

import functools
import struct
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError

if TYPE_CHECKING:
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

FILE_IDENTIFIER = b"TFL3"
# What the schema demands of weights (`force_align: 16`), and what vector units read fastest.
ALIGNMENT = 16


def read_model(content: bytes, *, origin: str = "the model") -> "schema.ModelT":
    """The flatbuffer as a tree of objects; weights stay where ``Buffer.offset`` says, behind it.

    Raises:
        InputError: not a TFLite flatbuffer, or one that is cut short.
    """
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != FILE_IDENTIFIER:
        raise InputError(f"{origin} is no TFLite file: it has no {FILE_IDENTIFIER.decode()}.", "export it again")
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except (struct.error, IndexError, TypeError, ValueError, OverflowError, MemoryError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{origin} is a damaged TFLite file ({reason}).", "export it again") from None


def inline_buffers(model: "schema.ModelT", content: bytes) -> "schema.ModelT":
    """Bring weights that lie behind the flatbuffer back into it; changes and returns the model.

    Args:
        model: as read from ``content``.
        content: the whole file.

    Raises:
        InputError: a buffer points outside the file.
    """
    import numpy as np

    for index, buffer in enumerate(model.buffers):
        if buffer.offset > 1 or buffer.size > 1:  # 0 and 1 stand for "inside" in the schema
            end = buffer.offset + buffer.size
            if end > len(content):
                raise InputError(
                    f"Buffer {index} ends at byte {end} of a file of {len(content)}.", "export the level again"
                )
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return model


def write_model(model: "schema.ModelT") -> bytes:
    """Serialise with every buffer inside, each on a 16-byte boundary, and the file identifier TFL3.

    Equal models give equal bytes.

    Raises:
        ValueError: a buffer still lies outside; ``inline_buffers`` first.
    """
    import flatbuffers

    outside = [index for index, buffer in enumerate(model.buffers) if buffer.offset > 1 or buffer.size > 1]
    if outside:
        raise ValueError(f"buffers {outside} lie outside the flatbuffer")
    for buffer in model.buffers:
        # The generated code aligns bytes to 1, whatever the schema says.
        buffer.Pack = functools.partial(_pack_aligned, buffer)
    try:
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())
    finally:
        for buffer in model.buffers:
            del buffer.Pack


def _pack_aligned(buffer: "schema.BufferT", builder: "Builder") -> int:
    from ai_edge_litert import schema_py_generated as schema

    vector = None
    if buffer.data is not None and len(buffer.data):
        content = bytes(bytearray(buffer.data))
        builder.StartVector(1, len(content), ALIGNMENT)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        vector = builder.EndVector()
    schema.BufferStart(builder)
    if vector is not None:
        schema.BufferAddData(builder, vector)
    return schema.BufferEnd(builder)  # type: ignore[no-any-return]


@functools.cache
def _operator_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def operator_names(model: "schema.ModelT") -> tuple[str, ...]:
    """The operators of the graph in the order they run, named as the schema names them (``CONV_2D``)."""
    kinds = [operator_kind(code) for code in model.operatorCodes]
    return tuple(kinds[operator.opcodeIndex] for operator in model.subgraphs[0].operators)


def operator_kind(code: Any) -> str:
    """The name of one entry of ``operatorCodes``; a custom operator's own name in brackets."""
    # Files from before 127 operators existed keep the number in the deprecated field.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _operator_names().get(number, f"unknown {number}")
    return f"CUSTOM({(code.customCode or b'').decode(errors='replace')})" if name == "CUSTOM" else name
