"""Dead channels go for free: found on images, absorbed where they are constant, and the answers stay the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SIZE, make_images, write_recipe
from torch import Tensor, nn

from edgeprune.absorb import absorb_constants, answer_constants, find_absorbers, is_unpadded
from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError
from edgeprune.files import read_json
from edgeprune.pipeline import SilentReporter, Workspace, export_levels, finished_levels, open_baseline
from edgeprune.pipeline.compact import SAME_ANSWER, Compact, open_compact
from edgeprune.pipeline.story import RunStory
from edgeprune.plan import choose_channels, find_groups
from edgeprune.plan.dead import DeadUnits, find_dead_units, list_constants, rank_first
from edgeprune.plan.readings import SHIFT_SHARE, watch_layers, watch_shifted
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.results import ChannelPlan
from edgeprune.runs import open_run
from edgeprune.verify.bundle import verify_bundle
from edgeprune.zoo import Checkpoint, NetworkSpec, load_checkpoint, save_checkpoint
from edgeprune.zoo.same_padding import SameConv2d


def conv(inputs: int, outputs: int, kernel: int = 1, *, pad: int = 0, groups: int = 1) -> nn.Sequential:
    """Convolution without a bias, BatchNorm, ReLU: whatever is not planted on purpose is alive."""
    layers = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=pad, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
    nn.init.uniform_(layers[1].weight, 0.5, 1.5)
    nn.init.uniform_(layers[1].bias, 1.0, 2.0)
    layers[1].running_mean.normal_(0, 0.1)
    layers[1].running_var.uniform_(0.5, 1.5)
    return layers


@torch.no_grad()
def silence(layers: nn.Sequential, channel: int, *, constant: float = -1.0) -> None:
    """Behind its ReLU the channel is ``constant`` for ever, zero where that is negative."""
    layers[1].weight[channel] = 0.0
    layers[1].bias[channel] = constant


class Gate(nn.Module):
    """Squeeze-excite."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        nn.init.uniform_(self.fc1.bias, 1.0, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.fc2(inner))


