"""Importance is what the recipe says it is, and where it is blind it says so."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.dependencies import ChannelGroup, GroupMember
from edgeprune.errors import InputError
from edgeprune.plan import find_groups, score_channels
from edgeprune.plan.importance import IMPORTANCES

ON_IMAGES = ("taylor", "activation")
ON_FILTERS = ("l1_norm", "l2_norm", "fpgm", "lamp")


def whole(layer: str, channels: int, side: str = "out") -> GroupMember:
    """A layer all of whose channels are the group's, in the same order."""
    return GroupMember(layer=layer, side=side, indices=tuple(range(channels)), roots=tuple(range(channels)))


def group_of(channels: int, *members: GroupMember) -> ChannelGroup:
    return ChannelGroup(layer=members[0].layer, channels=channels, unit=1, members=members)


def linear(rows: list[list[float]]) -> nn.Linear:
    """A linear layer without a bias and with these weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def some_batches(size: int = 64, *, count: int = 2, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 3, size, size, generator=generator), torch.tensor([0, 1, 1, 0])) for _ in range(count)]


def scores_of(network: nn.Module, *groups: ChannelGroup, **settings: object) -> list[float]:
    """Scores of the first group."""
    return score_channels(network, groups, **settings)[groups[0].layer].tolist()  # type: ignore[arg-type]


# What was there from the start keeps its value to the last bit.


def test_l1_norm_is_the_mean_absolute_weight_of_the_raw_filter(reference: nn.Module) -> None:
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    scores = score_channels(reference, groups, importance="l1_norm")
    assert list(scores) == [group.layer for group in groups]
    for group in groups:
        weight = reference.get_submodule(group.layer).weight.detach().numpy()
        expected = [np.abs(filter_.astype(np.float64)).mean() for filter_ in weight]
        np.testing.assert_allclose(scores[group.layer], expected, rtol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_l1_norm_of_the_producer_is_bit_equal_to_the_definition_that_plans_were_made_with(
    reference: nn.Module, layout: torch.memory_format
) -> None:
    """The order of a sum decides its last bit, and the last bit may decide which of two channels goes."""
    network = copy.deepcopy(reference).to(memory_format=layout)
    groups = find_groups(network, image_size=96, scope="expand", protect=())
    scores = score_channels(network, groups, importance="l1_norm", coupled="producer", normalise="none")
    for group in groups:
        weight = network.get_submodule(group.layer).weight.detach()
        assert (scores[group.layer] == weight.double().abs().mean(dim=(1, 2, 3)).numpy()).all()
        assert scores[group.layer].dtype == np.float64
        assert scores[group.layer].shape == (group.channels,)


def test_l1_norm_ignores_the_batchnorm_behind_it() -> None:
    """The raw filter, as in the seed log: a folded one would rank by gamma again."""
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2))
    network[0].weight.data = torch.tensor([[1.0, -2.0, 3.0], [-0.5, 0.5, 0.5]]).view(2, 3, 1, 1)
    network[1].weight.data = torch.tensor([0.001, 1000.0])
    group = group_of(2, whole("0", 2), whole("1", 2))
    assert scores_of(network, group, importance="l1_norm") == [2.0, 0.5]


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


def _norms_directly_behind(network: nn.Module) -> dict[str, str]:
    """Convolution to the BatchNorm that is given the very tensor that it gave."""
    given: list[tuple[Tensor, str]] = []
    found: dict[str, str] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            found.update({maker: name for tensor, maker in given if tensor is inputs[0]})
        given.append((output, name))

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda *values, name=name: note(name, *values))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    return found


@pytest.mark.parametrize("scope", ["expand", "all"])
@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5", "regnet_y_400mf", "googlenet", "densenet121"])
def test_bn_gamma_finds_the_batchnorm_directly_behind_in_every_family(disturbed, name: str, scope: str) -> None:
    """Residual partners and readers of a concatenation bring BatchNorms of their own into a group."""
    network = disturbed(name)
    groups = find_groups(network, image_size=64, scope=scope, protect=())
    behind = _norms_directly_behind(copy.deepcopy(network))
    followed = [group for group in groups if group.layer in behind]
    assert len(followed) >= 8
    for group in followed:
        norm = network.get_submodule(behind[group.layer])
        assert scores_of(network, group, importance="bn_gamma") == norm.weight.detach().double().abs().tolist()


# Each importance, by hand.


def test_l2_norm_is_the_root_mean_square_weight() -> None:
    """Not the plain norm: a layer with more inputs would then outrank one with larger weights."""
    network = nn.Sequential(linear([[3.0, 4.0], [0.0, -2.0]]), linear([[1.0, 1.0, 1.0, 1.0]]))
    groups = (group_of(2, whole("0", 2)), group_of(1, whole("1", 1)))
    scores = score_channels(network, groups, importance="l2_norm")
    assert scores["0"] == pytest.approx([12.5**0.5, 2**0.5], rel=1e-15)
    assert scores["1"].tolist() == [1.0]


def test_fpgm_is_the_mean_distance_to_the_other_filters() -> None:
    """The filter in the middle goes first, though others are smaller; distances are per weight."""
    network = nn.Sequential(linear([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [9.0, 12.0]]))
    scores = scores_of(network, group_of(4, whole("0", 4)), importance="fpgm")
    assert scores == pytest.approx([10 / 2**0.5, 20 / 3 / 2**0.5, 20 / 3 / 2**0.5, 10 / 2**0.5], rel=1e-14)


def test_fpgm_depends_on_where_filters_lie_to_each_other_only(tiny_network: Callable[..., nn.Module]) -> None:
    """He et al. 2019: it is no norm. A filter added to all leaves it, scaling the layer scales it."""
    network, groups = tiny_network(), (group_of(8, whole("body.0", 8)),)
    before = np.array(scores_of(network, *groups, importance="fpgm"))
    with torch.no_grad():
        network.body[0].weight *= 3
        network.body[0].weight += torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(scores_of(network, *groups, importance="fpgm"), 3 * before, rtol=1e-6)


def test_fpgm_counts_equal_filters_as_equal() -> None:
    """The distance of two equal filters, computed from their norms, is the root of a rounding error."""
    for seed in range(16):
        filter_ = torch.randn(999, generator=torch.Generator().manual_seed(seed)).tolist()
        network = nn.Sequential(linear([filter_, filter_, [0.0] * 999]))
        scores = scores_of(network, group_of(3, whole("0", 3)), importance="fpgm")
        assert scores[0] == pytest.approx(scores[2] / 2, rel=1e-14)
        assert scores[1] == pytest.approx(scores[2] / 2, rel=1e-14)


def test_lamp_is_the_share_in_those_that_are_not_smaller() -> None:
    network = nn.Sequential(linear([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [0.0, 0.0]]))
    scores = scores_of(network, group_of(5, whole("0", 5)), importance="lamp")
    # Squares 4, 1, 9, 4, 0. Of the two fours neither is smaller than the other.
    assert scores == pytest.approx([4 / 17, 1 / 18, 1.0, 4 / 17, 0.0], rel=1e-15)


def test_lamp_does_not_depend_on_the_scale_of_a_layer(reference: nn.Module) -> None:
    """Lee et al. 2021, section 2: what makes it layer-adaptive; and every layer's largest filter scores one."""
    network = copy.deepcopy(reference)
    groups = find_groups(network, image_size=96, scope="expand", protect=())
    before = score_channels(network, groups, importance="lamp")
    with torch.no_grad():
        for factor, group in enumerate(groups, start=1):
            network.get_submodule(group.layer).weight *= 2.0**factor
    after = score_channels(network, groups, importance="lamp")
    for layer, values in before.items():
        np.testing.assert_allclose(after[layer], values, rtol=1e-12)
        assert values.max() == 1.0


