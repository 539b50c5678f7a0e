"""Surgery is exact: the small network computes what the large one does with those channels set to zero."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeprune.audit import audit_cost
from edgeprune.dependencies import ChannelGroup
from edgeprune.plan import choose_channels, find_groups, score_channels
from edgeprune.prune import pad_channels, remove_channels
from edgeprune.results import ChannelPlan, GroupPlan
from edgeprune.zoo import read_channels

SIZE = 64
FAMILIES = ("mobilenet_v3_small", "mobilenet_v2", "efficientnet_b0", "resnet18", "mnasnet0_5")
# Not SqueezeNet: it ends in a ReLU, and with random weights both logits are often zero, which proves nothing.
MORE_FAMILIES = ("alexnet", "densenet121", "efficientnet_v2_s", "googlenet", "mobilenet_v3_large", "resnet50",
                 "vgg11_bn", "wide_resnet50_2")  # fmt: skip

Disturbed = Callable[..., nn.Module]


def groups_of(network: nn.Module, scope: str = "expand", size: int = SIZE) -> tuple[ChannelGroup, ...]:
    return find_groups(network, image_size=size, scope=scope, protect=())


def random_plan(groups: Iterable[ChannelGroup], seed: int, most: float = 1.0) -> ChannelPlan:
    """Every layer keeps a random number of random channels, one at least; some layers keep all."""
    generator = torch.Generator().manual_seed(seed)
    plans = []
    for group in groups:
        gone = torch.rand(1, generator=generator).item() * most * 1.2
        units = group.channels // group.unit
        kept = torch.rand(units, generator=generator) >= gone
        kept[torch.randint(units, (1,), generator=generator)] = True
        if torch.rand(1, generator=generator) < 0.15:
            kept[:] = True
        kept = kept.repeat_interleave(group.unit)
        plans.append(
            GroupPlan(layer=group.layer, channels=group.channels, kept=tuple(kept.nonzero().flatten().tolist()))
        )
    prunable = sum(group.channels for group in plans)
    return ChannelPlan(target=0.5, prunable=prunable, groups=tuple(plans), importance="random", align=1)


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """In float64; the network given stays as it is."""
    with torch.no_grad():
        return copy.deepcopy(network).double()(images)


def masked_logits(network: nn.Module, groups: Iterable[ChannelGroup], plan: ChannelPlan, images: Tensor) -> Tensor:
    """The full network with the plan's channels forced to zero at the input of every layer that reads them."""
    network = copy.deepcopy(network).double()
    kept = {group.layer: set(group.kept) for group in plan.groups}
    for group in groups:
        for member in group.members:
            if member.side == "in":
                reader = network.get_submodule(member.layer)
                gone = [
                    i for i, root in zip(member.indices, member.roots, strict=True) if root not in kept[group.layer]
                ]
                reader.register_forward_pre_hook(partial(set_to_zero, gone=gone))
    with torch.no_grad():
        return network(images)


def set_to_zero(reader: nn.Module, inputs: tuple[Tensor], *, gone: list[int]) -> tuple[Tensor]:
    axis = -1 if isinstance(reader, nn.Linear) else 1
    return (inputs[0].index_fill(axis, torch.tensor(gone, dtype=torch.long), 0.0),)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def photographs(seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def check_surgery(network: nn.Module, seed: int, scope: str = "expand") -> None:
    groups = groups_of(network, scope)
    plan = random_plan(groups, seed)
    small = remove_channels(network, groups, plan, image_size=SIZE)
    images = photographs(seed)
    expected = masked_logits(network, groups, plan, images)
    assert difference(logits(small, images), expected) <= 1e-9
    counts = read_channels(small)
    for group in plan.groups:
        made = counts[group.layer]
        assert made.get("out_channels", made.get("out_features")) == len(group.kept)


@pytest.mark.parametrize(("network", "pad"), [*zip(FAMILIES, ["torch", "same"] * 3, strict=False)])
def test_pruned_equals_masked(disturbed: Disturbed, network: str, pad: str) -> None:
    """One random plan for each family; the long tests try many, with either padding."""
    check_surgery(disturbed(network, pad=pad), seed=FAMILIES.index(network))


@settings(max_examples=6)
@given(seed=st.integers(0, 2**31), pad=st.sampled_from(["torch", "same"]))
def test_pruned_equals_masked_for_random_plans_of_the_reference_network(
    disturbed: Disturbed, seed: int, pad: str
) -> None:
    check_surgery(disturbed("mobilenet_v3_small", pad=pad, seed=seed % 7), seed)


@pytest.mark.long
@pytest.mark.parametrize("pad", ["torch", "same"])
@pytest.mark.parametrize("network", FAMILIES + MORE_FAMILIES)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**31))
def test_pruned_equals_masked_for_random_plans_of_many_families(
    disturbed: Disturbed, network: str, pad: str, seed: int
) -> None:
    check_surgery(disturbed(network, pad=pad, seed=seed % 3), seed)


