"""Source csv: a list of images with their labels, label weights and soft labels, one image a line."""

import csv
import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.data.split import (
    SPLITS,
    UNLABELLED,
    ImageFile,
    Listing,
    normal_name,
    require_classes,
    show,
    split_by_hash,
)
from edgeprune.errors import InputError

_KNOWN = ("path", "label", "split", "weight")
_SOFT = "soft_"
# Probabilities are often written with three or four digits.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line of a list; an error says which.

    Attributes:
        path: of the list.
        number: counted from 1, the header.
        cells: by column, without empty ones.
    """

    path: Path
    number: int
    cells: dict[str, str]

    def refuse(self, problem: str, remedy: str) -> InputError:
        return InputError(f"Line {self.number} of {show(self.path)} {problem}.", remedy)


def list_csv(path: Path | None, *, val_fraction: float, test_fraction: float, split_seed: int) -> Listing:
    """The images that a UTF-8 CSV file with a header names.

    Columns: ``path``, relative to the list's folder or absolute; ``label``, the name of the class, empty where nobody
    knows it (in train only); optional ``split``, on every line or on none; optional ``weight``, how much the label
    counts in training, 1 when empty; optional ``soft_CLASS``, one for each class: probabilities that sum to 1, or all
    empty. Other columns are named in a note. Without ``split``, labelled images are split by ``split_by_hash`` and
    unlabelled ones go to train.

    An image's name is its path below the list's folder; where one lies outside, below the folder that holds them all.

    Args:
        path: the list.
        val_fraction, test_fraction, split_seed: as in ``split_by_hash``; unused with a column ``split``.

    Raises:
        InputError: no list, an unreadable one, a line that cannot be used (it is named), fewer than two classes, a
            class that is missing from a split.
    """
    if path is None:
        raise InputError("The source csv has no list (data.path is not set).", "DATA=path/to/list.csv")
    columns, lines = _read_lines(path)
    classes = _list_classes(path, columns, lines)
    soft = [_SOFT + name for name in classes] if any(column.startswith(_SOFT) for column in columns) else []
    has_splits = any("split" in line.cells for line in lines)
    files: dict[str, ImageFile] = {}
    for line, (name, file) in zip(lines, _name_files(path, lines), strict=True):
        label = classes.index(line.cells["label"]) if "label" in line.cells else UNLABELLED
        if name in files:
            raise line.refuse(f"names {show(line.cells['path'])} once more", "one line an image")
        files[name] = ImageFile(
            name=name,
            path=file,
            label=label,
            split=_read_split(line, label) if has_splits else "train",
            weight=_read_weight(line) if label != UNLABELLED else 0.0,
            soft=_read_soft(line, soft),
        )
    if not has_splits:
        strata = {name: classes[file.label] for name, file in files.items() if file.label != UNLABELLED}
        hashed = split_by_hash(strata, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        files |= {name: replace(files[name], split=split) for name, split in hashed.items()}
    require_classes(show(path), classes, files.values())
    unused = [show(column) for column in columns if column not in _KNOWN and not column.startswith(_SOFT)]
    return Listing(
        source="csv",
        location=str(path.expanduser().resolve()),
        classes=classes,
        files=tuple(sorted(files.values(), key=lambda file: (SPLITS.index(file.split), file.name))),
        # The name only: a path in a published card would tell who made it.
        credit=f"Images from the list {show(path.name)}; edgeprune does not know their licence.",
        repair="mend or remove them, or set `data: {skip_broken: true}` in the recipe to leave them out",
        notes=(f"Columns of {show(path)} that nothing reads: {', '.join(unused)}.",) if unused else (),
    )


def _read_lines(path: Path) -> tuple[list[str], list[_Line]]:
    try:
        # Spreadsheets write a signature first, which is no part of the first column's name.
        with path.expanduser().open(encoding="utf-8-sig", newline="") as file:
            rows: Any = csv.reader(file, skipinitialspace=True, strict=True)
            try:
                columns = [column.strip() for column in next(rows, [])]
                _check_header(path, columns)
                lines = [_read_line(path, columns, row, rows.line_num) for row in rows if row]
            except csv.Error as error:
                raise InputError(f"Line {rows.line_num} of {show(path)} is no CSV: {error}.", "mend it") from None
    except OSError as error:
        raise InputError(f"The list {show(path)} cannot be read: {error.strerror}.", "DATA= a CSV file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"The list {show(path)} is not UTF-8: {error.reason}.", "save it as UTF-8") from None
    if not lines:
        raise InputError(f"The list {show(path)} names no image.", "one line an image below the header")
    return columns, lines


def _check_header(path: Path, columns: Sequence[str]) -> None:
    header = _Line(path=path, number=1, cells={})
    for column in _KNOWN[:2]:
        if column not in columns:
            raise header.refuse(f"has no column {column!r}", "a first line like: path,label,split,weight")
    for column in columns:
        if columns.count(column) > 1:
            raise header.refuse(f"has the column {show(column)} twice", "rename or remove one of them")


def _read_line(path: Path, columns: Sequence[str], row: Sequence[str], number: int) -> _Line:
    # A file's name may end in a space, a class's name had better not.
    cells = [cell if column == "path" else cell.strip() for column, cell in zip(columns, row, strict=False)]
    line = _Line(path=path, number=number, cells={c: cell for c, cell in zip(columns, cells, strict=False) if cell})
    if len(row) != len(columns):
        raise line.refuse(f"has {len(row)} cells, the header {len(columns)}", "quote cells that hold a comma")
    if "path" not in line.cells:
        raise line.refuse("names no image", "its path, or remove the line")
    if "\0" in line.cells["path"]:
        raise line.refuse("has a NUL in its path, which no file has", "save the list as UTF-8")
    return line


def _list_classes(path: Path, columns: Sequence[str], lines: Sequence[_Line]) -> tuple[str, ...]:
    first: dict[str, _Line] = {}
    for line in lines:
        if "label" in line.cells:
            first.setdefault(line.cells["label"], line)
    for name, line in first.items():
        if not name.isprintable():
            # It ends up in labels.txt, one name a line.
            raise line.refuse(f"has the label {show(name)}, which cannot be printed", "rename the class")
    if len(first) < 2:
        found = f"a single label, {show(next(iter(first)))}" if first else "no label"
        raise InputError(f"{show(path)} has {found}; a classifier needs two classes.", "labels of at least two classes")
    soft = {column.removeprefix(_SOFT) for column in columns if column.startswith(_SOFT)}
    if soft and soft != first.keys():
        column = _SOFT + min(soft ^ first.keys())
        lacks = "has no column" if column not in columns else "has no label for the column"
        raise InputError(
            f"{show(path)} {lacks} {show(column)}; soft labels need one column for each class.",
            f"columns {', '.join(_SOFT + name for name in sorted(first)[:5])}{' ...' * (len(first) > 5)}",
        )
    return tuple(sorted(first))


def _name_files(path: Path, lines: Sequence[_Line]) -> list[tuple[str, Path]]:
    """Name and place of each line's image; the name goes into digests and bundles, so it holds no folder of a home."""
    folder = path.expanduser().absolute().parent
    # Not resolved: links are the user's way to say where things are.
    places = [Path(os.path.normpath(folder / line.cells["path"])) for line in lines]
    root = Path(os.path.normpath(folder))
    if not all(place.is_relative_to(root) for place in places):
        root = Path(os.path.commonpath([place.parent for place in places]))
    return [(normal_name(place.relative_to(root)), place) for place in places]


