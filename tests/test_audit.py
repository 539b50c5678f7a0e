"""Costs are counted by named counters, and agree with the seed log's figures."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.audit import audit_cost, count_macs_thop
from edgeprune.errors import InputError
from edgeprune.plan import find_groups
from edgeprune.prune import remove_channels
from edgeprune.results import ChannelPlan, CostReport, GroupPlan
from edgeprune.zoo import NetworkSpec, build_network


@pytest.fixture(scope="module")
def report(reference: nn.Module) -> CostReport:
    return audit_cost(reference, image_size=96)


def test_the_reference_network_has_1519906_parameters(report: CostReport) -> None:
    assert report.params == 1_519_906


def test_fvcore_counts_11625984_by_four_operators(report: CostReport) -> None:
    assert report.macs_by_operator == {
        "adaptive_avg_pool2d": 57_600,
        "batch_norm": 518_976,
        "conv": 10_457_536,
        "linear": 591_872,
    }
    assert report.macs == 11_625_984


def test_thops_formula_gives_the_logs_figure(report: CostReport) -> None:
    """Convolutions and linear layers 11,049,408, BatchNorm 4 x 259,488, pooling 60,472."""
    assert report.macs_thop == 12_147_832 == 11_049_408 + 4 * 259_488 + 60_472


def test_same_padding_costs_the_same(report: CostReport) -> None:
    network = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96, pad="same"))
    same = audit_cost(network, image_size=96)
    assert (same.params, same.macs_by_operator, same.macs_thop) == (
        report.params,
        report.macs_by_operator,
        report.macs_thop,
    )


def test_blocks_add_up_to_the_network(report: CostReport) -> None:
    """A share that no row of the table shows would be a saving that nobody looks for."""
    assert sum(block.params for block in report.blocks) == report.params
    assert sum(block.macs for block in report.blocks) == report.macs
    names = [block.name for block in report.blocks]
    assert names[:2] == ["features.0", "features.1"]
    assert names[-2:] == ["classifier.0", "classifier.3"]


def test_a_convolution_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    report = audit_cost(network, image_size=32)
    assert report.params == 8 * 27 + 16
    assert report.macs_by_operator == {"batch_norm": 2 * 8 * 16 * 16, "conv": 8 * 16 * 16 * 27}
    assert report.macs_thop == 8 * 16 * 16 * 27 + 4 * 8 * 16 * 16


def test_a_depthwise_convolution_reads_one_channel_an_output() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, groups=3, bias=False), nn.AdaptiveAvgPool2d(1))
    assert count_macs_thop(network, torch.zeros(1, 3, 8, 8)) == 6 * 64 * 9 + (6 * 64 + 6)


def test_what_goes_with_a_channel_costs_nothing_afterwards(reference: nn.Module) -> None:
    """One expansion channel of features.2: 16 weights in, 9 depthwise, 24 out, two BatchNorms of two numbers."""
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    plan = ChannelPlan(
        target=0.1,
        prunable=2440,
        groups=(GroupPlan(layer=groups[0].layer, channels=72, kept=tuple(range(71))),),
        importance="l1_norm",
        align=1,
    )
    before = audit_cost(reference, image_size=96)
    after = audit_cost(remove_channels(reference, groups, plan, image_size=96), image_size=96)
    assert before.params - after.params == 16 + 9 + 24 + 4
    # The expansion works at 24 x 24 pixels, depthwise and projection at 12 x 12.
    conv = before.macs_by_operator["conv"] - after.macs_by_operator["conv"]
    assert conv == 24 * 24 * 16 + 12 * 12 * (9 + 24)


def test_the_peak_counts_what_is_alive_at_once() -> None:
    """At the addition both branches are alive: 4 + 4 channels, and the sum beside them."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow = nn.Conv2d(3, 4, 1)
            self.inner = nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            narrow = self.narrow(x)
            return narrow + self.inner(narrow)

    report = audit_cost(Residual(), image_size=16)
    assert report.peak_activation_bytes == 3 * 4 * 16 * 16 * 4
    assert report.peak_activation_at.endswith("(add)")


def test_activations_in_a_chain_die_one_after_the_other() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 2, 1))
    report = audit_cost(network, image_size=16)
    assert report.peak_activation_bytes == (3 + 8) * 16 * 16 * 4
    assert report.peak_activation_at.startswith("0 (conv2d")


def test_the_peak_of_the_same_padded_reference_network_is_its_stem() -> None:
    """DESIGN.md fact 16: the stem's hard-swish runs out of place, 2 x 36,864 values of 4 bytes."""
    network = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96, pad="same"))
    report = audit_cost(network, image_size=96)
    assert report.peak_activation_bytes == 2 * 36_864 * 4
    assert report.peak_activation_at.startswith("features.0")


def test_file_bytes_are_those_of_the_file(reference: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 123)
    report = audit_cost(reference, image_size=96, weights_file=tmp_path / "model.safetensors")
    assert report.checkpoint_bytes == 123


def test_counting_leaves_the_network_alone(reference: nn.Module) -> None:
    """thop itself leaves buffers behind, which then end up in the checkpoint."""
    network = copy.deepcopy(reference).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    audit_cost(network, image_size=96)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


class Moody(nn.Module):
    """Takes another way for bright images than for dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.mean() > 0:
            x = self.more(x)
        return self.head(x.mean(dim=(2, 3)))


def test_a_network_that_chooses_its_way_by_the_image_is_refused_in_a_sentence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It has no one cost; torch says so in a page of text and with the graph in its log."""
    with pytest.raises(
        InputError, match=r"^torch\.export cannot trace Moody: [^\n]+\.\n  try: a forward without an `if`"
    ):
        audit_cost(Moody(), image_size=16)
    assert capfd.readouterr() == ("", "")
