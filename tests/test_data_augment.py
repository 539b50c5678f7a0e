"""Augmentation changes what it was told to, as much as it was told to, and the same way for the same seed."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.data import augment_batch

EVERYTHING = partial(
    augment_batch,
    flip_horizontal=True,
    flip_vertical=True,
    quarter_turns=True,
    shift_pixels=3,
    brightness=0.3,
    contrast=0.3,
    crop_area=0.5,
    rotate_degrees=10.0,
    saturation=0.3,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int = 64, size: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(seed)).contiguous(memory_format=torch.channels_last)


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """By other means than the code: pad by replication, then cut out."""
    reach = 5
    padded = torch.nn.functional.pad(image[None], (reach,) * 4, mode="replicate")[0]
    height, width = image.shape[1:]
    return padded[:, reach - down : reach - down + height, reach - right : reach - right + width]


def dihedral(image: torch.Tensor) -> dict[tuple[int, bool], torch.Tensor]:
    turns = {(k, False): torch.rot90(image, k, (1, 2)) for k in range(4)}
    return turns | {(k, True): turned.flip(2) for (k, _), turned in turns.items()}


CHOICES = {
    "flip_horizontal": st.booleans(),
    "flip_vertical": st.booleans(),
    "quarter_turns": st.booleans(),
    "shift_pixels": st.integers(0, 4),
    "brightness": st.sampled_from([0.0, 0.5]),
    "crop_area": st.sampled_from([1.0, 0.5]),
    "rotate_degrees": st.sampled_from([0.0, 10.0]),
    "saturation": st.sampled_from([0.0, 0.5]),
    "contrast": st.sampled_from([0.0, 1.0]),
}


@given(st.fixed_dictionaries(CHOICES), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_any_choice_is_repeatable_bounded_and_leaves_its_input_alone(choice: dict[str, Any], seed: int) -> None:
    images = noise(n=9)
    before = images.clone()
    augment = partial(augment_batch, **choice)
    one, other = augment(images, seeded(seed)), augment(images, seeded(seed))
    assert torch.equal(one, other)
    assert torch.equal(images, before)
    assert one.shape == images.shape
    assert one.dtype == torch.float32
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= one.min() <= one.max() <= 1


def test_with_everything_off_images_and_generator_are_untouched() -> None:
    images, generator = noise(), seeded()
    state = generator.get_state()
    assert augment_batch(images, generator) is images
    assert torch.equal(generator.get_state(), state)


def test_another_seed_gives_other_images() -> None:
    assert not torch.equal(EVERYTHING(noise(), seeded(0)), EVERYTHING(noise(), seeded(1)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"flip_horizontal": True}, {(0, False), (0, True)}),
        ({"flip_vertical": True}, {(0, False), (2, True)}),
        ({"quarter_turns": True}, {(k, False) for k in range(4)}),
        ({"flip_horizontal": True, "flip_vertical": True}, {(0, False), (2, False), (0, True), (2, True)}),
        ({"quarter_turns": True, "flip_horizontal": True}, {(k, flip) for k in range(4) for flip in (False, True)}),
    ],
)
def test_each_image_is_turned_and_flipped_only_as_allowed(
    options: dict[str, bool], expected: set[tuple[int, bool]]
) -> None:
    """Every outcome is one of torch's own rot90 and flip, exactly, and all of them occur."""
    images = noise(n=200)
    results = augment_batch(images, seeded(), **options)
    found = []
    for image, result in zip(images, results, strict=True):
        found.extend(key for key, turned in dihedral(image).items() if torch.equal(turned, result))
    assert len(found) == 200
    assert set(found) == expected
    assert min(found.count(key) for key in expected) > 200 / len(expected) / 2


def test_shifts_replicate_the_edges_and_reach_both_limits() -> None:
    images = noise(n=300)
    results = augment_batch(images, seeded(), shift_pixels=2)
    found = set()
    for image, result in zip(images, results, strict=True):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(shifted(image, down, right), result)
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) == 25


