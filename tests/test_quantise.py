"""Remedies for int8: the network stays the same, and the int8 simulation is what LiteRT computes."""

import numpy as np
import pytest
import torch
from mcu_models import SIZE, TINY_MEAN, TINY_STD, nhwc, tiny_images, tiny_network
from torch import nn

from edgeprune.data import Dataset, PackedSplit
from edgeprune.errors import EdgepruneError
from edgeprune.export.tflite_file import convert_network
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, place_ranges, quantise_model
from edgeprune.preprocess import normalise_pixels
from edgeprune.quantise.condition import condition_network
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.quantise.graph import find_scale_groups
from edgeprune.quantise.recover_int8 import recover_int8
from edgeprune.quantise.rounding import RoundActivation, RoundedLayer
from edgeprune.quantise.simulate import read_back, read_ranges, set_ranges, simulate_int8
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.verify.litert import dequantise, read_io, run_litert
from edgeprune.zoo import SameConv2d
from edgeprune.zoo.torchvision_import import torchvision_models


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(normalise_pixels(tiny_images(32), TINY_MEAN, TINY_STD))


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision_models().mobilenet_v3_small(num_classes=2).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.uniform_(-0.2, 0.2)
    return network


def difference(one: nn.Module, other: nn.Module, images: torch.Tensor) -> float:
    with torch.inference_mode():
        return float((one(images) - other(images)).abs().max() / other(images).abs().max())


def test_folding_leaves_no_batchnorm_and_the_same_function(reference: nn.Module, images: torch.Tensor) -> None:
    folded = fold_batchnorm(reference)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert difference(folded, reference, images) < 1e-5
    assert any(isinstance(module, nn.BatchNorm2d) for module in reference.modules())


def test_equalising_changes_ranges_and_not_the_function(reference: nn.Module, images: torch.Tensor) -> None:
    """Only a hard-swish's nearly straight channels are approximated; everything else is exact."""
    ready = condition_network(reference, images)
    assert ready.equalised_channels > 500
    assert difference(ready.network, reference, images) < 0.06
    exact = condition_network(reference, images, equalise=False)
    assert exact.equalised_channels == 0
    assert difference(exact.network, reference, images) < 1e-4


