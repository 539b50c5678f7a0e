"""Images: where they come from, how they are split, decoded once and kept, and how they reach a network.

    split.py        fixed splits by hash, the listing that every source gives
    elpv.py         source elpv: photographs of solar cells, from a PyPI package
    imagefolder.py  source imagefolder: any folder of images
    csv_list.py     source csv: a list of images with labels, weights and soft labels
    coco.py         COCO's annotation files, reduced to which images show a person
    vww.py          source vww: Visual Wake Words, made of COCO
    decode.py       one file to pixels: formats, transparency, orientation, resizing
    hub.py          source hf: a set of the Hugging Face hub, or a folder of Parquet files
    hub_stream.py   reading one with the library ``datasets``, as a stream
    shard_plan.py   which images are packed together
    pack.py         images to shards of uint8 arrays, with every core
    shards.py       the arrays of a split, indexed as one
    cache.py        what is kept on disk, memory-mapped, checked at every opening
    build.py        a cache that is missing or stale is made; an interrupted packing goes on
    identity.py     digests of a data set, and copies in it
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
from edgeprune.data.hub import HubOptions
from edgeprune.data.loader import iterate_batches, run_ahead, sample_images
from edgeprune.data.shards import ImagesByRow
from edgeprune.data.split import SPLITS, UNLABELLED, split_by_hash

__all__ = [
    "SPLITS",
    "UNLABELLED",
    "BrokenImageError",
    "Dataset",
    "HubOptions",
    "ImagesByRow",
    "PackedSplit",
    "augment_batch",
    "decode_image",
    "iterate_batches",
    "load_dataset",
    "run_ahead",
    "sample_images",
    "split_by_hash",
]