class Planted(nn.Module):
    """Channels that are dead in every way there is, beside others that only look like it."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, pad=1)
        self.narrow = conv(8, 12)
        self.wide = conv(12, 8, 3, pad=1)
        self.gate = Gate(8, 8)
        self.last = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, num_classes)
        nn.init.uniform_(self.last.bias, 1.0, 2.0)
        with torch.no_grad():
            self.stem[0].weight[0] = 0.0
            self.stem[1].bias[0] = -1.0  # no weights, and a ReLU that never opens
            self.stem[0].weight[1] *= 1e-30
            self.stem[1].bias[1] = 0.7  # weights that vanished, and a beta that is left
            silence(self.stem, 2, constant=0.4)
            self.narrow[0].weight[:, 3] = 0.0  # alive, but nobody listens
            silence(self.narrow, 0)  # zero, in front of a padded reader
            silence(self.narrow, 1, constant=0.5)  # constant, in front of a padded reader
            for channel in (5, 6):  # gates that stay shut; of the two, only the first is not read by fc1 either
                self.gate.fc2.weight[channel] = 0.0
                self.gate.fc2.bias[channel] = -10.0
            self.gate.fc1.weight[:, 5] = 0.0
            silence(self.wide, 7, constant=0.5)  # constant, but its gate is not
            for unit, bias in enumerate((-5.0, 0.3)):
                self.gate.fc1.weight[unit] = 0.0
                self.gate.fc1.bias[unit] = bias
            for channel, bias in enumerate((0.4, -1.0)):
                self.last.weight[channel] = 0.0
                self.last.bias[channel] = bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.wide(self.narrow(self.stem(x))))
        return self.head(torch.relu(self.last(x)).mean(dim=(2, 3)))


PLANTED = {
    "stem.0": (0, 1, 2, 3),
    "narrow.0": (0,),
    "wide.0": (5,),
    "gate.fc1": (0, 1),
    "last": (0, 1),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def some_images(count: int = 24, size: int = 16) -> Tensor:
    """Each of another contrast and shade, so that answers differ."""
    generator = torch.Generator().manual_seed(1)
    shades = torch.randn(count, 3, 1, 1, generator=generator)
    return shades + torch.randn(count, 3, size, size, generator=generator)


@dataclass(frozen=True)
class Found:
    groups: tuple[ChannelGroup, ...]
    units: dict[str, DeadUnits]
    small: nn.Module

    @property
    def gone(self) -> dict[str, tuple[int, ...]]:
        return {name: units.gone for name, units in self.units.items() if units.gone}

    @property
    def held(self) -> dict[str, tuple[int, ...]]:
        return {name: units.held for name, units in self.units.items() if units.held}


def compact(network: nn.Module, images: Tensor, *, align: int = 1, zeros_only: bool = False) -> Found:
    """Without a margin: images decide alone."""
    size = images.shape[-1]
    groups = find_groups(network, image_size=size, scope="all", protect=())
    readings = watch_layers(network, groups, images.split(7))
    absorbers = find_absorbers(network, images[:1])
    units = find_dead_units(network, groups, readings, absorbers=absorbers, align=align, zeros_only=zeros_only)
    constants = list_constants(groups, units, readings, absorbers=absorbers)
    plan = ChannelPlan(
        target=0.5, prunable=1, groups=tuple(found.plan for found in units), importance="dead", align=align
    )
    small = remove_channels(absorb_constants(network, constants, absorbers), groups, plan, image_size=size)
    return Found(groups, {found.layer: found for found in units}, small)


@torch.no_grad()
def moved(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    reference = one(images)
    assert float(reference.std(dim=0).min()) > 1e-3, "the answers must depend on the image to prove anything"
    return float((other(images) - reference).abs().max())


def test_exactly_the_planted_channels_go_and_the_answers_stay() -> None:
    network, images = seeded(Planted), some_images()
    found = compact(network, images)
    assert found.gone == PLANTED
    assert moved(network, found.small, images) <= 1e-6
    assert moved(network, found.small, 3 * some_images(5, size=32)) <= 1e-5  # wherever the constants are absorbed, too


def test_a_constant_in_front_of_a_padded_convolution_stays() -> None:
    """At the border the padded layer reads zeros instead, so no bias adds up to the same."""
    found = compact(seeded(Planted), some_images())
    assert found.held == {"narrow.0": (1,)}


def test_a_tensorflow_padded_convolution_is_padded_whatever_its_attribute_says() -> None:
    """``SameConv2d`` pads in its forward; its own ``padding`` is 0."""
    assert not is_unpadded(SameConv2d(4, 4, 3, 2))
    assert is_unpadded(nn.Conv2d(4, 4, 3, 2))
    assert is_unpadded(SameConv2d(4, 4, 1, 2))
    assert not is_unpadded(nn.Conv2d(4, 4, 3, padding=1))
    assert not is_unpadded(nn.Conv2d(4, 4, 3, groups=4))


def test_an_unpadded_3x3_reader_takes_the_constant_up_at_all_its_taps() -> None:
    layer = nn.Conv2d(5, 4, 3, stride=2)
    images = torch.randn(2, 5, 9, 9)
    images[:, 3] = 1.5
    without = images.clone()
    without[:, 3] = 0
    added = answer_constants(layer, {3: 1.5}).float()
    assert (layer(images) - layer(without) - added[:, None, None]).abs().max() <= 1e-5


def test_without_absorbing_only_zeros_go() -> None:
    network, images = seeded(Planted), some_images()
    found = compact(network, images, zeros_only=True)
    assert found.gone == {"stem.0": (0, 3), "narrow.0": (0,), "wide.0": (5,), "gate.fc1": (0,), "last": (1,)}
    assert moved(network, found.small, images) <= 1e-6


class Stem(nn.Module):
    """A stem and a head: eight channels, a linear reader."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, pad=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean(dim=(2, 3)))


@torch.no_grad()
def open_above(network: nn.Module, channel: int, brightness: float) -> None:
    """Let a stem channel be open only where the image is brighter than that."""
    network.stem[0].weight[channel] = 0.0
    network.stem[0].weight[channel, :, 1, 1] = 1 / 3
    norm = network.stem[1]
    norm.weight[channel] = 1.0
    norm.running_mean[channel] = brightness
    norm.running_var[channel] = 1.0
    norm.bias[channel] = 0.0


def test_a_channel_that_one_image_wakes_stays() -> None:
    network, images = seeded(Stem), some_images() / 10
    open_above(network, 4, 2.0)
    assert compact(network, images).gone == {"stem.0": (4,)}
    images[11] += 3.0
    assert compact(network, images).gone == {}