def test_taylor_is_the_squared_product_of_gate_and_gradient() -> None:
    """One image, one hidden layer: the gate's gradient is what the unit gives times what the loss makes of it."""
    network = nn.Sequential(nn.Flatten(), linear([[1.0, 0, 0], [0, 2.0, 0]]), linear([[1.0, -1.0], [0.5, 3.0]]))
    image, label = torch.tensor([1.0, 0.5, 7.0]).view(1, 3, 1, 1), torch.tensor([0])
    hidden = np.array([1.0, 1.0])
    weight = np.array([[1.0, -1.0], [0.5, 3.0]])
    logits = weight @ hidden
    probabilities = np.exp(logits) / np.exp(logits).sum()
    change = hidden * (weight.T @ (probabilities - np.array([1.0, 0.0])))
    group = group_of(2, whole("1", 2), whole("2", 2, "in"))
    for coupled in ("producer", "all"):
        scores = scores_of(network, group, importance="taylor", coupled=coupled, batches=[(image, label)])
        assert scores == pytest.approx(change**2, rel=1e-5)


def test_taylor_squares_each_batch_and_weighs_it_by_its_images() -> None:
    network = nn.Sequential(nn.Flatten(), linear([[1.0, 0, 0], [0, 2.0, 1.0]]), linear([[1.0, -1.0], [0.5, 3.0]]))
    generator = torch.Generator().manual_seed(0)
    parts = [(torch.randn(n, 3, 1, 1, generator=generator), torch.arange(n) % 2) for n in (1, 3)]
    group = group_of(2, whole("1", 2))
    alone = [np.array(scores_of(network, group, importance="taylor", batches=[part])) for part in parts]
    together = scores_of(network, group, importance="taylor", batches=parts)
    assert together == pytest.approx((alone[0] + 3 * alone[1]) / 4, rel=1e-6)
    image, label = parts[0]
    four = scores_of(network, group, importance="taylor", batches=[(image.repeat(4, 1, 1, 1), label.repeat(4))])
    assert four == pytest.approx(alone[0], rel=1e-5)


