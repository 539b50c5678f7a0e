"""Lists of images as people have them: labels, label weights, soft labels, and images that nobody has labelled."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.data import UNLABELLED, Dataset, load_dataset
from edgeprune.data.csv_list import list_csv
from edgeprune.data.split import Listing
from edgeprune.errors import InputError

WriteList = Callable[..., Path]


@pytest.fixture
def write_list(tmp_path: Path) -> WriteList:
    """``write_list("path,label", "a.png,cat", ...)``: a list, and an image of its own for each name it has."""

    def write(*lines: str, name: str = "list.csv") -> Path:
        path = tmp_path / "pets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for number, line in enumerate(lines[1:]):
            place = path.parent / line.split(",")[0].strip('"')
            if place.suffix == ".png":
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number % 256, number // 256, 9)).save(place)
        return path

    return write


def many(count: int = 10, *, tail: str = "") -> list[str]:
    return [f"{name}{n}.png,{name}{tail}" for name in ("cat", "dog") for n in range(count)]


def listed(path: Path | None) -> Listing:
    return list_csv(path, val_fraction=0.2, test_fraction=0.2, split_seed=0)


def load(path: Path, cache_dir: Path, said: list[str] | None = None, *, skip_broken: bool = False) -> Dataset:
    return load_dataset(
        source="csv",
        path=path,
        image_size=16,
        val_fraction=0.2,
        test_fraction=0.2,
        split_seed=0,
        skip_broken=skip_broken,
        cache_dir=cache_dir,
        say=(said if said is not None else []).append,
    )


def refused(path: Path | None) -> InputError:
    with pytest.raises(InputError) as caught:
        listed(path)
    return caught.value


def test_labels_are_split_as_folders_are_and_unlabelled_images_are_all_train(write_list: WriteList) -> None:
    listing = listed(write_list("path,label", *many(), *(f"x{n}.png," for n in range(7))))
    assert listing.classes == ("cat", "dog")
    assert Counter((file.split, file.label) for file in listing.files) == {
        ("train", 0): 6,
        ("train", 1): 6,
        ("train", UNLABELLED): 7,
        ("val", 0): 2,
        ("val", 1): 2,
        ("test", 0): 2,
        ("test", 1): 2,
    }
    assert [file.weight for file in listing.files if file.label == UNLABELLED] == [0.0] * 7


def test_a_column_split_is_used_as_it_is(write_list: WriteList) -> None:
    splits = ("train", "val", "test", "test")
    lines = [f"{name}{n}.png,{name},{split}" for name in ("cat", "dog") for n, split in enumerate(splits)]
    listing = listed(write_list("path,label,split", *lines))
    assert [file.split for file in listing.files] == ["train"] * 2 + ["val"] * 2 + ["test"] * 4


def test_weights_and_soft_labels_stand_beside_their_own_image(write_list: WriteList, tmp_path: Path) -> None:
    lines = [f"{line},{n / 8},{n / 32},{1 - n / 32}" for n, line in enumerate(many())]
    lines[3] = "cat3.png,cat,,,"
    path = write_list("path,label,weight,soft_cat,soft_dog", *lines, "x.png,,1,0.25,0.75")
    data = load(path, tmp_path / "cache")
    numbers = {f"{name}{n}.png": n + 10 * (name == "dog") for name in ("cat", "dog") for n in range(10)}
    for split in (data.train, data.val, data.test):
        assert split.weights is not None
        assert split.soft is not None
        assert (split.weights.dtype, split.soft.dtype) == (np.float32, np.float32)
        assert split.soft.shape == (len(split.names), 2)
        for name, label, weight, soft in zip(split.names, split.labels, split.weights, split.soft, strict=True):
            if name == "x.png":
                assert (label, weight, tuple(soft)) == (UNLABELLED, 0, (0.25, 0.75))
            elif name == "cat3.png":
                assert weight == 1
                assert np.isnan(soft).all()
            else:
                n = numbers[name]
                assert (weight, tuple(soft)) == (n / 8, (n / 32, 1 - n / 32))
    again = load(path, tmp_path / "cache")
    np.testing.assert_array_equal(again.train.soft, data.train.soft)
    np.testing.assert_array_equal(again.train.weights, data.train.weights)


def test_a_list_of_plain_labels_has_neither_weights_nor_soft_labels(write_list: WriteList, tmp_path: Path) -> None:
    data = load(write_list("path,label,weight,soft_cat,soft_dog", *many(tail=",1,,")), tmp_path / "cache")
    assert (data.train.weights, data.train.soft) == (None, None)


def test_the_digest_of_plain_labels_is_that_of_the_same_folder(write_list: WriteList, tmp_path: Path) -> None:
    """Shipped models name the digest of their images; a new way to list them must not make them other images."""
    path = write_list("path,label", *(f"{name}/{n}.png,{name}" for name in ("cat", "dog") for n in range(10)))
    folder = load_dataset(
        source="imagefolder",
        path=path.parent,
        image_size=16,
        val_fraction=0.2,
        test_fraction=0.2,
        split_seed=0,
        skip_broken=False,
        cache_dir=tmp_path / "cache",
        say=lambda line: None,
    )
    data = load(path, tmp_path / "cache")
    assert (data.digest, data.split_digest) == (folder.digest, folder.split_digest)


def test_the_digest_counts_weights_and_soft_labels(write_list: WriteList, tmp_path: Path) -> None:
    lines, digests = many(tail=",,,")[:-1], set()
    for last in (",,,", ",0.5,,", ",1,0.5,0.5", ",1,0.4,0.6", ",0.5,0.5,0.5"):
        path = write_list("path,label,weight,soft_cat,soft_dog", *lines, f"dog9.png,dog{last}")
        digests.add(load(path, tmp_path / "cache").digest)
    assert len(digests) == 5


def test_a_transfer_set_needs_labels_in_val_and_test_only(write_list: WriteList, tmp_path: Path) -> None:
    """What a teacher answers is all that training needs; what is judged needs labels."""
    lines = [f"{name}-{split}.png,{name},{split}" for name in ("cat", "dog") for split in ("val", "test")]
    data = load(write_list("path,label,split", *lines, "x0.png,,train", "x1.png,,train"), tmp_path / "cache")
    assert data.train.labels.tolist() == [UNLABELLED, UNLABELLED]
    assert data.train.weights is not None
    assert data.train.weights.tolist() == [0, 0]
    assert data.val.labels.tolist() == [0, 1]


def test_other_labels_are_no_reason_to_decode_again(
    write_list: WriteList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft labels are computed anew with every better teacher; the pixels stay what they are."""
    lines = [f"{line},train" for line in many()]
    for place, split in ((0, "val"), (1, "test"), (10, "val"), (11, "test")):
        lines[place] = lines[place].replace("train", split)
    path = write_list("path,label,split", *lines)
    before = load(path, tmp_path / "cache")
    monkeypatch.setattr("edgeprune.data.pack.read_image", None)
    path.write_text("\n".join(["path,label,split,weight", *(f"{line},0.5" for line in lines), ""]))
    after = load(path, tmp_path / "cache")
    assert after.train.weights is not None
    assert set(after.train.weights.tolist()) == {0.5}
    np.testing.assert_array_equal(after.train.images, before.train.images)
    assert after.digest != before.digest


