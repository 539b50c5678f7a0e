"""From a camera frame to the square image that a network was trained on, in whole numbers only: the specification.

The C++ that ships in a bundle's ``c/`` does exactly this, and a gate runs it beside these functions, byte for byte.

Pixels. RGB888 and BGR888 are three bytes in the order of their letters; grey is one byte that stands for all three
channels. RGB565 holds red in bits 15 to 11, green in 10 to 5, blue in 4 to 0 of a 16-bit value, stored with its low
byte first (``RGB565_LE``, as a Cortex-M reads a ``uint16_t``) or its high byte first (``RGB565_BE``, as most sensors
send it). Its channels become eight bits by repeating their upper bits below: ``r8 = r5 << 3 | r5 >> 2``,
``g8 = g6 << 2 | g6 >> 4``.

Resize. The training rule, ``RESIZE_RULE`` of ``edgeprune.formats``, with exact weights. Along one axis of ``n`` pixels
that becomes ``s`` pixels, with ``m = max(n, s)``, pixel ``i`` counts for pixel ``x`` with the weight

    w(i, x) = max(0, 2 m - |(2 i + 1) s - (2 x + 1) n|)

a triangle over the pixel's centre, as wide as the reduction asks for. The result is
``(sum of w(i, x) * pixel(i) + W // 2) // W`` with ``W`` the sum of the weights: rounded to nearest, halves up. Rows are
done first, then columns of the rounded values. A frame of ``s`` by ``s`` pixels comes out as it went in.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Sums of weights times 255 fit 32 bits up to this side, for every image_size in the range below.
MAX_FRAME_SIDE = 4096
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 1024


class PixelFormat(IntEnum):
    """How a camera stores a pixel; the numbers are those of the C++ enumeration."""

    RGB888 = 0
    BGR888 = 1
    RGB565_LE = 2
    RGB565_BE = 3
    GREY8 = 4

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel."""
        return {PixelFormat.GREY8: 1, PixelFormat.RGB565_LE: 2, PixelFormat.RGB565_BE: 2}.get(self, 3)


def unpack_pixels(frame: "np.ndarray", pixel_format: PixelFormat) -> "np.ndarray":
    """A camera's bytes as red, green and blue.

    Args:
        frame: uint8, shape (height, width, bytes of a pixel).
        pixel_format: what the bytes are.

    Returns:
        uint8, shape (height, width, 3).

    >>> import numpy as np
    >>> unpack_pixels(np.asarray([[[0xE0, 0x07]]], np.uint8), PixelFormat.RGB565_LE).tolist()
    [[[0, 255, 0]]]
    """
    import numpy as np

    if pixel_format is PixelFormat.GREY8:
        return np.repeat(frame, 3, axis=2)
    if pixel_format in (PixelFormat.RGB888, PixelFormat.BGR888):
        return frame if pixel_format is PixelFormat.RGB888 else frame[:, :, ::-1]
    low, high = (0, 1) if pixel_format is PixelFormat.RGB565_LE else (1, 0)
    packed = frame[:, :, high].astype(np.uint16) << 8 | frame[:, :, low]
    red, green, blue = packed >> 11, packed >> 5 & 63, packed & 31
    return np.stack([red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2], axis=2).astype(np.uint8)


def pack_pixels(image: "np.ndarray", pixel_format: PixelFormat) -> "np.ndarray":
    """What a camera of this format would have stored; RGB565 drops lower bits, grey takes the green channel.

    Args:
        image: uint8, shape (height, width, 3), red, green, blue.
        pixel_format: of the result.

    Returns:
        uint8, shape (height, width, bytes of a pixel).
    """
    import numpy as np

    if pixel_format is PixelFormat.GREY8:
        return image[:, :, 1:2]
    if pixel_format in (PixelFormat.RGB888, PixelFormat.BGR888):
        return image if pixel_format is PixelFormat.RGB888 else image[:, :, ::-1]
    red, green, blue = (image[:, :, channel].astype(np.uint16) for channel in range(3))
    packed = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    halves = [packed & 255, packed >> 8]
    return np.stack(halves if pixel_format is PixelFormat.RGB565_LE else halves[::-1], axis=2).astype(np.uint8)


def resize_frame(image: "np.ndarray", image_size: int) -> "np.ndarray":
    """Squash a whole frame to the square, as the module's text specifies it.

    Args:
        image: uint8, shape (height, width, 3), sides up to ``MAX_FRAME_SIDE``.
        image_size: height and width of the result, pixels.

    Returns:
        uint8, shape (image_size, image_size, 3).

    >>> import numpy as np
    >>> resize_frame(np.asarray([[[0] * 3, [100] * 3, [200] * 3, [201] * 3]] * 8, np.uint8), 8)[0, :, 0].tolist()
    [0, 25, 75, 125, 175, 200, 201, 201]
    """
    import numpy as np

    height, width = image.shape[:2]
    across = _weights(width, image_size)
    down = _weights(height, image_size)
    rows = np.einsum("hwc,xw->hxc", image.astype(np.int64), across, optimize=True)
    rows = _divide(rows, across.sum(axis=1)[None, :, None])
    columns = np.einsum("hxc,yh->yxc", rows, down, optimize=True)
    return _divide(columns, down.sum(axis=1)[:, None, None]).astype(np.uint8)


def _weights(length: int, size: int) -> "np.ndarray":
    import numpy as np

    centres, pixels = 2 * np.arange(size) + 1, 2 * np.arange(length) + 1
    distance = np.abs(pixels[None, :] * size - centres[:, None] * length)
    weights: np.ndarray = np.maximum(2 * max(length, size) - distance, 0)
    return weights.astype(np.int64)


def _divide(sums: "np.ndarray", weights: "np.ndarray") -> "np.ndarray":
    quotients: np.ndarray = (sums + weights // 2) // weights
    return quotients