def test_taylor_does_not_depend_on_how_two_layers_share_a_scale(tiny_network: Callable[..., nn.Module]) -> None:
    """A network that computes the same must rank the same, whatever its norms say."""
    network = tiny_network()
    groups = (group_of(8, whole("stem.0", 8), whole("stem.1", 8), whole("body.0", 8, "in")),)
    before = scores_of(network, *groups, importance="taylor", batches=some_batches(32))
    factors = torch.linspace(0.1, 4, 8)
    with torch.no_grad():
        network.stem[1].weight *= factors
        network.stem[1].bias *= factors
        network.body[0].weight /= factors.view(1, 8, 1, 1)
    after = scores_of(network, *groups, importance="taylor", batches=some_batches(32))
    np.testing.assert_allclose(after, before, rtol=1e-3)


def test_activation_is_the_mean_square_behind_the_batchnorm() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0), nn.ReLU(inplace=True))
    network[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1)
    network[1].weight.data, network[1].bias.data = torch.tensor([2.0, 1.0]), torch.tensor([0.0, -1.0])
    images = torch.zeros(2, 3, 1, 2)
    images[0, 0, 0], images[1, 1, 0] = torch.tensor([1.0, -3.0]), torch.tensor([5.0, 0.0])
    group = group_of(2, whole("0", 2), whole("1", 2))
    batches = [(images[:1], torch.tensor([0])), (images[1:], torch.tensor([0]))]
    # Channel 0 gives 2, -6, 0, 0; channel 1 gives -1, -1, 4, -1.
    assert scores_of(network, group, importance="activation", batches=batches) == [10.0, 4.75]


def test_activation_of_all_layers_is_seen_where_each_takes_it_in() -> None:
    """Behind the activation, where what is negative is gone; the pair of layer and BatchNorm counts once."""
    network = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0), nn.ReLU(inplace=True), nn.Conv2d(2, 1, 1)
    )
    network[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1)
    images = torch.tensor([[[[1.0, -3.0]], [[2.0, -1.0]], [[0.0, 0.0]]]])
    group = group_of(2, whole("0", 2), whole("1", 2), whole("3", 2, "in"))
    scores = scores_of(network, group, importance="activation", coupled="all", batches=[(images, torch.tensor([0]))])
    assert scores == [(5.0 + 0.5) / 2, (2.5 + 2.0) / 2]


