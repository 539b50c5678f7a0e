"""Visual Wake Words made of a miniature COCO: its rule, its splits, and folders that are not as they should be."""

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Ask
from PIL import Image

from edgeprune.data import vww
from edgeprune.data.coco import _reduce, label_persons
from edgeprune.data.csv_list import list_csv
from edgeprune.data.vww import VWW_CLASSES, VwwSurvey, survey_vww, write_list
from edgeprune.errors import EdgepruneError, InputError

PERSON, DOG = 1, 18
CATEGORIES = [{"id": DOG, "name": "dog"}, {"id": PERSON, "name": "person"}]
# 0.5 % of it is 50 pixels.
SIZE = {"width": 200, "height": 50}


def annotation(image: int, area: float, category: int = PERSON, **more: Any) -> dict[str, Any]:
    outline = [[0.0, 0.0, 3.5, 0.0, 3.5, 3.5]]
    return {"image_id": image, "category_id": category, "area": area, "segmentation": outline, "iscrowd": 0} | more


def write_part(root: Path, part: str, year: str, ids: range, annotations: list[dict[str, Any]]) -> Path:
    """One part of COCO as it comes: a photograph for each id, and the annotation file."""
    prefix = f"COCO_{part}2014_" if year == "2014" else ""
    names = {number: f"{prefix}{number:012d}.jpg" for number in ids}
    (root / f"{part}{year}").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number, name in names.items():
        Image.new("RGB", (20, 5), (number, 255 - number, 40)).save(root / f"{part}{year}" / name)
    images = [{"id": number, "file_name": name, **SIZE} for number, name in names.items()]
    file = root / "annotations" / f"instances_{part}{year}.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return file


