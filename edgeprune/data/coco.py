"""COCO as it lies in a folder: its annotation files, each read once, and which images show a person.

A file of COCO is up to half a gigabyte of JSON, nearly all of it outlines that nobody asks for here. So each is reduced
in a process of its own, without ever holding the outlines, and what is left of it is kept: the next run reads that.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from edgeprune.data.split import show
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.files import digest_json, read_json, write_atomic

COCO_LAYOUT = "annotations/instances_train2014.json and instances_val2014.json beside train2014/ and val2014/ (or 2017)"
# A person counts when the annotation's area is more than this share of the image's.
_PERSON_SHARE = 0.005
# Part of what is kept: raise it whenever a label may come out differently.
_RULE_VERSION = 1
_OF_IMAGES = ("images", "id", "file_name", "height", "width")
_OF_ANNOTATIONS = ("annotations", "image_id", "category_id", "area")
_KEYS = frozenset({*_OF_IMAGES, *_OF_ANNOTATIONS, "categories", "name"})
_REMEDY = "unpack COCO's annotations_trainval archive again; the file wanted is one of its instances_*.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """The images of one annotation file, in its order.

    Attributes:
        ids: COCO's numbers, the same in every release.
        names: file names without a folder.
        persons: whether a person is in the image by the published rule.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    persons: tuple[bool, ...]


def find_annotations(root: Path) -> tuple[str, dict[str, Path]]:
    """The release that lies in a folder, ``2014`` or ``2017``, and its annotation files by part, ``train`` and ``val``.

    One part will do. Of two releases the one with more parts counts, and 2014 before 2017.

    Raises:
        InputError: there is none.
    """
    found = {
        year: {part: root / "annotations" / f"instances_{part}{year}.json" for part in ("train", "val")}
        for year in ("2014", "2017")
    }
    there = {year: {part: file for part, file in files.items() if file.is_file()} for year, files in found.items()}
    year = max(there, key=lambda each: len(there[each]))
    if not there[year]:
        what = "holds no annotations of COCO" if root.is_dir() else "is no folder"
        raise InputError(f"{show(root)} {what}.", f"a folder with {COCO_LAYOUT}")
    return year, there[year]


def find_images(root: Path, name: str) -> tuple[Path, frozenset[str]]:
    """The folder of a part and the file names in it: one listing instead of a hundred thousand questions."""
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return folder, frozenset(os.listdir(folder))  # noqa: PTH208 - names are wanted, not a Path for each
    return root / name, frozenset()


def label_persons(
    files: Sequence[Path],
    *,
    folder: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LabelledImages, ...]:
    """Label the images of COCO's ``instances_*.json`` files, at most once for each file as it is.

    An image shows a person when one annotation of the category ``person`` has ``area`` / (height × width) > 0.005,
    where ``area`` is the field of the annotation, the area of the outline and not of the box. Crowds count. An image
    without annotations shows none.

    Args:
        files: annotation files.
        folder: what is left of each file is kept in here, and used again while its size and time stay the same.
        say: hears one sentence before files are read.
        progress: files done and in total, while reading.

    Raises:
        InputError: a file cannot be read, or is no instances file of COCO.
        EdgepruneError: reading was ended from outside.

    Source:
        TensorFlow models, research/slim/datasets/download_and_convert_visualwakewords_lib.py, `_filter_annotations`,
        and pyvww, scripts/create_visualwakewords_annotations.py; both compare with >. Chowdhery et al. 2019, "Visual
        Wake Words Dataset", arXiv:1906.05721.
    """
    places = [folder / f"coco-{digest_json(str(file.resolve()))[:12]}.json" for file in files]
    keys = [_key_of(file) for file in files]
    kept = [_open_kept(place, key) for place, key in zip(places, keys, strict=True)]
    missing = [index for index, labelled in enumerate(kept) if labelled is None]
    if missing:
        names = " and ".join(f"{files[index].name} ({keys[index]['bytes'] / 1e6:,.0f} MB)" for index in missing)
        say(f"Reading {names} of COCO, once.")
        work = {index: (files[index], places[index], keys[index]) for index in missing}
        for done, (index, labelled) in enumerate(_reduce_apart(work), start=1):
            kept[index] = labelled
            if progress is not None:
                progress(done, len(work))
    return tuple(labelled for labelled in kept if labelled is not None)