def test_random_is_seeded_and_ranks_a_group_alike_whatever_else_there_is(reference: nn.Module) -> None:
    """So that protecting one module does not deal all others new cards."""
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    first = score_channels(reference, groups, importance="random", seed=1)
    again = score_channels(reference, groups[3:], importance="random", seed=1)
    other = score_channels(reference, groups, importance="random", seed=2)
    assert all((again[layer] == first[layer]).all() for layer in again)
    assert all((other[layer] != first[layer]).all() for layer in first)
    values = np.concatenate(list(first.values()))
    assert abs(values.mean() - 0.5) < 0.02
    assert len({first[layer][0] for layer in first}) == len(first)


# All layers of a group together.


def test_all_layers_count_where_their_own_channels_are_and_once_each() -> None:
    """A reader of a concatenation at an offset, and one of a flattened map with two pixels a channel."""
    network = nn.ModuleDict(
        {
            "maker": linear([[1.0], [4.0]]),
            "reader": linear([[9.0, 9.0, 9.0, 3.0, 5.0], [9.0, 9.0, 9.0, 5.0, -3.0]]),
            "head": linear([[1.0, 3.0, 5.0, 9.0]]),
            "norm": nn.BatchNorm1d(2),
        }
    )
    group = group_of(
        2,
        whole("maker", 2),
        whole("norm", 2),
        GroupMember(layer="reader", side="in", indices=(3, 4), roots=(0, 1)),
        GroupMember(layer="head", side="in", indices=(0, 1, 2, 3), roots=(0, 0, 1, 1)),
    )
    scores = scores_of(network, group, importance="l1_norm", coupled="all")
    assert scores == [(1 + 4 + 2) / 3, (4 + 4 + 7) / 3]


def test_indices_are_followed_to_their_roots_in_any_order() -> None:
    network = nn.ModuleDict({"maker": linear([[1.0], [4.0], [2.0]]), "reader": linear([[1.0, 2.0, 6.0]])})
    group = group_of(3, whole("maker", 3), GroupMember(layer="reader", side="in", indices=(0, 1, 2), roots=(2, 0, 1)))
    assert scores_of(network, group, importance="l1_norm", coupled="all") == [1.5, 5.0, 1.5]


def test_a_layer_counts_only_for_the_channels_it_has() -> None:
    network = nn.ModuleDict({"maker": linear([[1.0], [4.0]]), "reader": linear([[3.0]])})
    group = group_of(2, whole("maker", 2), GroupMember(layer="reader", side="in", indices=(0,), roots=(1,)))
    assert scores_of(network, group, importance="l1_norm", coupled="all") == [1.0, 3.5]


def test_an_input_channel_of_a_grouped_convolution_is_read_by_its_own_group_only() -> None:
    """Four channels in two groups: filters 0 and 1 read channels 0 and 1, filters 2 and 3 the others."""
    reader = nn.Conv2d(4, 4, 1, groups=2, bias=False)
    reader.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]).view(4, 2, 1, 1)
    network = nn.ModuleDict({"maker": linear([[0.0]] * 4), "reader": reader})
    group = group_of(4, whole("maker", 4), whole("reader", 4, "in"))
    assert scores_of(network, group, importance="l1_norm", coupled="all") == [1.0, 1.5, 3.0, 3.5]


def test_fpgm_compares_a_flattened_channel_pixel_by_pixel() -> None:
    """Columns of a pixel with columns of the same pixel; between pixels they differ for other reasons."""
    head = linear([[0.0, 100.0, 2.0, 106.0, 6.0, 103.0]])
    network = nn.ModuleDict({"maker": linear([[0.0], [1.0], [2.0]]), "head": head})
    member = GroupMember(layer="head", side="in", indices=tuple(range(6)), roots=(0, 0, 1, 1, 2, 2))
    scores = scores_of(network, group_of(3, whole("maker", 3), member), importance="fpgm", coupled="all")
    # First pixel 0, 2, 6; second 100, 106, 103; the maker 0, 1, 2.
    pixels = [(4 + 4.5) / 2, (3 + 4.5) / 2, (5 + 3) / 2]
    assert scores == pytest.approx([(1.5 + pixels[0]) / 2, (1 + pixels[1]) / 2, (1.5 + pixels[2]) / 2], rel=1e-12)


