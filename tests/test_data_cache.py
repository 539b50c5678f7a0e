"""Decoded once, checked always: what the cache on disk survives, and what a dataset says about itself."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.data import Dataset, load_dataset
from edgeprune.data.decode import read_image
from edgeprune.data.shards import ShardedImages
from edgeprune.errors import EdgepruneError, InputError


class Pets:
    """A small folder of images, its cache, and what was said about them."""

    def __init__(self, root: Path) -> None:
        self.path = root / "pets"
        self.cache_dir = root / "cache"
        self.said: list[str] = []
        for label, name in enumerate(("cat", "dog")):
            (self.path / name).mkdir(parents=True)
            for n in range(10):
                Image.new("RGB", (20, 20), (20 * n, 100 * label, 7)).save(self.path / name / f"{n}.png")

    def load(
        self,
        *,
        source: str = "imagefolder",
        image_size: int = 16,
        skip_broken: bool = False,
        split_seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Dataset:
        self.said.clear()
        return load_dataset(
            source=source,
            path=self.path,
            image_size=image_size,
            val_fraction=0.2,
            test_fraction=0.2,
            split_seed=split_seed,
            skip_broken=skip_broken,
            cache_dir=self.cache_dir,
            say=self.said.append,
            progress=progress,
        )

    @property
    def caches(self) -> list[Path]:
        """Finished ones; what an interrupted packing left starts with a dot."""
        return sorted(path for path in self.cache_dir.iterdir() if not path.name.startswith("."))


@pytest.fixture
def pets(tmp_path: Path) -> Pets:
    return Pets(tmp_path)


def all_names(data: Dataset) -> list[str]:
    return sorted(name for split in (data.train, data.val, data.test) for name in split.names)


def assert_right(pets: Pets, data: Dataset) -> None:
    """Every row holds the pixels and the label of the file whose name stands beside it."""
    for split in (data.train, data.val, data.test):
        assert split.images.shape == (len(split.names), data.image_size, data.image_size, 3)
        assert list(split.names) == sorted(split.names)
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            assert name.split("/")[0] == data.classes[label]
            with Image.open(pets.path / name) as file:
                assert (image == file.getpixel((0, 0))).all()


def test_rows_names_and_labels_belong_together(pets: Pets) -> None:
    data = pets.load()
    assert_right(pets, data)
    assert len(all_names(data)) == 20


def test_the_arrays_are_mapped_and_cannot_be_written(pets: Pets) -> None:
    images = pets.load().train.images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_a_second_load_is_silent_and_equal(pets: Pets) -> None:
    first = pets.load()
    second = pets.load()
    assert pets.said == []
    assert (second.digest, second.split_digest) == (first.digest, first.split_digest)
    assert_right(pets, second)


@pytest.mark.parametrize("victim", ["train-00000.npy", "val-00001.npy", "test-00002.npy", "00001.json", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_cache_is_named_and_made_again(pets: Pets, victim: str, damage: str) -> None:
    first = pets.load()
    path = pets.caches[0] / victim
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-40]), "empty": b""}[damage])
    second = pets.load()
    assert "is damaged" in pets.said[0]
    assert "decoding again" in pets.said[0]
    if damage == "flip" and victim != "index.json":
        assert f"({victim} digest differs)" in pets.said[0]
    assert second.digest == first.digest
    assert_right(pets, second)
    pets.load()
    assert pets.said == []


def test_a_changed_image_makes_the_cache_stale(pets: Pets) -> None:
    first = pets.load()
    # Small enough a change to leave size alone; the time tells.
    before = (pets.path / "cat" / "3.png").stat()
    Image.new("RGB", (20, 20), (61, 0, 7)).save(pets.path / "cat" / "3.png")
    os.utime(pets.path / "cat" / "3.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = pets.load()
    assert "is stale" in pets.said[0]
    assert second.digest != first.digest
    assert second.split_digest == first.split_digest
    assert_right(pets, second)
    assert len(pets.caches) == 1


def test_an_added_image_makes_the_cache_stale(pets: Pets) -> None:
    first = pets.load()
    Image.new("RGB", (20, 20), (5, 5, 5)).save(pets.path / "cat" / "new.png")
    second = pets.load()
    assert "is stale" in pets.said[0]
    assert second.split_digest != first.split_digest
    assert len(all_names(second)) == 21


def test_recipes_that_differ_do_not_throw_out_each_other_s_cache(pets: Pets) -> None:
    pets.load()
    assert pets.load(image_size=24).train.images.shape[1] == 24
    pets.load(split_seed=1)
    assert len(pets.caches) == 3
    pets.load()
    assert pets.said == []


def test_the_digest_is_the_same_on_another_machine(pets: Pets, tmp_path: Path) -> None:
    """Another folder, another cache, other times: the same files have the same digest."""
    first = pets.load()
    shutil.copytree(pets.path, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    pets.path, pets.cache_dir = tmp_path / "elsewhere", tmp_path / "other-cache"
    second = pets.load()
    assert (second.digest, second.split_digest) == (first.digest, first.split_digest)
    assert pets.load(image_size=24).digest != first.digest
    assert pets.load(split_seed=1).split_digest != first.split_digest


def break_two(pets: Pets) -> None:
    whole = (pets.path / "dog" / "2.png").read_bytes()
    (pets.path / "dog" / "2.png").write_bytes(whole[:50])
    (pets.path / "cat" / "7.png").write_bytes(b"")


def test_broken_files_stop_the_run_and_are_named(pets: Pets) -> None:
    break_two(pets)
    with pytest.raises(InputError, match=r"2 of 20 images cannot be read.*'dog/2.png'") as caught:
        pets.load()
    assert "'cat/7.png' (zero bytes)" in caught.value.problem
    assert "skip_broken: true" in caught.value.remedy
    assert pets.caches == []


def test_many_broken_files_are_counted_not_listed(pets: Pets) -> None:
    for path in (*pets.path.glob("cat/*.png"), *pets.path.glob("dog/[0-4].png")):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"15 of 20 images cannot be read") as caught:
        pets.load()
    assert caught.value.problem.count("not an image") == 5
    assert caught.value.problem.endswith("; and 10 more.")


def test_broken_files_are_left_out_when_the_recipe_allows_it(pets: Pets) -> None:
    break_two(pets)
    for _ in ("decoded", "from the cache"):
        data = pets.load(skip_broken=True)
        assert sorted(data.skipped) == ["cat/7.png", "dog/2.png"]
        assert "Left out 2 broken images" in pets.said[-1]
        assert len(all_names(data)) == 18
        assert_right(pets, data)
    assert len(pets.said) == 1


def test_a_cache_with_gaps_does_not_hide_them_from_a_strict_recipe(pets: Pets) -> None:
    break_two(pets)
    pets.load(skip_broken=True)
    with pytest.raises(InputError, match="2 of 20 images cannot be read"):
        pets.load()


def test_a_file_that_can_be_read_again_comes_back(pets: Pets) -> None:
    """A permission that is mended changes neither size nor time of the file."""
    path = pets.path / "cat" / "7.png"
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pets.load(skip_broken=True).skipped == ("cat/7.png",)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    data = pets.load()
    assert "'cat/7.png', left out before, can be read now" in pets.said[0]
    assert data.skipped == ()
    assert_right(pets, data)


def test_a_class_that_breaks_entirely_in_one_split_is_an_error_even_when_skipping(pets: Pets) -> None:
    for name in pets.load().val.names:
        if name.startswith("dog"):
            (pets.path / name).write_bytes(b"x")
    with pytest.raises(InputError, match="No image of class 'dog' in val can be read"):
        pets.load(skip_broken=True)


def test_copies_across_splits_and_classes_are_said(pets: Pets) -> None:
    data = pets.load()
    assert pets.said == ["Decoding 20 images of imagefolder to 16 x 16 pixels, once."]
    cats = {split.name: next(name for name in split.names if "cat" in name) for split in (data.train, data.test)}
    shutil.copyfile(pets.path / cats["train"], pets.path / cats["test"])
    dog = next(name for name in data.train.names if "dog" in name)
    shutil.copyfile(pets.path / cats["train"], pets.path / dog)
    pets.load()
    assert "1 images are in test and train as exact copies: accuracy there is flattered." in pets.said
    assert any("in more than one class" in line for line in pets.said)


def test_progress_counts_every_image_once(pets: Pets) -> None:
    seen: list[tuple[int, int]] = []
    pets.load(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 20) for n in range(1, 21)]


def test_an_interrupt_does_not_wait_for_the_images_that_are_queued(pets: Pets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of 100,000 photographs would hold Ctrl-C for minutes."""
    read = []

    def read_slowly(path: Path, image_size: int) -> tuple[np.ndarray, str]:
        read.append(path)
        time.sleep(0.02)
        return read_image(path, image_size)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for n in range(200):
        (pets.path / "cat" / f"copy{n}.png").hardlink_to(pets.path / "cat" / "0.png")
    monkeypatch.setattr("edgeprune.data.pack.read_image", read_slowly)
    with pytest.raises(KeyboardInterrupt):
        pets.load(progress=interrupt)
    assert len(read) < 100
    assert pets.caches == []


