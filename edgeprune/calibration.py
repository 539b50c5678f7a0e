"""Which range of real numbers the 256 steps of an 8-bit tensor should cover, from what was seen on real images.

A wide range wastes steps on rare values, a narrow one clips them; which is worse depends on the network. So tensors are
observed once, into statistics that are small and exact under merging, and every method of choosing derives its range
from those without running the network again. Needs numpy only.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

METHODS: tuple[str, ...] = (
    "moving_average",
    "mean",
    "min_max",
    "percentile_99_9",
    "percentile_99",
    "percentile_90",
    "mse",
)
# A hard-swish gives zero for everything up to -3, so steps spent below are wasted.
HARD_SWISH_FLOOR = -3.0
# A tensor that is zero on all images still needs a step to divide biases by.
LEAST_RANGE = 1e-3
_PERCENTILES = {"percentile_99_9": 99.9, "percentile_99": 99.0, "percentile_90": 90.0}
# The weight of what was seen before, as in ai-edge-quantizer's own calibration.
_SMOOTHING = 0.95
# 16 bins in each of the 256 steps of the full range; a range clipped to a quarter still has 4 in each.
_MAX_BINS = 4096
_STEPS = 255
# Each end of the range is tried at these shares of the largest value that was seen.
_SHARES = tuple(0.94**power for power in range(48))
_ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActivationStatistics:
    """What was seen of one tensor on a number of images.

    Attributes:
        per_image_low, per_image_high: extremes of each image, float64, shape (images,), in the order of the images.
        histogram: values in each bin, int64, shape (bins,). Exact zeros are left out: every range contains zero and
            every grid holds it exactly, so they say nothing about either.
        histogram_low, histogram_high: lower edge of the first bin, upper edge of the last. All bins are equally wide;
            the width is a power of two and the edges are multiples of it, so that histograms merge without rounding.
    """

    per_image_low: "np.ndarray"
    per_image_high: "np.ndarray"
    histogram: "np.ndarray"
    histogram_low: float
    histogram_high: float


def summarise(values: "np.ndarray") -> ActivationStatistics:
    """Statistics of one tensor on some images.

    Args:
        values: shape (images, ...), at least one value an image.

    Raises:
        ValueError: there are no values, or some are NaN or infinite.

    >>> import numpy as np
    >>> seen = summarise(np.asarray([[0.0, 1.0], [-3.0, 2.0]]))
    >>> seen.per_image_low.tolist(), seen.per_image_high.tolist(), int(seen.histogram.sum())
    ([0.0, -3.0], [1.0, 2.0], 3)
    """
    import numpy as np

    if values.size == 0:
        raise ValueError(f"no values: shape {values.shape}")
    flat = values.reshape(len(values), -1)
    lows, highs = flat.min(1).astype(np.float64), flat.max(1).astype(np.float64)
    if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
        raise ValueError("values are NaN or infinite")
    width = _bin_width(lows.min(), highs.max())
    first, bins = _layout(lows.min(), highs.max(), width)
    # A power of two multiplies float32 and float64 alike without rounding, unless it leaves their exponents.
    kind = flat.dtype if flat.dtype == np.float32 and 2.0**-100 < width < 2.0**100 else np.dtype(np.float64)
    places = flat.ravel() * kind.type(1 / width)
    np.floor(places, out=places)
    counts = np.bincount(places.astype(np.int64) - first, minlength=bins)
    counts[-first] -= flat.size - np.count_nonzero(flat)
    return ActivationStatistics(
        per_image_low=lows,
        per_image_high=highs,
        histogram=counts.astype(np.int64, copy=False),
        histogram_low=first * width,
        histogram_high=(first + bins) * width,
    )


def merge(one: ActivationStatistics, other: ActivationStatistics) -> ActivationStatistics:
    """Statistics of the images of ``one`` followed by those of ``other``: what ``summarise`` says of all at once.

    >>> import numpy as np
    >>> both = merge(summarise(np.asarray([[1.0, 2.0]])), summarise(np.asarray([[100.0, -7.0]])))
    >>> both.per_image_high.tolist(), int(both.histogram.sum())
    ([2.0, 100.0], 4)
    """
    import numpy as np

    lows = np.concatenate([one.per_image_low, other.per_image_low])
    highs = np.concatenate([one.per_image_high, other.per_image_high])
    width = _bin_width(lows.min(), highs.max())
    first, bins = _layout(lows.min(), highs.max(), width)
    counts = np.zeros(bins, np.int64)
    for part in (one, other):
        finer = (part.histogram_high - part.histogram_low) / len(part.histogram)
        start = round(part.histogram_low / finer)
        # Bins that stand for nothing are left where they are: a tensor of zeros has a width of its own.
        filled = np.flatnonzero(part.histogram)
        np.add.at(counts, np.floor((filled + start) * (finer / width)).astype(np.int64) - first, part.histogram[filled])
    return ActivationStatistics(
        per_image_low=lows,
        per_image_high=highs,
        histogram=counts,
        histogram_low=first * width,
        histogram_high=(first + bins) * width,
    )


def choose_range(statistics: ActivationStatistics, method: str) -> tuple[float, float]:
    """The range that a method gives a tensor; it always contains zero, and is (0, 0) for a tensor of zeros only.

    - ``moving_average`` of the per-image extremes, which starts at the first image: late images weigh most, so the
      images must be shuffled.
    - ``mean`` of the per-image extremes: the order of the images does not matter.
    - ``min_max``: nothing seen is clipped.
    - ``percentile_99_9``, ``percentile_99``, ``percentile_90`` of the per-image extremes (highs, and lows from below):
      that share of images is not clipped at this end.
    - ``mse``: the range whose 8-bit grid has the smallest mean squared error over all values seen.

    Args:
        statistics: of one tensor.
        method: one of ``METHODS``.

    Returns:
        (low, high) with low <= 0 <= high.

    Raises:
        ValueError: no such method.

    Source:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", section 3.1 (moving average); Nagel et al. 2021, "A White Paper on Neural Network Quantization",
        section 3.1 (min-max, mean squared error); Wu, Judd, Zhang, Isaev, Micikevicius 2020, "Integer Quantization for
        Deep Learning Inference", section 3.3 (percentiles; there of values, here of images' extremes).

    >>> import numpy as np
    >>> seen = summarise(np.asarray([[1.0], [2.0], [10.0]]))
    >>> choose_range(seen, "min_max")
    (0.0, 10.0)
    """
    import numpy as np

    lows, highs = statistics.per_image_low, statistics.per_image_high
    if method == "moving_average":
        low, high = _moving_average(lows), _moving_average(highs)
    elif method == "mean":
        low, high = lows.mean(), highs.mean()
    elif method == "min_max":
        low, high = lows.min(), highs.max()
    elif method in _PERCENTILES:
        share = _PERCENTILES[method]
        low, high = np.percentile(lows, 100 - share), np.percentile(highs, share)
    elif method == "mse":
        low, high = _least_error(statistics)
    else:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    return min(float(low), 0.0), max(float(high), 0.0)


def choose_ranges(
    statistics: Mapping[str, ActivationStatistics], method: str, *, readers: Mapping[str, Collection[str]]
) -> dict[str, tuple[float, float]]:
    """A range for every tensor of a network, none narrower than a step that can be divided by.

    Args:
        statistics: by tensor name.
        method: one of ``METHODS``.
        readers: tensor name to the kinds of operators that read it, as TFLite (``HARD_SWISH``) or ONNX (``HardSwish``)
            name them: what only a hard-swish reads starts at -3 at the lowest.
    """
    ranges = {}
    for name, seen in statistics.items():
        low, high = choose_range(seen, method)
        if set(readers.get(name, ())) in ({"HARD_SWISH"}, {"HardSwish"}):
            low = max(low, HARD_SWISH_FLOOR)
        ranges[name] = (low, max(high, low + LEAST_RANGE))
    return ranges


def _bin_width(low: float, high: float) -> float:
    """The smallest power of two at which the range, zero included, takes no more than the bins allowed."""
    span = max(high, 0.0) - min(low, 0.0)
    if span == 0:
        return 1.0
    # The exponent is kept where a float64 and its inverse both exist.
    exponent = max(math.frexp(span / _MAX_BINS)[1] - 1, -1000)
    while _layout(low, high, 2.0**exponent)[1] > _MAX_BINS:
        exponent += 1
    return 2.0**exponent


def _layout(low: float, high: float, width: float) -> tuple[int, int]:
    """Index of the first bin, and the number of bins, from the extremes and zero."""
    first = math.floor(min(low, 0.0) / width)
    return first, math.floor(max(high, 0.0) / width) - first + 1


def _moving_average(values: "np.ndarray") -> float:
    average = float(values[0])
    for value in values[1:]:
        average = _SMOOTHING * average + (1 - _SMOOTHING) * float(value)
    return average


def _least_error(statistics: ActivationStatistics) -> tuple[float, float]:
    """Search one end at a time over shares of its extreme, the other held; each round starts from the last's best."""
    import numpy as np

    low, high = min(float(statistics.per_image_low.min()), 0.0), max(float(statistics.per_image_high.max()), 0.0)
    filled = np.flatnonzero(statistics.histogram)
    width = (statistics.histogram_high - statistics.histogram_low) / len(statistics.histogram)
    centres = statistics.histogram_low + (filled + 0.5) * width
    counts = statistics.histogram[filled].astype(np.float64)

    def error(pair: tuple[float, float]) -> float:
        scale = (pair[1] - pair[0]) / _STEPS
        if scale <= 0:
            return math.inf
        zero_point = round(-pair[0] / scale)
        stored = np.clip(np.rint(centres / scale), -zero_point, _STEPS - zero_point)
        return float(counts @ (stored * scale - centres) ** 2)

    best = (low, high)
    for _ in range(_ROUNDS):
        best = min(((best[0], share * high) for share in _SHARES), key=error)
        best = min(((share * low, best[1]) for share in _SHARES), key=error)
    return best
