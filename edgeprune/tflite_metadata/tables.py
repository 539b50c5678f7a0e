"""Flatbuffer tables by field number: written from nested values, read field by field.

Enough for a schema of a few tables whose generated code is not to be had: the package that brings it, tflite-support,
links a system library (libusb) that most machines do not have.
"""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flatbuffers import Builder
    from flatbuffers.table import Table

# A text; a table, as its field numbers and their values; or a vector of tables or of floats. Of the fields of a table,
# an int is an unsigned word, and an `Enum` one byte.
Value = str | int | dict[int, Any] | list[Any]

UNION_KIND, UNION_VALUE = 0, 1


class Enum(int):
    """A value of an enumeration: one byte."""


def write_root(table: dict[int, Any], identifier: bytes) -> bytes:
    """A flatbuffer with this table as its root; equal tables give equal bytes.

    >>> root = read_root(write_root({0: "a name", 2: [1.0, 2.0]}, b"TEST"), b"TEST")
    >>> get_text(root, 0), get_floats(root, 2)
    ('a name', (1.0, 2.0))
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, table), identifier)
    return bytes(builder.Output())


def read_root(content: bytes, identifier: bytes) -> "Table":
    """The root table. This and all below raise what damaged bytes make them raise: ValueError, struct.error, TypeError.

    Raises:
        ValueError: another identifier.
    """
    from flatbuffers import encode, packer
    from flatbuffers.table import Table

    if content[4:8] != identifier:
        raise ValueError(f"it has no {identifier.decode()}")
    return Table(content, encode.Get(packer.uoffset, content, 0))


def get_table(table: "Table", field: int) -> "Table":
    """A table inside a table."""
    return type(table)(table.Bytes, table.Indirect(table.Pos + _place(table, field)))


def get_only_table(table: "Table", field: int) -> "Table":
    """The one table of a vector of tables."""
    place = _place(table, field)
    if table.VectorLen(place) != 1:
        raise ValueError(f"{table.VectorLen(place)} entries where one is expected")
    return type(table)(table.Bytes, table.Indirect(table.Vector(place)))


def get_union(table: "Table", kind: int) -> "Table":
    """The value of a union that is the only thing in its table."""
    if get_number(table, UNION_KIND, bits=8) != kind:
        raise ValueError("a union is of another kind")
    return get_table(table, UNION_VALUE)


def get_number(table: "Table", field: int, *, bits: Literal[8, 32]) -> int:
    """An unsigned number of that many bits; the writer leaves out zero, which reads as missing."""
    from flatbuffers import number_types

    kind = number_types.Uint8Flags if bits == 8 else number_types.Uint32Flags
    return int(table.Get(kind, table.Pos + _place(table, field)))


def get_text(table: "Table", field: int) -> str:
    """A string."""
    text: bytes = table.String(table.Pos + _place(table, field))
    return text.decode()


def get_floats(table: "Table", field: int) -> tuple[float, ...]:
    """A vector of float32."""
    from flatbuffers import number_types

    place = _place(table, field)
    start, count = table.Vector(place), table.VectorLen(place)
    if start + 4 * count > len(table.Bytes):
        raise ValueError(f"{count} values where there is no room for them")
    return tuple(float(table.Get(number_types.Float32Flags, start + 4 * index)) for index in range(count))


def _write(builder: "Builder", value: Value) -> int:
    """Write a text, a table, or a list of tables or of floats; the place where it begins."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, list):
        items = [item if isinstance(item, float) else _write(builder, item) for item in value]
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            (builder.PrependFloat32 if isinstance(item, float) else builder.PrependUOffsetTRelative)(item)
        return int(builder.EndVector())
    assert isinstance(value, dict)
    # A flatbuffer is written from the leaves up.
    places = {field: _write(builder, item) for field, item in value.items() if not isinstance(item, int)}
    builder.StartObject(max(value, default=-1) + 1)
    for field, item in value.items():
        if field in places:
            builder.PrependUOffsetTRelativeSlot(field, places[field], 0)
        else:
            (builder.PrependUint8Slot if isinstance(item, Enum) else builder.PrependUint32Slot)(field, item, 0)
    return int(builder.EndObject())


def _place(table: "Table", field: int) -> int:
    offset = table.Offset(4 + 2 * field)
    if offset == 0:
        raise ValueError(f"a field is missing, number {field} of its table")
    return int(offset)
