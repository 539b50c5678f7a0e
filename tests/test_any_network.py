"""Scope `all`: any network's shared channels are found, cut, kept as a checkpoint, exported, and proven equal."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_surgery import SIZE, check_surgery, difference, groups_of, logits, photographs, random_plan
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.export import write_onnx
from edgeprune.plan import find_groups
from edgeprune.plan.groups import take_census
from edgeprune.prune import remove_channels
from edgeprune.verify.onnx_runtime import run_onnx
from edgeprune.zoo import Checkpoint, NetworkSpec, build_network, load_checkpoint, save_checkpoint

Disturbed = Callable[..., nn.Module]

# Groups and channels of scope `all` at two classes, counted by hand for the first two.
CENSUS = {
    "mobilenet_v3_small": (27, 4872),
    "resnet18": (12, 2880),
    "mobilenet_v2": (25, 9128),
    "mobilenet_v3_large": (30, 8696),
    "efficientnet_b0": (40, 11404),
    "mnasnet0_5": (25, 5744),
    "resnet50": (37, 11456),
    "regnet_y_400mf": (37, 6040),
    "densenet121": (120, 10240),
    "squeezenet1_1": (25, 2944),
    "googlenet": (57, 7280),
    "convnext_tiny": (18, 26496),
}
TIMM = ("mobilenetv3_small_050", "mobilenetv4_conv_small", "efficientnet_lite0", "ghostnet_100", "fbnetc_100",
        "tinynet_e", "repvgg_a0", "resnet10t")  # fmt: skip
SHORT = ("mobilenet_v3_small", "resnet18", "regnet_y_400mf", "googlenet")


@pytest.mark.parametrize(
    "network", [*SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in CENSUS if name not in SHORT)]
)
def test_every_torchvision_family_is_pruned_everywhere_and_proven_in_onnxruntime(
    disturbed: Disturbed, tmp_path: Path, network: str
) -> None:
    full = disturbed(network)
    groups = groups_of(full, "all")
    assert (len(groups), sum(group.channels for group in groups)) == CENSUS[network]
    prove(full, network, tmp_path)


@pytest.mark.parametrize("network", [TIMM[0], *(pytest.param(name, marks=pytest.mark.long) for name in TIMM[1:])])
def test_networks_of_timm_are_pruned_everywhere_and_proven_in_onnxruntime(
    disturbed: Disturbed, tmp_path: Path, network: str
) -> None:
    full = disturbed(f"timm/{network}")
    # Of all that convolutions make, half at least: no family may be left alone quietly.
    makers = {name: m.out_channels for name, m in full.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    reached = {member.layer for group in groups_of(full, "all") for member in group.members if member.side == "out"}
    assert sum(makers[name] for name in makers.keys() & reached) >= sum(makers.values()) / 2
    prove(full, f"timm/{network}", tmp_path)


def prove(full: nn.Module, network: str, folder: Path) -> None:
    """Cut equals masked; the cut network survives its checkpoint; onnxruntime computes what torch does."""
    if not network.startswith("squeezenet"):  # it ends in a ReLU: both logits are often zero, which proves nothing
        check_surgery(full, seed=3, scope="all")
    groups = groups_of(full, "all")
    small = remove_channels(full, groups, random_plan(groups, seed=1, most=0.5), image_size=SIZE)
    spec = NetworkSpec(network=network, num_classes=2, image_size=SIZE)
    save_checkpoint(folder, Checkpoint(network=small, spec=spec, classes=("a", "b"), mean=(0.0,) * 3, std=(1.0,) * 3))
    again = load_checkpoint(folder).network
    images = photographs()
    assert torch.equal(logits(again, images), logits(small, images))
    pixels = images.float().numpy()
    file = write_onnx(again, folder / "m.onnx", image_size=SIZE, dynamic_batch=False, metadata={}, probe=pixels)
    answers = torch.from_numpy(run_onnx(file.path, pixels)).double()
    assert difference(answers, logits(again, images)) <= 1e-4


def test_the_reference_networks_groups_are_stem_expansions_projections_bottlenecks_head_and_classifier(
    reference: nn.Module,
) -> None:
    groups = {group.layer: group for group in find_groups(reference, image_size=96, scope="all", protect=())}
    assert groups["features.0.0"].channels == 16
    assert groups["features.1.block.1.fc1"].consumers == ("features.1.block.1.fc2",)
    # Projections of blocks 4, 5 and 6 are added up, so they agree.
    assert {"features.5.block.3.0", "features.6.block.3.0"} <= set(groups["features.4.block.3.0"].followers)
    assert "features.5.block.3.0" not in groups
    assert groups["features.12.0"].consumers == ("classifier.0",)
    assert groups["classifier.0"].consumers == ("classifier.3",)


def test_what_stays_is_named_with_the_reason(reference: nn.Module) -> None:
    census = take_census(reference, image_size=96, scope="all", protect=("features.5",))
    assert "what the network answers" in census.left_alone["classifier.3"]
    assert census.left_alone["features.5.block.0.0"] == "features.5 is protected"
    # The residual sum of blocks 4 to 6 goes through a protected module.
    assert census.left_alone["features.4.block.3.0"] == "features.5 is protected"


@pytest.mark.parametrize(
    ("network", "layer"),
    [("shufflenet_v2_x0_5", "stage2.0.branch1.3"), ("swin_t", "features.1.1.norm1"), ("maxvit_t", "blocks")],
)
def test_windows_and_shuffled_channels_are_refused_at_once(network: str, layer: str) -> None:
    """torch-pruning's walk through Swin's windows does not come to an end."""
    built = build_network(NetworkSpec(network=network, num_classes=2, image_size=224))
    with pytest.raises(InputError, match=rf"behind {layer}\S* a tensor of [56] dimensions is reshaped"):
        find_groups(built, image_size=224, scope="all", protect=())


def test_grouped_convolutions_lose_whole_groups(disturbed: Disturbed) -> None:
    """RegNet's 3x3 convolutions work on groups of 8 channels: fewer groups, not narrower ones."""
    groups = groups_of(disturbed("regnet_y_400mf"), "all")
    inner = next(group for group in groups if group.layer.endswith("block1-0.f.a.0"))
    assert inner.unit == 8
    assert {"a", "b"} <= {name.split(".f.")[1][0] for name in (inner.layer, *inner.followers) if ".f." in name}


