"""Networks by name, and checkpoints that come back bit for bit or are refused, and never run anything."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgeprune.dependencies import ChannelGroup
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.plan import find_groups
from edgeprune.prune import remove_channels
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.results import ChannelPlan, GroupPlan
from edgeprune.zoo import (
    Checkpoint,
    NetworkSpec,
    build_network,
    checkpoint_digest,
    load_checkpoint,
    read_channels,
    resize_channels,
    save_checkpoint,
    torchvision_models,
)
from edgeprune.zoo.timm_layers import use_plain_layers

SIZE = 64
TIMM = (
    "mobilenetv3_small_050", "mobilenetv4_conv_small", "efficientnet_lite0", "ghostnet_100", "fbnetc_100", "tinynet_e",
    "repvgg_a0", "resnet10t",
)  # fmt: skip
FAMILIES = ("mobilenet_v3_small", "mobilenet_v2", "efficientnet_b0", "resnet18", "mnasnet0_5")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def timm() -> Any:
    torchvision_models()  # before timm imports it
    return importlib.import_module("timm")


OWN_MODULE = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.spatial = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU())
        self.project = nn.Conv2d(16, 8, 1)
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.project(self.spatial(self.inner(self.expand(x))))
        return self.head(x.mean(dim=(2, 3))) * self.scale

def network(num_classes):
    return Own(num_classes)

def wrong(num_classes):
    return "a network"
"""


def prune_half(network: nn.Module, scope: str = "expand") -> nn.Module:
    """Every second channel of every group, and an odd number of them."""
    groups = find_groups(network, image_size=SIZE, scope=scope, protect=())

    def kept(group: ChannelGroup) -> tuple[int, ...]:
        units = range(1, group.channels // group.unit, 2)[:-1] or [0]
        return tuple(unit * group.unit + channel for unit in units for channel in range(group.unit))

    plan = ChannelPlan(
        target=0.5,
        prunable=sum(group.channels for group in groups),
        groups=tuple(GroupPlan(layer=group.layer, channels=group.channels, kept=kept(group)) for group in groups),
        importance="l1_norm",
        align=1,
    )
    return remove_channels(network, groups, plan, image_size=SIZE)


def wrap(network: nn.Module, name: str, pad: str = "torch") -> Checkpoint:
    return Checkpoint(
        network=network,
        spec=NetworkSpec(network=name, num_classes=2, image_size=SIZE, pad=pad),
        classes=("dark", "bright"),
        mean=MEAN,
        std=STD,
    )


@pytest.fixture(scope="module")
def saved(disturbed: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned reference network; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("saved")
    save_checkpoint(folder, wrap(prune_half(disturbed("mobilenet_v3_small")), "mobilenet_v3_small"))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# -------------------------------------------------------------------------------------------------- networks


def test_the_reference_network_is_torchvisions() -> None:
    network = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_519_906
    assert not network.training


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'mobilenetv3_smal' is not one of torchvision's \d+ classifiers") as caught:
        build_network(NetworkSpec(network="mobilenetv3_smal", num_classes=2, image_size=96))
    assert caught.value.remedy.startswith("mobilenet_v3_small")


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18", "", "os"])
def test_what_is_no_classifier_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not one of torchvision's"):
        build_network(NetworkSpec(network=name, num_classes=2, image_size=96))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_return_logits_in_training_too(name: str) -> None:
    network = build_network(NetworkSpec(network=name, num_classes=3, image_size=96)).train()
    assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 3)


def test_a_name_without_its_prefix_is_found_at_timm() -> None:
    with pytest.raises(InputError, match="'mobilenetv4_conv_small' is not one of torchvision's") as caught:
        build_network(NetworkSpec(network="mobilenetv4_conv_small", num_classes=2, image_size=SIZE))
    assert caught.value.remedy.startswith("timm/mobilenetv4_conv_small or ")


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_compute_what_timm_says(name: str) -> None:
    """To the bit, though BatchNorm and activation are taken apart."""
    torch.manual_seed(0)
    ours = build_network(NetworkSpec(network=f"timm/{name}", num_classes=3, image_size=SIZE))
    torch.manual_seed(0)
    theirs = timm().create_model(name, num_classes=3).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    assert ours(images).shape == (2, 3)


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_consist_of_torchs_layers(name: str) -> None:
    """A BatchNorm with an activation inside would be folded, observed and counted as a BatchNorm alone."""
    network = build_network(NetworkSpec(network=f"timm/{name}", num_classes=2, image_size=SIZE))
    holders = [module for module in network.modules() if list(module.parameters(recurse=False))]
    assert {type(module) for module in holders} <= {nn.Conv2d, nn.Linear, nn.BatchNorm2d}
    folded = fold_batchnorm(network)
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=2e-3)