def test_all_batchnorms_of_a_group_are_averaged() -> None:
    network = nn.ModuleDict({"maker": nn.Conv2d(3, 2, 1), "norm": nn.BatchNorm2d(2), "later": nn.BatchNorm2d(4)})
    network["norm"].weight.data = torch.tensor([1.0, -3.0])
    network["later"].weight.data = torch.tensor([9.0, 9.0, 0.0, 7.0])
    group = group_of(
        2, whole("maker", 2), whole("norm", 2), GroupMember(layer="later", side="out", indices=(2, 3), roots=(0, 1))
    )
    assert scores_of(network, group, importance="bn_gamma", coupled="producer") == [1.0, 3.0]
    assert scores_of(network, group, importance="bn_gamma", coupled="all") == [0.5, 5.0]


@pytest.mark.parametrize(
    ("name", "importance"),
    [*(("mobilenet_v3_small", choice) for choice in (*ON_FILTERS, *ON_IMAGES)), ("densenet121", "taylor")],
)
def test_all_layers_of_real_networks_have_a_say(disturbed, name: str, importance: str) -> None:
    """Squeeze-excite, residual partners, concatenations: every channel gets a number, and another one than alone."""
    network = disturbed(name)
    groups = find_groups(network, image_size=64, scope="all", protect=())[::8]
    settings = {"importance": importance, "batches": some_batches()}
    alone = score_channels(network, groups, coupled="producer", **settings)
    together = score_channels(network, groups, coupled="all", **settings)
    for group in groups:
        assert together[group.layer].shape == (group.channels,)
        assert (together[group.layer] >= 0).all()
    assert any((alone[group.layer] != together[group.layer]).any() for group in groups)


# One scale for all layers.


def test_layer_divides_by_the_mean_of_the_group_and_leaves_zeros() -> None:
    network = nn.Sequential(linear([[1.0], [3.0]]), linear([[10.0], [30.0]]), linear([[0.0], [0.0]]))
    groups = [group_of(2, whole(name, 2)) for name in ("0", "1", "2")]
    scores = score_channels(network, groups, importance="l1_norm", normalise="layer")
    assert {layer: values.tolist() for layer, values in scores.items()} == {
        "0": [0.5, 1.5],
        "1": [0.5, 1.5],
        "2": [0.0, 0.0],
    }


def test_isomorphic_ranks_channels_among_groups_of_like_layers() -> None:
    """0 and 2 are alike, 1 has a reader more: its large weights do not make its channels outrank theirs."""
    network = nn.ModuleDict(
        {
            "a": linear([[1.0], [4.0]]),
            "b": linear([[100.0], [50.0], [100.0]]),
            "c": linear([[2.0], [3.0]]),
            "reader": linear([[1.0, 1.0, 1.0]]),
        }
    )
    groups = [
        group_of(2, whole("a", 2)),
        group_of(3, whole("b", 3), whole("reader", 3, "in")),
        group_of(2, whole("c", 2)),
    ]
    scores = score_channels(network, groups, importance="l1_norm", normalise="isomorphic")
    assert list(scores) == ["a", "b", "c"]
    assert scores["a"].tolist() == [0.5 / 4, 3.5 / 4]
    assert scores["c"].tolist() == [1.5 / 4, 2.5 / 4]
    assert scores["b"] == pytest.approx([2 / 3, 1 / 6, 2 / 3])


