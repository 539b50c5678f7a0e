"""Bytes, numbers and names as C++ source writes them, and read back strictly: what a gate parses is what ships.

A text that is not exactly what these functions write is refused with a ``ValueError``, so that nothing can hide between
the numbers.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_PER_LINE = 32
_WIDTH = 5  # of `0x00,`
_CONSTANT = re.compile(r"^constexpr (?:size_t|int|bool|float|u?int32_t) (k\w+)(?:\[\w+\])? = (.*);$", re.MULTILINE)
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\"|\\\\|\\\?|\\[0-3][0-7]{2})*)"')
_ESCAPE = re.compile(r"\\(\d{3}|.)")


def namespace_of(bundle: str) -> str:
    """The C++ name of a bundle; two underscores in a row are reserved in C++.

    >>> namespace_of("elpv96-s60"), namespace_of("a__b-b-0f")
    ('edgeprune_elpv96_s60', 'edgeprune_a_b_b_0f')
    """
    return "edgeprune_" + re.sub(r"_+", "_", re.sub(r"[^a-z0-9]", "_", bundle)).strip("_")


def write_bytes(content: bytes) -> str:
    """Bytes as lines of hexadecimal numbers; a megabyte takes some milliseconds.

    >>> write_bytes(bytes([0, 255]))
    '0x00,0xff,'
    """
    import numpy as np

    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    values = np.frombuffer(content, np.uint8)
    text = np.empty((len(values), _WIDTH), np.uint8)
    text[:] = np.frombuffer(b"0x00,", np.uint8)
    text[:, 2], text[:, 3] = digits[values >> 4], digits[values & 15]
    whole, width = text.tobytes().decode(), _WIDTH * _PER_LINE
    return "\n".join(whole[start : start + width] for start in range(0, len(whole), width))


def read_bytes(text: str) -> bytes:
    r"""What ``write_bytes`` wrote.

    >>> read_bytes("0x00,\n0xff,")
    b'\x00\xff'

    Raises:
        ValueError: there is anything else in it.
    """
    import numpy as np

    plain = text.replace("\n", "").encode("ascii")
    if len(plain) % _WIDTH:
        raise ValueError("it is not a row of bytes")
    table = np.frombuffer(plain, np.uint8).reshape(-1, _WIDTH)
    values = np.full(256, 255, np.uint8)
    values[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
    high, low = values[table[:, 2]], values[table[:, 3]]
    frame = table[:, [0, 1, 4]] == np.frombuffer(b"0x,", np.uint8)
    if not frame.all() or (high > 15).any() or (low > 15).any():
        raise ValueError("it is not a row of bytes")
    return (high << 4 | low).tobytes()


def write_rows(rows: "np.ndarray") -> str:
    """Whole numbers, one brace a row.

    >>> import numpy as np
    >>> print(write_rows(np.asarray([[1, -2], [3, 4]])))
    {1,-2},
    {3,4},
    """
    lines = []
    for row in rows.tolist():
        parts = [",".join(map(str, row[start : start + _PER_LINE])) for start in range(0, len(row), _PER_LINE)]
        lines.append("{" + ",\n".join(parts) + "},")
    return "\n".join(lines)


def read_rows(text: str, columns: int) -> "np.ndarray":
    """What ``write_rows`` wrote: int64, shape (rows, columns).

    Raises:
        ValueError: there is anything else in it, or a row of another length.
    """
    import numpy as np

    plain = text.replace("\n", "")
    if not (plain.startswith("{") and plain.endswith("},")):
        raise ValueError("it is not rows of numbers")
    rows = [np.asarray([_whole(number) for number in row.split(",")]) for row in plain[1:-2].split("},{")]
    if any(len(row) != columns for row in rows):
        raise ValueError(f"a row has not {columns} numbers")
    return np.stack(rows)


def write_float(value: float) -> str:
    """A float32 with all its digits.

    >>> write_float(0.5), write_float(1.0), write_float(2e-20)
    ('0.5f', '1.0f', '2e-20f')
    """
    import numpy as np

    text = str(np.float32(value))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def write_decision(difference: int) -> str:
    """The operating threshold of a two-class network, with the function that applies it to int8 outputs."""
    return f"""\
// The operating threshold, chosen on images held out of training: class 1 where its output is more than this above
// that of class 0, as stored. Neither scale nor softmax is needed; 0 would decide for the larger one.
constexpr int32_t kDecisionDifference = {difference};
inline int32_t DecideLabel(const int8_t* output) {{
  return output[1] - output[0] > kDecisionDifference ? 1 : 0;
}}"""


def write_string(text: str) -> str:
    r"""A name as UTF-8 in plain ASCII source: octal escapes, whose length is fixed, and no trigraphs.

    >>> print(write_string('caf\u00e9 "??/" \\'))
    "caf\303\251 \"\?\?/\" \\"
    """
    escaped = {ord('"'): '\\"', ord("\\"): "\\\\", ord("?"): "\\?"}
    parts = (escaped.get(byte, chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text.encode())
    return f'"{"".join(parts)}"'


def read_string(text: str) -> str:
    r"""What ``write_string`` wrote.

    >>> read_string(r'"caf\303\251 \"\?\?/\" \\"')
    'café "??/" \\'

    Raises:
        ValueError: it is no such literal.
    """
    match = _STRING.fullmatch(text)
    if match is None:
        raise ValueError("it is no string literal")
    plain = _ESCAPE.sub(lambda part: chr(int(part[1], 8)) if len(part[1]) == 3 else part[1], match[1])
    return plain.encode("latin-1").decode()


def read_constants(text: str) -> dict[str, str]:
    """Every ``constexpr`` of a header: name to what it is set to, as text.

    Raises:
        ValueError: one is set twice.
    """
    found = _CONSTANT.findall(text)
    constants = dict(found)
    if len(constants) != len(found):
        raise ValueError("a constant is set twice")
    return constants


def read_array(text: str, declaration: str) -> str:
    """What stands between the braces of an array that is defined once, on lines of its own.

    Args:
        text: of the source file.
        declaration: all that comes before `` = {``.

    Raises:
        ValueError: it is defined not at all, or more than once.
    """
    parts = text.split(f"\n{declaration} = {{\n")
    if len(parts) != 2:
        raise ValueError(f"`{declaration}` is defined {len(parts) - 1} times")
    body, end, _ = parts[1].partition("\n};\n")
    if not end:
        raise ValueError(f"`{declaration}` has no end")
    return body


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,11}", text):
        raise ValueError("it is not rows of numbers")
    return int(text)
