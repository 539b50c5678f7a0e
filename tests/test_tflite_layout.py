"""What the converter leaves beside the layers, settled; paddings are in test_export_rotate.py."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.export.tflite_file import convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.litert import run_litert
from edgeprune.verify.micro import run_micro


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
