"""Any folder of images: ``train/ val/ test/`` as they are, or one folder of classes that is split by seed."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeprune.data.split import SPLITS, ImageFile, Listing, normal_name, show, split_by_hash
from edgeprune.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Names that people give to splits; taking them for classes would train a classifier of splits.
_SPLIT_LIKE = {*SPLITS, "training", "valid", "validation", "dev", "eval", "testing"}
_LAYOUT = "one folder a class with images inside, either directly or inside each of train/ val/ test/"


@dataclass(frozen=True, slots=True)
class _Entries:
    """What one folder holds, hidden names left out."""

    folders: dict[str, Path]
    files: list[Path]


def list_folder(path: Path | None, *, val_fraction: float, test_fraction: float, split_seed: int) -> Listing:
    """The images below a folder, with classes named after its subfolders, sorted.

    With ``train/ val/ test/`` the splits are used as they are, all three with the same classes. Without them the
    classes are split by ``split_by_hash``. Class folders are searched to any depth, links are followed, names that
    start with a dot are ignored, and so are files without the suffix of an image (they are counted in a note).

    Args:
        path: the folder.
        val_fraction, test_fraction, split_seed: as in ``split_by_hash``; unused with ``train/ val/ test/``.

    Raises:
        InputError: no folder, an unreadable one, a split or a class missing or empty, fewer than two classes.
    """
    if path is None:
        raise InputError("The source imagefolder has no folder (data.path is not set).", "DATA=path/to/images")
    root = path.expanduser().absolute()
    top = _look_into(root)
    ignored: Counter[str] = Counter()
    found = _list_splits(top, path, ignored) if _has_splits(top, path) else {"": _list_classes(top, path, ignored)}
    classes = tuple(found["train" if "train" in found else ""])
    if len(classes) < 2:
        raise InputError(f"{show(path)} has a single class, {show(classes[0])}; a classifier needs two.", _LAYOUT)
    files = _name_files(root, found)
    if "" in found:
        strata = {name: classes[image.label] for name, image in files.items()}
        splits = split_by_hash(strata, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        files = {name: dataclasses.replace(image, split=splits[name]) for name, image in files.items()}
    notes = []
    if ignored:
        kinds = ", ".join(f"{show(kind) if kind else 'no suffix'} ({n})" for kind, n in sorted(ignored.items())[:5])
        notes.append(f"{ignored.total():,} files of {show(path)} are no images by their suffix: {kinds}.")
    return Listing(
        source="imagefolder",
        location=str(root.resolve()),
        classes=classes,
        files=tuple(sorted(files.values(), key=lambda image: (SPLITS.index(image.split), image.name))),
        # The folder's name only: a path in a published card would tell who made it.
        credit=f"Images from the folder {show(root.resolve().name)}; edgeprune does not know their licence.",
        repair="mend or remove them, or set `data: {skip_broken: true}` in the recipe to leave them out",
        notes=tuple(notes),
    )


def _has_splits(top: _Entries, path: Path) -> bool:
    splits = [name for name in SPLITS if name in top.folders]
    others = sorted(set(top.folders) - set(SPLITS))
    alike = [name for name in others if name.casefold() in _SPLIT_LIKE]
    # A class may be called "train" (beside "car" and "bus"): then it holds images, and a split holds class folders.
    if splits and others and not alike and not any(_look_into(top.folders[name]).folders for name in splits):
        return False
    if splits and others:
        raise InputError(
            f"{show(path)} holds {splits[0]}/ beside {show(others[0])}, which is neither of train/ val/ test/.",
            f"rename or move {show(others[0])}; the layout is {_LAYOUT}",
        )
    if alike and len(alike) == len(others):
        raise InputError(
            f"{show(path)} holds {', '.join(show(name) for name in alike)}: they look like splits, "
            "but splits are named train/ val/ test/.",
            "rename them to train/ val/ test/",
        )
    missing = [name for name in SPLITS if name not in splits]
    if splits and missing:
        raise InputError(
            f"{show(path)} has {' and '.join(f'{name}/' for name in splits)}"
            f" but no {' and no '.join(f'{name}/' for name in missing)}.",
            f"make {' and '.join(f'{name}/' for name in missing)} with the same class folders,"
            " or put the class folders side by side in one folder to have it split by seed",
        )
    return bool(splits)


def _list_splits(top: _Entries, path: Path, ignored: Counter[str]) -> dict[str, dict[str, list[Path]]]:
    found = {split: _list_classes(_look_into(top.folders[split]), path / split, ignored) for split in SPLITS}
    every = sorted(set().union(*found.values()))
    for name in every:
        holders = [split for split in SPLITS if name in found[split]]
        if len(holders) < len(SPLITS):
            lacking = next(split for split in SPLITS if split not in holders)
            raise InputError(
                f"The class {show(name)} is in {holders[0]}/ but not in {lacking}/.",
                f"add {show(path / lacking / name)} with images, or remove the class from every split",
            )
    return found


def _list_classes(entries: _Entries, path: Path, ignored: Counter[str]) -> dict[str, list[Path]]:
    """Class name to its images, both sorted."""
    if not entries.folders:
        images = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in entries.files)
        what = f"{images} images but no class folders" if images else "no class folders"
        raise InputError(f"{show(path)} holds {what}.", _LAYOUT)
    classes: dict[str, list[Path]] = {}
    for folder_name, folder in entries.folders.items():
        name = normal_name(Path(folder_name))
        if not name.isprintable():
            # It ends up in labels.txt, one name a line.
            raise InputError(f"The class folder {show(folder)} has a name that cannot be printed.", "rename it")
        kinds: Counter[str] = Counter()
        images_of_class = []
        for file in _walk(folder, ()):
            if file.suffix.lower() in IMAGE_SUFFIXES:
                images_of_class.append(file)
            else:
                kinds[file.suffix.lower()] += 1
        if not images_of_class:
            others = f" (files with {', '.join(show(kind) for kind in sorted(kinds)[:5])})" if kinds else ""
            raise InputError(
                f"The class folder {show(path / folder_name)} holds no image{others}.",
                f"add images ({' '.join(IMAGE_SUFFIXES)}), or remove the folder",
            )
        ignored.update(kinds)
        classes.setdefault(name, []).extend(images_of_class)
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _name_files(root: Path, found: dict[str, dict[str, list[Path]]]) -> dict[str, ImageFile]:
    files: dict[str, ImageFile] = {}
    for split, classes in found.items():
        for label, paths in enumerate(classes.values()):
            for path in paths:
                image = ImageFile(name=normal_name(path.relative_to(root)), path=path, label=label, split=split)
                if image.name in files:
                    raise InputError(
                        f"Two files have the name {show(image.name)} once accents are written the same way.",
                        "rename one of them",
                    )
                files[image.name] = image
    return files


def _look_into(folder: Path) -> _Entries:
    entries = _Entries(folders={}, files=[])
    try:
        with os.scandir(folder) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    entries.folders[entry.name] = Path(entry.path)
                else:
                    entries.files.append(Path(entry.path))
    except FileNotFoundError:
        raise InputError(f"The image folder {show(folder)} does not exist.", "DATA= an existing folder") from None
    except NotADirectoryError:
        raise InputError(f"{show(folder)} is a file, not a folder.", "unpack it, and DATA= the folder") from None
    except OSError as error:
        raise InputError(
            f"The folder {show(folder)} cannot be read: {error.strerror}.", "check its permissions (ls -ld)"
        ) from None
    return entries


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    entries = _look_into(folder)
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    # A link to a folder above would lead round and round; what it points to is being read already.
    if here in above:
        return
    yield from entries.files
    for inner in entries.folders.values():
        yield from _walk(inner, (*above, here))