def test_a_layer_with_two_names_stays_one_layer() -> None:
    """A stage that is run twice has its weights once, before and after its layers are exchanged."""
    layers = timm().layers
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), layers.BatchNormAct2d(3, act_layer=nn.SiLU))
    network = use_plain_layers(nn.Sequential(shared, nn.Sequential(shared[0], shared[1])), layers)
    assert network[0][1] is network[1][1]
    assert [type(part) for part in network[0][1]] == [nn.BatchNorm2d, nn.SiLU]
    assert len(list(network.parameters())) == 4


def test_an_unknown_timm_network_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'timm/mobilenetv4_small' is not one of timm's \d+ networks") as caught:
        build_network(NetworkSpec(network="timm/mobilenetv4_small", num_classes=2, image_size=SIZE))
    assert "timm/mobilenetv4_conv_small" in caught.value.remedy


def test_a_timm_network_with_a_tag_is_told_to_name_it_as_weights() -> None:
    with pytest.raises(InputError) as caught:
        build_network(NetworkSpec(network="timm/resnet10t.c3_in1k", num_classes=2, image_size=SIZE))
    assert caught.value.remedy == "network: timm/resnet10t, and weights: c3_in1k"


def test_a_timm_network_that_does_not_fit_the_images_is_named() -> None:
    with pytest.raises(InputError, match=r"'timm/xcit_nano_12_p8_224' cannot be built for 2 classes at 100 x 100"):
        build_network(NetworkSpec(network="timm/xcit_nano_12_p8_224", num_classes=2, image_size=100))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError) as caught:
        build_network(NetworkSpec(network="timm/resnet10t", num_classes=2, image_size=SIZE))
    assert caught.value.problem == "`network: timm/resnet10t` needs the package timm, which is not installed here."
    assert caught.value.remedy == "pip install 'edgeprune[timm]'"
    # And whoever mistypes one of torchvision's names is not told to install anything.
    with pytest.raises(InputError, match="is not one of torchvision's"):
        build_network(NetworkSpec(network="resnet10t", num_classes=2, image_size=SIZE))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "own_code"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "own_network.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_code", "own_code.own_network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_code.own_network"


def test_a_function_of_ones_own_is_called_with_the_number_of_classes(own_module: str) -> None:
    network = build_network(NetworkSpec(network=f"{own_module}:network", num_classes=5, image_size=SIZE))
    assert network(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 5)


@pytest.mark.parametrize(
    "name", ["{0}:absent", "own_code.absent:network", "absent_package:network", "{0}:", ":network"]
)
def test_a_function_that_cannot_be_imported_is_named(own_module: str, name: str) -> None:
    name = name.format(own_module)
    with pytest.raises(InputError, match=f"model.network = '{name}' cannot be imported"):
        build_network(NetworkSpec(network=name, num_classes=2, image_size=SIZE))


def test_a_function_that_returns_no_module_is_named(own_module: str) -> None:
    with pytest.raises(InputError, match=r"returned str, not a torch\.nn\.Module"):
        build_network(NetworkSpec(network=f"{own_module}:wrong", num_classes=2, image_size=SIZE))


# ------------------------------------------------------------------------------------------------ round trip


def check_round_trip(network: nn.Module, name: str, pad: str, folder: Path, own_factory: str | None = None) -> None:
    save_checkpoint(folder, wrap(network, name, pad))
    loaded = load_checkpoint(folder, own_factory=own_factory)
    states = network.state_dict(), loaded.network.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.network(images), network.eval()(images))
    assert loaded.spec == NetworkSpec(network=name, num_classes=2, image_size=SIZE, pad=pad)
    assert (loaded.classes, loaded.mean, loaded.std) == (("dark", "bright"), MEAN, STD)
    assert not any(module.training for module in loaded.network.modules())
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())
    # What the factory sets and no state dict holds must be there as well.
    assert repr(loaded.network) == repr(network)


