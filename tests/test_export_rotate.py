"""`export: {pad: rotate}`: no PAD operator, without training; the same answers for an image turned by 180 degrees."""

from collections.abc import Callable

import pytest
import torch
from mcu_models import SIZE, tiny_network
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.export.rotate import rotate_network
from edgeprune.export.tflite_file import convert_network
from edgeprune.logits import scaled_difference
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.litert import run_litert
from edgeprune.zoo import SameConv2d
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


class Shortcut(nn.Module):
    """One tensor that a padded convolution and a shortcut both read, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.short = nn.Conv2d(3, 8, 3), SameConv2d(8, 4, 3, 2), nn.Conv2d(8, 4, 2, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.pool(self.wide(x) + self.short(x)).flatten(1)


def test_a_padding_beside_a_shortcut_becomes_the_convolutions_own() -> None:
    """The converter leaves TRANSPOSE, PAD and TRANSPOSE between the two."""
    torch.manual_seed(0)
    network = Shortcut().eval()
    image = torch.randn(1, 3, SIZE, SIZE)
    content = convert_network(network, image_size=SIZE).content
    assert not {"PAD", "TRANSPOSE"} & set(operator_names(read_model(content)))
    with torch.inference_mode():
        expected = network(image).numpy()
    found = run_litert(content, image.permute(0, 2, 3, 1).contiguous().numpy(), reference=False)
    assert scaled_difference(found, expected) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
    ("factory", "size"),
    [("mobilenet_v3_small", 95), ("mobilenet_v2", 96), ("efficientnet_b0", 64), ("mnasnet0_5", 97), ("resnet18", 96)],
)
def test_real_networks_lose_every_pad_operator_and_answer_alike_in_litert(
    disturbed: Callable[..., nn.Module], factory: str, size: int
) -> None:
    """ResNet's padded pool at stride 2 among them."""
    network = disturbed(factory, size=size)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(image).numpy()
    content = convert_network(rotate_network(network, image_size=size), image_size=size).content
    assert not {"PAD", "PADV2"} & set(operator_names(read_model(content)))
    turned = torch.rot90(image, 2, (2, 3)).permute(0, 2, 3, 1).contiguous().numpy()
    found = run_litert(content, turned, reference=False)
    assert scaled_difference(found, expected) < 1e-4
