"""Early activations become ReLU where that was asked for, nowhere else, and a checkpoint remembers which."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.recipe.pruning_sections import ActivationsSection
from edgeprune.recipe.sections import Recipe
from edgeprune.zoo import (
    Checkpoint,
    NetworkSpec,
    build_network,
    checkpoint_digest,
    list_blocks,
    load_checkpoint,
    save_checkpoint,
    use_early_relu,
    with_early_relu,
)

SIZE = 64
CURVED = nn.Hardswish | nn.SiLU


def build(name: str, **spec: Any) -> nn.Module:
    return build_network(NetworkSpec(network=name, num_classes=2, image_size=SIZE, **spec))


def wrap(network: nn.Module, name: str) -> Checkpoint:
    return Checkpoint(
        network=network,
        spec=NetworkSpec(network=name, num_classes=2, image_size=SIZE),
        classes=("dark", "bright"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )


def curved(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, CURVED)}


def answers(network: nn.Module) -> Tensor:
    with torch.no_grad():
        answer: Tensor = network(torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    return answer


# ------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("mobilenet_v3_small", 13, ["features.0", "features.1"]),
        ("efficientnet_b0", 9, ["features.0", "features.1"]),
        ("resnet18", 9, ["conv1 bn1 relu maxpool", "layer1.0"]),
        ("densenet121", 8, ["features.conv0 features.norm0 features.relu0 features.pool0", "features.denseblock1"]),
        ("regnet_y_400mf", 5, ["stem", "trunk_output.block1"]),
        ("timm/mobilenetv3_small_050", 8, ["conv_stem bn1.norm bn1.act", "blocks.0"]),
        ("timm/repvgg_a0", 5, ["stem", "stages.0"]),
    ],
)
def test_blocks_are_what_a_person_would_count(name: str, count: int, first: list[str]) -> None:
    blocks = [" ".join(block) for block in list_blocks(build(name))]
    assert (len(blocks), blocks[:2]) == (count, first)


def test_blocks_of_a_wrapped_network_are_those_inside() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build("mobilenet_v3_small")
            self.head = nn.Linear(2, 2)

    assert list_blocks(Wrapper())[:2] == (("backbone.features.0",), ("backbone.features.1",))


def test_a_row_of_layers_is_one_block() -> None:
    assert list_blocks(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten())) == (("0", "1", "2"),)
    assert list_blocks(nn.Sequential(nn.Linear(3, 4))) == ()


# -------------------------------------------------------------------------------------------------- replacement


@pytest.mark.parametrize("blocks", [1, 3, 4, 5])
def test_only_the_first_blocks_change(blocks: int) -> None:
    """features.1 to features.3 of the reference network have no hard-swish."""
    network = build("mobilenet_v3_small")
    before = curved(network)
    early = {name for name in before if name.startswith(tuple(f"features.{index}." for index in range(blocks)))}
    names = use_early_relu(network, blocks=blocks)
    assert set(names) == early
    assert len(names) == {1: 1, 3: 1, 4: 1, 5: 3}[blocks]
    assert curved(network) == before - early
    assert all(type(network.get_submodule(name)) is nn.ReLU for name in names)


@pytest.mark.parametrize(
    ("name", "blocks", "first"),
    [
        ("efficientnet_b0", 1, "features.0.2"),
        ("timm/mobilenetv3_small_050", 1, "bn1.act"),
        ("timm/tinynet_e", 2, "bn1.act"),
    ],
)
def test_silu_and_timms_networks_change_too(name: str, blocks: int, first: str) -> None:
    network = build(name)
    names = use_early_relu(network, blocks=blocks)
    assert names[0] == first
    assert torch.isfinite(answers(network)).all()
    assert not curved(network) & set(names)


def test_the_network_computes_with_relu(disturbed: Callable[..., nn.Module]) -> None:
    """Against hooks that undo the hard-swish by hand."""
    network = disturbed("mobilenet_v3_small")
    by_hand = copy.deepcopy(network)
    before = answers(network)
    use_early_relu(network, blocks=1)
    by_hand.features[0][2] = nn.Identity()
    by_hand.features[0].register_forward_hook(lambda module, args, output: output.clamp(min=0))
    assert torch.equal(answers(network), answers(by_hand))
    assert not torch.equal(answers(network), before)


def test_weights_mode_and_whether_it_works_in_place_stay() -> None:
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish(inplace=True)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU(inplace=False)),
    ).train()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert use_early_relu(network, blocks=2) == ("0.1", "1.1")
    assert (network[0][1].inplace, network[1][1].inplace) == (True, False)
    assert network[0][1].training
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in weights.items())
    network(torch.randn(1, 3, 4, 4)).sum().backward()


def test_an_activation_that_later_blocks_share_stays_there() -> None:
    """One object under two names is common in networks of one's own."""
    shared = nn.Hardswish()
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), shared), nn.Sequential(nn.Conv2d(4, 4, 1), shared, shared)
    )
    assert use_early_relu(network, blocks=1) == ("0.1",)
    assert type(network[0][1]) is nn.ReLU
    assert network[1][1] is network[1][2] is shared


def test_a_block_that_is_run_twice_changes_in_both_places() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU())
    network = nn.Sequential(block, nn.Sequential(nn.Conv2d(3, 3, 1)), block)
    assert use_early_relu(network, blocks=2) == ("0.1",)
    assert type(network[0][1]) is type(network[2][1]) is nn.ReLU


