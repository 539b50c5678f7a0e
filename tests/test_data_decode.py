"""Every kind of image file that people have, made with Pillow or byte by byte, becomes the pixels one expects."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeprune.data.decode import BrokenImageError, decode_image, read_image
from edgeprune.data.imagefolder import IMAGE_SUFFIXES

# Red, green / blue, white: its corners tell every orientation apart.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corners(size: int = 32) -> Image.Image:
    return Image.fromarray(CORNERS.repeat(size // 2, axis=0).repeat(size // 2, axis=1))


def read_corners(pixels: np.ndarray) -> np.ndarray:
    return pixels[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(2, 2, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("PPM", {}),
    ],
)
def test_lossless_files_of_the_right_size_come_through_unchanged(kind: str, options: dict[str, object]) -> None:
    image = corners()
    assert (decode_image(encode(image, kind, **options), 32) == np.asarray(image)).all()


def test_jpeg_comes_through_nearly_unchanged() -> None:
    pixels = decode_image(encode(corners(), "JPEG", quality=95), 32)
    assert np.abs(read_corners(pixels).astype(int) - CORNERS).max() <= 8


def test_every_suffix_that_is_looked_for_can_be_decoded() -> None:
    """A suffix in the list whose decoder is closed would make every such file a broken one."""
    for suffix in IMAGE_SUFFIXES:
        image = corners().convert("L") if suffix == ".pgm" else corners()
        file = io.BytesIO()
        file.name = f"x{suffix}"
        image.save(file)
        assert decode_image(file.getvalue(), 8).shape == (8, 8, 3)


def test_grey_becomes_three_equal_channels() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = decode_image(encode(Image.fromarray(ramp), "PNG"), 16)
    assert (pixels == ramp[..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    """Pillow's own conversion clips at 255, which turns a 16-bit photograph white."""
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pixels = decode_image(encode(Image.fromarray(deep), kind), 16)
    assert (pixels[..., 0] == np.arange(256).reshape(16, 16)).all()


def test_black_and_white_files_are_black_and_white() -> None:
    board = np.indices((16, 16)).sum(axis=0) % 2 == 0
    assert (decode_image(encode(Image.fromarray(board), "PNG"), 16)[..., 1] == board * 255).all()


def test_a_palette_is_looked_up() -> None:
    image = corners().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert (read_corners(decode_image(encode(image, "PNG"), 32)) == CORNERS).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    """Below full transparency files hold anything; dropping alpha would show it."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert (decode_image(encode(image, "PNG"), 8) == 255).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128)).convert(mode)
    assert np.abs(decode_image(encode(half, "PNG"), 8).astype(int) - 127).max() <= 1


def test_the_transparent_colour_of_a_palette_is_white_too() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert (decode_image(encode(image, "PNG", transparency=1), 8) == 255).all()
    assert (decode_image(encode(image, "PNG", transparency=b"\xff\x00"), 8) == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode_image(encode(image, kind), 16)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "shown"),
    [
        (1, CORNERS),
        (2, CORNERS[:, ::-1]),
        (3, CORNERS[::-1, ::-1]),
        (4, CORNERS[::-1]),
        (5, CORNERS.transpose(1, 0, 2)),
        (6, np.rot90(CORNERS, -1)),
        (7, np.rot90(CORNERS, 2).transpose(1, 0, 2)),
        (8, np.rot90(CORNERS)),
    ],
)
def test_the_orientation_in_exif_is_applied(kind: str, orientation: int, shown: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encode(corners(), kind, exif=exif), 32)
    assert np.abs(read_corners(pixels).astype(int) - shown).max() <= 8


def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = bytearray(encode(corners(), "JPEG", exif=exif))
    start = content.index(b"Exif\0\0") + 6
    content[start : start + 8] = b"garbage!"
    assert decode_image(bytes(content), 32).shape == (32, 32, 3)


def test_of_an_animation_the_first_frame_counts() -> None:
    content = encode(corners(), "GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    assert (decode_image(content, 32) == np.asarray(corners())).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_wide_image_is_squashed_whole(kind: str) -> None:
    """Nothing is cropped: left is left, right is right."""
    wide = np.zeros((100, 1000, 3), np.uint8)
    wide[:, :500, 0] = 255
    wide[:, 500:, 2] = 255
    pixels = decode_image(encode(Image.fromarray(wide), kind), 16).astype(int)
    assert np.abs(pixels[:, :7] - (255, 0, 0)).max() <= 8
    assert np.abs(pixels[:, 9:] - (0, 0, 255)).max() <= 8


@pytest.mark.parametrize("size", [100, 1600])
def test_shrinking_averages_instead_of_picking_pixels(size: int) -> None:
    """A fine chequerboard is grey from afar; without antialiasing it would be stripes."""
    board = (np.indices((size, size)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = decode_image(encode(Image.fromarray(board), "PNG"), 20)
    assert np.abs(pixels.astype(int) - 127).max() <= 6


def test_an_image_of_one_pixel_fills_the_square() -> None:
    assert (decode_image(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), 16) == (1, 2, 3)).all()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>404 not found</html>", "not an image"),
        (encode(corners(), "PNG")[:60], "truncated|not enough image data|broken PNG"),
        (encode(corners(256), "JPEG")[:800], "truncated"),
        (png_that_claims(50_000, 50_000), "2500000000 pixels"),
        (encode(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        (encode(Image.new("I", (4, 4), 70_000), "TIFF"), "grey values 70000 to 70000, outside 0 to 65535"),
        (encode(corners(), "EPS"), "not an image"),
    ],
)
def test_what_cannot_be_decoded_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(BrokenImageError, match=reason):
        decode_image(content, 16)


def test_the_pixel_limit_holds_even_where_pillow_was_told_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BrokenImageError, match="50000 x 50000 pixels, more than 178,956,970"):
        decode_image(png_that_claims(50_000, 50_000), 16)


@settings(deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_damaged_bytes_give_pixels_or_a_broken_image_and_nothing_else(
    kind: str, damage: list[tuple[float, int]], kept: float
) -> None:
    """Any other exception would end a run with a traceback over one bad file."""
    content = bytearray(encode(corners(), kind))
    for place, value in damage:
        content[int(place * len(content))] = value
    try:
        pixels = decode_image(bytes(content[: int(kept * len(content))]), 16)
    except BrokenImageError:
        return
    assert pixels.shape == (16, 16, 3)


def test_a_file_that_cannot_be_opened_is_broken_with_the_system_s_reason(tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match="No such file"):
        read_image(tmp_path / "gone.png", 16)


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BrokenImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png", 16)