def test_isomorphic_takes_the_same_share_of_every_class(disturbed) -> None:
    """Fang et al. 2024: one ratio in each class, the scores decide within it."""
    network = disturbed("mobilenet_v3_small")
    groups = find_groups(network, image_size=64, scope="expand", protect=())
    scores = score_channels(network, groups, importance="l1_norm", normalise="isomorphic")
    plain = [layer for layer in scores if layer.startswith(("features.2.", "features.3."))]  # without squeeze-excite
    gated = [layer for layer in scores if layer not in plain]
    assert plain
    for layers in (plain, gated):
        values = np.concatenate([scores[layer] for layer in layers])
        assert np.mean(values < 0.4) == pytest.approx(0.4, abs=1 / len(values))
    shares = [float(np.mean(scores[layer] < 0.4)) for layer in gated]
    assert max(shares) - min(shares) > 0.2


def test_isomorphic_tells_depthwise_from_dense_but_not_by_the_way_a_layer_pads(disturbed) -> None:
    class Padded(nn.Conv2d):
        """A convolution under another name."""

    network = nn.ModuleDict({"a": nn.Conv2d(2, 2, 1), "b": Padded(2, 2, 1), "c": nn.Conv2d(2, 2, 1, groups=2)})
    for layer, weights in {"a": [1.0, 4.0], "b": [2.0, 3.0], "c": [9.0, 9.5]}.items():
        shape = network[layer].weight.shape
        network[layer].weight.data = torch.tensor(weights).view(2, 1, 1, 1).expand(shape).clone()
    groups = [group_of(2, whole(name, 2)) for name in "abc"]
    scores = score_channels(network, groups, importance="l1_norm", normalise="isomorphic")
    assert scores["a"].tolist() == [0.125, 0.875]
    assert scores["b"].tolist() == [0.375, 0.625]
    assert scores["c"].tolist() == [0.25, 0.75]


# Images.


@pytest.mark.parametrize("importance", ON_IMAGES)
@pytest.mark.parametrize("batches", [None, []])
def test_without_images_there_is_nothing_to_see(tiny_network, importance: str, batches: object) -> None:
    with pytest.raises(InputError, match=f"'{importance}' is measured on images, and it got none"):
        score_channels(tiny_network(), [group_of(8, whole("stem.0", 8))], importance=importance, batches=batches)


@pytest.mark.parametrize("importance", ON_IMAGES)
@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_neither_the_network_nor_the_callers_random_numbers(
    disturbed, importance: str, training: bool
) -> None:
    network = disturbed("mobilenet_v3_small").train(training)
    groups = find_groups(network, image_size=64, scope="expand", protect=())
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    first = score_channels(network, groups, importance=importance, batches=some_batches())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training is training for module in network.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with torch.no_grad():
        again = score_channels(network, groups, importance=importance, batches=some_batches())
    assert all((again[layer] == first[layer]).all() for layer in first)


@pytest.mark.parametrize("importance", ON_IMAGES)
def test_an_image_that_is_not_finite_is_refused(tiny_network, importance: str) -> None:
    batches = some_batches(32)
    batches[1][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=rf"'{importance}' met a \w+ that is not finite at stem.1"):
        score_channels(tiny_network(), [group_of(8, whole("stem.0", 8))], importance=importance, batches=batches)


def test_a_linear_layer_of_a_map_has_its_channels_last() -> None:
    """As in ConvNeXt's blocks, whose hidden units see every pixel."""

    class PerPixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.permute(0, 2, 3, 1)).mean(dim=(1, 2))

    network, image = PerPixel(), torch.tensor([[1.0, 3.0], [2.0, 0.5], [9.0, 9.0]]).view(1, 3, 1, 2)
    group, batches = group_of(2, whole("layer", 2)), [(image, torch.tensor([0]))]
    assert scores_of(network, group, importance="activation", batches=batches) == [5.0, 8.5]
    wrong = 1 / (1 + np.exp(2.0 - 2.5))  # the means are 2 and 2.5; this is what the second class is given
    expected = [(wrong * 2.0) ** 2, (wrong * 2.5) ** 2]
    assert scores_of(network, group, importance="taylor", batches=batches) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("importance", ON_IMAGES)