@pytest.mark.parametrize(("name", "pad"), [("mobilenet_v3_small", "torch"), *((name, "same") for name in FAMILIES)])
def test_a_pruned_network_comes_back_bit_for_bit(
    disturbed: Callable[..., nn.Module], tmp_path: Path, name: str, pad: str
) -> None:
    full = disturbed(name, pad=pad)
    pruned = prune_half(full)
    assert read_channels(pruned) != read_channels(full)
    check_round_trip(pruned, name, pad, tmp_path)


def test_an_unpruned_network_stores_no_channel_counts(disturbed: Callable[..., nn.Module], tmp_path: Path) -> None:
    check_round_trip(disturbed("resnet18"), "resnet18", "torch", tmp_path)
    assert json.loads((tmp_path / "architecture.json").read_text())["channels"] == {}


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["alexnet", "densenet121", "efficientnet_v2_s", "googlenet", "mobilenet_v3_large", "resnet50", "squeezenet1_1",
     "vgg11_bn", "wide_resnet50_2"],
)  # fmt: skip
def test_more_pruned_families_come_back_bit_for_bit(
    disturbed: Callable[..., nn.Module], tmp_path: Path, name: str
) -> None:
    check_round_trip(prune_half(disturbed(name)), name, "torch", tmp_path)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name == "ghostnet_100" else name for name in TIMM]
)
def test_timms_networks_come_back_bit_for_bit_when_pruned(
    disturbed: Callable[..., nn.Module], tmp_path: Path, name: str
) -> None:
    full = disturbed(f"timm/{name}", pad="same")
    pruned = prune_half(full, scope="all")
    assert read_channels(pruned) != read_channels(full)
    check_round_trip(pruned, f"timm/{name}", "same", tmp_path)