@pytest.mark.parametrize("network", ["mobilenet_v3_small", "resnet18"])
def test_a_mask_that_is_off_by_one_channel_differs(disturbed: Disturbed, network: str) -> None:
    """Shows that the property above can fail: one wrong channel in the last layer stands far above 1e-9."""
    full = disturbed(network)
    groups = groups_of(full)
    plan = random_plan(groups, seed=4, most=0.5)
    small = remove_channels(full, groups, plan, image_size=SIZE)
    last = plan.groups[-1]
    gone = sorted(set(range(last.channels)) - set(last.kept))
    wrong = replace(last, kept=tuple(sorted({*last.kept[1:], gone[0]})))
    images = photographs()
    expected = masked_logits(full, groups, replace(plan, groups=(*plan.groups[:-1], wrong)), images)
    assert difference(logits(small, images), expected) > 1e-6


def test_a_consumer_that_is_forgotten_differs(disturbed: Disturbed) -> None:
    """Squeeze-excite reads the channels as well: masking the projection alone is not enough."""
    full = disturbed("mobilenet_v3_small")
    groups = groups_of(full)
    plan = random_plan(groups, seed=4, most=0.5)
    projections = [
        replace(group, members=tuple(m for m in group.members if m.side == "out" or m.layer == group.consumers[-1]))
        for group in groups
    ]
    images = photographs()
    small = logits(remove_channels(full, groups, plan, image_size=SIZE), images)
    assert difference(small, masked_logits(full, groups, plan, images)) <= 1e-9
    assert difference(small, masked_logits(full, projections, plan, images)) > 1e-6


def test_steps_add_up_to_the_whole(disturbed: Disturbed) -> None:
    """A schedule prunes what it has pruned: two steps must equal one that names the same channels."""
    full = disturbed("mobilenet_v3_small")
    groups = groups_of(full)
    first = random_plan(groups, seed=1, most=0.4)
    half = remove_channels(full, groups, first, image_size=SIZE)
    second = random_plan(groups_of(half), seed=2, most=0.4)
    both = replace(
        first,
        groups=tuple(
            replace(one, kept=tuple(one.kept[index] for index in two.kept))
            for one, two in zip(first.groups, second.groups, strict=True)
        ),
    )
    twice = remove_channels(half, groups_of(half), second, image_size=SIZE)
    at_once = remove_channels(full, groups, both, image_size=SIZE)
    assert all(torch.equal(at_once.state_dict()[name], tensor) for name, tensor in twice.state_dict().items())


def test_surgery_leaves_its_input_alone(disturbed: Disturbed) -> None:
    full = disturbed("mobilenet_v3_small").train()
    before = {name: tensor.clone() for name, tensor in full.state_dict().items()}
    channels = read_channels(full)
    small = remove_channels(full, groups_of(full), random_plan(groups_of(full), seed=0), image_size=SIZE)
    assert read_channels(full) == channels != read_channels(small)
    assert full.training
    assert not small.training
    assert all(torch.equal(before[name], tensor) for name, tensor in full.state_dict().items())
    # Nor do the two share memory: recovery writes into the weights of the small one.
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in full.state_dict().items())


def test_a_plan_that_keeps_everything_changes_nothing(disturbed: Disturbed) -> None:
    full = disturbed("mobilenet_v3_small")
    plan = ChannelPlan(
        target=0.1,
        prunable=2440,
        groups=tuple(
            GroupPlan(layer=group.layer, channels=group.channels, kept=tuple(range(group.channels)))
            for group in groups_of(full)
        ),
        importance="l1_norm",
        align=8,
    )
    same = remove_channels(full, groups_of(full), plan, image_size=SIZE)
    assert torch.equal(logits(same, photographs()), logits(full, photographs()))