def _read_split(line: _Line, label: int) -> str:
    split = line.cells.get("split")
    if split not in SPLITS:
        said = f"has the split {show(split)}" if split else "has no split, and others have"
        raise line.refuse(said, "train, val or test on every line, or no column split")
    if label == UNLABELLED and split != "train":
        raise line.refuse(f"has no label, but is in {split}", "a label, or the split train")
    return split


def _read_weight(line: _Line) -> float:
    text = line.cells.get("weight", "1")
    weight = _read_number(text)
    if not weight >= 0:
        raise line.refuse(f"has the weight {show(text)}; a label weighs 0 or more", "a number like 0.5")
    return weight


def _read_soft(line: _Line, columns: Sequence[str]) -> bytes | None:
    texts = [line.cells[column] for column in columns if column in line.cells]
    if not texts:
        return None
    if len(texts) < len(columns):
        missing = next(column for column in columns if column not in line.cells)
        raise line.refuse(f"has soft labels, but none in {show(missing)}", "all of them, or none")
    shares = [_read_number(text) for text in texts]
    if not min(shares) >= 0 or not abs(sum(shares) - 1) <= _SUM_TOLERANCE:
        raise line.refuse(
            f"has soft labels {', '.join(texts[:5])}{' ...' * (len(texts) > 5)} with the sum {sum(shares):g}",
            f"probabilities, 0 or more, that sum to 1 within {_SUM_TOLERANCE:g}",
        )
    return array("f", shares).tobytes()


def _read_number(text: str) -> float:
    """NaN for what is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
