"""Sets of the Hugging Face hub, as local folders of the same Parquet files: nothing here reaches the network."""

import io
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from edgeprune.data import UNLABELLED, Dataset, HubOptions, load_dataset
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.recipe.training_sections import DataSection

WAKE_VISION = HubOptions(label_column="person", classes=("nobody", "person"), train_split="train_quality")


class Hub:
    """A folder of Parquet files, its cache, and what was said about it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "set"
        self.cache_dir = root / "cache"
        self.said: list[str] = []

    def write(
        self, split: str, labels: Sequence[Any], *, label: Any = None, column: str = "label", files: int = 2
    ) -> None:
        """Images whose colours are the split's first letter and their row, in Parquet files of four rows a group."""
        kind = label if label is not None else datasets.ClassLabel(names=["cat", "dog"])
        rows = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": picture(split, row), "path": None} for row in range(len(labels))],
                "filename": [f"{split}{row}.jpg" for row in range(len(labels))],
                column: list(labels),
            },
            features=datasets.Features({"image": datasets.Image(), "filename": datasets.Value("string"), column: kind}),
        )
        (self.path / "data").mkdir(parents=True, exist_ok=True)
        for number in range(files):
            name = f"{split}-{number:05}-of-{files:05}.parquet"
            rows.shard(files, number, contiguous=True).to_parquet(str(self.path / "data" / name), batch_size=4)

    def load(
        self,
        options: HubOptions | None = None,
        *,
        skip_broken: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Dataset:
        self.said.clear()
        return load_dataset(
            source="hf",
            path=self.path,
            image_size=16,
            val_fraction=0.2,
            test_fraction=0.2,
            split_seed=0,
            skip_broken=skip_broken,
            cache_dir=self.cache_dir,
            say=self.said.append,
            progress=progress,
            hub=options,
        )


def picture(split: str, row: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (ord(split[0]), row, len(split))).save(content, "PNG")
    return content.getvalue()


def assert_right(data: Dataset) -> None:
    """Every row holds the pixels of the image that its name says."""
    for part in (data.train, data.val, data.test):
        assert part.images.shape == (len(part.names), 16, 16, 3)
        for image, name in zip(part.images, part.names, strict=True):
            split, row = name.split("/")
            assert (image == (ord(split[0]), int(row), len(split))).all()


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


@pytest.fixture
def wake_vision(hub: Hub) -> Hub:
    """The schema of Harvard-Edge/Wake-Vision: numbers for labels, two trains, validation and test."""
    for split, count in (("train_large", 30), ("train_quality", 24), ("validation", 8), ("test", 10)):
        hub.write(split, [row % 2 for row in range(count)], label=datasets.Value("int64"), column="person")
    return hub


@pytest.fixture
def pets(hub: Hub) -> Hub:
    hub.write("train", [row % 2 for row in range(40)])
    return hub


def test_wake_vision_is_read_as_it_is(wake_vision: Hub) -> None:
    data = wake_vision.load(WAKE_VISION)
    assert data.classes == ("nobody", "person")
    for part, split, count in ((data.train, "train_quality", 24), (data.val, "validation", 8), (data.test, "test", 10)):
        assert part.names == tuple(f"{split}/{row:07}" for row in range(count))
        assert part.labels.tolist() == [row % 2 for row in range(count)]
        assert part.weights is None
    assert_right(data)
    assert "Splits of set that nothing reads: 'train_large'." in wake_vision.said
    assert "'set'" in data.credit
    assert str(wake_vision.path) not in data.credit


def test_what_is_packed_is_opened_without_asking_again(wake_vision: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that trains may have no network, and a hub that is asked at every command is slow."""
    first = wake_vision.load(WAKE_VISION)
    monkeypatch.setattr("edgeprune.data.hub.open_hub", None)
    second = wake_vision.load(WAKE_VISION)
    assert wake_vision.said == []
    assert (second.digest, second.split_digest, second.classes, second.credit) == (
        first.digest,
        first.split_digest,
        first.classes,
        first.credit,
    )
    assert_right(second)


def test_other_files_or_options_are_another_question(wake_vision: Hub) -> None:
    first = wake_vision.load(WAKE_VISION)
    few = wake_vision.load(HubOptions(**{**_values(WAKE_VISION), "limit": 6}))
    assert [len(part.names) for part in (few.train, few.val, few.test)] == [6, 6, 6]
    assert_right(few)
    wake_vision.write("test", [0, 1] * 6, label=datasets.Value("int64"), column="person")
    changed = wake_vision.load(WAKE_VISION)
    assert "is stale" in wake_vision.said[0]
    assert len(changed.test.names) == 12
    assert changed.digest != first.digest


def _values(options: HubOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def test_columns_are_found_and_missing_splits_are_taken_by_hash(pets: Hub) -> None:
    data = pets.load()
    assert data.classes == ("cat", "dog")
    assert [len(part.names) for part in (data.train, data.val, data.test)] == [24, 8, 8]
    assert Counter(data.val.labels.tolist()) == Counter(data.test.labels.tolist()) == {0: 4, 1: 4}
    assert_right(data)


def test_a_missing_val_leaves_test_as_it_is(pets: Hub) -> None:
    pets.write("test", [0, 1, 1])
    data = pets.load()
    assert data.test.names == ("test/0000000", "test/0000001", "test/0000002")
    assert [len(data.train.names), len(data.val.names)] == [32, 8]
    assert_right(data)


@pytest.mark.parametrize("after", [5, 12, 23])
def test_an_interrupted_stream_goes_on_where_it_was(pets: Hub, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Shards of seven images end within a file and within a group of rows; the hash spreads each over all splits."""
    monkeypatch.setattr("edgeprune.data.shard_plan.SHARD_BYTES", 7 * 16 * 16 * 3)

    def interrupt(done: int, total: int) -> None:
        assert total == 40
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pets.load(progress=interrupt)
    decoded: list[bytes | None] = []
    from edgeprune.data.decode import decode_content

    def decode(content: bytes | None, image_size: int) -> Any:
        decoded.append(content)
        return decode_content(content, image_size)

    monkeypatch.setattr("edgeprune.data.pack.decode_content", decode)
    data = pets.load()
    assert len(decoded) == 40 - after // 7 * 7
    assert_right(data)
    assert data.split_digest == Hub.load(pets).split_digest


def test_labels_below_zero_are_unlabelled_images_of_train(hub: Hub) -> None:
    hub.write("train", [0, 1, -1, None] * 5)
    hub.write("validation", [0, 1])
    hub.write("test", [0, 1])
    data = hub.load()
    assert data.train.labels.tolist() == [0, 1, UNLABELLED, UNLABELLED] * 5
    assert data.train.weights is not None
    assert data.train.weights.tolist() == [1, 1, 0, 0] * 5
    assert_right(data)


def test_a_test_split_whose_labels_are_kept_secret_is_refused(pets: Hub) -> None:
    pets.write("test", [-1, -1])
    with pytest.raises(InputError, match="set has no label for test/0000000, in test"):
        pets.load()


@pytest.mark.parametrize(
    ("label", "values"),
    [("string", ("no", "yes")), ("bool", (False, True)), ("int8", (0, 1))],
)
def test_labels_may_be_texts_truths_or_numbers(hub: Hub, label: str, values: tuple[Any, Any]) -> None:
    hub.write("train", [values[row % 2] for row in range(20)], label=datasets.Value(label))
    data = hub.load(HubOptions(label_column="label", classes=("no", "yes")))
    for part in (data.train, data.val, data.test):
        assert part.labels.tolist() == [int(name[-1]) % 2 for name in part.names]


def test_broken_images_are_named_and_can_be_left_out(hub: Hub) -> None:
    hub.write("train", [row % 2 for row in range(20)])
    rows = datasets.Dataset.from_parquet(
        str(hub.path / "data" / "train-00000-of-00002.parquet"), cache_dir=str(hub.path)
    )
    images = rows.cast_column("image", datasets.Image(decode=False))["image"]
    images = [{"bytes": b"x", "path": None}, None, *list(images)[2:]]
    changed = rows.remove_columns("image").add_column("image", images).cast_column("image", datasets.Image())
    shutil.rmtree(hub.path / "parquet", ignore_errors=True)
    changed.to_parquet(str(hub.path / "data" / "train-00000-of-00002.parquet"))
    with pytest.raises(InputError, match=r"2 of 20 images cannot be read: 'train/0000000' \(not an image\)") as caught:
        hub.load()
    assert "'train/0000001' (the row holds no image of the set)" in caught.value.problem
    data = hub.load(skip_broken=True)
    assert data.skipped == ("train/0000000", "train/0000001")
    assert_right(data)


def test_a_table_cannot_name_files_outside_the_set(hub: Hub, tmp_path: Path) -> None:
    """Whoever wrote it would otherwise choose which files of this machine become training images."""
    (tmp_path / "private.png").write_bytes(picture("train", 0))
    hub.write("train", [row % 2 for row in range(20)])
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(tmp_path / "private.png")}] * 2, "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}),
    )
    rows.to_parquet(str(hub.path / "data" / "test-00000-of-00001.parquet"))
    with pytest.raises(InputError, match=r"2 of 22 images cannot be read: 'test/0000000' \(the row holds no image"):
        hub.load()