@pytest.mark.parametrize("name", ["resnetblur18", "efficientvit_m0"])
def test_buffers_that_no_state_dict_holds_come_back(tmp_path: Path, name: str) -> None:
    """A blur's filter, or positions: built on the meta device, they would have no numbers."""
    network = build_network(NetworkSpec(network=f"timm/{name}", num_classes=2, image_size=SIZE))
    assert {key for key, _ in network.named_buffers()} - set(network.state_dict())
    state = torch.random.get_rng_state()
    check_round_trip(network, f"timm/{name}", "torch", tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_network_of_ones_own_comes_back_when_the_recipe_names_it(own_module: str, tmp_path: Path) -> None:
    """Buffers that no state dict holds included: they come from the factory."""
    name = f"{own_module}:network"
    network = build_network(NetworkSpec(network=name, num_classes=2, image_size=SIZE))
    check_round_trip(prune_half(network), name, "torch", tmp_path / "level", own_factory=name)


def test_loading_draws_no_random_numbers(own_module: str, folder: Path, tmp_path: Path) -> None:
    """Or a level after a resumed one would differ from an undisturbed run's."""
    name = f"{own_module}:network"
    network = build_network(NetworkSpec(network=name, num_classes=2, image_size=SIZE))
    save_checkpoint(tmp_path / "own", wrap(network, name))
    state = torch.random.get_rng_state()
    load_checkpoint(folder)
    load_checkpoint(tmp_path / "own", own_factory=name)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_loaded_network_can_be_trained_pruned_and_saved_again(folder: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(folder)
    loaded.network.train()(torch.rand(2, 3, SIZE, SIZE)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.network.parameters())
    again = dataclasses.replace(loaded, network=prune_half(loaded.network))
    save_checkpoint(tmp_path / "again", again)
    assert read_channels(load_checkpoint(tmp_path / "again").network) == read_channels(again.network)


def test_saving_over_the_file_that_was_loaded_is_safe(folder: Path) -> None:
    """safetensors maps files into memory; a file written in place would change under the network."""
    loaded = load_checkpoint(folder)
    before = {name: tensor.clone() for name, tensor in loaded.network.state_dict().items()}
    (fresh := build_network(loaded.spec)).eval()
    save_checkpoint(folder, dataclasses.replace(loaded, network=fresh))
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.network.state_dict().items())


def test_the_same_network_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Digests of checkpoints stand for networks, so memory layout and load history must not show."""
    loaded = load_checkpoint(folder)
    loaded.network.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "again", loaded)
    for name in ("architecture.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert checkpoint_digest(tmp_path / "again") == checkpoint_digest(folder)


def test_a_checkpoint_keeps_no_path_of_this_machine(folder: Path) -> None:
    assert str(Path.cwd()) not in (folder / "architecture.json").read_text()
    assert str(Path.home()).encode() not in (folder / "model.safetensors").read_bytes()


# ---------------------------------------------------------------------------------------------------- damage


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"holds no checkpoint \(architecture\.json is missing\)"):
            load_checkpoint(folder)
        with pytest.raises(InputError, match="holds no checkpoint"):
            checkpoint_digest(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors does not exist"):
        load_checkpoint(folder)
    (folder / "model.safetensors").mkdir()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"x",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"\x00" + data[9:],
        lambda data: data.replace(b'"F32"', b'"F99"', 1),
        lambda data: b"\x80\x02cos\nsystem\nq\x00.",
        lambda data: b"PK\x03\x04" + data[4:],
    ],
    ids=["empty", "stub", "one byte short", "half", "one byte more", "endless header", "flipped header", "dtype",
         "pickle", "zip"],
)  # fmt: skip
def test_damaged_weights_are_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        load_checkpoint(folder)


def test_a_flipped_byte_in_the_weights_changes_the_digest(folder: Path) -> None:
    """The format cannot tell; the digest in the level's record can."""
    before = checkpoint_digest(folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert checkpoint_digest(folder) != before


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = dict(load_file(folder / "model.safetensors"))
    state = {name: tensor.clone() for name, tensor in state.items()}
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.3.bias"), r"classifier\.3\.bias is None, expected \(2,\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"extra is \(1,\), expected None"),
        (
            lambda state: state.update({"classifier.3.bias": torch.zeros(3)}),
            r"classifier\.3\.bias is \(3,\), expected \(2,\) \(1 tensors differ\)",
        ),
    ],
    ids=["missing", "extra", "shape"],
)
def test_weights_that_do_not_fit_the_channel_counts_are_named(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.float64])
def test_weights_of_another_number_format_are_refused(folder: Path, dtype: torch.dtype) -> None:
    """Of the right shape, they would be accepted here and fail in the middle of the next stage."""
    rewrite(folder, lambda state: state.update({"classifier.3.bias": state["classifier.3.bias"].to(dtype)}))
    with pytest.raises(InputError, match=r"classifier\.3\.bias"):
        load_checkpoint(folder)


LAYER = "features.4.block.0.0"


@pytest.mark.parametrize(
    "channels",
    [
        {LAYER: {"out_channels": 0}},
        {LAYER: {"out_channels": -1}},
        {LAYER: {"out_channels": 10**12}},
        {LAYER: {"out_channels": 97}},
        {LAYER: {"kernel_size": 3}},
        {LAYER: {"out_channels": 47.5}},
        {LAYER: {"out_channels": "many"}},
        {LAYER: {"out_channels": None}},
        {LAYER: 3},
        {"features.99": {"out_channels": 3}},
        {"": {"out_channels": 3}},
        {"features.4.block.1.0": {"groups": 7}},
        {"features.4.block.1.0": {"groups": 0}},
        [],
        None,
    ],
    ids=str,
)
def test_absurd_channel_counts_are_refused_before_anything_is_allocated(folder: Path, channels: Any) -> None:
    """A stranger's file that asks for 10**12 channels must not fill the memory."""
    edit(folder, channels=channels)
    with pytest.raises(InputError, match=r"architecture\.json: |do not divide into 7 groups"):
        load_checkpoint(folder)


