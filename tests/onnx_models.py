"""Small ONNX files for tests, float and int8, made by the real exporter and quantizer, once a process."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune.export import write_onnx
from edgeprune.export.onnx_int8 import choose_onnx_ranges, observe_onnx, quantise_onnx
from edgeprune.quantise.condition import condition_network
from edgeprune.zoo import SameConv2d

SIZE = 32
METADATA = {"name": "tiny-s60", "labels": '["good", "bad"]'}


class Residual(nn.Module):
    """Adds what a block computes to what it was given."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)


class Gate(nn.Sequential):
    """Squeeze-excite: multiplies by what its layers make of the image's means."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * x


def small_network() -> nn.Module:
    """The reference network's kinds of operator: hard-swish, depthwise, squeeze-excite, addition; seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gate = Gate(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid())
        layers = (nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU(), gate, nn.Conv2d(8, 8, 1))
        network = nn.Sequential(
            nn.Sequential(SameConv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish()),
            Residual(*layers, nn.BatchNorm2d(8)),
            nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.Hardswish()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(16, 16),
            nn.Hardswish(),
            nn.Linear(16, 2),
        )
        with torch.no_grad():
            network.train()(torch.from_numpy(images(64)))  # BatchNorm statistics that are not 0 and 1
    return network.eval()


def images(count: int = 32) -> np.ndarray:
    """Blocky pictures, normalised, float32, shape (count, 3, 32, 32)."""
    noise = np.random.default_rng(0).standard_normal((count, 3, 8, 8), dtype=np.float32)
    return np.ascontiguousarray(noise.repeat(4, axis=2).repeat(4, axis=3))


def export(network: nn.Module, *, size: int = SIZE, dynamic_batch: bool = False) -> bytes:
    """The float file of a network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        probe = np.random.default_rng(1).standard_normal((1, 3, size, size), dtype=np.float32)
        write_onnx(network, path, image_size=size, dynamic_batch=dynamic_batch, metadata=METADATA, probe=probe)
        return path.read_bytes()


@functools.cache
def small_float(*, dynamic_batch: bool = False) -> bytes:
    """The float file of the conditioned network."""
    ready = condition_network(small_network(), torch.from_numpy(images()))
    return export(ready.network, dynamic_batch=dynamic_batch)


@functools.cache
def small_int8(method: str = "min_max") -> bytes:
    """The int8 file of the same."""
    content = small_float()
    ranges = choose_onnx_ranges(content, observe_onnx(content, images()), method)
    return quantise_onnx(content, ranges, metadata=METADATA)