@pytest.mark.parametrize(("threshold", "gone"), [(1.05, ()), (2.0, (4,))])
def test_a_channel_that_is_silent_by_a_hair_stays(threshold: float, gone: tuple[int, ...]) -> None:
    """The next image would wake it. Its layer's output spans 1.0 here; vanished weights span nothing and need no
    margin."""
    network, images = seeded(Stem), torch.rand(40, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    images[0], images[1] = 0.0, 1.0
    open_above(network, 4, threshold)
    silence(network.stem, 2)
    network.stem[0].weight.data[2] *= 1e-20
    groups = find_groups(network, image_size=16, scope="all", protect=())
    readings = watch_layers(network, groups, [images])
    (units,) = find_dead_units(network, groups, readings, absorbers=("head",), align=1)
    assert units.gone == (2, 4)
    readings = watch_shifted(network, groups, lambda: [images], readings=readings, channels={"stem.0": units.gone})
    (units,) = find_dead_units(network, groups, readings, absorbers=("head",), align=1)
    assert units.gone == (2, *gone)
    assert 1.05 < 1 + SHIFT_SHARE < 2.0


class Residual(nn.Module):
    """A stem, a block around which the image goes on, and a reader of their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, pad=1)
        self.first = conv(8, 6, 3, pad=1)
        self.second = conv(6, 8, 3, pad=1)[:2]
        self.last = conv(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.second(self.first(x)))
        return self.head(self.last(x).mean(dim=(2, 3)))


def test_a_residual_channel_goes_when_all_that_make_it_are_silent() -> None:
    network, images = seeded(Residual), some_images()
    silence(network.stem, 0)
    silence(network.second, 0)  # zero for all that read it
    silence(network.stem, 1)  # its partner is alive
    silence(network.stem, 2, constant=0.5)
    silence(network.second, 2, constant=0.25)  # constant, and the block's first convolution is padded
    silence(network.first, 3)
    found = compact(network, images)
    assert found.gone == {"stem.0": (0,), "first.0": (3,)}
    assert found.held == {"stem.0": (2,)}
    assert moved(network, found.small, images) <= 1e-6


class Chain(nn.Module):
    """1x1 convolutions one after the other."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(conv(before, after) for before, after in zip((3, *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(dim=(2, 3)))


def test_what_only_dead_channels_read_goes_with_them() -> None:
    """Channel 5 varies, and only channel 0 of the next layer listens, whose ReLU never opens."""
    network, images = seeded(lambda: Chain(8, 8)), some_images()
    with torch.no_grad():
        network.layers[1][1].bias[0] = -1000.0
        network.layers[1][0].weight[1:, 5] = 0.0
    found = compact(network, images)
    assert found.gone == {"layers.0.0": (5,), "layers.1.0": (0,)}
    assert moved(network, found.small, images) <= 1e-6


def test_alignment_keeps_dead_channels_and_they_go_first_later() -> None:
    """Of five dead channels among 16 four go, constants first: a zero costs nothing later, a constant would."""
    network, images = seeded(lambda: Chain(16, 8)), some_images()
    for channel in (1, 4, 7):
        silence(network.layers[0], channel)
    for channel in (2, 9):
        silence(network.layers[0], channel, constant=0.5)
    silence(network.layers[1], 3)  # one of eight: nothing goes
    found = compact(network, images, align=4)
    first, second = found.units["layers.0.0"], found.units["layers.1.0"]
    assert (first.constant, first.zero) == ((2, 9), (1, 4, 7))
    assert first.gone == (1, 2, 4, 9)
    assert (second.gone, second.left) == ((), (3,))
    assert first.left == (4,)  # what was channel 7
    assert moved(network, found.small, images) <= 1e-6

    scores = {"layers.0.0": np.zeros(12), "layers.1.0": np.ones(8)}
    ranked = rank_first(scores, {units.layer: units.left for units in (first, second)})
    plan = choose_channels(ranked, target=0.09, prunable=20, importance="l1_norm", align=1)
    assert [set(range(group.channels)) - set(group.kept) for group in plan.groups] == [{4}, {3}]
    assert not scores["layers.0.0"].any()  # what was given stays


def test_an_odd_channel_count_keeps_the_alignment_that_it_has() -> None:
    """12 channels are a multiple of 4, not of 8: they may become 8, never 11."""
    network = seeded(lambda: Chain(12))
    for channel in range(5):
        silence(network.layers[0], channel)
    assert len(compact(network, some_images(), align=8).units["layers.0.0"].gone) == 4


def test_one_channel_of_every_group_stays() -> None:
    network = seeded(lambda: Chain(4, 4))
    for channel in range(4):
        silence(network.layers[0], channel)
    found = compact(network, some_images())
    assert found.gone["layers.0.0"] == (0, 1, 2)
    assert found.units["layers.0.0"].left == (0,)


class Grouped(nn.Module):
    """A convolution in two groups of four, between two of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = conv(3, 8), conv(8, 8, 3, pad=1, groups=4), conv(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.middle(self.first(x))).mean(dim=(2, 3)))


def test_only_whole_units_go() -> None:
    network, images = seeded(Grouped), some_images()
    for channel in (1, 4, 5):  # half a unit, and a whole one
        silence(network.middle, channel)
    found = compact(network, images)
    assert found.gone == {"first.0": (4, 5)}
    assert moved(network, found.small, images) <= 1e-6


class Flattened(nn.Module):
    """A linear layer that reads every position by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = conv(3, 6), conv(6, 6, 3, pad=1, groups=6)
        self.head = nn.Linear(6 * 16 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.depthwise(self.stem(x)).flatten(1))


def test_behind_a_flattened_map_every_position_has_a_constant_of_its_own() -> None:
    """The padded depthwise convolution gives other values at the border, but the same ones for every image."""
    network, images = seeded(Flattened), some_images()
    silence(network.stem, 2, constant=0.8)
    found = compact(network, images)
    assert found.gone == {"stem.0": (2,)}
    assert moved(network, found.small, images) <= 1e-5


def test_one_position_that_varies_keeps_the_channel() -> None:
    """The last position is the same in all images, as a border can be."""
    images = some_images()
    images[:, :, 13:, 13:] = 0.3
    assert compact(seeded(Flattened), images).gone == {}


class Shared(nn.Module):
    """A reader without a bias, whose BatchNorm is not the only one to read it."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.stem, self.reader, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 2)
        self.alone = alone

    def forward(self, x: Tensor) -> Tensor:
        read = self.reader[0](self.stem(x))
        normal = torch.relu(self.reader[1](read))
        return self.head((normal if self.alone else normal + read).mean(dim=(2, 3)))


@pytest.mark.parametrize("alone", [True, False])
def test_a_batchnorm_keeps_a_constant_only_when_nobody_else_reads_the_layer(alone: bool) -> None:
    """The sum would go on without the constant."""
    network, images = seeded(lambda: Shared(alone=alone)), some_images()
    silence(network.stem, 2, constant=0.5)
    found = compact(network, images)
    assert found.gone == ({"stem.0": (2,)} if alone else {})
    assert found.held == ({} if alone else {"stem.0": (2,)})
    assert moved(network, found.small, images) <= 1e-6


def test_a_layer_that_cannot_be_watched_is_taken_to_read_everything() -> None:
    """Attention uses the weights of its last layer without calling it."""
    network, images = seeded(Stem), some_images()
    silence(network.stem, 4)
    groups = find_groups(network, image_size=16, scope="all", protect=())
    readings = {name: seen for name, seen in watch_layers(network, groups, [images]).items() if name != "head"}
    (units,) = find_dead_units(network, groups, readings, absorbers=("head",), align=1)
    assert not units.zero + units.constant + units.held + units.gone


def test_numbers_that_are_not_finite_are_not_dead() -> None:
    network, images = seeded(Stem), some_images()
    silence(network.stem, 4)
    images[3] = torch.nan
    groups = find_groups(network, image_size=16, scope="all", protect=())
    readings = watch_layers(network, groups, [images])
    (units,) = find_dead_units(network, groups, readings, absorbers=("head",), align=1)
    assert units.gone in {(), (4,)}  # a gamma of zero makes NaN of NaN
    assert not set(range(8)) - {4} & set(units.gone)


# The level.


def build_planted(num_classes: int) -> nn.Module:
    return seeded(lambda: Planted(num_classes))


def build_half(num_classes: int) -> nn.Module:
    """Half of it is dead, which anybody's clock can see."""
    del num_classes
    network = seeded(lambda: Chain(64, 64))
    for layer in network.layers:
        for channel in range(0, 64, 2):
            silence(layer, channel)
    return network


def build_stem(num_classes: int) -> nn.Module:
    del num_classes
    return seeded(Stem)


class Listener(SilentReporter):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Project:
    """A folder with images, a recipe, and a baseline that nobody trained."""

    def __init__(self, root: Path, images: Path, network: nn.Module, factory: str, **sections: object) -> None:
        self.workspace, self.reporter = Workspace(root), Listener()
        self.recipe = read_recipe(
            write_recipe(
                root / "tiny.yaml",
                images,
                model={"network": f"{__name__}:{factory}", "weights": "none"},
                prune={"targets": [0.3], "scope": "all", "align": 1},
                **sections,
            )
        )
        save_checkpoint(
            root / "models" / "tiny",
            Checkpoint(
                network=network,
                spec=NetworkSpec(network=self.recipe.model.network, num_classes=2, image_size=SIZE, pad="torch"),
                classes=("disc", "empty"),
                mean=self.recipe.data.mean,
                std=self.recipe.data.std,
            ),
        )

    def open(self, **prune: object) -> Compact:
        recipe: Recipe = self.recipe
        if prune:
            recipe = recipe.model_copy(update={"prune": recipe.prune.model_copy(update=prune)})
        self.reporter.lines.clear()
        self.baseline = open_baseline(recipe, self.workspace, self.reporter)
        runs, config = self.workspace.runs, recipe.to_yaml()
        story = RunStory(
            self.reporter,
            opening=lambda: (),
            start=lambda: open_run(runs, name="tiny", kind="prune", config_yaml=config, now=datetime.now()),
        )
        return open_compact(recipe, self.workspace, self.baseline, story=story, reporter=self.reporter)

    @property
    def said(self) -> str:
        return "\n".join(self.reporter.lines)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "discs", per_class=30)