def test_a_copy_without_a_label_is_in_no_other_class(write_list: WriteList, tmp_path: Path) -> None:
    path = write_list("path,label", *many(), "x.png,")
    (path.parent / "x.png").write_bytes((path.parent / "cat0.png").read_bytes())
    said: list[str] = []
    load(path, tmp_path / "cache", said)
    assert not any("more than one class" in line for line in said)


def test_names_hold_no_folder_of_this_machine(write_list: WriteList, tmp_path: Path) -> None:
    """They go into digests, which must be the same everywhere, and into published bundles."""
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(outside / name)
    lines = many()
    inside = listed(write_list("path,label", *lines[:-1], f"{tmp_path}/pets/dog9.png,dog"))
    assert {file.name for file in inside.files} == {line.split(",")[0] for line in lines}
    apart = listed(write_list("path,label", *lines, "../elsewhere/a.png,", f"{outside}/b.png,"))
    names = {file.name for file in apart.files}
    assert {"elsewhere/a.png", "elsewhere/b.png", "pets/cat0.png"} < names
    assert len(names) == 22
    assert all(file.path.is_file() for file in apart.files)
    assert str(tmp_path) not in apart.credit


def test_what_a_spreadsheet_writes_is_read(write_list: WriteList) -> None:
    """A signature before the header, blanks after commas, quoted commas, empty lines, Windows' ends of lines."""
    path = write_list("path,label", *many(), '"a, b.png",cat')
    Image.new("RGB", (4, 4)).save(path.parent / "a, b.png")
    text = path.read_text(encoding="utf-8").replace(",cat\n", ", cat \n").replace("\n", "\r\n") + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    listing = listed(path)
    assert listing.classes == ("cat", "dog")
    assert "a, b.png" in {file.name for file in listing.files}