def test_a_folder_of_images_as_the_library_knows_them_is_read_too(hub: Hub) -> None:
    """Where tables hold no pixels, but paths; a file outside the set is none of its images."""
    for row in range(20):
        place = hub.path / "train" / ("cat", "dog")[row % 2] / f"{row:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture("train", row))
    data = hub.load()
    assert data.classes == ("cat", "dog")
    shades = sorted(int(image[0, 0, 1]) for part in (data.train, data.val, data.test) for image in part.images)
    assert shades == list(range(20))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (HubOptions(), "set has 0 columns of kind ClassLabel; its columns are image (Image), filename (Value)"),
        (HubOptions(label_column="person"), "The column 'person' of set holds labels without names."),
        (HubOptions(label_column="persona"), "set has no column 'persona' for label_column"),
        (HubOptions(image_column="filename"), "set has no column 'filename' for image_column"),
        (HubOptions(label_column="person", classes=("nobody",)), "set has the classes 'nobody'."),
        (HubOptions(label_column="person", classes=("a", "b")), "which one is train?"),
        (HubOptions(label_column="person", classes=("a", "b"), train_split="trane"), "which one is train?"),
        (HubOptions(label_column="filename", classes=("a", "b"), train_split="test"), "has the label 'test0.jpg'"),
        (HubOptions(**{**_values(WAKE_VISION), "classes": ("a", "b", "c")}), "no image of class 'c' in train"),
        (HubOptions(**{**_values(WAKE_VISION), "limit": 1}), "no image of class 'person' in train"),
    ],
)
def test_what_a_set_lacks_is_said(wake_vision: Hub, options: HubOptions, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        wake_vision.load(options)
    assert problem in caught.value.problem


def test_classes_that_the_set_names_itself_are_not_named_anew(pets: Hub) -> None:
    with pytest.raises(InputError, match="names its classes itself"):
        pets.load(HubOptions(classes=("dog", "cat")))


def test_names_that_cannot_be_a_set_are_refused(hub: Hub) -> None:
    hub.path = Path("data/of/mine")
    with pytest.raises(InputError, match="'data/of/mine' is neither a folder here nor an id of the hub"):
        hub.load()
    hub.path = hub.cache_dir.parent / "empty"
    hub.path.mkdir()
    with pytest.raises(InputError, match="empty' cannot be read as a data set"):
        hub.load()
    (hub.path / "train.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(InputError, match="empty' cannot be read as a data set"):
        hub.load()


def test_without_the_library_the_error_names_the_extra(pets: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeprune\[hf\]'"):
        pets.load()


def test_keys_of_the_hub_are_refused_for_other_sources() -> None:
    with pytest.raises(ValueError, match="revision is a key of source hf, and source is csv"):
        DataSection(source="csv", revision="main")


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is that of a port where nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    hub.path = Path("Harvard-Edge/Wake-Vision")
    with pytest.raises(InputError, match=r"set Harvard-Edge/Wake-Vision of the .* cannot be read") as caught:
        hub.load(WAKE_VISION)
    assert "hf download --repo-type dataset Harvard-Edge/Wake-Vision" in caught.value.remedy


def test_packing_a_set_by_command_ends_well(pets: Hub, tmp_path: Path) -> None:
    """Threads of Arrow that are still there when Python ends have been seen to kill it."""
    program = (
        "import sys; from pathlib import Path; from edgeprune.data import load_dataset\n"
        "load_dataset(source='hf', path=Path(sys.argv[1]), image_size=16, val_fraction=0.2, test_fraction=0.2, "
        "split_seed=0, skip_broken=False, cache_dir=Path(sys.argv[2]), say=print)"
    )
    command = [sys.executable, "-c", program, str(pets.path), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Decoding 40 images of hf") == 1