@pytest.fixture
def project(discs: Path, tmp_path: Path) -> Iterator[Project]:
    # Found by its name, as a person's own factory is.
    return Project(tmp_path, discs, build_planted(2), "build_planted")


def test_the_level_gives_the_same_answers_and_says_what_it_saved(project: Project) -> None:
    found = project.open()
    assert found.level is not None
    assert not found.up_to_date
    assert set(found.dead.differences) == {"train", "val", "test"}
    assert max(found.dead.differences.values()) <= 1e-5
    record, dense = found.level, project.baseline.dense
    gone = sum(len(channels) for channels in PLANTED.values())
    assert {units.layer: units.gone for units in found.dead.groups if units.gone} == PLANTED
    assert (record.level, record.parent_level, record.epochs, record.best_epoch) == ("compact", "dense", (), 0)
    assert record.plan.removed_now == gone
    assert record.plan.target == record.plan.achieved == gone / record.plan.prunable
    assert record.val.accuracy == dense.val.accuracy
    assert record.cost.params < dense.cost.params
    assert f"{gone} channels are dead: {gone} go before any ranking" in project.said
    assert f"compact: {gone} of {record.plan.prunable} channels, {dense.cost.params - record.cost.params:,} of" in (
        project.said
    )
    assert "1 more are constant but not zero, and stay" in project.said
    network = load_checkpoint(found.folder, own_factory=project.recipe.model.network).network
    assert sum(parameter.numel() for parameter in network.parameters()) == record.cost.params
    images = some_images(4, size=SIZE)
    assert moved(project.baseline.checkpoint.network, network, images) <= 1e-5


