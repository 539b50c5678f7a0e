"""Writing other weights into a converted model: the same bytes as converting again, or a refusal."""

import copy
from collections.abc import Callable

import pytest
import torch
from mcu_models import SIZE, tiny_images, tiny_network
from torch import nn

from edgeprune.export.tflite_file import FloatModel, convert_network
from edgeprune.export.tflite_weights import replace_weights
from edgeprune.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise_pixels
from edgeprune.quantise.condition import condition_network
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.tflite_format import read_model, write_model


class Gated(nn.Module):
    """A squeeze-excite gate: its hard sigmoid adds 3 to a bias in the file, and one of its units is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2, self.gate = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        x = x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def gated() -> tuple[nn.Module, FloatModel]:
    torch.manual_seed(0)
    network = Gated().eval()
    with torch.no_grad():
        network.fc1.weight[2] = 0
        network.fc1.bias[2] = 0.5
    return network, convert_network(network, image_size=SIZE)


def test_other_weights_give_the_bytes_that_converting_again_gives(gated: tuple[nn.Module, FloatModel]) -> None:
    """The dead unit is gone, so channels in between are fewer too."""
    network, model = gated
    images = torch.from_numpy(normalise_pixels(tiny_images(8), IMAGENET_MEAN, IMAGENET_STD))
    ready = condition_network(network, images)
    assert ready.dead_units == 1
    written = replace_weights(model, network, ready.network)
    assert written is not None
    assert written.content == convert_network(ready.network, image_size=SIZE).content
    assert written.content != model.content


def test_a_network_of_other_layers_is_refused(gated: tuple[nn.Module, FloatModel]) -> None:
    network, model = gated
    other = copy.deepcopy(network)
    other.stem.stride = (1, 1)
    assert replace_weights(model, network, other) is None
    assert replace_weights(model, network, fold_batchnorm(tiny_network())) is None


def test_weights_that_do_not_stand_in_the_file_as_in_the_network_are_refused(
    gated: tuple[nn.Module, FloatModel],
) -> None:
    """A converter that has scaled them on its way would have its work undone."""
    network, model = gated
    content = read_model(model.content)
    graph = content.subgraphs[0]
    buffer = content.buffers[graph.tensors[graph.operators[0].inputs[1]].buffer]
    changed = bytearray(bytes(bytearray(buffer.data)))
    changed[0] ^= 1
    buffer.data = changed
    assert replace_weights(FloatModel(content=write_model(content), layers=model.layers), network, network) is None


@pytest.mark.long
@pytest.mark.parametrize("factory", ["mobilenet_v3_small", "mobilenet_v2", "resnet18"])
def test_real_networks_are_written_as_they_are_converted(disturbed: Callable[..., nn.Module], factory: str) -> None:
    first, second = (fold_batchnorm(disturbed(factory, seed=seed).eval()) for seed in (0, 1))
    written = replace_weights(convert_network(first, image_size=64), first, second)
    assert written is not None
    assert written.content == convert_network(second, image_size=64).content