def test_a_layer_that_runs_twice_is_seen_both_times(importance: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0], [1.0, 1.0, 1.0]])

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x.mean(dim=(2, 3))))

    network, batches = Twice(), [(torch.ones(1, 3, 1, 1), torch.tensor([1]))]
    scores = scores_of(network, group_of(3, whole("layer", 3)), importance=importance, batches=batches)
    gate = torch.ones(3, requires_grad=True)
    first = network.layer(torch.ones(1, 3)) * gate
    second = network.layer(first) * gate
    (gradient,) = torch.autograd.grad(functional.cross_entropy(second, torch.tensor([1])), gate)
    expected = gradient.square() if importance == "taylor" else (first**2 + second**2)[0].detach() / 2
    assert scores == pytest.approx(expected.tolist(), rel=1e-5)


def _train(network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int) -> nn.Module:
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network.train()
        for _ in range(epochs):
            for step in torch.randperm(len(labels)).split(16):
                optimiser.zero_grad()
                functional.cross_entropy(network(images[step]), labels[step]).backward()
                optimiser.step()
    return network.eval()


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("coupled", ["producer", "all"])
def test_taylor_foretells_what_closing_a_channel_does_to_the_loss(tiny_network, make_split, coupled: str) -> None:
    """On images it has not seen; random does not, and that is what it is for."""
    batches = []
    for seed in (1, 2):
        split = make_split(96, seed=seed)
        images = torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        batches.append((images, torch.from_numpy(split.labels)))
    (images, labels), (unseen, answers) = batches
    network = _train(tiny_network(), images, labels, epochs=8)
    groups = find_groups(network, image_size=32, scope="all", protect=())

    def loss() -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(network(unseen), answers))

    whole_loss, changes = loss(), []
    for group in groups:
        norm = network.get_submodule(group.followers[0])
        for channel in range(group.channels):
            kept = norm.weight.detach().clone(), norm.bias.detach().clone()
            with torch.no_grad():
                norm.weight[channel], norm.bias[channel] = 0.0, 0.0
                changes.append(abs(loss() - whole_loss))
                norm.weight.copy_(kept[0])
                norm.bias.copy_(kept[1])

    def agreement(importance: str, seed: int = 0) -> float:
        train = list(zip(images.split(32), labels.split(32), strict=True))
        scores = score_channels(network, groups, importance=importance, coupled=coupled, batches=train, seed=seed)
        return _rank_correlation(np.concatenate(list(scores.values())), np.array(changes))

    assert len(changes) == 16
    by_chance = [agreement("random", seed) for seed in range(20)]
    assert agreement("taylor") > 0.7
    assert agreement("taylor") > np.mean(by_chance) + 2 * np.std(by_chance)


# Where it is blind.


def test_equal_gammas_rank_nothing_and_are_refused(reference: nn.Module) -> None:
    """In a fresh network every gamma is one: the first channels would go, whatever they do."""
    groups = find_groups(reference, image_size=96, scope="expand", protect=())
    with pytest.raises(InputError, match="cannot rank: every BatchNorm scale has the same value"):
        score_channels(reference, groups, importance="bn_gamma")


def test_gammas_that_are_equal_but_for_their_sign_rank_nothing_either() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    network[1].weight.data = torch.tensor([0.5, -0.5])
    with pytest.raises(InputError, match="cannot rank"):
        score_channels(network, [group_of(2, whole("0", 2), whole("1", 2))], importance="bn_gamma")


@pytest.mark.parametrize("coupled", ["producer", "all"])
@pytest.mark.parametrize("follower", [nn.ReLU(), nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 2, 3, groups=2)])
def test_a_layer_without_gammas_is_named(follower: nn.Module, coupled: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), follower)
    group = group_of(2, whole("0", 2), whole("1", 2))
    with pytest.raises(InputError, match="is blind to 0: no BatchNorm with a scale follows it"):
        score_channels(network, [group], importance="bn_gamma", coupled=coupled)


def test_a_layer_that_nothing_follows_is_named() -> None:
    with pytest.raises(InputError, match="is blind to 0"):
        score_channels(nn.Sequential(nn.Conv2d(3, 2, 1)), [group_of(2, whole("0", 2))], importance="bn_gamma")