def test_equalising_narrows_the_spread_between_channels_of_one_tensor(images: torch.Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        network[0].weight *= torch.logspace(-3, 0, 8).view(-1, 1, 1, 1)
        network[0].bias.copy_(torch.logspace(-3, 0, 8))

    def spread(module: nn.Module) -> float:
        group = next(each for each in find_scale_groups(module, images) if each.producers == ("0",))
        return float(group.high.max() / group.high.min())

    before, ready = spread(network.eval()), condition_network(network, images)
    assert before > 100
    assert spread(ready.network) < 1.1
    assert difference(ready.network, network, images) < 1e-5


def test_a_dead_unit_goes_and_its_constant_moves_into_the_next_bias(images: torch.Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    with torch.no_grad():
        network[0].weight[2:4] = 0
        network[0].bias[2:4] = torch.tensor([0.7, -0.7])
    ready = condition_network(network, images)
    assert ready.dead_units == 2
    assert ready.network[0].out_channels == ready.network[2].in_channels == 4
    assert difference(ready.network, network, images) < 1e-5


def test_a_vanished_row_is_floored_so_that_its_bias_fits_int32(images: torch.Tensor) -> None:
    """Left alone, bias / (input step * weight step) overflows and int8 falls to chance, without an error."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        network[0].weight[1] = 1e-12
        network[0].bias[1] = 2.0
    ready = condition_network(network, images)
    assert ready.floored_rows == 1
    step = float(images.max() - images.min()) / 255
    row = ready.network[0].weight[1].detach().abs().max() / 127
    assert float(ready.network[0].bias[1].detach().abs() / (step * row)) <= 2**28 * 1.001
    assert difference(ready.network, network, images) < 1e-3


def test_a_network_that_cannot_be_traced_is_refused_with_a_sentence(images: torch.Tensor) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(EdgepruneError, match="Odd cannot be traced for int8"):
        fold_batchnorm(Odd())


def test_the_simulation_decides_as_litert_does(images: torch.Tensor) -> None:
    """Training through a simulation is worth what the simulation is worth."""
    ready = condition_network(tiny_network(), images).network
    simulated = simulate_int8(ready)
    set_ranges(simulated, images, "min_max")
    model = convert_network(ready, image_size=SIZE)
    otherwise = choose_ranges(model.content, observe_ranges(model.content, nhwc(tiny_images(32))), "min_max")
    ranges = place_ranges(model, read_ranges(simulated), otherwise=otherwise)
    assert set(read_ranges(simulated)) == {"input", *model.layers}
    content = quantise_model(model.content, ranges)
    file = read_io(content)
    assert file.input is not None
    assert file.output is not None
    stored = np.clip(np.round(nhwc(tiny_images(32)) / file.input.scale) + file.input.zero_point, -128, 127)
    logits = dequantise(run_litert(content, stored.astype(np.int8), reference=True), file.output)
    with torch.inference_mode():
        expected = simulated(images).numpy()
    assert np.abs(logits - expected).max() <= 3 * file.output.scale


def test_training_through_the_simulation_reaches_the_weights_and_reads_back(images: torch.Tensor) -> None:
    ready = condition_network(tiny_network(), images).network
    simulated = simulate_int8(ready)
    set_ranges(simulated, images, "mse")
    simulated(images).square().mean().backward()
    assert all(parameter.grad is not None for parameter in simulated.parameters())
    with torch.no_grad():
        for parameter in simulated.parameters():
            parameter.add_(1.0)
    trained = read_back(simulated, ready)
    for (name, after), before in zip(trained.named_parameters(), ready.parameters(), strict=True):
        if before.dim() == 1:
            assert torch.equal(after, before + 1), name
            continue
        moved = (before.detach() + 1).flatten(1)
        step = moved.abs().amax(1, keepdim=True) / 127
        assert torch.allclose(after.flatten(1), (moved / step).round() * step, rtol=1e-5), name


def test_a_weight_between_two_steps_becomes_the_same_integer_in_the_file(images: torch.Tensor) -> None:
    """Where training leaves weights: torch and the exporter round ties to different sides."""
    ready = condition_network(tiny_network(), images).network
    simulated = simulate_int8(ready)
    set_ranges(simulated, images, "min_max")
    layers = {name: module for name, module in simulated.named_modules() if isinstance(module, RoundedLayer)}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers.values():
            weight = layer.layer.weight
            ties = torch.randint(-126, 125, weight.shape, generator=generator) + 0.5
            ties.flatten(1)[:, 0] = 127
            weight.copy_(ties * weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) / 127)
    model = convert_network(read_back(simulated, ready), image_size=SIZE)
    otherwise = choose_ranges(model.content, observe_ranges(model.content, nhwc(tiny_images(32))), "min_max")
    content = read_model(quantise_model(model.content, otherwise))
    compared = 0
    for operator, kind, name in zip(content.subgraphs[0].operators, operator_names(content), model.layers, strict=True):
        if name not in layers:
            continue
        weight = layers[name].rounded_weight().detach()
        steps = weight / weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) * 127
        stored = content.buffers[content.subgraphs[0].tensors[operator.inputs[1]].buffer].data
        wanted = steps.round().numpy()
        if wanted.ndim == 4:
            wanted = wanted[:, 0].transpose(1, 2, 0) if kind == "DEPTHWISE_CONV_2D" else wanted.transpose(0, 2, 3, 1)
        assert np.array_equal(np.frombuffer(bytes(bytearray(stored)), np.int8), wanted.ravel()), name
        compared += 1
    assert compared == len(layers)


def test_the_ends_of_a_range_learn_what_clipping_and_steps_cost() -> None:
    """Too narrow, and the gradient widens it; too wide for what is seen, and it narrows."""
    torch.manual_seed(0)
    values = torch.randn(4, 1000)

    def pull(low: float, high: float) -> tuple[float, float]:
        rounding = RoundActivation("", also={}, floor=float("-inf"), ends_block=False)
        rounding.set_range(low, high)
        (rounding(values) - values).square().mean().backward()
        assert rounding.stretch.grad is not None
        return float(rounding.stretch.grad[0]), float(rounding.stretch.grad[1])

    # Both ends are multiplied: a negative gradient lets a range grow.
    assert max(pull(-1.0, 1.0)) < 0
    assert min(pull(-40.0, 40.0)) > 0


def test_rounding_passes_the_gradient_inside_its_range_only() -> None:
    rounding = RoundActivation("", also={}, floor=float("-inf"), ends_block=False)
    rounding.set_range(-1.0, 1.0)
    values = torch.tensor([-2.0, -0.5, 0.003, 0.9, 3.0], requires_grad=True)
    rounding(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_recovery_follows_the_ends_of_blocks(reference: nn.Module, images: torch.Tensor) -> None:
    """Sums, and what projections give before them; nothing that an activation still changes."""
    simulated = simulate_int8(condition_network(reference, images).network)
    ends = [m.place for m in simulated.modules() if isinstance(m, RoundActivation) and m.ends_block]
    assert ends[:4] == ["features.1.block.2.0", "features.2.block.2.0", "features.3.block.2.0", "features.3"]
    assert ends[-1] == "classifier.3"
    assert "features.0.0" not in ends


def test_recovery_brings_int8_nearer_to_float_and_leaves_the_network_alone(images: torch.Tensor) -> None:
    network = condition_network(tiny_network(), images, equalise=False).network
    with torch.no_grad():
        network[0][0].weight[0] *= 20  # one channel decides the step of all
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pixels = tiny_images(32)
    split = PackedSplit(
        name="train", images=pixels, labels=np.arange(32) % 2, names=tuple(f"{i}.png" for i in range(32))
    )
    dataset = Dataset(
        source="imagefolder", classes=("a", "b"), image_size=SIZE, train=split, val=split, test=split,
        digest="", split_digest="", skipped=(), credit="",
    )  # fmt: skip
    fit = recover_int8(
        network, images=images, method="min_max", dataset=dataset, mean=TINY_MEAN, std=TINY_STD, epochs=20, lr=1e-3,
        batch_size=8, augment=None, seed=0,
    )  # fmt: skip

    def distance(weights: nn.Module, ranges: dict[str, tuple[float, float]] | None) -> float:
        simulated = simulate_int8(weights)
        set_ranges(simulated, images, "min_max")
        for module in simulated.modules():
            if ranges is not None and isinstance(module, RoundActivation):
                module.set_range(*ranges[module.place])
        with torch.inference_mode():
            return float((simulated(images) - network(images)).square().mean())

    assert distance(fit.network, fit.ranges) < 0.5 * distance(network, None)
    assert len(fit.epochs) == 20
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_rounded_tensor_is_written_over(reference: nn.Module, images: torch.Tensor) -> None:
    """torchvision's blocks add in place, and their hard-swishes work in place."""
    simulated = simulate_int8(condition_network(reference, images).network)
    set_ranges(simulated, images, "min_max")
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in simulated.modules():
        if isinstance(module, RoundActivation):
            module.register_forward_hook(lambda _, __, result: given.append((result, result.detach().clone())))
    simulated(images[:2]).sum().backward()
    assert len(given) > 40
    assert all(torch.equal(after, before) for after, before in given)


def test_what_only_a_hard_swish_reads_starts_at_minus_three(images: torch.Tensor) -> None:
    simulated = simulate_int8(condition_network(tiny_network(), images).network)
    set_ranges(simulated, images * 20, "min_max")
    lows = {m.place: float(m.ends()[0].detach()) for m in simulated.modules() if isinstance(m, RoundActivation)}
    assert lows["0.0"] == lows["2.0"] == -3.0
    assert lows["input"] < -3.0


def test_padding_by_the_same_rule_survives_every_remedy(images: torch.Tensor) -> None:
    ready = condition_network(tiny_network(pad_same=True), images).network
    assert any(isinstance(module, SameConv2d) for module in ready.modules())