def test_what_is_replaced_already_is_left_alone() -> None:
    network = build("mobilenet_v3_small")
    assert use_early_relu(network, blocks=1)
    assert use_early_relu(network, blocks=1) == ()


@pytest.mark.parametrize("blocks", [0, -1, 14])
def test_more_blocks_than_there_are_is_an_error_with_the_limit(blocks: int) -> None:
    network = build("mobilenet_v3_small")
    with pytest.raises(InputError, match=rf"activations\.blocks = {blocks} is outside 1 to 13"):
        use_early_relu(network, blocks=blocks)


# --------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm/tinynet_e"])
def test_a_checkpoint_comes_back_with_its_relus(disturbed: Callable[..., nn.Module], tmp_path: Path, name: str) -> None:
    original = wrap(disturbed(name), name)
    before = copy.deepcopy(original.network)
    student = with_early_relu(original, blocks=2)
    assert repr(original.network) == repr(before)  # the teacher stays
    assert original.spec.relu == ()
    save_checkpoint(tmp_path, student)
    loaded = load_checkpoint(tmp_path)
    assert loaded.spec == student.spec
    assert loaded.spec.relu != ()
    assert repr(loaded.network) == repr(student.network)
    assert torch.equal(answers(loaded.network), answers(student.network))
    assert not torch.equal(answers(loaded.network), answers(before))
    assert json.loads((tmp_path / "architecture.json").read_text())["channels"] == {}


def test_levels_go_on_from_levels() -> None:
    """The next step of a schedule starts from a network that has its ReLUs already."""
    first = with_early_relu(wrap(build("mobilenet_v3_small"), "mobilenet_v3_small"), blocks=1)
    assert first.spec.relu == ("features.0.2",)
    assert with_early_relu(first, blocks=1).spec == first.spec
    more = with_early_relu(first, blocks=5).spec.relu
    assert more == with_early_relu(wrap(build("mobilenet_v3_small"), "mobilenet_v3_small"), blocks=5).spec.relu
    assert len(more) == 3


def test_nothing_to_replace_is_an_error_and_no_silent_wish() -> None:
    with pytest.raises(InputError, match=r"changes nothing: the first 2 block\(s\) of resnet18 have no hard-swish"):
        with_early_relu(wrap(build("resnet18"), "resnet18"), blocks=2)


def test_the_choice_is_part_of_the_digest(tmp_path: Path) -> None:
    plain = wrap(build("mobilenet_v3_small"), "mobilenet_v3_small")
    save_checkpoint(tmp_path / "plain", plain)
    save_checkpoint(tmp_path / "relu", with_early_relu(plain, blocks=1))
    assert (tmp_path / "plain/model.safetensors").read_bytes() == (tmp_path / "relu/model.safetensors").read_bytes()
    assert checkpoint_digest(tmp_path / "plain") != checkpoint_digest(tmp_path / "relu")


def test_files_from_before_the_choice_stay_what_they_are(tmp_path: Path) -> None:
    """Levels name the checkpoint they were cut from by its digest."""
    shipped = Path(__file__).parent.parent / "models" / "elpv96"
    values = json.loads((shipped / "architecture.json").read_text())
    assert "relu" not in values
    loaded = load_checkpoint(shipped)
    save_checkpoint(tmp_path, loaded)
    saved = json.loads((tmp_path / "architecture.json").read_text())
    assert {**saved, "edgeprune": values["edgeprune"]} == values
    assert list(saved) == list(values)
    assert checkpoint_digest(tmp_path) == checkpoint_digest(shipped)
    assert checkpoint_digest(shipped) == json.loads((shipped / "record.json").read_text())["weights"]


@pytest.mark.parametrize(
    "relu", [["features.0.1"], ["features.99.2"], [""], ["features.0.2", "features"], "features.0.2", [3], None]
)
def test_names_that_are_no_activation_are_refused(tmp_path: Path, relu: object) -> None:
    """A stranger's file must not exchange a convolution for a ReLU."""
    save_checkpoint(tmp_path, wrap(build("mobilenet_v3_small"), "mobilenet_v3_small"))
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "relu": relu}))
    with pytest.raises(InputError, match=r"no hard-swish or SiLU|architecture\.json: relu"):
        load_checkpoint(tmp_path)


# -------------------------------------------------------------------------------------------------------- recipe


def test_the_recipe_keeps_activations_unless_told() -> None:
    assert Recipe(name="a").activations == ActivationsSection(early="keep", blocks=1)


@pytest.mark.parametrize("values", [{"early": "relu6"}, {"blocks": 0}, {"blocks": 1.5}, {"late": "relu"}])
def test_the_recipe_refuses_what_it_does_not_know(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="activations"):
        Recipe.model_validate({"name": "a", "activations": values})


@pytest.mark.parametrize("other", [{}, {"early": "relu", "blocks": 3}])
def test_shipped_weights_keep_their_name(other: dict[str, Any]) -> None:
    """The section stands beside `model`, whose digest names them."""
    plain, changed = Recipe(name="a"), Recipe(name="a", activations=ActivationsSection(**other))
    assert plain.part_digest("model") == changed.part_digest("model")
    assert (plain.part_digest("activations") == changed.part_digest("activations")) == (not other)