def test_a_concatenation_shifts_the_indices(disturbed: Disturbed) -> None:
    groups = groups_of(disturbed("densenet121"), "all")
    second = next(group for group in groups if group.layer == "features.denseblock1.denselayer1.conv2")
    norm = next(m for m in second.members if m.layer == "features.denseblock1.denselayer2.norm1")
    assert norm.indices == tuple(range(64, 96))
    assert norm.roots == tuple(range(32))


class CountsItsChannels(nn.Module):
    """Code that no graph shows: the network is only right with the 8 channels that it was written for."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3)
        self.two = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.head(self.two(x * (8 / x.shape[1])).mean(dim=(2, 3)))


def test_a_group_whose_cut_computes_something_else_is_left_alone() -> None:
    """Found before any work: one channel is cut on trial, and compared with the network where it is held at zero."""
    census = take_census(CountsItsChannels(), image_size=32, scope="all", protect=())
    assert [group.layer for group in census.groups] == ["two"]
    assert "does not compute" in census.left_alone["one"]


class FaintlyCountsItsChannels(CountsItsChannels):
    """The same, in an answer that hardly depends on it, as a fresh ConvNeXt's does."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 + 1e-6 * super().forward(x)


def test_a_cut_that_hardly_shows_is_still_held_against_what_it_changes() -> None:
    census = take_census(FaintlyCountsItsChannels(), image_size=32, scope="all", protect=())
    assert [group.layer for group in census.groups] == ["two"]


class InsistsOnItsChannels(CountsItsChannels):
    """Its code checks a width, as timm's does."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        assert x.shape[1] == 8, "wrong width"
        return self.head(self.two(x).mean(dim=(2, 3)))


def test_a_group_whose_width_is_insisted_on_is_left_alone() -> None:
    census = take_census(InsistsOnItsChannels(), image_size=32, scope="all", protect=())
    assert [group.layer for group in census.groups] == ["two"]
    assert "wrong width" in census.left_alone["one"]


class HoldsOnToChannels(CountsItsChannels):
    """Its own code reshapes to a number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x)).mean(dim=(2, 3))
        return self.head(x.reshape(-1, 12) + 0 * self.one.weight.reshape(8, -1).sum())


def test_a_network_that_cannot_be_pruned_is_refused_naming_the_module_and_the_reason() -> None:
    with pytest.raises(InputError, match=r"finds no prunable channels.*; of (one|two|head): ") as caught:
        find_groups(HoldsOnToChannels(), image_size=32, scope="all", protect=("one",))
    assert caught.value.exit_code == 2