def test_columns_that_nothing_reads_are_named(write_list: WriteList) -> None:
    """A misspelt `weight` would otherwise count 1 without a word."""
    listing = listed(write_list("path,label,wieght", *many(tail=",2")))
    assert listing.notes
    assert "'wieght'" in listing.notes[0]


def test_a_missing_file_is_named_and_can_be_left_out(write_list: WriteList, tmp_path: Path) -> None:
    path = write_list("path,label", *many())
    (path.parent / "cat3.png").unlink()
    with pytest.raises(InputError, match=r"1 of 20 images cannot be read: 'cat3.png' \(No such file"):
        load(path, tmp_path / "cache")
    assert load(path, tmp_path / "cache", skip_broken=True).skipped == ("cat3.png",)


FULL = "path,label,split,weight,soft_cat,soft_dog"
GOOD = tuple(f"{name}-{split}.png,{name},{split},,," for name in ("cat", "dog") for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.png,cat,train,-1,,", "weight '-1'"),
        ("a.png,cat,train,nan,,", "weight 'nan'"),
        ("a.png,cat,train,much,,", "weight 'much'"),
        ("a.png,cat,valid,,,", "split 'valid'"),
        ("a.png,cat,,,,", "has no split, and others have"),
        ("a.png\0,cat,train,,,", "has a NUL in its path"),
        ("a.png,,val,,,", "has no label, but is in val"),
        ("a.png,cat,train,,0.5,", "none in 'soft_dog'"),
        ("a.png,cat,train,,0.5,0.6", "sum 1.1"),
        ("a.png,cat,train,,-0.5,1.5", "-0.5, 1.5"),
        ("a.png,cat,train,,half,0.5", "half, 0.5"),
        ("a.png,cat,train", "has 3 cells, the header 6"),
        (",cat,train,,,", "names no image"),
        ("cat-val.png,cat,train,,,", "names 'cat-val.png' once more"),
        ('"a.png,cat,train,,,', "is no CSV"),
        ("a.png,ca\x07t,train,,,", r"label 'ca\x07t', which cannot be printed"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(write_list: WriteList, line: str, problem: str) -> None:
    error = refused(write_list(FULL, *GOOD, line))
    assert "Line 8 of " in error.problem
    assert "list.csv' " in error.problem
    assert problem in error.problem


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("path,class", "a.png,cat"), "Line 1 of .* has no column 'label'"),
        (("file,label", "a.png,cat"), "Line 1 of .* has no column 'path'"),
        (("path,label,path", "a.png,cat,a.png"), "Line 1 of .* has the column 'path' twice"),
        (("path,label",), "names no image"),
        (("",), "Line 1 of .* has no column 'path'"),
        (("path,label", "a.png,cat", "b.png,cat"), "a single label, 'cat'"),
        (("path,label", "a.png,"), "has no label; a classifier"),
        (("path,label", "a.png,cat", "b.png,dog"), "Class 'cat' has 1 image"),
        (("path,label,soft_cat", *many(tail=",1")), "has no column 'soft_dog'"),
        (("path,label,soft_cat,soft_dog,soft_fox", *many(tail=",,,")), "has no label for the column 'soft_fox'"),
        (("path,label,split", *(f"{line},train" for line in many())), "no image of class 'cat' in val"),
        (("path,label,split", *(line.replace(",,,", "") for line in GOOD[1:])), "no image of class 'cat' in train"),
    ],
)
def test_a_list_that_cannot_be_used_says_what_it_lacks(
    write_list: WriteList, lines: tuple[str, ...], problem: str
) -> None:
    path = write_list(*lines)
    with pytest.raises(InputError, match=problem):
        listed(path)


def test_files_that_are_no_list_are_refused(tmp_path: Path) -> None:
    assert refused(None).remedy == "DATA=path/to/list.csv"
    assert "No such file" in refused(tmp_path / "nowhere.csv").problem
    assert "Is a directory" in refused(tmp_path).problem
    (tmp_path / "latin.csv").write_bytes(b"path,label\ncaf\xe9.png,cat\n")
    assert "is not UTF-8" in refused(tmp_path / "latin.csv").problem
    Image.new("RGB", (4, 4)).save(tmp_path / "list.png")
    assert "is not UTF-8" in refused(tmp_path / "list.png").problem
