"""What a tensor's 256 steps should cover: statistics that merge exactly, and the ranges derived from them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.calibration import METHODS, ActivationStatistics, choose_range, merge, summarise


def same(one: ActivationStatistics, other: ActivationStatistics) -> bool:
    return (
        one.histogram_low == other.histogram_low
        and one.histogram_high == other.histogram_high
        and np.array_equal(one.histogram, other.histogram)
        and np.array_equal(one.per_image_low, other.per_image_low)
        and np.array_equal(one.per_image_high, other.per_image_high)
    )


def draw(seed: int, images: int, exponent: int, zeros: float, sign: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((images, 60)) * 10.0**exponent
    values[generator.random(values.shape) < zeros] = 0
    values = np.abs(values) * sign if sign else values
    return values.astype(generator.choice([np.float32, np.float64]))


batch = st.builds(
    draw,
    seed=st.integers(0, 10**6),
    images=st.integers(1, 4),
    exponent=st.integers(-12, 12),
    zeros=st.sampled_from([0.0, 0.3, 1.0]),
    sign=st.sampled_from([-1, 0, 1]),
)


@settings(max_examples=150, deadline=None)
@given(one=batch, other=batch)
def test_merging_batches_says_what_all_images_at_once_would_say(one: np.ndarray, other: np.ndarray) -> None:
    """Exactly, so that the batch size is no choice that changes a file's bytes."""
    together = summarise(np.concatenate([one.astype(np.float64), other.astype(np.float64)]))
    assert same(merge(summarise(one), summarise(other)), together)


@settings(max_examples=60, deadline=None)
@given(values=batch)
def test_every_value_but_zero_is_counted_in_the_bin_that_holds_it(values: np.ndarray) -> None:
    seen = summarise(values)
    edges = np.linspace(seen.histogram_low, seen.histogram_high, len(seen.histogram) + 1)
    expected, _ = np.histogram(values[values != 0].astype(np.float64), edges)
    # The last edge belongs to numpy's last bin; ours reaches beyond the largest value.
    assert np.array_equal(seen.histogram, expected)
    assert len(seen.histogram) <= 4096
    assert seen.histogram_low <= min(values.min(), 0) <= max(values.max(), 0) < seen.histogram_high


@settings(max_examples=60, deadline=None)
@given(values=batch, method=st.sampled_from(METHODS))
def test_every_range_contains_zero_and_lies_inside_what_was_seen(values: np.ndarray, method: str) -> None:
    """Zero must be on the grid, because padding and dead activations are exactly that."""
    low, high = choose_range(summarise(values), method)
    slack = 1e-9 * float(np.abs(values).max())
    assert min(values.min(), 0) - slack <= low <= 0 <= high <= max(values.max(), 0) + slack


def test_the_moving_average_follows_the_order_of_the_images() -> None:
    values = np.asarray([[1.0], [2.0], [4.0]])
    expected = 0.95 * (0.95 * 1 + 0.05 * 2) + 0.05 * 4
    assert choose_range(summarise(values), "moving_average") == (0.0, pytest.approx(expected))
    halves = merge(summarise(values[:1]), summarise(values[1:]))
    assert choose_range(halves, "moving_average")[1] == pytest.approx(expected)
    assert choose_range(summarise(values[::-1]), "moving_average")[1] > expected


def test_percentiles_are_of_images_and_cut_both_ends() -> None:
    """One image in a hundred is ten times brighter: its 99th percentile is nearly gone, its largest value is not."""
    highs = np.linspace(1, 2, 100)
    highs[57] = 20
    values = np.stack([-highs / 2, np.zeros(100), highs], axis=1)
    seen = summarise(values)
    assert choose_range(seen, "min_max") == (-10.0, 20.0)
    low, high = choose_range(seen, "percentile_90")
    assert (low, high) == (pytest.approx(-high / 2), pytest.approx(np.percentile(highs, 90)))
    ends = [choose_range(seen, method)[1] for method in ("percentile_90", "percentile_99", "percentile_99_9")]
    assert ends == sorted(ends)
    assert ends[-1] < 20


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    """Of an unsigned 8-bit grid over the range, value by value."""
    scale = (high - low) / 255
    zero_point = round(-low / scale)
    stored = np.clip(np.rint(values / scale) + zero_point, 0, 255)
    return float(np.mean(((stored - zero_point) * scale - values) ** 2))


@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "uniform"])
def test_mse_is_no_worse_than_any_other_method_and_any_share_of_the_range(kind: str) -> None:
    generator = np.random.default_rng(3)
    values = generator.standard_normal((200, 500))
    if kind == "relu":
        values = np.maximum(values, 0)
    elif kind == "heavy":
        values = generator.standard_t(3, size=values.shape)
    elif kind == "uniform":
        values = generator.uniform(-1, 3, values.shape)
    seen = summarise(values)
    best = squared_error(values, *choose_range(seen, "mse"))
    others = [choose_range(seen, method) for method in METHODS]
    whole = choose_range(seen, "min_max")
    others += [(whole[0] * share, whole[1] * share) for share in np.linspace(0.2, 1, 33)]
    # The histogram stands for the values up to its bin width: a few per cent of the error.
    assert best <= 1.03 * min(squared_error(values, low, high) for low, high in others)


def test_mse_of_a_normal_distribution_clips_near_four_deviations() -> None:
    """The known optimum for 8 bits (Banner, Nahshan, Soudry 2019, "ACIQ": 3.9 of a Gaussian's deviations)."""
    values = np.random.default_rng(0).standard_normal((64, 20_000)).astype(np.float32)
    low, high = choose_range(summarise(values), "mse")
    assert 3.6 < high < 4.3
    assert 3.6 < -low < 4.3


def test_a_tensor_of_zeros_has_the_range_zero_and_merges_with_any() -> None:
    nothing, something = summarise(np.zeros((2, 5))), summarise(np.asarray([[1e-20, -3e-20]]))
    assert all(choose_range(nothing, method) == (0.0, 0.0) for method in METHODS)
    merged = merge(nothing, something)
    assert choose_range(merged, "min_max") == (-3e-20, 1e-20)
    assert merged.histogram.sum() == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    """One NaN would make a range that compares false with everything."""
    values = np.ones((3, 4))
    values[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        summarise(values)


def test_a_method_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="'entropy' is not one of moving_average, mean, min_max"):
        choose_range(summarise(np.ones((1, 1))), "entropy")
