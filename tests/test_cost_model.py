"""What a plan would cost, against networks that were really cut and files that were really made."""

import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.audit import audit_cost
from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError
from edgeprune.export.tflite_file import convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, quantise_model
from edgeprune.plan import find_groups
from edgeprune.plan.cost_model import CostModel, LatencyTable, ModelCost, trace_costs
from edgeprune.plan.prices import price_groups
from edgeprune.prune import remove_channels
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.results import ChannelPlan, GroupPlan
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.liveness import find_peak
from edgeprune.zoo import NetworkSpec, build_network

SIZE = 96
STEM = "features.0.0"
EARLY = ("features.2.block.0.0", "features.3.block.0.0")


def build(name: str, *, pad: str = "same") -> nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkSpec(network=name, num_classes=2, image_size=SIZE, pad=pad))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    return build("mobilenet_v3_small")


@pytest.fixture(scope="module")
def reference_groups(reference: nn.Module) -> tuple[ChannelGroup, ...]:
    return find_groups(reference, image_size=SIZE, scope="all", protect=())


@pytest.fixture(scope="module")
def reference_model(reference: nn.Module, reference_groups: tuple[ChannelGroup, ...]) -> CostModel:
    return trace_costs(reference, reference_groups, image_size=SIZE)


def random_plans(groups: tuple[ChannelGroup, ...], count: int) -> Iterator[ChannelPlan]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        kept = {}
        for group in groups:
            units = generator.permutation(group.channels // group.unit)
            units = np.sort(units[: generator.integers(1, len(units) + 1)])
            kept[group.layer] = tuple(int(unit * group.unit + i) for unit in units for i in range(group.unit))
        yield ChannelPlan(
            target=0.5,
            prunable=sum(group.channels for group in groups),
            groups=tuple(GroupPlan(layer=g.layer, channels=g.channels, kept=kept[g.layer]) for g in groups),
            importance="random",
            align=1,
        )


def counts(plan: ChannelPlan) -> dict[str, int]:
    return {group.layer: len(group.kept) for group in plan.groups}


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "resnet18",
        pytest.param("mobilenet_v2", marks=pytest.mark.long),
        pytest.param("efficientnet_b0", marks=pytest.mark.long),
        pytest.param("regnet_y_400mf", marks=pytest.mark.long),
        pytest.param("densenet121", marks=pytest.mark.long),
        pytest.param("googlenet", marks=pytest.mark.long),
        pytest.param("squeezenet1_1", marks=pytest.mark.long),
        pytest.param("convnext_tiny", marks=pytest.mark.long),
    ],
)
def test_a_plan_costs_what_the_network_costs_that_it_cuts(name: str) -> None:
    """To the last parameter and multiply-accumulate; memory as the small network would be planned by itself."""
    network = build(name)
    groups = find_groups(network, image_size=SIZE, scope="all", protect=())
    model = trace_costs(network, groups, image_size=SIZE)
    dense = audit_cost(network, image_size=SIZE)
    assert (model.cost({}).params, model.cost({}).macs) == (dense.params, dense.macs)
    for plan in random_plans(groups, 2):
        small = remove_channels(network, groups, plan, image_size=SIZE)
        real, predicted = audit_cost(small, image_size=SIZE), model.cost(counts(plan))
        assert predicted.params == real.params
        assert predicted.macs == real.macs
        assert predicted == trace_costs(small, [], image_size=SIZE).cost({})


def without_hard_swish_in_the_stem() -> nn.Module:
    network = build("mobilenet_v3_small")
    network.set_submodule("features.0.2", nn.ReLU())
    return network


@pytest.mark.parametrize(
    ("stem", "kept", "parts", "head_bytes"),
    [
        ("hard-swish", {}, False, 73_728),
        ("hard-swish", {}, True, 51_840),
        ("relu", {}, False, 64_512),
        ("relu", {STEM: 8}, False, 51_840),
        ("relu", {STEM: 8} | dict.fromkeys(EARLY, 40), False, 46_080),
        ("hard-swish", {STEM: 8} | dict.fromkeys(EARLY, 40), False, 46_080),
    ],
)
def test_memory_is_what_the_arena_of_the_reference_network_was_measured_to_be(
    stem: str, kept: dict[str, int], parts: bool, head_bytes: int
) -> None:
    network = build("mobilenet_v3_small") if stem == "hard-swish" else without_hard_swish_in_the_stem()
    groups = find_groups(network, image_size=SIZE, scope="all", protect=())
    model = trace_costs(network, groups, image_size=SIZE, split_peak=parts)
    assert model.cost(kept).ram_bytes == head_bytes


def test_padding_by_torchs_rule_costs_memory_unless_the_network_is_rotated() -> None:
    padded = build("mobilenet_v3_small", pad="torch")
    cost = trace_costs(padded, [], image_size=SIZE).cost({})
    assert cost.ram_bytes == 90_144
    assert cost.ram_at == "padding of features.2.block.1.0 output + input"
    assert trace_costs(padded, [], image_size=SIZE, rotate=True).cost({}).ram_bytes == 73_728


