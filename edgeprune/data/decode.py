"""From the bytes of an image file to the pixels that every stage sees: one definition, with every choice stated."""

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Part of every cache's key: raise it whenever a pixel may come out differently.
DECODER_VERSION = 1
# Pillow's own limit, held here too because Pillow's can be changed by any library in the process.
PIXEL_LIMIT = 178_956_970
# The formats of IMAGE_SUFFIXES; a phone's MPO opens as JPEG. Pillow looks at the content, not at the name: without
# this list an EPS file called .jpg would start Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class BrokenImageError(Exception):
    """A file that is no usable image; the message is the reason, without the file's name."""


@contextmanager
def prepared_decoders() -> Iterator[None]:
    """Around the decoding of many images, in one thread or several; to be entered in the main thread."""
    from PIL import Image

    # Pillow loads its decoders at the first use, which is not safe in several threads at once.
    Image.init()
    # Pillow warns of odd metadata and large sizes; what matters is whether the pixels come out. Filters belong to
    # the process, so this covers the threads as well.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_image(path: Path, image_size: int) -> "tuple[np.ndarray, str]":
    """Read and decode one file.

    Returns:
        Pixels as from ``decode_image``, and the SHA-256 of the file's bytes.

    Raises:
        BrokenImageError: the file cannot be read, or its content is no image.
    """
    try:
        # Opening a named pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise BrokenImageError("not a regular file")
        content = path.read_bytes()
    except OSError as error:
        raise BrokenImageError(error.strerror or "cannot be read") from None
    return decode_content(content, image_size)


def decode_content(content: bytes | None, image_size: int) -> "tuple[np.ndarray, str]":
    """Decode the bytes of an image file; None is a row of a table that holds none.

    Returns:
        Pixels as from ``decode_image``, and the SHA-256 of the bytes.

    Raises:
        BrokenImageError: there is no content, or it is no image.
    """
    if content is None:
        raise BrokenImageError("the row holds no image of the set")
    return decode_image(content, image_size), hashlib.sha256(content).hexdigest()


def decode_image(content: bytes, image_size: int) -> "np.ndarray":
    """Decode an image file and squash it to a square.

    The EXIF orientation is applied first. Transparent images are laid on white, as viewers show them. Grey images
    become three equal channels; 16-bit grey keeps its upper 8 bits (value / 257, rounded). CMYK is converted by
    Pillow without a colour profile, and embedded profiles are ignored. Of an animation the first frame counts.
    Resizing is ``RESIZE_RULE`` of ``edgeprune.formats``; images more than twice too large are first reduced by a whole
    factor (by the JPEG decoder itself, else by averaging), which leaves at least twice the size asked for.

    Args:
        content: the bytes of a BMP, GIF, JPEG, PNG, PPM or PGM, TIFF or WebP file.
        image_size: height and width of the result, pixels.

    Returns:
        uint8, shape (image_size, image_size, 3), RGB.

    Raises:
        BrokenImageError: empty, truncated, no image, more pixels than ``PIXEL_LIMIT``, or pixels without a range.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if not content:
        raise BrokenImageError("zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise BrokenImageError(f"{image.width} x {image.height} pixels, more than {PIXEL_LIMIT:,}")
            image.draft(None, (2 * image_size, 2 * image_size))
            ImageOps.exif_transpose(image, in_place=True)
            plain = _to_eight_bits(image)
        square = plain.resize((image_size, image_size), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(square.convert("RGB"))
    except (BrokenImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise nearly anything on hostile bytes: OSError, SyntaxError, ValueError, struct.error.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImageError("not an image" if "cannot identify image file" in reason else reason) from None


def _to_eight_bits(image: "Image.Image") -> "Image.Image":
    """The image in mode L or RGB."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        # 16-bit grey; mode I is what Pillow makes of 16-bit PGM and, in some versions, of PNG.
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise BrokenImageError(f"grey values {pixels.min()} to {pixels.max()}, outside 0 to 65535")
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BrokenImageError("floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        # Premultiplied modes must be undone before they can be laid on anything.
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode in {"L", "RGB"} else image.convert("RGB")
