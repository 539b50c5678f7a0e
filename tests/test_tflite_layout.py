"""What the converter leaves beside the layers, settled; paddings of convolutions are in test_export_rotate.py."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.export import tflite_layout
from edgeprune.export.tflite_file import convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.pipeline.conversions import Conversions
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.litert import run_litert
from edgeprune.verify.liveness import find_peak
from edgeprune.verify.micro import run_micro
from edgeprune.zoo import NetworkSpec, build_network


@pytest.mark.parametrize(("size", "left"), [(8, set()), (16, {"MEAN"})])
def test_an_average_over_one_pixel_goes_and_any_other_stays(size: int, left: set[str]) -> None:
    """As SUM, TFLite Micro and LiteRT's reference kernels rounded it otherwise, and what follows amplified that."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 32, 2, 2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1), nn.Linear(32, 24), nn.Hardswish(), nn.Linear(24, 2),
    ).eval()  # fmt: skip
    images = torch.randn(64, 3, size, size)
    inputs = images.permute(0, 2, 3, 1).contiguous().numpy()
    model = convert_network(network, image_size=size)
    assert set(operator_names(read_model(model.content))) & {"SUM", "MEAN", "RESHAPE"} == left
    with torch.inference_mode():
        expected = network(images).numpy()
    for reference in (False, True):
        found = run_litert(model.content, inputs, reference=reference)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    ranges = choose_ranges(model.content, observe_ranges(model.content, inputs), "min_max")
    content = strip_model(quantise_model(model.content, ranges))
    stored = np.random.default_rng(0).integers(-128, 128, inputs.shape, dtype=np.int8)
    micro, litert = run_micro(content, stored).outputs, run_litert(content, stored, reference=True)
    assert np.abs(micro.astype(int) - litert.astype(int)).max() <= 1


def pooled(*, relu: bool = False, **pool: object) -> nn.Sequential:
    """A pool between two convolutions, of values of both signs unless there is a ReLU."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU() if relu else nn.Identity())
    layers = (first, nn.MaxPool2d(**pool), nn.Conv2d(8, 12, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(12, 3)).eval()


def kinds_of(content: bytes) -> tuple[str, ...]:
    return operator_names(read_model(content))


def judge_padded_pool(network: nn.Module, size: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Hold a network's files against torch, against the converter's own graph, and against each other.

    Returns:
        The int8 file.
    """
    images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(1))
    inputs = images.permute(0, 2, 3, 1).contiguous().numpy()
    model = Conversions(image_size=size, rotate=False).convert(network)
    with monkeypatch.context() as patch:
        patch.setattr(tflite_layout, "_pool_in_steps", lambda *_: None)
        before = Conversions(image_size=size, rotate=False).convert(network).content
    assert "PADV2" in kinds_of(before)
    assert "PADV2" not in kinds_of(model.content)
    assert kinds_of(model.content).count("MAX_POOL_2D") == 2
    assert len(kinds_of(model.content)) == len(kinds_of(before)) == len(model.layers)
    with torch.inference_mode():
        expected = network(images).numpy()
    for reference in (False, True):
        found = run_litert(model.content, inputs, reference=reference)
        assert np.array_equal(found, run_litert(before, inputs, reference=reference))
        assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
    ranges = choose_ranges(model.content, observe_ranges(model.content, inputs), "min_max")
    content = strip_model(quantise_model(model.content, ranges))
    stored = np.random.default_rng(0).integers(-128, 128, inputs.shape, dtype=np.int8)
    micro, litert = run_micro(content, stored), run_litert(content, stored, reference=True)
    assert np.abs(micro.outputs.astype(int) - litert.astype(int)).max() <= 1
    assert litert.std(0).max() > 1  # of images that it tells apart
    assert micro.head_bytes == find_peak(content).peak_bytes < find_peak(before).peak_bytes / 4
    return content


@pytest.mark.parametrize(
    ("size", "pool"),
    [
        (16, {"kernel_size": 3, "stride": 2, "padding": 1}),
        (16, {"kernel_size": (3, 5), "stride": (2, 3), "padding": (1, 2)}),
        (15, {"kernel_size": 5, "stride": 3, "padding": 2}),
    ],
)
def test_a_strided_max_pool_needs_no_padding_in_float_nor_in_int8(
    size: int, pool: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are of both signs: a padding of zeros would answer otherwise."""
    judge_padded_pool(pooled(**pool), size, monkeypatch)


@pytest.mark.parametrize(
    "pool",
    [
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 5, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": (1, 0)},
    ],
)
def test_a_pool_whose_windows_are_not_centred_is_left_as_it_is_and_int8_refuses_it(pool: dict[str, object]) -> None:
    network = pooled(relu=True, **pool)
    images = torch.randn(4, 3, 16, 16)
    inputs = images.permute(0, 2, 3, 1).contiguous().numpy()
    content = convert_network(network, image_size=16).content
    assert kinds_of(content)[1:3] == ("PADV2", "MAX_POOL_2D")
    with torch.inference_mode():
        expected = network(images).numpy()
    assert np.abs(run_litert(content, inputs, reference=True) - expected).max() < 1e-5 * np.abs(expected).max()
    with pytest.raises(InputError, match=r"^A max-pool over 16 x 16 pixels is padded with minus infinity"):
        observe_ranges(content, inputs)


def test_int8_names_the_operator_that_gives_no_number() -> None:
    network = pooled(kernel_size=2)
    with torch.no_grad():
        network[2].bias[3] = torch.nan
    content = convert_network(network, image_size=16).content
    with pytest.raises(InputError, match="what the CONV_2D gives on the calibration images: it is NaN or infinite"):
        observe_ranges(content, np.zeros((2, 16, 16, 3), np.float32))


@pytest.mark.long
def test_the_padded_pool_of_a_resnet_needs_no_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSpec(network="resnet18", num_classes=2, image_size=64, pad="torch")).train()
    with torch.no_grad():
        for _ in range(4):
            network(torch.randn(16, 3, 64, 64))
    content = judge_padded_pool(network.eval(), 64, monkeypatch)
    # 32 x 32 pixels of 64 channels, before and after: with a padding it would be 34 x 34 after.
    assert find_peak(content).peak_bytes == 2 * 32 * 32 * 64