class Mixed(nn.Module):
    """A bit of everything that a file computes otherwise than torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU())
        self.wide = nn.Sequential(nn.Conv2d(12, 40, 1), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(40, 8, 1), nn.ReLU(), nn.Conv2d(8, 40, 1))
        self.back = nn.Conv2d(40, 12, 1)
        self.branch = nn.Conv2d(12, 20, 3, 1, 1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.wide(x)
        y = self.back(y * nn.functional.hardsigmoid(self.gate(y)))
        x = nn.functional.relu(x + y)
        x = torch.cat([x, self.branch(x)], dim=1)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Concatenations that share what they read, and BatchNorms that no layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 3, 1, 1)
            )
            for width in (16, 24, 32)
        )
        self.head = nn.Linear(40, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, dim=1)))
        x = torch.cat(found, dim=1)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(("kind", "size"), [(Mixed, 48), (Dense, 49)])
def test_memory_and_flash_are_those_of_the_int8_file(kind: type[nn.Module], size: int) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Biases of nothing but zeros would be one buffer in the file.
            nn.init.normal_(module.bias)
    converted = convert_network(fold_batchnorm(network), image_size=size)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    ranges = choose_ranges(converted.content, observe_ranges(converted.content, images), "min_max")
    file = strip_model(quantise_model(converted.content, ranges))
    model = trace_costs(network, [], image_size=size)
    cost = model.cost({})
    assert cost.ram_bytes == find_peak(file).peak_bytes
    assert len(operator_names(read_model(file))) == len(model.memory.steps)
    # The texts of a bundle's file are missing here, about 1,350 bytes.
    assert cost.flash_bytes - 1350 == pytest.approx(len(file), abs=500)


class Moody(nn.Module):
    """Uses its second layer as often as the image says."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(1 + int(x.abs().sum() > 0)):
            x = self.more(x)
        return self.head(x.mean(dim=(2, 3)))


def test_a_network_that_cannot_be_traced_has_no_price_and_a_sentence_says_so() -> None:
    network = Moody().eval()
    groups = find_groups(network, image_size=16, scope="all", protect=())
    with pytest.raises(
        InputError, match=r"^torch\.export cannot trace Moody: [^\n]+\.\n  try: a forward without an `if`"
    ):
        trace_costs(network, groups, image_size=16)


def test_a_price_is_found_in_well_under_a_millisecond(reference_model: CostModel) -> None:
    start = time.perf_counter()
    for count in range(200):
        reference_model.cost({STEM: 8 + count % 8})
    assert (time.perf_counter() - start) / 200 < 0.001


def test_one_exported_level_corrects_all_others(reference_model: CostModel) -> None:
    """Flash by the difference, memory and time by the ratio."""
    timed = reference_model.with_latency(LatencyTable(fixed_ms=0.1, ms_per_mac={"pointwise": 1e-7, STEM: 2e-7}))
    predicted = timed.cost({})
    assert predicted.latency_ms is not None
    real = ModelCost(
        params=predicted.params,
        macs=predicted.macs,
        ram_bytes=predicted.ram_bytes * 2,
        arena_bytes=predicted.arena_bytes + predicted.ram_bytes + 100,
        ram_at="",
        flash_bytes=predicted.flash_bytes + 1000,
        latency_ms=predicted.latency_ms * 1.5,
    )
    corrected = timed.calibrated(real=real, predicted=predicted)
    again, other, before = corrected.cost({}), corrected.cost({STEM: 8}), timed.cost({STEM: 8})
    assert (again.flash_bytes, again.ram_bytes, again.arena_bytes) == (
        real.flash_bytes,
        real.ram_bytes,
        real.arena_bytes,
    )
    assert again.latency_ms == pytest.approx(real.latency_ms)
    assert other.flash_bytes - before.flash_bytes == 1000
    assert other.ram_bytes == 2 * before.ram_bytes
    assert (other.params, other.macs) == (before.params, before.macs)


def test_latency_is_what_each_kind_of_operator_takes(reference_model: CostModel) -> None:
    kinds = reference_model.macs_by_kind({})
    assert sum(kinds.values()) == reference_model.cost({}).macs
    table = LatencyTable(fixed_ms=0.25, ms_per_mac={"depthwise": 3e-7, "linear": 1e-8})
    expected = 0.25 + kinds["depthwise"] * 3e-7 + kinds["linear"] * 1e-8
    assert reference_model.with_latency(table).cost({}).latency_ms == pytest.approx(expected)


def test_the_price_of_a_group_is_what_goes_with_it(reference_model: CostModel) -> None:
    dense = reference_model.cost({})
    prices = {price.layer: price for price in price_groups(reference_model, align=8)}
    assert set(prices) == set(reference_model.groups)
    stem = prices[STEM]
    without = reference_model.cost({STEM: 0})
    assert stem.params_share == pytest.approx(1 - without.params / dense.params, abs=1e-6)
    assert stem.macs_share == pytest.approx(1 - without.macs / dense.macs, abs=1e-6)
    # The peak is the stem's hard-swish: all of it, twice 8 channels of 48 x 48 pixels a block.
    assert stem.ram_share == 1.0
    assert stem.ram_bytes_per_block == 2 * 8 * 48 * 48
    assert prices["features.9.block.0.0"].ram_bytes_per_block == 0


def test_memory_never_falls_below_what_fewer_channels_need(
    reference: nn.Module, reference_groups: tuple[ChannelGroup, ...]
) -> None:
    """A floor is one: with parts, too, as long as channels go in fours."""
    model = trace_costs(reference, reference_groups, image_size=SIZE, split_peak=True)
    generator = np.random.default_rng(0)
    for _ in range(50):
        more = {g.layer: 4 * int(generator.integers(1, math.ceil(g.channels / 4) + 1)) for g in reference_groups}
        fewer = {layer: 4 * int(generator.integers(1, count // 4 + 1)) for layer, count in more.items()}
        assert model.cost(fewer).ram_bytes <= model.cost(more).ram_bytes