def _reduce_apart(work: dict[int, tuple[Path, Path, dict[str, int]]]) -> Iterator[tuple[int, LabelledImages]]:
    """Every file in a process of its own, side by side, in the order in which they end."""
    # Spawned, since torch's threads do not survive a fork; no pool, since one of its workers that is killed, as Ctrl-C
    # does, can leave it waiting for ever.
    context = get_context("spawn")
    running: dict[Any, tuple[int, BaseProcess]] = {}
    ready: Any
    try:
        for index, task in work.items():
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_answer, args=(sender, *task), daemon=True)
            child.start()
            sender.close()
            running[receiver] = index, child
        while running:
            for ready in wait(list(running)):
                index, process = running[ready]
                try:
                    outcome = ready.recv()
                except EOFError:
                    raise EdgepruneError(
                        f"The process that read {work[index][0].name} was ended from outside, as when memory runs out.",
                        "close other programs; the same command goes on with the files that are not read yet",
                    ) from None
                if isinstance(outcome, Exception):
                    raise outcome
                process.join()
                del running[ready]
                yield index, outcome
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _answer(sender: Connection, file: Path, place: Path, key: dict[str, int]) -> None:
    # Ctrl-C reaches this process too; it is to end without a traceback of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        sender.send(_reduce_and_keep(file, place, key))
    except (EdgepruneError, OSError) as error:
        sender.send(error)


def _key_of(file: Path) -> dict[str, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"{show(file)} cannot be read: {error.strerror}.", _REMEDY) from None
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "rule": _RULE_VERSION}


def _open_kept(place: Path, key: dict[str, int]) -> LabelledImages | None:
    """What was kept of a file, or None where it is missing, stale or damaged."""
    try:
        sealed = read_json(place)
        if sealed["key"] != key or sealed["digest"] != digest_json(sealed["columns"]):
            return None
        ids, names, persons = sealed["columns"]
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
    return LabelledImages(ids=tuple(ids), names=tuple(names), persons=tuple(map(bool, persons)))


def _reduce_and_keep(file: Path, place: Path, key: dict[str, int]) -> LabelledImages:
    """In a process of its own; kept at once, so that an interrupted run need not read this file again."""
    labelled = _reduce(file)
    columns = [labelled.ids, labelled.names, [int(person) for person in labelled.persons]]
    sealed = {"columns": columns, "digest": digest_json(columns), "key": key}
    # One line: two hundred thousand lines of one number each take three times as long to read.
    write_atomic(place, json.dumps(sealed))
    return labelled


def _reduce(file: Path) -> LabelledImages:
    try:
        values = json.loads(file.read_text(encoding="utf-8"), object_hook=_drop_rest, parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"{show(file)} cannot be read: {error.strerror}.", _REMEDY) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{show(file)} is damaged: {error}.", _REMEDY) from None
    try:
        sizes = {image["id"]: image["height"] * image["width"] for image in values["images"]}
        (person,) = (each["id"] for each in values["categories"] if each["name"] == "person")
        shown = {
            each["image_id"]
            for each in values["annotations"]
            if each["category_id"] == person
            # Annotations of images that somebody took out of the list stay behind.
            and each["image_id"] in sizes
            and each["area"] / sizes[each["image_id"]] > _PERSON_SHARE
        }
        ids = tuple(int(image["id"]) for image in values["images"])
        names = tuple(str(image["file_name"]) for image in values["images"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{show(file)} is no instances file of COCO ({reason}).", _REMEDY) from None
    if len(set(ids)) < len(ids) or len(set(names)) < len(names):
        raise InputError(f"{show(file)} lists an image twice.", _REMEDY)
    return LabelledImages(ids=ids, names=names, persons=tuple(each in shown for each in ids))


def _drop_rest(values: dict[str, Any]) -> dict[str, Any]:
    """Called for every object as soon as it is read, so that no outline outlives its annotation."""
    return {key: value for key, value in values.items() if key in _KEYS}


def _refuse(constant: str) -> None:
    # NaN compares false with everything: the image would quietly count as one without a person.
    raise ValueError(f"{constant} is no number")