def test_the_level_is_made_once_for_the_same_inputs(project: Project) -> None:
    made = project.open()
    runs = sorted(project.workspace.runs.iterdir())
    again = project.open()
    assert again.up_to_date
    assert (again.level, again.dead) == (made.level, made.dead)
    assert sorted(project.workspace.runs.iterdir()) == runs
    assert project.open(importance="l2_norm", targets=(0.7,)).up_to_date  # what comes later decides nothing
    assert not project.open(align=2).up_to_date
    assert not project.open(align=1).up_to_date
    (made.folder / "model.safetensors").unlink()
    assert not project.open(align=1).up_to_date


def test_where_nothing_is_dead_there_is_no_level_and_one_line_says_so(discs: Path, tmp_path: Path) -> None:
    project = Project(tmp_path, discs, build_stem(2), "build_stem")
    found = project.open()
    assert found.level is None
    assert project.reporter.lines[-1] == "No channel is dead."
    assert not found.folder.exists()
    assert not project.workspace.runs.exists()
    again = project.open()
    assert again.up_to_date
    assert project.reporter.lines == []
    assert not project.open(align=2).up_to_date


def test_dead_channels_that_the_alignment_keeps_are_handed_on(project: Project) -> None:
    """Nothing of any layer reaches a block of 8, but the first level should remove them before all others."""
    found = project.open(align=8)
    assert found.level is None
    assert found.dead.left == PLANTED
    assert "0 go before any ranking; 10 stay, to keep align = 8" in project.said
    stored = read_json(project.workspace.models / "tiny-dense" / "dead.json")
    assert stored["weights"] == ""


