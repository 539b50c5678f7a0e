"""Folders of images as people have them, and the errors of those that cannot be used."""

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from edgeprune.data.imagefolder import list_folder
from edgeprune.data.split import Listing
from edgeprune.errors import InputError


def fill(root: Path, *folders: str, count: int = 4, suffix: str = ".png") -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            Image.new("RGB", (4, 4), (10 * n, 0, 0)).save(root / folder / f"{n}{suffix}")
    return root


def listed(path: Path | None, seed: int = 0) -> Listing:
    return list_folder(path, val_fraction=0.25, test_fraction=0.25, split_seed=seed)


def refused(path: Path | None, problem: str) -> str:
    with pytest.raises(InputError, match=problem) as caught:
        listed(path)
    return caught.value.remedy


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, with this process being none that may read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    yield folder
    if os.geteuid() != user:
        os.seteuid(user)
    for path in folder.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def drop_privileges() -> None:
    if os.geteuid() == 0:
        # Root reads files whatever their mode is: be nobody for the rest of the test.
        os.seteuid(65534)


def test_train_val_and_test_are_used_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{split}/{name}" for split in ("train", "val", "test") for name in ("dog", "cat")))
    listing = listed(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert len(listing.files) == 24
    for file in listing.files:
        split, name, _ = file.name.split("/")
        assert (file.split, listing.classes[file.label]) == (split, name)


def test_one_folder_of_classes_is_split_by_seed(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog", count=8)
    listing = listed(tmp_path)
    assert listing.classes == ("cat", "dog")
    counts = [sum(file.split == split for file in listing.files) for split in ("train", "val", "test")]
    assert counts == [8, 4, 4]
    assert listing == listed(tmp_path)
    assert listing.files != listed(tmp_path, seed=1).files


def test_equal_file_names_in_two_classes_stay_two_images(tmp_path: Path) -> None:
    """Names are paths: cat/0.png and dog/0.png may be in different splits."""
    fill(tmp_path, "cat", "dog", "cat/more")
    listing = listed(tmp_path)
    assert len({file.name for file in listing.files}) == 12
    assert "cat/more/0.png" in {file.name for file in listing.files}


def test_suffixes_count_in_any_case_and_hidden_files_never(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog", suffix=".PNG")
    (tmp_path / "cat" / ".thumbnail.png").write_bytes(b"")
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / "dog" / "notes.txt").write_text("dogs")
    listing = listed(tmp_path)
    assert len(listing.files) == 8
    assert listing.notes == (f"1 files of '{tmp_path}' are no images by their suffix: '.txt' (1).",)


def test_linked_folders_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "cat")
    fill(tmp_path / "data", "dog")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cat", target_is_directory=True)
    (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data" / "dog", target_is_directory=True)
    listing = listed(tmp_path / "data")
    assert sorted(file.name for file in listing.files) == [
        f"{name}/{n}.png" for name in ("cat", "dog") for n in range(4)
    ]


def test_accents_are_spelled_one_way_whatever_the_file_system_says(tmp_path: Path) -> None:
    """macOS may hand names back decomposed; the split and the digests must not change with it."""
    fill(tmp_path / "composed", unicodedata.normalize("NFC", "épagneul"), "chat")
    fill(tmp_path / "decomposed", unicodedata.normalize("NFD", "épagneul"), "chat")
    one, other = listed(tmp_path / "composed"), listed(tmp_path / "decomposed")
    assert one.classes == other.classes == ("chat", unicodedata.normalize("NFC", "épagneul"))
    assert [(file.name, file.split) for file in one.files] == [(file.name, file.split) for file in other.files]
    assert all(file.path.exists() for file in other.files)


def test_two_names_that_differ_only_in_spelling_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "chat")
    refused(tmp_path, "Two files have the name")


def test_file_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    os.rename(tmp_path / "cat" / "0.png", os.fsencode(tmp_path) + b"/cat/caf\xe9.png")  # noqa: PTH104
    assert sum(file.label == 0 for file in listed(tmp_path).files) == 4


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A classifier of vehicles: train/ holds images there, where a split holds class folders."""
    fill(tmp_path, "bus", "car", "train")
    assert listed(tmp_path).classes == ("bus", "car", "train")


def test_the_credit_names_no_path(tmp_path: Path) -> None:
    """It goes into published cards; a path tells who made them."""
    fill(tmp_path / "pets", "cat", "dog")
    credit = listed(tmp_path / "pets").credit
    assert "'pets'" in credit
    assert str(tmp_path) not in credit


def test_no_folder_at_all_says_how_to_name_one() -> None:
    assert refused(None, "has no folder") == "DATA=path/to/images"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "'.*/nowhere' does not exist")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"PK")
    assert "unpack" in refused(tmp_path / "pets.zip", "is a file, not a folder")


def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    assert "one folder a class" in refused(tmp_path, "holds no class folders")


def test_images_without_class_folders_are_counted(tmp_path: Path) -> None:
    refused(fill(tmp_path, "."), "holds 4 images but no class folders")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    refused(fill(tmp_path, "cat"), "has a single class, 'cat'")
    refused(fill(tmp_path / "split", "train/cat", "val/cat", "test/cat"), "has a single class, 'cat'")


def test_a_class_without_images_says_what_it_holds_instead(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "1.heic").write_bytes(b"x")
    assert ".jpg" in refused(tmp_path, r"fox' holds no image \(files with '.heic'\)")


def test_a_class_missing_from_one_split_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog", "test/cat")
    refused(tmp_path, "The class 'dog' is in train/ but not in test/")
    fill(tmp_path, "test/dog", "test/fox")
    refused(tmp_path, "The class 'fox' is in test/ but not in train/")


def test_an_empty_class_in_one_split_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog", "test/cat")
    (tmp_path / "test" / "dog").mkdir()
    refused(tmp_path, "test/dog' holds no image")


def test_a_missing_test_split_is_not_made_up(tmp_path: Path) -> None:
    """Carving it out of train would leave figures that nobody else's test split can be compared with."""
    fill(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    assert refused(tmp_path, "has train/ and val/ but no test/").startswith("make test/ with the same class folders")
    shutil.rmtree(tmp_path / "val")
    refused(tmp_path, "has train/ but no val/ and no test/")


def test_a_folder_beside_the_splits_is_no_fourth_split(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{split}/{name}" for split in ("train", "val", "test", "extra") for name in ("cat", "dog")))
    refused(tmp_path, "holds train/ beside 'extra'")


@pytest.mark.parametrize("names", [("training", "validation"), ("Train", "Test"), ("train", "valid", "test")])
def test_splits_by_another_name_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    """It would train a classifier of splits, at chance, without an error."""
    fill(tmp_path, *(f"{split}/{name}" for split in names for name in ("cat", "dog")))
    refused(tmp_path, "splits are named|neither of train/ val/ test/")


def test_splits_without_class_folders_are_not_taken_for_classes(tmp_path: Path) -> None:
    refused(fill(tmp_path, "train", "val", "test"), "train' holds 4 images but no class folders")


def test_a_class_name_that_cannot_be_a_line_of_labels_is_refused(tmp_path: Path) -> None:
    refused(fill(tmp_path, "cat", "dog\nfox"), r"dog\\nfox' has a name that cannot be printed")


@pytest.mark.parametrize("locked", [".", "cat", "cat/inner"])
def test_an_unreadable_folder_is_named(open_folder: Path, locked: str) -> None:
    fill(open_folder / "pets", "cat", "dog", "cat/inner")
    (open_folder / "pets" / locked).chmod(0)
    drop_privileges()
    assert "permissions" in refused(open_folder / "pets", f"{Path(locked).name}' cannot be read: Permission denied")


def test_a_folder_below_an_unreadable_one_is_an_error_and_no_traceback(open_folder: Path) -> None:
    fill(open_folder / "pets", "cat", "dog")
    open_folder.chmod(0)
    drop_privileges()
    refused(open_folder / "pets", "pets' cannot be read: Permission denied")
