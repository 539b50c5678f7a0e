"""`export: {pad: rotate}`: no PAD operator, without training; the same answers for an image turned by 180 degrees."""

import pytest
import torch
from mcu_models import SIZE, tiny_network
from torch import nn

from edgeprune.errors import InputError
from edgeprune.export.rotate import rotate_network
from edgeprune.export.tflite_file import convert_network
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.zoo.torchvision_import import torchvision_models


@pytest.mark.parametrize(("factory", "size"), [("mobilenet_v3_small", 96), ("mobilenet_v2", 50), ("resnet18", 96)])
def test_a_rotated_network_answers_a_rotated_image_alike(factory: str, size: int) -> None:
    torch.manual_seed(0)
    network = getattr(torchvision_models(), factory)(num_classes=2).eval()
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    rotated = rotate_network(network, image_size=size)
    with torch.inference_mode():
        expected, found = network(image), rotated(torch.rot90(image, 2, (2, 3)))
    # Fresh weights give logits near zero, so the difference is held against them and not against one.
    assert float((found - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_padding_that_is_not_same_after_the_turn_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(InputError, match="32"):
        rotate_network(network, image_size=32)


def test_the_rotated_file_has_no_pad_operator() -> None:
    network = tiny_network(pad_same=False)
    plain, turned = (
        operator_names(read_model(convert_network(each, image_size=SIZE).content))
        for each in (network, rotate_network(network, image_size=SIZE))
    )
    assert "PAD" in plain
    assert "PAD" not in turned