def paint(folder: Path, shades: Sequence[int]) -> None:
    for label in ("disc", "empty"):
        (folder / label).mkdir(parents=True)
        for index, shade in enumerate(shades):
            noise = np.random.default_rng([index, len(label)]).integers(-10, 11, (SIZE, SIZE, 3))
            Image.fromarray((noise + shade).clip(0, 255).astype(np.uint8)).save(folder / label / f"{index}.png")


@pytest.mark.parametrize("awake", ["val", "test"])
def test_what_validation_images_wake_stays_and_what_test_images_wake_is_reported(tmp_path: Path, awake: str) -> None:
    """A channel that only bright images open; train has none. Test images report, they never choose."""
    for split in ("train", "val", "test"):
        paint(tmp_path / "images" / split, [40, 60, 80] + ([250] if split == awake else []))
    network = build_stem(2)
    open_above(network, 4, 1.2)  # in normalised units: a shade of 190
    silence(network.stem, 2, constant=0.5)
    project = Project(tmp_path, tmp_path / "images", network, "build_stem")
    found = project.open()
    assert found.level is not None
    (units,) = found.dead.groups
    if awake == "val":
        assert units.gone == (2,)
        assert len(found.dead.refused) == 1
        assert "Without the 2 channels that are constant on train a logit on val moves by " in project.said
        assert max(found.dead.differences.values()) <= 1e-5
    else:
        assert units.gone == (2, 4)
        assert found.dead.differences["test"] > SAME_ANSWER
        assert "a test image wakes a channel that no train or val image wakes" in project.said


def test_a_folder_of_others_is_not_replaced(project: Project) -> None:
    folder = project.workspace.models / "tiny-compact"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="edgeprune did not write"):
        project.open()
    assert (folder / "thesis.txt").is_file()


# Its bundle.


@pytest.mark.long
def test_the_level_is_published_as_any_other(discs: Path, tmp_path: Path) -> None:
    """It belongs to no target, so it is asked for by name."""
    project = Project(tmp_path, discs, build_half(2), "build_half")
    found = project.open()
    assert found.level is not None
    outcome = export_levels(project.recipe, project.workspace, project.reporter, target=None, compact=True)
    assert outcome.failures == {}
    (summary,) = outcome.summaries
    assert (summary.level, summary.bundle, summary.up_to_date) == ("compact", tmp_path / "exports/tiny-compact", False)
    assert summary.file_bytes < summary.dense_file_bytes / 2
    assert {"argmax_agreement", "accuracy_drop", "latency_ratio"} <= {gate.name for gate in summary.verdict.gates}
    assert verify_bundle(summary.bundle).passed
    report = read_json(summary.bundle / "size_report.json")
    assert report["target"] == report["achieved"] == found.level.plan.achieved == 0.5
    (again,) = export_levels(project.recipe, project.workspace, project.reporter, target=None, compact=True).summaries
    assert again.up_to_date
    assert finished_levels(project.recipe, project.workspace) == []  # no step of a schedule


def test_a_level_that_cannot_be_used_is_not_exported_and_a_sentence_says_why(project: Project) -> None:
    def ask(**prune: object) -> str:
        recipe = project.recipe
        recipe = recipe.model_copy(update={"prune": recipe.prune.model_copy(update=prune)})
        with pytest.raises(InputError) as caught:
            export_levels(recipe, project.workspace, project.reporter, target=None, compact=True)
        return str(caught.value)

    assert "The level compact of 'tiny' does not exist.\n  try: make prune with `prune: {compact: true}`" in ask()
    project.open(align=8)
    assert "'tiny' has no level compact: 10 channels are dead: 0 go before any ranking; 10 stay" in ask(align=8)
    found = project.open()
    assert "was made with another recipe.\n  try: make prune" in ask(align=2)
    (found.folder / "model.safetensors").write_bytes(b"something else")
    assert "is damaged: it is not what its record names" in ask()
    assert not project.workspace.exports.exists()