def test_images_that_are_not_square_can_be_flipped_and_shifted_but_not_turned() -> None:
    images = torch.rand(40, 3, 6, 9, generator=seeded())
    for image, result in zip(images, augment_batch(images, seeded(), flip_vertical=True), strict=True):
        assert torch.equal(result, image) or torch.equal(result, image.flip(1))
    with pytest.raises(ValueError, match="not 6 x 9"):
        augment_batch(images, seeded(), quarter_turns=True)


def test_plain_memory_format_stays_plain() -> None:
    images = noise().contiguous()
    result = EVERYTHING(images, seeded())
    assert result.is_contiguous()
    torch.testing.assert_close(result, EVERYTHING(noise(), seeded()))


def test_brightness_multiplies_each_image_by_one_factor_within_its_limits() -> None:
    images = noise() * 0.5 + 0.1
    factors = augment_batch(images, seeded(), brightness=0.4) / images
    spread = factors.amax(dim=(1, 2, 3)) - factors.amin(dim=(1, 2, 3))
    assert spread.max() < 1e-5
    assert 0.6 - 1e-5 < factors.min() < 0.7
    assert 1.3 < factors.max() < 1.4 + 1e-5


def test_contrast_stretches_around_the_image_s_own_mean() -> None:
    images = noise() * 0.2 + 0.4
    result = augment_batch(images, seeded(), contrast=0.5)
    torch.testing.assert_close(result.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)))
    stretch = result.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.5 - 1e-3 < stretch.min() < 0.65
    assert 1.35 < stretch.max() < 1.5 + 1e-3


def test_brightness_and_contrast_together_are_one_after_the_other() -> None:
    """They are computed in one pass; drawn in the same order, step by step they give the same."""
    images = noise() * 0.2 + 0.4
    together = augment_batch(images, seeded(), brightness=0.2, contrast=0.2)
    generator = seeded()
    brighter = augment_batch(images, generator, brightness=0.2)
    torch.testing.assert_close(together, augment_batch(brighter, generator, contrast=0.2))


def test_a_crop_is_a_part_of_the_image_stretched_back() -> None:
    """Of a ramp from left to right a crop is a ramp that rises less and stays within the ends."""
    ramp = (torch.arange(32) + 0.5).div(32).expand(200, 3, 32, 32).contiguous()
    cropped = augment_batch(ramp, seeded(), crop_area=0.25)
    slopes = cropped[:, 0, 16, 31] - cropped[:, 0, 16, 0]
    kept = slopes / (31 / 32)
    assert 0.25 / 1.5 <= kept.min() < 0.5
    assert 0.9 < kept.max() <= 1.001
    assert cropped.min() >= 0
    assert cropped.max() <= 1


def test_rotations_turn_both_ways_up_to_their_limit() -> None:
    """What rises from left to right rises downwards too by the tangent of the angle."""
    ramp = (torch.arange(65) - 32.0).div(200).add(0.5).expand(200, 3, 65, 65).contiguous()
    turned = augment_batch(ramp, seeded(), rotate_degrees=10)
    right = turned[:, 0, 32, 40] - turned[:, 0, 32, 24]
    down = turned[:, 0, 40, 32] - turned[:, 0, 24, 32]
    angles = torch.rad2deg(torch.atan2(down, right))
    assert -10.01 < angles.min() < -9
    assert 9 < angles.max() < 10.01


def test_saturation_moves_colours_from_grey_and_leaves_grey_alone() -> None:
    images = noise() * 0.2 + 0.4
    changed = augment_batch(images, seeded(), saturation=0.5)
    grey = images.mean(dim=1, keepdim=True)
    factors = ((changed - grey) / (images - grey)).flatten(1).median(dim=1).values
    torch.testing.assert_close(changed, grey + factors.view(-1, 1, 1, 1) * (images - grey), atol=1e-5, rtol=0)
    assert 0.5 <= factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5
    torch.testing.assert_close(augment_batch(grey.expand_as(images), seeded(), saturation=0.5), grey.expand_as(images))