def test_a_batchnorm_of_some_of_the_channels_does_not_stand_for_all() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(2))
    network[2].weight.data = torch.tensor([2.0, 3.0])
    some = GroupMember(layer="1", side="out", indices=(0,), roots=(1,))
    for coupled in ("producer", "all"):
        with pytest.raises(InputError, match="is blind to 0"):
            score_channels(network, [group_of(2, whole("0", 2), some)], importance="bn_gamma", coupled=coupled)
    assert scores_of(network, group_of(2, whole("0", 2), some, whole("2", 2)), importance="bn_gamma") == [2.0, 3.0]


def test_a_single_filter_has_no_other_to_be_far_from() -> None:
    network = nn.Sequential(linear([[1.0], [2.0]]), linear([[1.0, 2.0]]))
    groups = [group_of(2, whole("0", 2)), group_of(1, whole("1", 1))]
    with pytest.raises(InputError, match="'fpgm' is blind to 1: a single filter"):
        score_channels(network, groups, importance="fpgm")


@pytest.mark.parametrize("importance", [*ON_FILTERS, *ON_IMAGES])
@pytest.mark.parametrize("coupled", ["producer", "all"])
def test_equal_scores_rank_nothing_and_are_refused(importance: str, coupled: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
    group = group_of(4, whole("0", 4), whole("2", 4, "in"))
    with pytest.raises(InputError, match=f"'{importance}' cannot rank: every channel of the network has the same"):
        score_channels(network, [group], importance=importance, coupled=coupled, batches=some_batches(1))


def test_random_ranks_equal_channels_all_the_same() -> None:
    network = nn.Sequential(linear([[1.0], [1.0]]))
    assert len(set(scores_of(network, group_of(2, whole("0", 2)), importance="random"))) == 2
    assert len(scores_of(network, group_of(1, whole("0", 1)), importance="random")) == 1


@pytest.mark.parametrize("normalise", ["layer", "isomorphic"])
def test_normalising_away_every_difference_is_refused(normalise: str) -> None:
    """Layers differ, channels of a layer do not: comparing like with like leaves nothing."""
    network = nn.ModuleDict({"a": linear([[1.0], [1.0]]), "b": linear([[3.0], [3.0]]), "c": linear([[1.0, 1.0]])})
    groups = [group_of(2, whole("a", 2)), group_of(2, whole("b", 2), whole("c", 2, "in"))]
    assert scores_of(network, *groups, importance="l1_norm") == [1.0, 1.0]
    with pytest.raises(InputError, match=f"prune.normalise = '{normalise}' leaves nothing to rank by 'l1_norm'"):
        score_channels(network, groups, importance="l1_norm", normalise=normalise)


@pytest.mark.parametrize("importance", [*ON_FILTERS, "bn_gamma"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(importance: str, value: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    network[0].weight.data[1, 1], network[1].weight.data[1] = value, value
    group, layer = group_of(3, whole("0", 3), whole("1", 3)), "1" if importance == "bn_gamma" else "0"
    with pytest.raises(InputError, match=f"'{importance}' cannot rank: {layer} holds a weight that is not finite"):
        score_channels(network, [group], importance=importance)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_ranks_a_network_that_was_trained(disturbed, importance: str) -> None:
    """All choices at once: finite, not negative, one score a channel, no two settings of one importance mixed up."""
    network = disturbed("mnasnet0_5")
    groups = find_groups(network, image_size=64, scope="all", protect=())
    for coupled in ("producer", "all"):
        for normalise in ("none", "layer", "isomorphic"):
            scores = score_channels(
                network,
                groups,
                importance=importance,
                coupled=coupled,
                normalise=normalise,
                batches=some_batches(count=1),
            )
            assert {layer: len(values) for layer, values in scores.items()} == {g.layer: g.channels for g in groups}
            values = np.concatenate(list(scores.values()))
            assert values.dtype == np.float64
            assert np.isfinite(values).all()
            assert (values >= 0).all()
            if normalise == "layer":
                assert [float(part.mean()) for part in scores.values()] == pytest.approx([1.0] * len(scores))