def test_an_unknown_source_names_the_known_ones(pets: Pets) -> None:
    with pytest.raises(InputError, match="'cifar' is not known") as caught:
        pets.load(source="cifar")
    assert caught.value.remedy == "elpv, imagefolder, csv, hf or vww"


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_is_an_error_that_leaves_nothing(pets: Pets) -> None:
    """Python ignores the signal of the limit, so that writing fails as it does on a full disk."""
    with files_of_at_most(4000), pytest.raises(InputError, match="cannot be written: File too large") as caught:
        pets.load()
    assert "free " in caught.value.remedy
    assert pets.caches == []
    assert_right(pets, pets.load())


def test_a_full_disk_leaves_the_old_cache_until_a_new_one_is_whole(pets: Pets) -> None:
    pets.load()
    before = (pets.caches[0] / "index.json").read_bytes()
    Image.new("RGB", (20, 20), (5, 5, 5)).save(pets.path / "cat" / "new.png")
    with files_of_at_most(4000), pytest.raises(InputError):
        pets.load()
    assert (pets.caches[0] / "index.json").read_bytes() == before


PROGRAM = """
import sys, time
from pathlib import Path
from edgeprune.data import load_dataset
def progress(done, total):
    if done == 5:
        print("half way", flush=True)
        time.sleep(60)
load_dataset(source="imagefolder", path=Path(sys.argv[1]), image_size=16, val_fraction=0.2, test_fraction=0.2,
             split_seed=0, skip_broken=False, cache_dir=Path(sys.argv[2]), say=lambda line: None, progress=progress)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_load_that_was_killed_half_way_leaves_nothing_that_counts(pets: Pets, end: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(pets.path), str(pets.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half way\n"
        started = time.monotonic()
        process.send_signal(end)
        process.wait()
        assert time.monotonic() - started < 10
    assert pets.caches == []
    data = pets.load()
    assert pets.said == ["Decoding 20 images of imagefolder to 16 x 16 pixels, once."]
    assert_right(pets, data)


SMALL_SHARDS = 3 * 16 * 16 * 3
SHARDED_PROGRAM = f"import edgeprune.data.shard_plan\nedgeprune.data.shard_plan.SHARD_BYTES = {SMALL_SHARDS}\n{PROGRAM}"


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images of 16 x 16 pixels in each."""
    monkeypatch.setattr("edgeprune.data.shard_plan.SHARD_BYTES", SMALL_SHARDS)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from now on."""
    names: list[str] = []

    def read(path: Path, image_size: int) -> tuple[np.ndarray, str]:
        names.append(path.name)
        return read_image(path, image_size)

    monkeypatch.setattr("edgeprune.data.pack.read_image", read)
    return names


@pytest.mark.usefixtures("small_shards")
def test_splits_in_many_shards_hold_the_same_images(pets: Pets) -> None:
    data = pets.load()
    assert len(list(pets.caches[0].glob("train-*.npy"))) == 4
    assert_right(pets, data)
    assert isinstance(data.train.images, ShardedImages)
    assert data.train.first(5).images.shape == (5, 16, 16, 3)


@pytest.mark.usefixtures("small_shards")
def test_broken_files_leave_no_gap_between_shards(pets: Pets) -> None:
    names = pets.load().train.names
    for name in names[1:5]:
        (pets.path / name).write_bytes(b"x")
    data = pets.load(skip_broken=True)
    assert data.train.names == (names[0], *names[5:])
    assert_right(pets, data)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, ShardedImages]:
    """An array of 20 images and the same in files of 7, 1 and 12."""
    folder = tmp_path_factory.mktemp("shards")
    whole = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    paths = [folder / f"{number}.npy" for number in range(3)]
    for path, part in zip(paths, np.split(whole, [7, 8]), strict=True):
        np.save(path, part)
    return whole, ShardedImages(paths, [7, 1, 12], image_size=4)


@pytest.mark.parametrize(
    "rows",
    [
        *(0, 6, 7, 8, 19, -1, -20, np.int64(7)),
        *(slice(None), slice(5), slice(6, 9), slice(8, 2), slice(-3, None), slice(0, 40), slice(None, None, -3)),
        *([], [7], [3, 3, 19, 0, -1], np.arange(20), np.arange(20)[::-1], np.array([8, 7, 6], dtype=np.uint16)),
    ],
    ids=str,
)
def test_images_in_many_files_are_indexed_like_one_array(sharded: tuple[np.ndarray, ShardedImages], rows: Any) -> None:
    whole, images = sharded
    found = images[rows]
    assert (found.dtype, found.shape) == (np.uint8, whole[rows].shape)
    np.testing.assert_array_equal(found, whole[rows])


def test_images_in_many_files_become_one_array_when_asked(sharded: tuple[np.ndarray, ShardedImages]) -> None:
    whole, images = sharded
    assert (len(images), images.shape, images.dtype) == (20, whole.shape, whole.dtype)
    np.testing.assert_array_equal(np.asarray(images), whole)
    np.testing.assert_array_equal(np.stack(list(images)), whole)
    assert np.asarray(images, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("what", ["replaced", "gone"])
def test_images_that_another_process_replaced_are_not_taken_for_the_old_ones(tmp_path: Path, what: str) -> None:
    """Arrays are opened when they are first read, which may be hours after their labels were."""
    paths = [tmp_path / f"{number}.npy" for number in range(2)]
    for path in paths:
        np.save(path, np.zeros((3, 4, 4, 3), np.uint8))
    images = ShardedImages(paths, [3, 3], image_size=4)
    assert images[0].sum() == 0
    if what == "replaced":
        np.save(tmp_path / "new.npy", np.ones((3, 4, 4, 3), np.uint8))
        (tmp_path / "new.npy").replace(paths[1])
    else:
        paths[1].unlink()
    with pytest.raises(EdgepruneError, match="made anew by another process"):
        images[[1, 4]]


@pytest.mark.parametrize("rows", [20, -21, [0, 20], [-21], [0.5], True, [True] * 20, [[1]], None])
def test_rows_that_no_image_has_are_refused(sharded: tuple[np.ndarray, ShardedImages], rows: Any) -> None:
    with pytest.raises(IndexError):
        sharded[1][rows]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_packing_goes_on_after_its_last_finished_shard(
    pets: Pets, decoded: list[str], end: signal.Signals
) -> None:
    command = [sys.executable, "-c", SHARDED_PROGRAM, str(pets.path), str(pets.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half way\n"
        process.send_signal(end)
    data = pets.load()
    assert pets.said[1:] == ["What an earlier decoding finished is kept."]
    assert len(decoded) == 17  # the fifth image is in the second shard of three
    assert_right(pets, data)
    assert [path.name for path in pets.cache_dir.iterdir()] == [pets.caches[0].name]


@pytest.mark.usefixtures("small_shards")
def test_what_is_damaged_of_an_interrupted_packing_is_decoded_again(pets: Pets, decoded: list[str]) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pets.load(progress=interrupt)
    part = next(pets.cache_dir.glob(".*.part"))
    content = bytearray((part / "train-00000.npy").read_bytes())
    content[-1] ^= 1
    (part / "train-00000.npy").write_bytes(content)
    decoded.clear()
    assert_right(pets, pets.load())
    assert len(decoded) == 17


@pytest.mark.usefixtures("small_shards")
def test_an_added_image_leaves_the_shards_before_it_alone(pets: Pets, decoded: list[str]) -> None:
    pets.load()
    decoded.clear()
    for n in range(10, 30):  # enough that some come after the first three of train
        Image.new("RGB", (20, 20), (n, 100, 9)).save(pets.path / "dog" / f"{n}.png")
    data = pets.load()
    assert_right(pets, data)
    assert 20 <= len(decoded) < 40
    pets.load()
    assert pets.said == []


def test_two_processes_decode_once(pets: Pets) -> None:
    """Trials of a sweep, or ranks of one training, begin at the same moment."""
    program = PROGRAM.replace("time.sleep(60)", "time.sleep(2)").replace("say=lambda line: None", "say=print")
    command = [sys.executable, "-c", program, str(pets.path), str(pets.cache_dir)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("Decoding 20 images") for text in said) == 1
    assert sum(text.count("Another process is decoding these images") for text in said) == 1
    assert_right(pets, pets.load())
    assert pets.said == []
