"""Source vww: Visual Wake Words, person or not, made of a folder with COCO's images and annotations."""

import csv
import dataclasses
import io
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.data.coco import COCO_LAYOUT, find_annotations, find_images, label_persons
from edgeprune.data.split import SPLITS, ImageFile, Listing, hash_name, show
from edgeprune.errors import InputError
from edgeprune.files import write_atomic

# Label 1 is the person, as published.
VWW_CLASSES = ("not_person", "person")
VWW_CREDIT = (
    "Visual Wake Words labels (Chowdhery et al. 2019, arXiv:1906.05721), made of the annotations of Microsoft COCO "
    "(Lin et al. 2014, arXiv:1405.0312, https://cocodataset.org, CC BY 4.0). The photographs are from Flickr, each "
    "under the licence that its entry in the annotations names; some exclude commercial use."
)
MINIVAL = "mscoco_minival_ids.txt"
# Images for training, and for evaluation. minival: 8,059 ids (TensorFlow models, research/object_detection/data/
# mscoco_minival_ids.txt) and what they leave of all 123,287; pyvww's README says 115K and 8K. 2014: TF-slim's own
# split, research/slim/datasets/visualwakewords.py, _SPLITS_TO_SIZES. 2017: the sizes of COCO's release.
_PUBLISHED = {"minival": (115_228, 8_059), "2014": (82_783, 40_504), "2017": (118_287, 5_000)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPart:
    """How much of what was published is there.

    Attributes:
        splits: ``train and val``, which are published as one, or ``test``.
        published: images, by the source in this module.
        listed: images in the annotation files that were found.
        present: those whose file is there.
    """

    splits: str
    published: int
    listed: int
    present: int

    @property
    def met(self) -> bool:
        """Whether it is exactly what was published."""
        return self.published == self.listed == self.present


@dataclass(frozen=True, slots=True, kw_only=True)
class VwwSurvey:
    """Visual Wake Words as far as a folder holds it.

    Attributes:
        listing: the images that are there.
        year: of the annotations, ``2014`` or ``2017``.
        minival: the list that says which images are test; None: the release's own val is.
        missing: split and class to images that are listed and whose file is not there.
        parts: what is there against what was published.
    """

    listing: Listing
    year: str
    minival: Path | None
    missing: dict[tuple[str, str], int]
    parts: tuple[PublishedPart, ...]


def list_vww(
    path: Path | None, *, val_fraction: float, split_seed: int, cache_dir: Path, say: Callable[[str], None]
) -> Listing:
    """The images of ``survey_vww``, for a recipe; its ``test_fraction`` plays no part."""
    if path is None:
        raise InputError("The source vww has no folder (data.path is not set).", "DATA=path/to/coco")
    return survey_vww(
        path, minival=None, val_fraction=val_fraction, split_seed=split_seed, cache_dir=cache_dir, say=say
    ).listing


def survey_vww(
    path: Path,
    *,
    minival: Path | None,
    val_fraction: float,
    split_seed: int,
    cache_dir: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> VwwSurvey:
    """Find COCO below a folder, label its images (see ``label_persons``) and split them.

    With the list of minival ids, its images are test and all others train, whichever release they lie in: that is the
    published split. Without the list, val2014 (or val2017) is test. A share of train becomes val, class by class, in
    the order of ``sha256(f"{seed}:{name}")``; it is chosen among the images that are listed, so that the files which
    happen to be there move no image to another split.

    Args:
        path: holds ``annotations/`` and the image folders, the latter directly or in ``images/``.
        minival: file with an id a line; None: ``mscoco_minival_ids.txt`` in ``path`` or its ``annotations/``, if any.
        val_fraction: share of each class, in (0, 1).
        split_seed: another seed, another val.
        cache_dir: what is left of the annotation files is kept here.
        say: hears one sentence when annotation files are read.
        progress: annotation files done and in total.

    Raises:
        InputError: no COCO there, a damaged file, or a split in which a class has no image.
    """
    root = path.expanduser().resolve()
    year, files = find_annotations(root)
    ids_file = _find_minival(root, minival)
    test_ids = _read_ids(ids_file) if ids_file is not None else None
    labelled = label_persons(list(files.values()), folder=cache_dir, say=say, progress=progress)
    listed: list[ImageFile] = []
    absent: set[str] = set()
    for part, images in zip(files, labelled, strict=True):
        folder, names = find_images(root, f"{part}{year}")
        for image_id, name, person in zip(images.ids, images.names, images.persons, strict=True):
            test = image_id in test_ids if test_ids is not None else part == "val"
            image = ImageFile(
                # Not the path: an `images/` in between must not change the split.
                name=f"{part}{year}/{name}",
                path=folder / name,
                label=int(person),
                split="test" if test else "train",
            )
            listed.append(image)
            if name not in names:
                absent.add(image.name)
    listed = _carve_val(listed, val_fraction=val_fraction, seed=split_seed)
    present = [image for image in listed if image.name not in absent]
    _require_every_class(present, path, year)
    parts = tuple(
        PublishedPart(
            splits=" and ".join(splits),
            published=published,
            listed=sum(image.split in splits for image in listed),
            present=sum(image.split in splits for image in present),
        )
        for splits, published in zip(
            (("train", "val"), ("test",)), _PUBLISHED["minival" if ids_file else year], strict=True
        )
    )
    missing = Counter((image.split, VWW_CLASSES[image.label]) for image in listed if image.name in absent)
    return VwwSurvey(
        listing=Listing(
            source="vww",
            location=str(root),
            classes=VWW_CLASSES,
            files=tuple(sorted(present, key=lambda image: (SPLITS.index(image.split), image.name))),
            credit=VWW_CREDIT,
            repair="unpack these images again, or set `data: {skip_broken: true}` in the recipe to leave them out",
            notes=_notes(parts, year, ids_file),
        ),
        year=year,
        minival=ids_file,
        missing=dict(missing),
        parts=parts,
    )


def write_list(survey: VwwSurvey, place: Path) -> None:
    """Write the images that are there as a list that the source ``csv`` reads: path, label, split.

    Args:
        survey: images.
        place: the file; paths in it are relative to its folder, so that both can be moved together.
    """
    folder = place.parent.resolve()
    # Where the way to the list leads over a link, ".." means one folder to some programs and another one to others.
    linked = folder != Path(os.path.normpath(place.parent.absolute()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    for image in survey.listing.files:
        path = os.path.relpath(image.path, folder)
        if linked and path.startswith(".."):
            path = str(image.path)
        writer.writerow([Path(path).as_posix(), survey.listing.classes[image.label], image.split])
    write_atomic(place, text.getvalue())


def _find_minival(root: Path, minival: Path | None) -> Path | None:
    if minival is not None:
        return minival.expanduser()
    return next((place for place in (root / MINIVAL, root / "annotations" / MINIVAL) if place.is_file()), None)


def _read_ids(file: Path) -> frozenset[int]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(
            f"The list of minival ids {show(file)} cannot be read: {reason}.", f"{MINIVAL}, as published"
        ) from None
    ids = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            if not line.strip().isdecimal():
                raise InputError(
                    f"{show(file)}, line {number}: {line.strip()[:40]!r} is no id of COCO.", "one id a line"
                )
            ids.add(int(line))
    return frozenset(ids)


def _carve_val(images: list[ImageFile], *, val_fraction: float, seed: int) -> list[ImageFile]:
    chosen: set[str] = set()
    for label in range(len(VWW_CLASSES)):
        names = [image.name for image in images if image.split == "train" and image.label == label]
        names.sort(key=lambda name: hash_name(name, seed))
        chosen.update(names[: max(math.floor(len(names) * val_fraction + 0.5), 1)])
    return [dataclasses.replace(image, split="val") if image.name in chosen else image for image in images]


def _require_every_class(present: list[ImageFile], path: Path, year: str) -> None:
    if not present:
        raise InputError(
            f"None of the images that COCO {year} lists lies in {show(path)}.", f"a folder with {COCO_LAYOUT}"
        )
    there = {(image.split, image.label) for image in present}
    for split in SPLITS:
        for label, name in enumerate(VWW_CLASSES):
            if (split, label) not in there:
                raise InputError(
                    f"{show(path)} holds no {name} image for {split}.",
                    "more of COCO: both annotation files, the images of both, and the ids of its own minival",
                )


def _notes(parts: tuple[PublishedPart, ...], year: str, ids_file: Path | None) -> tuple[str, ...]:
    notes = []
    if ids_file is None:
        notes.append(
            f"Without {MINIVAL}, val{year} is test: accuracies are not comparable with those published on minival."
        )
    shares = [
        f"{part.present:,} of {part.published:,} images ({part.present / part.published:.1%}) for {part.splits}"
        for part in parts
        if not part.met
    ]
    if shares:
        notes.append(f"COCO {year} is not there as published: {'; '.join(shares)}.")
    return tuple(notes)
