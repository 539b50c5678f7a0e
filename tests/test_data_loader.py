"""Batches: every image once, normalised as everywhere else, in an order that a seed repeats."""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.data import PackedSplit, augment_batch, iterate_batches, sample_images
from edgeprune.errors import InputError
from edgeprune.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise_pixels

batches = partial(iterate_batches, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.fixture
def split(tmp_path: Path) -> PackedSplit:
    """50 images of noise in a memory map, as a cache holds them; the label is the row."""
    np.save(tmp_path / "train.npy", np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
    return PackedSplit(
        name="train",
        images=np.load(tmp_path / "train.npy", mmap_mode="r"),
        labels=np.arange(50),
        names=tuple(f"{n:02}.png" for n in range(50)),
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_are_normalised_to_the_last_bit_as_bundles_say(split: PackedSplit) -> None:
    """Training, gates and the card of a bundle share one definition of preprocessing."""
    images = torch.cat([images for images, _ in batches(split, batch_size=16)])
    expected = normalise_pixels(split.images, IMAGENET_MEAN, IMAGENET_STD)
    assert (images.numpy() == expected).all()


def test_without_a_generator_the_order_is_that_of_the_split(split: PackedSplit) -> None:
    labels = [labels.tolist() for _, labels in batches(split, batch_size=16)]
    assert [len(part) for part in labels] == [16, 16, 16, 2]
    assert list(itertools.chain(*labels)) == list(range(50))


def test_shuffling_gives_every_image_once_beside_its_own_label(split: PackedSplit) -> None:
    seen = []
    for images, labels in batches(split, batch_size=16, generator=seeded()):
        expected = normalise_pixels(split.images[labels.numpy()], IMAGENET_MEAN, IMAGENET_STD)
        assert (images.numpy() == expected).all()
        assert labels.tolist() == sorted(labels.tolist())
        seen.extend(labels.tolist())
    assert sorted(seen) == list(range(50))
    assert seen != sorted(seen)


def test_batches_are_float32_channels_last(split: PackedSplit) -> None:
    """channels_last trains half as fast again on a CPU; a stray copy would lose it unnoticed."""
    augment = partial(augment_batch, flip_horizontal=True, brightness=0.1)
    for images, labels in batches(split, batch_size=16, generator=seeded(), augment=augment):
        assert images.shape[1:] == (3, 8, 8)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


def test_one_seed_gives_the_same_batches_twice_and_other_ones_in_the_next_epoch(split: PackedSplit) -> None:
    augment = partial(augment_batch, quarter_turns=True, shift_pixels=2)
    generator, again = seeded(5), seeded(5)
    epochs = [list(batches(split, batch_size=16, generator=generator, augment=augment)) for _ in range(2)]
    repeated = list(batches(split, batch_size=16, generator=again, augment=augment))
    for (images, labels), (other_images, other_labels) in zip(epochs[0], repeated, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1])


def test_augmentation_sees_pixels_in_the_unit_interval_and_reaches_the_network(split: PackedSplit) -> None:
    def blacken(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert images.min() >= 0
        assert images.max() == 1
        return torch.zeros_like(images)

    for images, _ in batches(split, batch_size=25, generator=seeded(), augment=blacken):
        black = -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)
        torch.testing.assert_close(images, black.view(1, 3, 1, 1).expand_as(images))


def test_augmentation_that_changes_nothing_changes_nothing(split: PackedSplit) -> None:
    plain = batches(split, batch_size=16, generator=seeded())
    augmented = batches(split, batch_size=16, generator=seeded(), augment=lambda images, _: images)
    for (images, _), (other_images, _) in zip(plain, augmented, strict=True):
        torch.testing.assert_close(images, other_images, rtol=1e-5, atol=1e-6)


def test_a_small_last_batch_can_be_left_out(split: PackedSplit) -> None:
    sizes = [len(labels) for _, labels in batches(split, batch_size=16, generator=seeded(), drop_last=True)]
    assert sizes == [16, 16, 16]
    assert [len(labels) for _, labels in batches(split, batch_size=25, drop_last=True)] == [25, 25]


def test_leaving_out_the_only_batch_is_an_error_before_the_first_one(split: PackedSplit) -> None:
    with pytest.raises(InputError, match=r"train split has 50 images, fewer than batch_size \(64\)"):
        batches(split, batch_size=64, drop_last=True)


def test_augmentation_without_a_seed_is_refused(split: PackedSplit) -> None:
    with pytest.raises(ValueError, match="none was given"):
        batches(split, batch_size=16, augment=lambda images, _: images)


def test_a_sample_is_fixed_by_its_seed_and_grows_without_changing(split: PackedSplit) -> None:
    few, more = sample_images(split, 5, 0), sample_images(split, 20, 0)
    assert few.shape == (5, 8, 8, 3)
    assert few.dtype == np.uint8
    assert (more[:5] == few).all()
    assert not (sample_images(split, 5, 1) == few).all()


def test_a_sample_holds_no_image_twice_and_at_most_all(split: PackedSplit) -> None:
    sample = sample_images(split, 1000, 0)
    assert len(np.unique(sample.reshape(len(sample), -1), axis=0)) == len(sample) == 50
    assert not (sample == split.images).all()


def test_a_sample_can_be_written_to(split: PackedSplit) -> None:
    """It is a copy, and no view of the cache."""
    sample = sample_images(split, 3, 0)
    sample[:] = 0
    assert type(sample) is np.ndarray
    assert split.images.any()
