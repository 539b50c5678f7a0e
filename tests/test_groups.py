"""The census: which channels can go, and what goes with them."""

import copy

import pytest
import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.plan import find_groups
from edgeprune.zoo import NetworkSpec, build_network

PROTECTED = ("features.1", "features.2", "features.3")


def census(network: nn.Module, *protect: str, size: int = 96) -> dict[str, int]:
    groups = find_groups(network, image_size=size, scope="expand", protect=protect)
    return {group.layer: group.channels for group in groups}


def test_the_seed_logs_census_is_2280_channels(reference: nn.Module) -> None:
    """The log: "Total prunable channels (expand convs): 2280"."""
    found = census(reference, *PROTECTED)
    assert list(found) == [f"features.{block}.block.0.0" for block in range(4, 12)]
    assert list(found.values()) == [96, 240, 240, 120, 144, 288, 576, 576]
    assert sum(found.values()) == 2280


def test_without_protection_there_are_2440(reference: nn.Module) -> None:
    """features.2 and features.3 add 72 and 88; features.1 has no expansion."""
    found = census(reference)
    assert sum(found.values()) == 2440
    assert (found["features.2.block.0.0"], found["features.3.block.0.0"]) == (72, 88)


def test_what_goes_with_an_expansion_channel(reference: nn.Module) -> None:
    """The log: expand, depthwise, both BatchNorms, squeeze-excite fc1 inputs and fc2 outputs, projection inputs."""
    group = next(
        group
        for group in find_groups(reference, image_size=96, scope="expand", protect=PROTECTED)
        if group.layer == "features.4.block.0.0"
    )
    block = "features.4.block"
    assert set(group.followers) == {f"{block}.0.1", f"{block}.1.0", f"{block}.1.1", f"{block}.2.fc2"}
    assert set(group.consumers) == {f"{block}.2.fc1", f"{block}.3.0"}
    assert group.followers[0] == f"{block}.0.1"


def test_a_block_without_squeeze_excite_has_one_consumer(reference: nn.Module) -> None:
    group = find_groups(reference, image_size=96, scope="expand", protect=())[0]
    assert group.layer == "features.2.block.0.0"
    assert group.followers == ("features.2.block.0.1", "features.2.block.1.0", "features.2.block.1.1")
    assert group.consumers == ("features.2.block.2.0",)


def test_a_protected_name_is_a_module_and_no_prefix(reference: nn.Module) -> None:
    """features.1 must not protect features.10 and features.11."""
    found = census(reference, "features.1")
    assert sum(found.values()) == 2440
    assert "features.10.block.0.0" in found
    assert "features.4.block.0.0" not in census(reference, "features.4.block.0.0")


def test_same_padding_does_not_change_the_census() -> None:
    same = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96, pad="same"))
    assert sum(census(same, *PROTECTED).values()) == 2280


@pytest.mark.parametrize(
    ("network", "channels", "first", "followers", "consumers"),
    [
        ("resnet18", 1920, "layer1.0.conv1", ("layer1.0.bn1",), ("layer1.0.conv2",)),
        (
            "mobilenet_v2",
            7104,
            "features.2.conv.0.0",
            ("features.2.conv.0.1", "features.2.conv.1.0", "features.2.conv.1.1"),
            ("features.2.conv.2",),
        ),
        (
            "efficientnet_b0",
            8928,
            "features.2.0.block.0.0",
            (
                "features.2.0.block.0.1",
                "features.2.0.block.1.0",
                "features.2.0.block.1.1",
                "features.2.0.block.2.fc2",
            ),
            ("features.2.0.block.2.fc1", "features.2.0.block.3.0"),
        ),
        (
            "mnasnet0_5",
            4056,
            "layers.8.0.layers.0",
            ("layers.8.0.layers.1", "layers.8.0.layers.3", "layers.8.0.layers.4"),
            ("layers.8.0.layers.6",),
        ),
    ],
)
def test_other_families(
    network: str, channels: int, first: str, followers: tuple[str, ...], consumers: tuple[str, ...]
) -> None:
    built = build_network(NetworkSpec(network=network, num_classes=2, image_size=64))
    groups = find_groups(built, image_size=64, scope="expand", protect=())
    assert sum(group.channels for group in groups) == channels
    assert groups[0].layer == first
    assert set(groups[0].followers) == set(followers)
    assert set(groups[0].consumers) == set(consumers)


def test_no_channel_belongs_to_two_groups(reference: nn.Module) -> None:
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    makers = [name for group in groups for name in (group.layer, *group.followers)]
    assert len(makers) == len(set(makers))


def test_the_census_leaves_the_network_alone(reference: nn.Module) -> None:
    """Not its weights, its mode, its hooks or what needs a gradient."""
    network = copy.deepcopy(reference).train()
    network.classifier[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_groups(network, image_size=96, scope="expand", protect=())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.training
    assert not network.classifier[0].weight.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_protected_name_that_does_not_exist_is_an_error(reference: nn.Module) -> None:
    """A typing error there would prune what should have stayed."""
    with pytest.raises(InputError, match=r"prune\.protect names 'feature\.1', which is no module") as caught:
        census(reference, "feature.1")
    assert "features.0.0" in caught.value.remedy


def test_a_network_without_blocks_is_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(InputError, match="finds no prunable channels"):
        census(network, size=32)


def test_protecting_everything_is_an_error(reference: nn.Module) -> None:
    with pytest.raises(InputError, match=r"\(protected: features\)"):
        census(reference, "features")


@pytest.mark.long
@pytest.mark.parametrize(
    "network",
    ["alexnet", "convnext_tiny", "densenet121", "efficientnet_v2_s", "googlenet", "mobilenet_v3_large", "mnasnet1_3",
     "regnet_x_400mf", "regnet_y_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
     "swin_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2"],
)  # fmt: skip
def test_any_classifier_has_a_census_or_a_clear_error(network: str) -> None:
    size = 224 if network == "vit_b_16" else 64
    built = build_network(NetworkSpec(network=network, num_classes=2, image_size=size))
    problem = ""
    try:
        assert all(count > 0 for count in census(built, size=size).values())
    except InputError as error:
        problem = error.problem
    assert "finds no prunable channels" in problem or "cannot be followed" in problem or not problem
