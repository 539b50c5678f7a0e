"""Importance is what the recipe says it is, and where it is blind it says so."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError
from edgeprune.plan import find_groups, score_channels


def test_l1_norm_is_the_mean_absolute_weight_of_the_raw_filter(reference: nn.Module) -> None:
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    scores = score_channels(reference, groups, importance="l1_norm")
    assert list(scores) == [group.layer for group in groups]
    for group in groups:
        weight = reference.get_submodule(group.layer).weight.detach().numpy()
        expected = [np.abs(filter_.astype(np.float64)).mean() for filter_ in weight]
        np.testing.assert_allclose(scores[group.layer], expected, rtol=1e-12)


def test_l1_norm_ignores_the_batchnorm_behind_it() -> None:
    """The raw filter, as in the seed log: a folded one would rank by gamma again."""
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2))
    network[0].weight.data = torch.tensor([[1.0, -2.0, 3.0], [-0.5, 0.5, 0.5]]).view(2, 3, 1, 1)
    network[1].weight.data = torch.tensor([0.001, 1000.0])
    group = ChannelGroup(layer="0", channels=2, followers=("1",), consumers=())
    assert score_channels(network, [group], importance="l1_norm")["0"].tolist() == [2.0, 0.5]


def test_bn_gamma_is_the_absolute_scale_of_the_batchnorm_behind_the_expansion(disturbed) -> None:
    network = disturbed("mobilenet_v3_small")
    with torch.no_grad():
        network.features[4].block[0][1].weight[::2] *= -1
    groups = find_groups(network, image_size=64, scope="expand", protect=())
    scores = score_channels(network, groups, importance="bn_gamma")
    for group in groups:
        gamma = network.get_submodule(group.layer.removesuffix(".0") + ".1").weight
        assert (scores[group.layer] == gamma.detach().double().abs().numpy()).all()
    assert (scores["features.4.block.0.0"] > 0).all()


def test_bn_gamma_finds_the_right_batchnorm_in_every_family(disturbed) -> None:
    for name, suffixes in {"resnet18": ("conv1", "bn1"), "mnasnet0_5": ("layers.0", "layers.1")}.items():
        network = disturbed(name)
        groups = find_groups(network, image_size=64, scope="expand", protect=())
        scores = score_channels(network, groups, importance="bn_gamma")
        for group in groups:
            if group.layer.endswith(suffixes[0]):
                norm = network.get_submodule(group.layer.removesuffix(suffixes[0]) + suffixes[1])
                assert (scores[group.layer] == norm.weight.detach().double().abs().numpy()).all()


def test_equal_gammas_rank_nothing_and_are_refused(reference: nn.Module) -> None:
    """In a fresh network every gamma is one: the first channels would go, whatever they do."""
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    with pytest.raises(InputError, match="cannot rank: every BatchNorm scale has the same value"):
        score_channels(reference, groups, importance="bn_gamma")


def test_gammas_that_are_equal_but_for_their_sign_rank_nothing_either() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    network[1].weight.data = torch.tensor([0.5, -0.5])
    group = ChannelGroup(layer="0", channels=2, followers=("1",), consumers=())
    with pytest.raises(InputError, match="cannot rank"):
        score_channels(network, [group], importance="bn_gamma")


@pytest.mark.parametrize("follower", [nn.ReLU(), nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 2, 3, groups=2)])
def test_a_layer_without_gammas_is_named(follower: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), follower)
    group = ChannelGroup(layer="0", channels=2, followers=("1",), consumers=())
    with pytest.raises(InputError, match="is blind to 0: no BatchNorm with a scale follows it"):
        score_channels(network, [group], importance="bn_gamma")


def test_a_layer_that_nothing_follows_is_named() -> None:
    group = ChannelGroup(layer="0", channels=2, followers=(), consumers=())
    with pytest.raises(InputError, match="is blind to 0"):
        score_channels(nn.Sequential(nn.Conv2d(3, 2, 1)), [group], importance="bn_gamma")
