"""SAME padding is TensorFlow's, to the pixel."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeprune.errors import InputError
from edgeprune.zoo import NetworkSpec, SameConv2d, build_network
from edgeprune.zoo.same_padding import use_same_padding


def convolve_by_hand(
    image: list[list[float]], kernel: list[list[float]], stride: int, dilation: int
) -> list[list[float]]:
    """TensorFlow's rule, pixel by pixel: outside the image there are zeros, more of them at the bottom right."""
    size, width = len(image), len(kernel)
    out = math.ceil(size / stride)
    reach = (width - 1) * dilation + 1
    before = max((out - 1) * stride + reach - size, 0) // 2

    def pixel(row: int, column: int) -> float:
        return image[row][column] if 0 <= row < size and 0 <= column < size else 0.0

    return [
        [
            sum(
                kernel[i][j] * pixel(row * stride - before + i * dilation, column * stride - before + j * dilation)
                for i in range(width)
                for j in range(width)
            )
            for column in range(out)
        ]
        for row in range(out)
    ]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [7, 8, 11, 12])
def test_it_is_tensorflows_rule(kernel: int, stride: int, dilation: int, size: int) -> None:
    generator = torch.Generator().manual_seed(kernel * size + stride)
    same = SameConv2d(1, 1, kernel, stride, dilation=dilation, bias=False).double()
    image = torch.rand(size, size, generator=generator, dtype=torch.double)
    weight = torch.rand(kernel, kernel, generator=generator, dtype=torch.double)
    same.weight = nn.Parameter(weight[None, None])
    expected = torch.tensor(convolve_by_hand(image.tolist(), weight.tolist(), stride, dilation), dtype=torch.double)
    torch.testing.assert_close(same(image[None, None])[0, 0].detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "first"), [(96, 0), (95, -1)])
def test_where_a_3x3_kernel_at_stride_2_looks_first(size: int, first: int) -> None:
    """TensorFlow's own example: on even sizes nothing is padded at the top left, on odd sizes one pixel is."""
    same = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.zeros_(same.weight)
    same.weight.data[0, 0, 0, 0] = 1  # reads the top left pixel under the kernel
    image = torch.arange(1, size * size + 1, dtype=torch.float32).view(1, 1, size, size)
    expected = image[0, 0, 0, 0] if first == 0 else 0
    assert same(image)[0, 0, 0, 0] == expected


@pytest.mark.parametrize("stride", [(2, 1), (1, 2), (3, 2)])
def test_rows_and_columns_have_their_own_arithmetic(stride: tuple[int, int]) -> None:
    """Kernel, stride, dilation and size may all differ between the axes; a swapped pair shows here."""
    same = SameConv2d(2, 4, (3, 5), stride, dilation=(2, 1), groups=2)
    out = same(torch.rand(1, 2, 9, 14))
    assert out.shape == (1, 4, math.ceil(9 / stride[0]), math.ceil(14 / stride[1]))
    rows = max((out.shape[2] - 1) * stride[0] + 5 - 9, 0)
    columns = max((out.shape[3] - 1) * stride[1] + 5 - 14, 0)
    image = torch.rand(1, 2, 9, 14)
    pads = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    expected = functional.conv2d(functional.pad(image, pads), same.weight, same.bias, stride, 0, (2, 1), 2)
    torch.testing.assert_close(same(image), expected)


def test_only_padded_strided_convolutions_are_replaced() -> None:
    """At stride 1 the two rules agree, and a convolution without padding has nothing to place."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1),
        nn.Conv2d(4, 4, 1, 2),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.Sequential(nn.Conv2d(4, 8, 5, (1, 2), 2)),
    )
    kept = network[0], network[1]
    use_same_padding(network)
    assert (network[0], network[1]) == kept
    assert [type(network[0]), type(network[1])] == [nn.Conv2d, nn.Conv2d]
    assert type(network[2]) is SameConv2d
    assert type(network[3][0]) is SameConv2d


def test_parameters_and_their_names_stay() -> None:
    """Weights made for torchvision's network load into the other one, and count the same."""
    torch.manual_seed(0)
    plain = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96))
    torch.manual_seed(0)
    same = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96, pad="same"))
    states = plain.state_dict(), same.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    replaced = {name for name, module in same.named_modules() if isinstance(module, SameConv2d)}
    strided = {
        name for name, module in plain.named_modules() if isinstance(module, nn.Conv2d) and max(module.stride) > 1
    }
    assert replaced == strided != set()


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_050", "mobilenetv4_conv_small", "efficientnet_lite0", "ghostnet_100", "fbnetc_100",
     "tinynet_e", "repvgg_a0", "resnet10t"],
)  # fmt: skip
@pytest.mark.parametrize("size", [64, 75])
def test_timms_networks_can_be_padded_so(name: str, size: int) -> None:
    """Branches that meet again (RepVGG's 3 x 3 beside its 1 x 1) agree in size at odd sizes too."""
    network = build_network(NetworkSpec(network=f"timm/{name}", num_classes=2, image_size=size, pad="same"))
    left = [
        each
        for each in network.modules()
        if isinstance(each, nn.Conv2d) and max(each.stride) > 1 and each.padding != (0, 0)
    ]
    assert left == []
    assert any(isinstance(each, SameConv2d) for each in network.modules())
    with torch.no_grad():
        assert network(torch.rand(2, 3, size, size)).shape == (2, 2)


def test_a_convolution_that_computes_more_is_refused_by_name() -> None:
    """Weight standardisation would be lost, or the padding silently stay."""
    with pytest.raises(InputError, match=r"model\.pad = 'same' cannot replace stem\.conv, a ScaledStdConv2d"):
        build_network(NetworkSpec(network="timm/nf_resnet26", num_classes=2, image_size=64, pad="same"))


def test_a_convolution_with_two_names_stays_one() -> None:
    shared = nn.Conv2d(3, 3, 3, 2, 1)
    network = use_same_padding(nn.Sequential(shared, nn.Sequential(shared)))
    assert type(network[0]) is SameConv2d
    assert network[0] is network[1][0]


def test_bias_groups_and_dilation_survive_the_replacement() -> None:
    before = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 2, dilation=2, groups=4, bias=True))
    weight, bias = before[0].weight, before[0].bias
    after = use_same_padding(before)[0]
    assert (after.groups, after.dilation, after.padding) == (4, (2, 2), (0, 0))
    assert torch.equal(after.weight, weight)
    assert torch.equal(after.bias, bias)


def test_same_equals_torch_on_an_image_turned_upside_down() -> None:
    """DESIGN.md fact 15: at even sizes, turning image and kernels by 180 degrees turns one rule into the other."""
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3, 2, 1).double()
    same = SameConv2d(3, 4, 3, 2).double()
    same.load_state_dict({"weight": plain.weight.flip(2, 3), "bias": plain.bias})
    image = torch.rand(1, 3, 12, 12, dtype=torch.double)
    torch.testing.assert_close(same(image.flip(2, 3)).flip(2, 3), plain(image), rtol=1e-12, atol=1e-12)
