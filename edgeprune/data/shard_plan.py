"""How images are cut into shards: what is packed together, kept together, and made again together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from edgeprune.data.decode import DECODER_VERSION
from edgeprune.data.split import ImageFile, Listing
from edgeprune.files import digest_json

# Pixels of one shard, bytes: what an interrupted packing loses at most.
SHARD_BYTES = 64_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Consecutive images of a listing that are packed together: one array for each split among them.

    Attributes:
        number: counted from 0.
        files: in their order.
        key: digest of everything that the pixels depend on.
    """

    number: int
    files: Sequence[ImageFile]
    key: str


def name_record(number: int) -> str:
    """The file that says what the arrays of a shard hold; it is written after them."""
    return f"{number:05}.json"


def name_array(number: int, split: str) -> str:
    """The array of a shard's images in a split."""
    return f"{split}-{number:05}.npy"


def name_decoder(image_size: int) -> list[int | str]:
    """What the pixels of a given file depend on."""
    import PIL

    return [DECODER_VERSION, PIL.__version__, image_size]


def plan_shards(listing: Listing, *, image_size: int) -> list[Shard]:
    """Cut a listing into shards of at most ``SHARD_BYTES``; where images are files, each shard is of one split."""
    most = max(1, SHARD_BYTES // (image_size * image_size * 3))
    version = listing.stream.version if listing.stream else ""
    runs = [listing.files] if listing.stream else [list(run) for _, run in groupby(listing.files, _split_of)]
    cut = [run[start : start + most] for run in runs for start in range(0, len(run), most)]
    decoder = name_decoder(image_size)
    return [
        Shard(
            number=number,
            files=files,
            key=digest_json([decoder, version, [[file.name, file.split, *_stamp(file, version)] for file in files]]),
        )
        for number, files in enumerate(cut)
    ]


def _split_of(file: ImageFile) -> str:
    return file.split


def _stamp(file: ImageFile, version: str) -> list[int | str]:
    if version:
        return []
    try:
        status = file.path.stat()
    except OSError:
        return ["unreadable"]
    return [status.st_size, status.st_mtime_ns]
