"""The default source, as pip installed it: 2,624 real photographs."""

import importlib.util
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeprune.data import Dataset, load_dataset
from edgeprune.data.elpv import ELPV_CREDIT, list_elpv
from edgeprune.errors import InputError, MissingExtraError

# The split of recipes/elpv96.yaml. Every published accuracy is about these 525 test images: a change here is a new
# split, and every figure must then be measured again.
SPLIT_DIGEST = "5032eeea02f0d39847f7d7fa485ec7812cc194f47b2578b1d4a1daa94f73a383"
DATA_DIGEST = "338228f764cd2196e8b119e23f31a95d816e04a119f04f7f651e838f99b22a1e"


def load(cache_dir: Path, said: list[str]) -> Dataset:
    return load_dataset(
        source="elpv",
        path=None,
        image_size=96,
        val_fraction=0.15,
        test_fraction=0.20,
        split_seed=0,
        skip_broken=False,
        cache_dir=cache_dir,
        say=said.append,
    )


@pytest.fixture(scope="module")
def elpv(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(tmp_path_factory.mktemp("elpv"), [])


def test_the_split_is_the_one_that_all_figures_are_about(elpv: Dataset) -> None:
    assert elpv.split_digest == SPLIT_DIGEST


def test_the_images_are_the_ones_that_all_figures_are_about(elpv: Dataset) -> None:
    """Content, classes and split; not the decoded pixels, which may move by a bit with Pillow's version."""
    assert elpv.digest == DATA_DIGEST


def test_every_image_is_in_exactly_one_split(elpv: Dataset) -> None:
    splits = [set(split.names) for split in (elpv.train, elpv.val, elpv.test)]
    assert [len(names) for names in splits] == [1705, 394, 525]
    assert len(set().union(*splits)) == 2624
    assert all(not one & other for one, other in itertools.combinations(splits, 2))


def test_an_image_is_defective_above_a_probability_of_one_half(elpv: Dataset) -> None:
    """Read here by other means: 56 + 50 + 313 + 402 of the 2,624 have a probability of 2/3 or 1."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    rows = np.loadtxt(Path(spec.submodule_search_locations[0]) / "data" / "labels.csv", dtype=str)
    defective = {name for name, probability, _ in rows if float(probability) > 0.5}
    labelled = {
        name
        for split in (elpv.train, elpv.val, elpv.test)
        for name, label in zip(split.names, split.labels, strict=True)
        if elpv.classes[label] == "defective"
    }
    assert len(defective) == 821
    assert labelled == defective


def test_class_and_cell_type_have_the_same_shares_in_every_split() -> None:
    listing = list_elpv(val_fraction=0.15, test_fraction=0.20, split_seed=0)
    folder = listing.files[0].path.parent.parent
    types = {line.split()[0]: line.split()[2] for line in (folder / "labels.csv").read_text().splitlines()}
    counts = Counter((file.split, file.label, types[file.name]) for file in listing.files)
    for label, cell_type, size in ((0, "mono", 705), (0, "poly", 1098), (1, "mono", 369), (1, "poly", 452)):
        assert counts["test", label, cell_type] == round(size * 0.20)
        assert counts["val", label, cell_type] == round(size * 0.15)


def test_grey_photographs_become_three_equal_channels(elpv: Dataset) -> None:
    images = elpv.val.images[:50]
    assert images.shape == (50, 96, 96, 3)
    assert images.dtype == np.uint8
    assert (images[..., 0] == images[..., 1]).all()
    assert (images[..., 0] == images[..., 2]).all()
    assert images.std() > 10


def test_the_second_load_decodes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    first = load(tmp_path, said)
    assert said == ["Decoding 2,624 images of elpv to 96 x 96 pixels, once."]
    second = load(tmp_path, said)
    assert len(said) == 1
    assert second.digest == first.digest
    assert (second.test.images == first.test.images).all()


def test_the_package_is_read_without_running_its_code(elpv: Dataset) -> None:
    assert elpv.source == "elpv"
    assert not [module for module in sys.modules if module.startswith("elpv_dataset")]


def test_the_credit_names_the_licence_and_the_papers(elpv: Dataset) -> None:
    assert elpv.credit == ELPV_CREDIT
    for part in ("CC BY-NC-SA 4.0", "Buerhop-Lutz", "Deitsch", "10.1016/j.solener.2019.02.067"):
        assert part in elpv.credit


def test_without_the_package_the_error_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtraError, match=r"elpv_dataset.*\n  try: pip install 'edgeprune\[prune\]'"):
        list_elpv(val_fraction=0.15, test_fraction=0.2, split_seed=0)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (None, "cannot be read"),
        ("", "is empty"),
        ("images/cell0001.png 1.0 mono\nimages/cell0002.png high mono\n", "Line 2 of"),
        ("../../secret.png 1.0 mono\n", "Line 1 of"),
    ],
)
def test_damaged_labels_are_an_error_that_reinstalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str | None, problem: str
) -> None:
    package = tmp_path / "elpv_dataset"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    if labels is not None:
        (package / "data" / "labels.csv").write_text(labels)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=rf"{problem}.*\n  try: pip install --force-reinstall"):
        list_elpv(val_fraction=0.15, test_fraction=0.2, split_seed=0)