def write_coco(root: Path, year: str = "2014") -> Path:
    """40 images for train and 20 for val; every other one shows a person."""
    for part, ids in (("train", range(100, 140)), ("val", range(200, 220))):
        write_part(root, part, year, ids, [annotation(number, 60, PERSON if number % 2 else DOG) for number in ids])
    return root


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: tests that change something copy it."""
    root = tmp_path_factory.mktemp("master")
    write_coco(root / "coco")
    return root


@pytest.fixture
def coco(master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(master / "coco", tmp_path / "coco"))


def survey(root: Path, *, said: list[str] | None = None, minival: Path | None = None, seed: int = 0) -> VwwSurvey:
    return survey_vww(
        root,
        minival=minival,
        val_fraction=0.2,
        split_seed=seed,
        cache_dir=root.parent / "cache",
        say=said.append if said is not None else lambda line: None,
    )


def counts(found: VwwSurvey) -> Counter[tuple[str, str]]:
    return Counter((file.split, VWW_CLASSES[file.label]) for file in found.listing.files)


def refused(root: Path, problem: str, **options: Any) -> str:
    with pytest.raises(InputError, match=problem) as caught:
        survey(root, **options)
    return caught.value.remedy


# The rule


@pytest.mark.parametrize(
    ("annotations", "shown"),
    [
        ([], False),
        ([annotation(7, 50.01)], True),
        # The scripts compare with >; an older one of theirs, never used for the published set, kept equality.
        ([annotation(7, 50)], False),
        ([annotation(7, 49.99)], False),
        ([annotation(7, 49), annotation(7, 49)], False),
        ([annotation(7, 49), annotation(7, 51)], True),
        ([annotation(7, 9_000, DOG)], False),
        # The area of the outline counts, whatever the box around it is.
        ([annotation(7, 40, bbox=[0, 0, 200, 50])], False),
        ([annotation(7, 51, bbox=[0, 0, 1, 1])], True),
        # A crowd has its outline run-length encoded.
        ([annotation(7, 800, iscrowd=1, segmentation={"counts": [1, 2, 3], "size": [50, 200]})], True),
        # Whoever takes images out of the list seldom takes out their annotations.
        ([annotation(999, 9_000)], False),
    ],
)
def test_a_person_counts_when_the_area_is_over_half_a_percent(
    tmp_path: Path, annotations: list[dict[str, Any]], shown: bool
) -> None:
    file = write_part(tmp_path, "val", "2014", range(7, 8), annotations)
    assert _reduce(file).persons == (shown,)


def test_the_category_is_found_by_its_name(tmp_path: Path) -> None:
    file = write_part(tmp_path, "val", "2014", range(7, 9), [annotation(7, 800, 5), annotation(8, 800, 1)])
    values = json.loads(file.read_text())
    values["categories"] = [{"id": 1, "name": "dog"}, {"id": 5, "name": "person"}]
    file.write_text(json.dumps(values))
    assert _reduce(file).persons == (True, False)


# Splits


def test_without_a_list_of_ids_the_releases_own_val_is_test(master: Path) -> None:
    found = survey(master / "coco")
    assert found.listing.classes == ("not_person", "person")
    assert counts(found) == {
        ("train", "not_person"): 16,
        ("train", "person"): 16,
        ("val", "not_person"): 4,
        ("val", "person"): 4,
        ("test", "not_person"): 10,
        ("test", "person"): 10,
    }
    for file in found.listing.files:
        assert (file.split == "test") == file.name.startswith("val2014/")
        assert file.label == int(file.path.stem[-3:]) % 2
        assert file.path.is_file()
    assert any("not comparable with those published on minival" in note for note in found.listing.notes)
    assert survey(master / "coco", seed=1).listing.files != found.listing.files


def test_the_list_of_ids_says_what_is_test_in_both_parts(coco: Path) -> None:
    """pyvww splits 2017 by the list as well, whose minival images lie in train2017."""
    ids = coco / "annotations" / "mscoco_minival_ids.txt"
    ids.write_text("101\n102\n211\n212\n99999\n")
    found = survey(coco)
    assert found.minival == ids
    assert {file.path.stem[-3:] for file in found.listing.files if file.split == "test"} == {"101", "102", "211", "212"}
    assert len(found.listing.files) == 60
    elsewhere = coco.parent / "mine.txt"
    elsewhere.write_text("101\n102")
    assert counts(survey(coco, minival=elsewhere))["test", "person"] == 1


def test_val_of_2014_alone_will_do_with_the_list_of_ids(coco: Path) -> None:
    """It holds all of minival, and 32,445 images more."""
    (coco / "annotations" / "instances_train2014.json").unlink()
    assert refused(coco, "holds no not_person image for train").startswith("more of COCO")
    (coco / "mscoco_minival_ids.txt").write_text("201\n202\n203\n204\n")
    assert counts(survey(coco))["test", "person"] == 2


def test_2017_is_read_where_2014_is_not_whole(tmp_path: Path, coco: Path) -> None:
    write_coco(tmp_path / "late", "2017")
    assert survey(tmp_path / "late").year == "2017"
    shutil.copytree(tmp_path / "late", coco, dirs_exist_ok=True)
    assert survey(coco).year == "2014"
    (coco / "annotations" / "instances_val2014.json").unlink()
    assert survey(coco).year == "2017"


def test_images_in_a_folder_of_their_own_are_split_the_same(master: Path, coco: Path) -> None:
    (coco / "images").mkdir()
    for part in ("train2014", "val2014"):
        (coco / part).rename(coco / "images" / part)
    here, there = survey(master / "coco").listing, survey(coco).listing
    assert [(file.name, file.label, file.split) for file in here.files] == [
        (file.name, file.label, file.split) for file in there.files
    ]
    assert there.files[0].path.is_relative_to(coco / "images")


def test_missing_files_are_counted_and_move_no_image_to_another_split(master: Path, coco: Path) -> None:
    whole = {file.name: file.split for file in survey(master / "coco").listing.files}
    gone = [name for index, name in enumerate(whole) if index % 3 == 0]
    for name in gone:
        (coco / name).unlink()
    found = survey(coco)
    left = {file.name: file.split for file in found.listing.files}
    assert left == {name: split for name, split in whole.items() if name not in gone}
    assert sum(found.missing.values()) == len(gone)
    train, test = found.parts
    assert (train.listed, test.listed) == (40, 20)
    assert train.present + test.present == len(left)
    assert f"{train.present:,} of 82,783 images (0.0%) for train and val" in found.listing.notes[-1]


# What was published


def test_every_published_split_is_all_of_coco() -> None:
    assert {train + test for train, test in vww._PUBLISHED.values()} == {123_287}


def test_counts_are_met_exactly_or_not_at_all(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vww._PUBLISHED, "2014", (40, 20))
    found = survey(coco)
    assert [part.met for part in found.parts] == [True, True]
    assert len(found.listing.notes) == 1
    next((coco / "val2014").iterdir()).unlink()
    assert [part.met for part in survey(coco).parts] == [True, False]
    monkeypatch.setitem(vww._PUBLISHED, "2014", (39, 19))
    assert [part.met for part in survey(coco).parts] == [False, False]


# What is kept


def test_annotation_files_are_read_once_and_again_when_they_change(coco: Path) -> None:
    """The real ones take half a minute."""
    said: list[str] = []
    first = survey(coco, said=said)
    assert said == ["Reading instances_train2014.json (0 MB) and instances_val2014.json (0 MB) of COCO, once."]
    assert survey(coco, said=said) == first
    assert len(said) == 1
    file = coco / "annotations" / "instances_val2014.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": [annotation(201, 60)]}))
    assert counts(survey(coco, said=said))["test", "person"] == 1
    assert said[1:] == ["Reading instances_val2014.json (0 MB) of COCO, once."]


def test_what_was_kept_and_is_damaged_is_made_again(coco: Path) -> None:
    first = survey(coco)
    for kept in (coco.parent / "cache").iterdir():
        kept.write_text(kept.read_text().replace("[0, 1, 0", "[1, 1, 0"))
    said: list[str] = []
    assert survey(coco, said=said) == first
    assert len(said) == 1


def test_each_file_is_kept_as_soon_as_it_is_read(coco: Path) -> None:
    """An interrupted run, or one that meets a damaged file, need not read the others again."""
    file = coco / "annotations" / "instances_val2014.json"
    whole = file.read_text()
    file.unlink()
    os.mkfifo(file)  # whoever reads it waits
    ended = []

    def read() -> None:
        with pytest.raises(EdgepruneError) as caught:
            label_persons(sorted(file.parent.iterdir()), folder=coco.parent / "cache", say=len)
        ended.append(caught.value)

    reading = threading.Thread(target=read)
    reading.start()
    while not list((coco.parent / "cache").glob("coco-*.json")):
        time.sleep(0.02)
    for child in multiprocessing.active_children():
        child.kill()
    reading.join()
    assert ended
    file.unlink()
    file.write_text(whole)
    said: list[str] = []
    survey(coco, said=said)
    assert said == ["Reading instances_val2014.json (0 MB) of COCO, once."]


def test_a_reader_that_is_killed_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    """Out of memory, Linux kills whoever it likes; waiting for ever would be worse than failing."""
    pipe = tmp_path / "instances_val2014.json"
    os.mkfifo(pipe)

    def kill() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.02)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EdgepruneError, match="was ended from outside"):
        label_persons([pipe], folder=tmp_path, say=len)
    killer.join()


# Folders that are not as they should be


def change_values(**changes: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:300]), "is damaged: "),
        (lambda file: file.write_bytes(b""), "is damaged: Expecting value"),
        (lambda file: file.write_bytes(b"\xff\xd8\xff"), "is damaged: 'utf-8' codec"),
        (lambda file: file.write_text("[]"), "is no instances file of COCO"),
        (lambda file: file.write_text("{}"), r"is no instances file of COCO \(KeyError: 'images'\)"),
        (change_values(categories=[]), "is no instances file of COCO"),
        (change_values(images=[{"id": 1, "file_name": "a.jpg", "height": 0, "width": 0}] * 2), "lists an image twice"),
        (change_values(annotations=[annotation(201, float("nan"))]), "is damaged: NaN is no number"),
        (change_values(annotations=[annotation(201, 10**400)]), "is no instances file of COCO"),
        (change_values(annotations=[annotation(201, "big")]), "is no instances file of COCO"),  # type: ignore[arg-type]
        (
            change_values(
                images=[{"id": 1, "file_name": "a.jpg", "height": 0, "width": 0}], annotations=[annotation(1, 5)]
            ),
            "is no instances file of COCO",
        ),
    ],
)
def test_a_damaged_annotation_file_is_named(tmp_path: Path, damage: Callable[[Path], None], problem: str) -> None:
    file = write_part(tmp_path, "val", "2014", range(200, 204), [annotation(201, 60)])
    damage(file)
    with pytest.raises(InputError, match=problem) as caught:
        _reduce(file)
    assert "instances_val2014.json" in str(caught.value)


def test_a_folder_without_coco_says_what_is_missing(tmp_path: Path, coco: Path) -> None:
    assert "annotations/instances_train2014.json" in refused(tmp_path / "nowhere", "is no folder")
    assert "annotations/instances_train2014.json" in refused(coco / "annotations", "holds no annotations of COCO")
    shutil.rmtree(coco / "train2014")
    refused(coco, "holds no not_person image for train")
    shutil.rmtree(coco / "val2014")
    assert "beside train2014/" in refused(coco, "None of the images that COCO 2014 lists")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("101\nCOCO_val2014_000000000042\n", "line 2: 'COCO_val2014_000000000042' is no id of COCO"),
        ("101\n-5\n", "line 2"),
        (b"\xff\xfe", "it is no text"),
        (None, "No such file"),
        ("", "holds no not_person image for test"),
    ],
)
def test_a_list_of_ids_that_is_none_is_refused(coco: Path, content: str | bytes | None, problem: str) -> None:
    ids = coco / "ids.txt"
    if content is not None:
        ids.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(coco, problem, minival=ids)


# The list


@pytest.mark.parametrize("folder", ["coco", "", "lists", "link/above", "link/beside"])
def test_the_source_csv_reads_the_list_as_the_same_images(coco: Path, folder: str) -> None:
    """Behind a link, the way up leads elsewhere than the path says."""
    for link, target in (("above", coco.parent), ("beside", coco.parent / "lists")):
        target.mkdir(exist_ok=True)
        (coco.parent / "link").mkdir(exist_ok=True)
        (coco.parent / "link" / link).symlink_to(target, target_is_directory=True)
    found = survey(coco)
    place = coco.parent / folder / "vww.csv"
    write_list(found, place)
    for line in place.read_text().splitlines()[1:]:
        assert (place.parent / line.partition(",")[0]).is_file()
    listing = list_csv(place, val_fraction=0.5, test_fraction=0.3, split_seed=9)
    assert listing.classes == found.listing.classes
    assert sorted((file.path.resolve(), file.label, file.split) for file in listing.files) == sorted(
        (file.path.resolve(), file.label, file.split) for file in found.listing.files
    )


# The commands


def test_data_vww_prints_its_counts_and_writes_the_list(ask: Ask, coco: Path) -> None:
    next((coco / "val2014").iterdir()).unlink()
    answer = ask("data", "vww", "--coco", "coco", "--val-fraction", "0.2", "--out", "vww.csv", at=coco.parent)
    assert (answer.code, answer.err) == (0, "")
    rows = [line.split() for line in answer.out.splitlines()]
    assert ["split", "not_person", "person", "images", "missing", "files"] in rows
    assert ["train", "16", "16", "32", "0"] in rows
    assert (
        "COCO 2014 is not there as published: 40 of 82,783 images (0.0%) for train and val; 19 of 40,504" in answer.out
    )
    assert answer.out.endswith("vww.csv: 59 images\n")
    assert (coco.parent / "vww.csv").read_text().startswith("path,label,split\ncoco/train2014/COCO_train2014_")
    values = json.loads(ask("data", "vww", "--coco", "coco", "--val-fraction", "0.2", "--json", at=coco.parent).out)
    assert values["splits"]["val"] == {"not_person": 4, "person": 4}
    assert sum(values["missing_files"]["test"].values()) == 1
    assert values["published"][1] == {"splits": "test", "published": 40504, "listed": 20, "present": 19, "met": False}
    assert (values["year"], values["minival"], values["list"]) == ("2014", None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command"),
        (["vww"], "Missing option '--coco'"),
        (["vww", "--coco", "nowhere"], "is no folder"),
        (["vww", "--coco", "coco", "--out", "coco/annotations/instances_val2014.json"], "is no .csv file"),
        (["vww", "--coco", "coco", "--val-fraction", "15"], "--val-fraction 15 is outside (0, 1)"),
        (["vww", "--coco", "coco", "--minival", "coco"], "cannot be read: Is a directory"),
        (["pack", "nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_wrong_uses_are_refused(ask: Ask, coco: Path, arguments: list[str], said: str) -> None:
    answer = ask("data", *arguments, at=coco.parent)
    assert said in answer.refusal()
    assert answer.out == ""


@pytest.mark.parametrize("words", ["vww --coco coco --out coco/vww.csv", "pack recipes/elpv96.yaml"])
def test_help_has_an_example_that_parses(ask: Ask, tmp_path: Path, words: str) -> None:
    answer = ask("data", words.partition(" ")[0], "--help", at=tmp_path)
    assert f"Example: edgeprune data {words}" in answer.out
    assert "--json" in answer.out


def test_a_recipe_is_packed_ahead_and_counted(ask: Ask, coco: Path) -> None:
    recipe = "name: mini\ndata: {source: vww, image_size: 16, val_fraction: 0.2}\n"
    (coco.parent / "mini.yaml").write_text(recipe)
    assert "data.path is not set" in ask("data", "pack", "mini.yaml", at=coco.parent).refusal()
    answer = ask("data", "pack", "mini.yaml", "--data", "coco", at=coco.parent)
    assert (answer.code, answer.err) == (0, "")
    assert "Decoding 60 images of vww to 16 x 16 pixels, once." in answer.out
    assert ["test", "10", "10", "20"] in [line.split() for line in answer.out.splitlines()]
    again = ask("data", "pack", "mini.yaml", "--data", "coco", at=coco.parent)
    assert "Decoding" not in again.out
    assert "Reading" not in again.out
    values = json.loads(ask("data", "pack", "mini.yaml", "--data", "coco", "--json", at=coco.parent).out)
    assert values["splits"]["train"] == {"not_person": 16, "person": 16}
    assert (values["source"], values["skipped"]) == ("vww", [])


def test_images_without_a_label_are_counted_as_such(ask: Ask, coco: Path) -> None:
    write_list(survey(coco), coco / "vww.csv")
    lines = (coco / "vww.csv").read_text().splitlines()
    train = next(index for index, line in enumerate(lines) if line.endswith("person,train"))
    lines[train] = lines[train].split(",")[0] + ",,train"
    (coco / "vww.csv").write_text("\n".join(lines) + "\n")
    recipe = "name: mini\ndata: {source: csv, image_size: 16, path: coco/vww.csv}\n"
    (coco.parent / "mini.yaml").write_text(recipe)
    values = json.loads(ask("data", "pack", "mini.yaml", "--json", at=coco.parent).out)
    assert values["splits"]["train"]["unlabelled"] == 1