def test_a_layer_can_be_left_with_a_single_channel(disturbed: Disturbed) -> None:
    full = disturbed("mobilenet_v3_small")
    groups = groups_of(full)
    plan = random_plan(groups, seed=0)
    plan = replace(plan, groups=tuple(replace(group, kept=(3,)) for group in plan.groups))
    images = photographs()
    small = logits(remove_channels(full, groups, plan, image_size=SIZE), images)
    assert difference(small, masked_logits(full, groups, plan, images)) <= 1e-9


def test_removing_every_channel_of_a_layer_is_refused(disturbed: Disturbed) -> None:
    full = disturbed("mobilenet_v3_small")
    groups = groups_of(full)
    plan = random_plan(groups, seed=0)
    plan = replace(plan, groups=(replace(plan.groups[0], kept=()), *plan.groups[1:]))
    with pytest.raises(ValueError, match=r"features\.2\.block\.0\.0: removing 72 channels"):
        remove_channels(full, groups, plan, image_size=SIZE)


def test_ten_percent_by_l1_norm_of_the_reference_network_is_228_channels_less(reference: nn.Module) -> None:
    """Census, scores, plan and surgery together, four steps on: what the seed log calls its schedule."""
    network, removed = reference, []
    for target in (0.1, 0.2, 0.3, 0.4):
        groups = find_groups(network, image_size=96, scope="expand", protect=("features.1", "features.2", "features.3"))
        scores = score_channels(network, groups, importance="l1_norm")
        plan = choose_channels(scores, target=target, prunable=2280, importance="l1_norm", align=1)
        network = remove_channels(network, groups, plan, image_size=96)
        removed.append((plan.removed_now, plan.achieved))
    assert removed == [(228, 0.1), (228, 0.2), (228, 0.3), (228, 0.4)]
    assert audit_cost(network, image_size=96).params < 1_519_906


@pytest.mark.parametrize(
    ("network", "pad"),
    [
        ("mobilenet_v3_small", "same"),
        ("mobilenet_v3_small", "torch"),
        ("resnet18", "torch"),
        *(pytest.param(name, "same", marks=pytest.mark.long) for name in FAMILIES[1:] + MORE_FAMILIES),
    ],
)
def test_padding_with_zero_channels_changes_no_output(disturbed: Disturbed, network: str, pad: str) -> None:
    """So a run with `align: 1`, faithful to the log, still gets the fast kernels."""
    full = disturbed(network, pad=pad)
    small = remove_channels(full, groups_of(full), random_plan(groups_of(full), seed=5, most=0.6), image_size=SIZE)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    groups = groups_of(small)
    assert any(group.channels % 4 for group in groups)
    padded = pad_channels(small, groups, multiple=4)
    counts = read_channels(padded)
    for group in groups:
        assert counts[group.layer]["out_channels"] == -(-group.channels // 4) * 4
        assert all(counts[name].get("in_channels", 4) % 4 == 0 for name in group.consumers)
    images = photographs()
    assert difference(logits(padded, images), logits(small, images)) <= 1e-12
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())
    assert read_channels(small) != counts


def test_what_is_aligned_already_is_not_padded(disturbed: Disturbed) -> None:
    full = disturbed("mobilenet_v3_small")
    padded = pad_channels(full, groups_of(full), multiple=4)
    assert read_channels(padded) == read_channels(full)
    assert all(torch.equal(full.state_dict()[name], tensor) for name, tensor in padded.state_dict().items())


def test_added_channels_are_zero_wherever_they_are_made_and_read(disturbed: Disturbed) -> None:
    full = disturbed("mobilenet_v3_small")
    small = remove_channels(full, groups_of(full), random_plan(groups_of(full), seed=5, most=0.6), image_size=SIZE)
    groups = groups_of(small)
    padded = pad_channels(small, groups, multiple=32)
    for group in groups:
        assert not padded.get_submodule(group.layer).weight[group.channels :].any()
        for name in group.followers:
            module = padded.get_submodule(name)
            assert not module.weight[group.channels :].any()
            if isinstance(module, nn.BatchNorm2d):
                assert not module.bias[group.channels :].any()
                assert (module.running_var[group.channels :] == 1).all()
        for name in group.consumers:
            assert not padded.get_submodule(name).weight[:, group.channels :].any()
    assert all(parameter.isfinite().all() for parameter in padded.state_dict().values())
