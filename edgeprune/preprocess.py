"""From uint8 pixels to the tensor a network reads: one definition for training, gates, bundles and cards."""

from typing import TYPE_CHECKING

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
