"""Tiny TFLite files for tests, made by the real converter and quantizer, once a process."""

import functools

import numpy as np
import torch
from torch import nn

from edgeprune.export.tflite_file import FloatModel, convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.preprocess import normalise_pixels
from edgeprune.zoo import SameConv2d

SIZE = 32
TINY_MEAN = (0.485, 0.456, 0.406)
TINY_STD = (0.229, 0.224, 0.225)
CLASSES = ("good", "bad")


def tiny_network(*, pad_same: bool = True) -> nn.Module:
    """A stem, a depthwise block and a head, with the reference network's kinds of operator; seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = SameConv2d(3, 8, 3, 2) if pad_same else nn.Conv2d(3, 8, 3, 2, 1)
        return nn.Sequential(
            nn.Sequential(stem, nn.BatchNorm2d(8), nn.Hardswish()),
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.Hardswish()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(16, 2),
        ).eval()


def tiny_images(count: int = 16) -> np.ndarray:
    """Blocky coloured pictures, uint8, shape (count, 32, 32, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return noise.repeat(4, axis=1).repeat(4, axis=2)


def nhwc(images: np.ndarray) -> np.ndarray:
    """Normalised float32 images with channels last."""
    return np.ascontiguousarray(normalise_pixels(images, TINY_MEAN, TINY_STD).transpose(0, 2, 3, 1))


@functools.cache
def tiny_named(*, pad_same: bool = True) -> FloatModel:
    """The float model, its tensors still named."""
    return convert_network(tiny_network(pad_same=pad_same), image_size=SIZE)


@functools.cache
def tiny_float(*, pad_same: bool = True) -> bytes:
    """The float model as it ships, without metadata."""
    return strip_model(tiny_named(pad_same=pad_same).content)


@functools.cache
def tiny_int8(*, pad_same: bool = True) -> bytes:
    """The int8 model as it ships, without metadata."""
    content = tiny_named(pad_same=pad_same).content
    ranges = choose_ranges(content, observe_ranges(content, nhwc(tiny_images())), "min_max")
    return strip_model(quantise_model(content, ranges))
