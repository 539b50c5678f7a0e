"""Random changes to whole batches of training images, drawn from one generator so that a seed repeats them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def augment_batch(
    images: "torch.Tensor",
    generator: "torch.Generator",
    *,
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    quarter_turns: bool = False,
    shift_pixels: int = 0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    crop_area: float = 1.0,
    rotate_degrees: float = 0.0,
    saturation: float = 0.0,
) -> "torch.Tensor":
    """Turn, flip, shift, crop and relight every image of a batch by its own random draw.

    In this order: a random multiple of 90 degrees, flips with probability 1/2 each, a translation with replicated
    edges, a crop stretched back together with a rotation, brightness and contrast, saturation. Values are clamped to
    [0, 1] after the last of them. Nothing is drawn for what is switched off.

    Args:
        images: float32, shape (n, 3, height, width), values in [0, 1]; left as it is.
        generator: a CPU generator; equal states give equal results.
        flip_horizontal, flip_vertical: mirror left to right, top to bottom.
        quarter_turns: needs height == width.
        shift_pixels: each axis moves by a whole number in [-shift_pixels, shift_pixels].
        brightness: pixels times a factor in [1 - brightness, 1 + brightness].
        contrast: stretched around the image's own mean by a factor in [1 - contrast, 1 + contrast].
        crop_area: least share of the image's area that a crop keeps; its sides differ by up to a factor of 1.5.
        rotate_degrees: largest angle; what comes in at the edges is mirrored.
        saturation: colours times a factor in [1 - saturation, 1 + saturation] away from the pixel's grey.

    Returns:
        A tensor like ``images``, in the same memory format; ``images`` itself when everything is off.

    Raises:
        ValueError: quarter turns of images that are not square.
    """
    if quarter_turns and images.shape[2] != images.shape[3]:
        raise ValueError(f"quarter turns need square images, not {images.shape[2]} x {images.shape[3]}")
    if quarter_turns or flip_horizontal or flip_vertical or shift_pixels:
        images = _move(images, generator, flip_horizontal, flip_vertical, quarter_turns, shift_pixels)
    if crop_area < 1 or rotate_degrees:
        images = _crop_and_rotate(images, generator, crop_area, rotate_degrees)
    if brightness or contrast:
        images = _relight(images, generator, brightness, contrast)
    if saturation:
        images = _saturate(images, generator, saturation)
    return images


def _move(  # noqa: PLR0917
    images: "torch.Tensor",
    generator: "torch.Generator",
    flip_horizontal: bool,
    flip_vertical: bool,
    quarter_turns: bool,
    shift_pixels: int,
) -> "torch.Tensor":
    import torch

    n, channels, height, width = images.shape
    row, column = _positions(height, n, shift_pixels, generator), _positions(width, n, shift_pixels, generator)
    turns = torch.randint(0, 4 if quarter_turns else 1, (n, 1), generator=generator)
    # Transposing and mirroring rows is a quarter turn counterclockwise; mirroring both axes is a half turn.
    mirror_rows = (turns == 1) | (turns == 2)
    mirror_columns = turns >= 2
    if flip_horizontal:
        mirror_columns = mirror_columns ^ _toss(n, generator)
    if flip_vertical:
        mirror_rows = mirror_rows ^ _toss(n, generator)
    row = torch.where(mirror_rows, height - 1 - row, row)
    column = torch.where(mirror_columns, width - 1 - column, column)
    # Where every output pixel comes from, as a position in the flattened batch: rows and columns contribute
    # separately, and a transposed image swaps their strides.
    transposed = turns % 2 == 1
    row = torch.where(transposed, row, row * width).to(images.device)
    column = torch.where(transposed, column * width, column).to(images.device)
    origin = torch.arange(n, device=images.device).view(n, 1, 1) * (height * width)
    index = (row.view(n, height, 1) + column.view(n, 1, width) + origin).view(-1)
    moved = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, index)
    moved = moved.view(n, height, width, channels).permute(0, 3, 1, 2)
    return moved.contiguous(memory_format=_memory_format(images))


def _positions(length: int, n: int, shift_pixels: int, generator: "torch.Generator") -> "torch.Tensor":
    """Source positions along one axis, shape (n, length): shifted, and held at the edges."""
    import torch

    positions = torch.arange(length).expand(n, length)
    if shift_pixels:
        shift = torch.randint(-shift_pixels, shift_pixels + 1, (n, 1), generator=generator)
        positions = (positions - shift).clamp_(0, length - 1)
    return positions


def _crop_and_rotate(
    images: "torch.Tensor", generator: "torch.Generator", crop_area: float, rotate_degrees: float
) -> "torch.Tensor":
    import math

    import torch
    from torch.nn import functional

    n = images.shape[0]
    draws = torch.rand(5, n, generator=generator)
    area = crop_area + (1 - crop_area) * draws[0]
    # A side is never longer than the image's, so that nothing but a rotation brings in what was not there.
    stretch = torch.exp((2 * draws[1] - 1) * 0.5 * math.log(1.5)) if crop_area < 1 else torch.ones(n)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    across, down = (2 * draws[2] - 1) * (1 - width), (2 * draws[3] - 1) * (1 - height)
    angle = (2 * draws[4] - 1) * math.radians(rotate_degrees)
    cosine, sine = angle.cos(), angle.sin()
    # Of every output position, the position in the image: both in [-1, 1], turned within the crop and then moved. By
    # hand, because torch's affine_grid takes longer than the sampling.
    rows, columns = (
        ((2 * torch.arange(side, device=images.device) + 1) / side - 1).view(shape)
        for side, shape in ((images.shape[2], (1, -1, 1)), (images.shape[3], (1, 1, -1)))
    )
    factors = torch.stack([width * cosine, width * sine, across, height * sine, height * cosine, down])
    a, b, c, d, e, f = factors.to(images.device).view(6, n, 1, 1)
    grid = torch.empty(n, *images.shape[2:], 2, device=images.device)
    torch.add(a * columns, c - b * rows, out=grid[..., 0])
    torch.add(d * columns, f + e * rows, out=grid[..., 1])
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.contiguous(memory_format=_memory_format(images))


def _saturate(images: "torch.Tensor", generator: "torch.Generator", saturation: float) -> "torch.Tensor":
    import torch

    factor = 1 + saturation * (2 * torch.rand(images.shape[0], 1, 1, 1, generator=generator) - 1)
    # A sum of three, because torch's mean over channels takes four times as long.
    grey = (images[:, 0:1] + images[:, 1:2] + images[:, 2:3]) / 3
    factor = factor.to(images.device)
    return torch.addcmul((1 - factor) * grey, images, factor).clamp_(0, 1)


def _relight(
    images: "torch.Tensor", generator: "torch.Generator", brightness: float, contrast: float
) -> "torch.Tensor":
    import torch

    n = images.shape[0]
    gain = torch.ones(n, 1, 1, 1)
    offset = torch.zeros(n, 1, 1, 1)
    if brightness:
        gain = 1 + brightness * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)
    if contrast:
        factor = 1 + contrast * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)
        # factor * (gain * x - mean) + mean, with the mean of the brightened image, in one pass over the pixels.
        offset = ((1 - factor) * gain).to(images.device) * images.mean(dim=(1, 2, 3), keepdim=True)
        gain = factor * gain
    return torch.addcmul(offset.to(images.device), images, gain.to(images.device)).clamp_(0, 1)


def _toss(n: int, generator: "torch.Generator") -> "torch.Tensor":
    import torch

    return torch.randint(0, 2, (n, 1), generator=generator).bool()


def _memory_format(images: "torch.Tensor") -> "torch.memory_format":
    import torch

    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
