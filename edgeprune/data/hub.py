"""Source hf: an image-classification set of the Hugging Face hub, or a folder of Parquet files of the same kind."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edgeprune.data.hub_stream import HubSet, HubStream, open_hub
from edgeprune.data.split import (
    UNLABELLED,
    ImageFile,
    Listing,
    RemoteListing,
    require_classes,
    show,
    split_by_hash,
)
from edgeprune.errors import InputError
from edgeprune.files import digest_json

_VAL = ("validation", "val", "valid", "dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """What there is to say about a set beside its name; None leaves it to the set.

    Attributes:
        revision: branch, tag or commit on the hub.
        config: name of one of the set's configurations.
        image_column: needed where several columns hold images.
        label_column: needed where not exactly one column holds class labels.
        classes: names of the numbers 0, 1, ... in the label column, or the texts in it, where it has no class labels.
        train_split: which split is train, where several could be.
        limit: images that are taken of each split, the first ones.
    """

    revision: str | None = None
    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] | None = None
    train_split: str | None = None
    limit: int | None = None


def list_hub(
    path: Path | None,
    *,
    options: HubOptions,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    work_dir: Path,
    say: Callable[[str], None],
) -> RemoteListing:
    """A set of the hub, or a folder that the library ``datasets`` reads like one.

    Nothing is asked of the hub until images are needed: what was packed once is known by the set, its revision and the
    options; a folder also by the sizes and times of its files. The set's splits are used as they are: ``validation``
    (or ``val``, ``valid``, ``dev``), ``test``, and ``train`` or the only one whose name begins so. A missing val or
    test is taken out of train as ``split_by_hash`` does. An image's name is its split and its number there. Labels that
    are missing or below zero mean unlabelled images, in train only.

    Args:
        path: a hub id like ``Harvard-Edge/Wake-Vision``, or a folder.
        options: what else to know.
        val_fraction, test_fraction, split_seed: as in ``split_by_hash``, for splits that are missing.
        work_dir: for the library's locks.
        say: hears what a person should know about the set.

    Raises:
        InputError: no set, or a name that is neither a folder here nor a hub id. What is wrong with the set itself is
            raised when it is asked.
    """
    if path is None:
        raise InputError("The source hf has no data set (data.path is not set).", "DATA=Harvard-Edge/Wake-Vision")
    folder = path.expanduser().resolve() if path.expanduser().is_dir() else None
    if folder is None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path.as_posix()):
        raise InputError(f"{show(path)} is neither a folder here nor an id of the hub.", "an id like owner/name")
    files = [*_stamp_files(folder)] if folder else []

    def ask() -> Listing:
        hub = open_hub(
            str(folder or path.as_posix()),
            folder=folder,
            version=digest_json(files),
            revision=options.revision,
            config=options.config,
            work_dir=work_dir,
        )
        return _list_images(hub, options, val_fraction, test_fraction, split_seed, say)

    asked = [asdict(options), val_fraction, test_fraction, split_seed]
    return RemoteListing(
        location=digest_json([str(folder or path.as_posix()), *asked]),
        key=digest_json([files or path.as_posix(), *asked]),
        ask=ask,
    )


def _stamp_files(folder: Path) -> Iterator[list[str | int]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            status = path.stat()
            yield [name.as_posix(), status.st_size, status.st_mtime_ns]


def _list_images(  # noqa: PLR0917
    hub: HubSet,
    options: HubOptions,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    say: Callable[[str], None],
) -> Listing:
    images = _find_column(hub, options.image_column, "Image", "image_column")
    column = _find_column(hub, options.label_column, "ClassLabel", "label_column")
    classes = _find_classes(hub, column, options.classes)
    splits = _map_splits(hub, options.train_split)
    unused = [show(name) for name in hub.splits if name not in splits]
    if unused:
        say(f"Splits of {hub.name} that nothing reads: {', '.join(unused)}.")
    say(f"Reading the labels of {hub.name}: {', '.join(splits)}.")
    nowhere = Path()
    files = [
        ImageFile(
            name=f"{name}/{row:07}",
            path=nowhere,
            label=label,
            split=split,
            weight=0.0 if label == UNLABELLED else 1.0,
        )
        for name, split in splits.items()
        for row, label in enumerate(_read_labels(hub, name, column, classes, options.limit))
    ]
    for file in files:
        if file.label == UNLABELLED and file.split != "train":
            raise InputError(f"{hub.name} has no label for {file.name}, in {file.split}.", "a set with labels there")
    missing = {"val", "test"} - set(splits.values())
    if missing:
        strata = {file.name: classes[file.label] for file in files if file.split == "train" and file.label >= 0}
        hashed = split_by_hash(strata, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        files = [replace(file, split=hashed[file.name]) if hashed.get(file.name) in missing else file for file in files]
    require_classes(hub.name, classes, files)
    licence = f"its licence: {hub.licence}" if hub.licence else "edgeprune does not know their licence"
    where = f"the folder {show(hub.name)}" if hub.folder else f"https://huggingface.co/datasets/{hub.name}, "
    return Listing(
        source="hf",
        location=hub.name,
        classes=classes,
        files=tuple(files),
        credit=f"Images from {where}{'' if hub.folder else f'revision {hub.version}'}; {licence}.",
        repair="set `data: {skip_broken: true}` in the recipe to leave them out",
        stream=HubStream(hub, images),
    )


def _find_column(hub: HubSet, wanted: str | None, kind: str, key: str) -> str:
    fitting = [name for name, feature in hub.features.items() if feature == kind]
    columns = ", ".join(f"{name} ({feature})" for name, feature in hub.features.items()) or "none"
    if wanted is not None:
        # Labels may be numbers or texts; images can only be images.
        if wanted not in (fitting if kind == "Image" else hub.features):
            raise InputError(f"{hub.name} has no column {wanted!r} for {key}; it has {columns}.", "one of these")
        return wanted
    if len(fitting) != 1:
        raise InputError(
            f"{hub.name} has {len(fitting)} columns of kind {kind}; its columns are {columns}.",
            f"data: {{{key}: NAME}} in the recipe",
        )
    return fitting[0]


def _find_classes(hub: HubSet, column: str, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    known = hub.class_names.get(column)
    if known is not None and wanted not in {None, known}:
        raise InputError(f"The column {column!r} of {hub.name} names its classes itself.", "no `classes` in the recipe")
    classes = known or wanted
    if classes is None:
        raise InputError(
            f"The column {column!r} of {hub.name} holds labels without names.",
            "data: {classes: [...]} in the recipe: names of 0, 1, ..., or the texts that the column holds",
        )
    if len(set(classes)) < max(2, len(classes)) or not all(name.strip() and name.isprintable() for name in classes):
        raise InputError(f"{hub.name} has the classes {', '.join(map(show, classes))}.", "two or more, all different")
    return classes


def _map_splits(hub: HubSet, train: str | None) -> dict[str, str]:
    """Names in the set to ours: train first, then val and test where they are."""
    candidates = [name for name in hub.splits if name == "train"] or [n for n in hub.splits if n.startswith("train")]
    if train is not None:
        candidates = [name for name in hub.splits if name == train]
    if len(candidates) != 1:
        raise InputError(
            f"{hub.name} has the splits {', '.join(hub.splits)}; which one is train?",
            "data: {train_split: NAME} in the recipe",
        )
    splits = {candidates[0]: "train"}
    splits |= dict.fromkeys([name for name in _VAL if name in hub.splits][:1], "val")
    return splits | dict.fromkeys([name for name in hub.splits if name == "test"], "test")


def _read_labels(hub: HubSet, split: str, column: str, classes: Sequence[str], limit: int | None) -> Iterator[int]:
    texts = {name: label for label, name in enumerate(classes)}
    for row, value in enumerate(islice(hub.read_column(split, column), limit)):
        label = _index_label(value, texts)
        if label is None:
            raise InputError(
                f"Row {row} of {split} of {hub.name} has the label {show(value)}; the classes are "
                f"{', '.join(map(show, classes[:5]))}{' ...' * (len(classes) > 5)}.",
                "data: {classes: [...]} with a name for each label",
            )
        yield label


def _index_label(value: Any, texts: dict[str, int]) -> int | None:
    if value is None or value == "":
        return UNLABELLED
    if isinstance(value, str):
        return texts.get(value)
    if isinstance(value, int):
        return int(value) if 0 <= value < len(texts) else UNLABELLED if value < 0 else None
    return None