def test_plausible_counts_that_do_not_fit_the_weights_are_refused(folder: Path) -> None:
    stored = json.loads((folder / "architecture.json").read_text())["channels"]
    stored[LAYER]["out_channels"] -= 1
    edit(folder, channels=stored)
    with pytest.raises(InputError, match=r"does not fit architecture\.json: features\.4\.block\.0\.0\.weight"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"format": 2}, "format"),
        ({"format": None}, "format"),
        ({"colour": "red"}, "colour"),
        ({"image_size": 10**9}, "image_size"),
        ({"image_size": "big"}, "image_size"),
        ({"pad": "reflect"}, "pad"),
        ({"classes": ["one"]}, "classes"),
        ({"classes": "ab"}, "classes"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [0.5, 0.5, "x"]}, "std.2"),
        ({"std": [0.5, 0.5, 0.0]}, "std"),
        ({"std": [0.5, 0.5, -0.1]}, "std"),
        ({"network": 3}, "network"),
        ({"network": "mobilenet_v9"}, "mobilenet_v9"),
    ],
    ids=str,
)
def test_an_architecture_that_does_not_follow_the_format_is_refused(
    folder: Path, changes: dict[str, Any], where: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    assert where in caught.value.problem


def test_a_missing_key_is_named(folder: Path) -> None:
    path = folder / "architecture.json"
    values = json.loads(path.read_text())
    del values["classes"]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="classes: Field required"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xff", b"\x80\x02.", b"NaN", b"[" * 100_000])
def test_an_architecture_that_is_no_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "architecture.json").write_bytes(content)
    with pytest.raises(InputError, match=r"architecture\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("own_factory", [None, "mobilenet_v3_small", "own_code.own_network:network", "os:systems"])
def test_a_checkpoint_cannot_make_us_import_code(
    folder: Path, own_factory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made the file must not choose what runs here: only the recipe may."""
    edit(folder, network="os:system")

    def fail(name: str, *_: object, **__: object) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(InputError, match=r"asks to import 'os:system', which the recipe does not name"):
        load_checkpoint(folder, own_factory=own_factory)


@pytest.mark.parametrize(
    "network", ["timm/hf-hub:stranger/network", "timm/local-dir:.", "timm/../resnet10t", "timm/", "timm/resnet10t.tag"]
)
@pytest.mark.parametrize("own_factory", [None, "same"])
def test_a_checkpoint_names_networks_of_timms_own_list_only(
    folder: Path, network: str, own_factory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm also builds what a stranger has put on a hub, or in a folder, and fetches it first."""
    edit(folder, network=network)
    monkeypatch.setattr(timm(), "create_model", None)
    with pytest.raises(InputError, match=r"is not one of timm's|which the recipe does not name"):
        load_checkpoint(folder, own_factory=network if own_factory else None)


def test_loading_unpickles_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("pickle.load", None)
    load_checkpoint(folder)


# ---------------------------------------------------------------------------------------------- channel counts


def test_resizing_gives_zeros_of_the_new_shapes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.Linear(8, 2), nn.BatchNorm1d(2))
    resize_channels(
        network,
        {"0": {"out_channels": 5}, "1": {"num_features": 5}, "2": {"in_features": 5}, "3": {"num_features": 2}},
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert (shapes["0.weight"], shapes["0.bias"]) == ((5, 3, 3, 3), (5,))
    assert {shapes[f"1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")} == {(5,)}
    assert (shapes["2.weight"], shapes["2.bias"]) == ((2, 5), (2,))
    assert not any(parameter.any() for parameter in network.parameters())


def test_what_has_no_bias_or_statistics_gets_none() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    )
    resize_channels(network, {"0": {"in_channels": 2, "out_channels": 2, "groups": 2}, "1": {"num_features": 2}})
    assert network[0].weight.shape == (2, 1, 3, 3)
    assert network[0].bias is None
    assert list(network[1].state_dict()) == []


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"7": {"out_channels": 2}}, "no module '7' with out_channels"),
        ({"0": {"num_features": 2}}, "no module '0' with num_features"),
        ({"0": {"groups": 3}}, "4 input and 4 output channels do not divide into 3 groups"),
    ],
)
def test_counts_that_a_network_cannot_have_are_refused(channels: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resize_channels(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), channels)
