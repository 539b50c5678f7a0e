"""The widest hard-swish in parts: the same answers, in less memory, at scales of their own."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.errors import EdgepruneError
from edgeprune.export.tflite_file import convert_network, strip_model
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, place_ranges, quantise_model
from edgeprune.quantise.condition import condition_network
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.quantise.parts import Parts, compute_in_parts
from edgeprune.quantise.simulate import read_ranges, set_ranges, simulate_int8
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.litert import dequantise, read_io, run_litert
from edgeprune.verify.liveness import find_peak
from edgeprune.verify.micro import run_micro
from edgeprune.zoo import NetworkSpec, SameConv2d, build_network

SIZE = 96


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Folded; channels of every layer are told apart by their BatchNorm."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=SIZE, pad="same"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.uniform_(-0.2, 0.2)
            nn.init.uniform_(module.weight, 0.2, 3.0)
            nn.init.uniform_(module.bias, -1.0, 1.0)
    return fold_batchnorm(network.eval())


def find_parts(network: nn.Module) -> list[Parts]:
    return [module for module in network.modules() if isinstance(module, Parts)]


def test_parts_answer_what_the_whole_answers(reference: nn.Module, images: torch.Tensor) -> None:
    network = copy.deepcopy(reference).double()
    sizes = compute_in_parts(network, images.double())
    assert sizes == (4, 4, 8)
    (parts,) = find_parts(network)
    kinds = [[type(layer) for layer in branch] for branch in parts.children()]
    assert kinds == [[SameConv2d, nn.Hardswish, SameConv2d, nn.ReLU]] * 3
    with torch.inference_mode():
        whole, split = copy.deepcopy(reference).double()(images.double()), network(images.double())
    assert float((split - whole).abs().max()) < 1e-9 * float(whole.abs().max())


def test_small_ranges_are_not_put_together_with_large_ones(reference: nn.Module, images: torch.Tensor) -> None:
    network = copy.deepcopy(reference)
    seen: list[torch.Tensor] = []
    compute_in_parts(network, images)
    for branch in find_parts(network)[0].children():
        branch[1].register_forward_hook(lambda _, __, result: seen.append(result.detach().abs()))
    with torch.inference_mode():
        network(images)
    reach = [values.transpose(0, 1).flatten(1).quantile(0.999, dim=1) for values in seen]
    for one, other in pairwise(reach):
        assert float(one.max()) <= float(other.min()) * (1 + 1e-6)


def test_the_file_needs_less_memory_in_tflite_micro_and_computes_the_same(
    reference: nn.Module, images: torch.Tensor
) -> None:
    channels_last = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())

    def make(network: nn.Module) -> list[int]:
        model = convert_network(network, image_size=SIZE)
        ranges = choose_ranges(model.content, observe_ranges(model.content, channels_last), "min_max")
        content = strip_model(quantise_model(model.content, ranges))
        file = read_io(content)
        stored = np.clip(np.round(channels_last / file.input.scale) + file.input.zero_point, -128, 127).astype(np.int8)
        run = run_micro(content, stored)
        assert np.abs(run.outputs.astype(int) - run_litert(content, stored, reference=True)).max() <= 1
        assert run.head_bytes == find_peak(content).peak_bytes
        kinds = operator_names(read_model(content))
        assert "QUANTIZE" not in kinds, "a part has another scale than the whole"
        return [run.head_bytes, kinds.count("CONCATENATION")]

    split = copy.deepcopy(reference)
    compute_in_parts(split, images)
    assert make(reference) == [73_728, 0]
    assert make(split) == [51_840, 1]


def test_the_simulation_of_parts_is_what_litert_computes(reference: nn.Module, images: torch.Tensor) -> None:
    ready = condition_network(reference, images).network
    assert find_parts(ready)
    simulated = simulate_int8(ready)
    set_ranges(simulated, images, "min_max")
    channels_last = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    model = convert_network(ready, image_size=SIZE)
    found = read_ranges(simulated)
    assert set(found) == {"input", *model.layers}
    assert found["features.1.block.0.0"] == found["features.1.block.0.0.0.2"] == found["features.1.block.0.0.2.2"]
    assert found["features.1.block.0.0.0.1"] != found["features.1.block.0.0.2.1"]
    otherwise = choose_ranges(model.content, observe_ranges(model.content, channels_last), "min_max")
    content = quantise_model(model.content, place_ranges(model, found, otherwise=otherwise))
    file = read_io(content)
    stored = np.clip(np.round(channels_last / file.input.scale) + file.input.zero_point, -128, 127).astype(np.int8)
    logits = dequantise(run_litert(content, stored, reference=True), file.output)
    with torch.inference_mode():
        expected = simulated(images).numpy()
    noise = np.abs(expected - reference(images).detach().numpy()).max()
    assert np.abs(logits - expected).max() <= max(noise, 3 * file.output.scale)


class Small(nn.Module):
    """A stem with one depthwise reader, after which channels are told apart, or not."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end
        self.conv, self.act = nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish()
        self.depthwise, self.project = nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.Conv2d(16, 2, 1)
        self.other = nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.act(self.conv(x)))
        if self.end == "concatenated":
            x = torch.cat([x, x.relu()], dim=1)[:, :16]
        if self.end == "read twice":
            return self.project(x).mean((2, 3)) + self.project(self.other(x)).mean((2, 3))
        return x.mean((2, 3)) if self.end == "output" else self.project(x).mean((2, 3))


@pytest.mark.parametrize(
    ("end", "expected"), [("read", (4, 4, 8)), ("read twice", ()), ("concatenated", ()), ("output", ())]
)
def test_channels_that_something_tells_apart_stay_where_they_are(end: str, expected: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    network = Small(end).eval()
    before = network(images).detach()
    assert compute_in_parts(network, images) == expected
    assert torch.allclose(network(images), before, atol=1e-6)


def test_a_hard_swish_that_does_not_decide_memory_stays_whole(images: torch.Tensor) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
    ).eval()  # fmt: skip
    assert compute_in_parts(network, images) == ()
    assert not find_parts(network)


def test_a_network_that_cannot_be_traced_is_refused(images: torch.Tensor) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(EdgepruneError, match="cannot be traced"):
        compute_in_parts(Odd(), images)
