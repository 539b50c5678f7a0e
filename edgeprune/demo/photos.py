"""The photographs of a demo: given, added to a folder by a webcam's tool, and copied with the answer in them."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

from edgeprune.data.imagefolder import IMAGE_SUFFIXES
from edgeprune.errors import InputError
from edgeprune.files import write_atomic

_POLL_SECONDS = 0.2
_HIT, _PLAIN = (0, 140, 60), (70, 70, 70)


def list_photos(place: Path) -> list[Path]:
    """A photograph, or those that lie directly in a folder, by name.

    Raises:
        InputError: there is nothing, or the folder holds none.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError(f"{place} does not exist.", "the path of a photograph, or of a folder of them")
    photos = sorted(_states(place))
    if not photos:
        raise InputError(
            f"{place} holds no image directly in it.", f"a folder with files that end in {' '.join(IMAGE_SUFFIXES)}"
        )
    return photos


def follow_folder(folder: Path, *, poll_seconds: float = _POLL_SECONDS) -> Iterator[Path]:
    """Photographs as they are added to a folder or written again, oldest first; those that are there do not count.

    A file is given once it has not changed for one look at the folder: whoever writes it is done.

    Args:
        folder: that a webcam's tool writes frames to.
        poll_seconds: between two looks.

    Yields:
        Paths, without end.

    Raises:
        InputError: it is no folder, or is one no longer.
    """
    known = before = _states(folder)
    while True:
        time.sleep(poll_seconds)
        found = _states(folder)
        ready = [path for path, state in found.items() if state == before.get(path) != known.get(path)]
        for path in sorted(ready, key=lambda path: found[path]):
            known[path] = found[path]
            yield path
        before = found
        known = {path: state for path, state in known.items() if path in found}


def annotate_photo(content: bytes, copy: Path, text: str, *, hit: bool) -> None:
    """Write a copy of a photograph with a line of text on a bar at its top.

    Args:
        content: of a file that could be read as an image.
        copy: where the copy appears, in the format that its ending names, or as PNG.
        text: one line.
        hit: the bar is green, else grey.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    with Image.open(io.BytesIO(content)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        picture = image.convert("RGB")
    height = max(12, picture.height // 14)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width, height), fill=_HIT if hit else _PLAIN)
    draw.text((height // 4, height // 8), text, fill=(255, 255, 255), font=ImageFont.load_default(height * 0.7))
    drawn = io.BytesIO()
    picture.save(drawn, format=Image.registered_extensions().get(copy.suffix.lower(), "PNG"), quality=92)
    write_atomic(copy, drawn.getvalue())


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """When each image was written last, and how large it is."""
    states = {}
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    # Between the listing and the look, as tools do that write beside and rename.
                    continue
                if status.st_size:
                    states[path] = (status.st_mtime_ns, status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is no folder.", "a folder that a webcam's tool writes frames to") from None
    return states
