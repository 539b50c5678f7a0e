"""Images: where they come from, how they are split, decoded once and kept, and how they reach a network.

    split.py        fixed splits by hash, the listing that every source gives
    elpv.py         source elpv: photographs of solar cells, from a PyPI package
    imagefolder.py  source imagefolder: any folder of images
    decode.py       one file to pixels: formats, transparency, orientation, resizing
    pack.py         all files to one uint8 array a split, with every core
    cache.py        those arrays kept on disk, memory-mapped, checked at every opening
    dataset.py      all of it together: ``load_dataset``
    augment.py      random changes to batches
    loader.py       batches and samples

Images are uint8 RGB, height × width × 3, grey ones with three equal channels; splits are train, val, test. Nothing
heavy is imported with this package.
"""

from edgeprune.data.augment import augment_batch
from edgeprune.data.cache import PackedSplit
from edgeprune.data.dataset import Dataset, load_dataset
from edgeprune.data.decode import BrokenImageError, decode_image
from edgeprune.data.loader import iterate_batches, sample_images
from edgeprune.data.split import SPLITS, split_by_hash

__all__ = [
    "SPLITS",
    "BrokenImageError",
    "Dataset",
    "PackedSplit",
    "augment_batch",
    "decode_image",
    "iterate_batches",
    "load_dataset",
    "sample_images",
    "split_by_hash",
]
