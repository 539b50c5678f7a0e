"""From uint8 pixels to the tensor a network reads: one definition for training, gates, bundles and cards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.embedded import Quantisation

if TYPE_CHECKING:
    import numpy as np

# One value a channel, red, green and blue.
Triple = tuple[float, float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_pixels(
    images: "np.ndarray", mean: tuple[float, ...] | list[float], std: tuple[float, ...] | list[float]
) -> "np.ndarray":
    """Scale pixels to [0, 1], subtract the mean, divide by the standard deviation, move channels first.

    Args:
        images: uint8, shape (n, height, width, channels).
        mean, std: one value a channel, in units of [0, 1] pixels.

    Returns:
        float32, shape (n, channels, height, width), contiguous.

    >>> import numpy as np
    >>> normalise_pixels(np.full((1, 2, 2, 3), 255, np.uint8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).ravel()[:3]
    array([1., 1., 1.], dtype=float32)
    """
    import numpy as np

    scale = 1.0 / (255.0 * np.asarray(std, dtype=np.float32))
    shift = np.asarray(mean, dtype=np.float32) / np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray((images.astype(np.float32) * scale - shift).transpose(0, 3, 1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerPreprocess:
    """From a uint8 pixel to an int8 input without floating point: ``(pixel * multiplier + offset) >> shift``, clamped.

    The shift is arithmetic (rounds down); ``offset`` holds one half of the last place, so that the result is rounded to
    nearest. Products fit int32 for every pixel.

    Attributes:
        multiplier, offset: one value a channel, red, green and blue.
        shift: bits.
    """

    multiplier: tuple[int, int, int]
    offset: tuple[int, int, int]
    shift: int

    def apply(self, images: "np.ndarray") -> "np.ndarray":
        """Quantise pixels.

        Args:
            images: uint8, shape (..., 3), red, green, blue.

        Returns:
            int8, the same shape.
        """
        import numpy as np

        wide = images.astype(np.int32) * np.asarray(self.multiplier, np.int32) + np.asarray(self.offset, np.int32)
        stored: np.ndarray = np.clip(wide >> self.shift, -128, 127).astype(np.int8)
        return stored


def plan_integer_preprocess(mean: Triple, std: Triple, quantisation: Quantisation) -> IntegerPreprocess:
    """The integer arithmetic that equals normalising and quantising, for all 256 values of every channel.

    Args:
        mean, std: in units of [0, 1] pixels.
        quantisation: of the input tensor.

    Raises:
        ValueError: no shift makes products that fit int32, or the input's scale is far from that of pixels.

    >>> plan_integer_preprocess((0.5,) * 3, (0.5,) * 3, Quantisation(scale=2 / 255, zero_point=0)).apply(
    ...     __import__("numpy").asarray([[0, 128, 255]], "uint8"))
    array([[-127,    1,  127]], dtype=int8)
    """
    factors = [1 / (255 * s * quantisation.scale) for s in std]
    shifts = [quantisation.zero_point - m / (s * quantisation.scale) for m, s in zip(mean, std, strict=True)]
    for shift in range(22, 7, -1):
        multiplier = [round(factor * 2**shift) for factor in factors]
        offset = [round((value + 0.5) * 2**shift) for value in shifts]
        if max(255 * m + abs(o) for m, o in zip(multiplier, offset, strict=True)) < 2**31:
            first, second, third = multiplier
            one, two, three = offset
            return IntegerPreprocess(multiplier=(first, second, third), offset=(one, two, three), shift=shift)
    raise ValueError(f"std {std} and an input scale of {quantisation.scale} need products wider than int32")
