"""The int8 ONNX file: what it computes, what onnxruntime makes of it, and that it is the same file every time."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, numpy_helper
from onnx_models import METADATA, SIZE, Residual, export, images, small_float, small_int8
from torch import nn

from edgeprune.calibration import METHODS, summarise
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.export.onnx_int8 import WEIGHT_STEPS, choose_onnx_ranges, observe_onnx, quantise_onnx
from edgeprune.quantise.condition import condition_network
from edgeprune.verify import check_graph, check_metadata, run_onnx
from edgeprune.verify.onnx_int8 import check_onnx_int8
from edgeprune.zoo import NetworkSpec, build_network


def logits(content: bytes, inputs: np.ndarray, *, fuse: bool = True) -> np.ndarray:
    """As onnxruntime computes it, in integers or, without fusing, as the file says it step by step."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"input": image[None]})[0] for image in inputs])


def sqnr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


def quantise(content: bytes, inputs: np.ndarray, method: str = "min_max") -> bytes:
    ranges = choose_onnx_ranges(content, observe_onnx(content, inputs), method)
    return quantise_onnx(content, ranges, metadata=METADATA)


def failed(content: bytes) -> set[str]:
    return {gate.name for gate in check_onnx_int8(content, path="m") if not gate.passed}


def stored(content: bytes) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in ModelProto.FromString(content).graph.initializer}


@pytest.mark.parametrize("method", METHODS)
def test_int8_logits_follow_the_float_ones_by_every_method(method: str) -> None:
    inputs = images()
    assert sqnr_db(logits(small_int8(method), inputs), logits(small_float(), inputs)) > 20


def test_the_integer_kernels_compute_what_the_file_says() -> None:
    """Step by step in float nothing can saturate: a difference would be products that did, on this very processor."""
    inputs = images()
    fused, plain = logits(small_int8(), inputs), logits(small_int8(), inputs, fuse=False)
    wanted = logits(small_float(), inputs)
    assert abs(sqnr_db(fused, wanted) - sqnr_db(plain, wanted)) < 0.5
    assert sqnr_db(fused, plain) > 35


def test_every_gate_passes_and_onnxruntime_runs_every_layer_in_int8() -> None:
    gates = {gate.name: gate for gate in check_onnx_int8(small_int8(), path="m")}
    assert all(gate.passed for gate in gates.values())
    assert "2 QGemm, 6 QLinearConv" in gates["float_kernels:m"].detail


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_the_int8_file_takes_the_float_file_s_place(dynamic_batch: bool, tmp_path: Path) -> None:
    """Same name and shape of input and output, float32 both; so who runs one runs the other."""
    content = small_float(dynamic_batch=dynamic_batch)
    path = tmp_path / "model_int8.onnx"
    path.write_bytes(quantise(content, images()))
    assert all(gate.passed for gate in check_graph(path))
    assert check_metadata(path, METADATA).passed
    one, other = ModelProto.FromString(content).graph, ModelProto.FromString(path.read_bytes()).graph
    assert list(one.input) == list(other.input)
    assert list(one.output) == list(other.output)
    batch = run_onnx(path, images(4), batch=4)
    np.testing.assert_allclose(batch, logits(path.read_bytes(), images(4)), atol=1e-5)


def test_only_what_is_asked_for_stands_in_the_metadata() -> None:
    """Among what the quantizer leaves is a mark of its own."""
    model = ModelProto.FromString(small_int8())
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert (model.producer_name, model.producer_version) == ("edgeprune", "")


def test_weights_lie_in_64_steps_around_zero_and_use_all_of_them() -> None:
    """Rounding beforehand works only on the same steps: the largest weight of a row is the last step."""
    plain, found = stored(small_float()), stored(small_int8())
    weights = [name for name, value in plain.items() if name.endswith("weight") and value.ndim > 1]
    assert len(weights) == 8
    for name in weights:
        rows, steps = plain[name].reshape(len(plain[name]), -1), found[f"{name}_quantized"]
        assert steps.dtype == np.int8
        assert (np.abs(steps.reshape(len(steps), -1).astype(int)).max(1) == WEIGHT_STEPS).all()
        np.testing.assert_allclose(found[f"{name}_scale"], np.abs(rows).max(1) / WEIGHT_STEPS, rtol=1e-6)
        assert np.abs(steps.reshape(rows.shape) - rows / found[f"{name}_scale"][:, None]).max() <= 0.5001


def test_equal_weights_and_ranges_are_equal_bytes_in_every_process(tmp_path: Path) -> None:
    """Python orders sets by a hash that differs between processes; none of it may reach the file."""
    content = small_float()
    ranges = choose_onnx_ranges(content, observe_onnx(content, images()), "mse")
    (tmp_path / "float.onnx").write_bytes(content)
    (tmp_path / "ranges.json").write_text(json.dumps(ranges))
    code = (
        "import hashlib, json, sys; from pathlib import Path; from edgeprune.export.onnx_int8 import quantise_onnx\n"
        "folder = Path(sys.argv[1]); ranges = json.loads((folder / 'ranges.json').read_text())\n"
        "made = quantise_onnx((folder / 'float.onnx').read_bytes(), ranges, metadata={'b': '1', 'a': '2'})\n"
        "sys.stdout.write(hashlib.sha256(made).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True, timeout=120
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) == 64
    assert not any(run.stderr for run in runs)


def test_nothing_is_printed_logged_or_warned(capfd: pytest.CaptureFixture[str], caplog: object) -> None:
    small_int8.cache_clear()
    small_int8()
    assert capfd.readouterr() == ("", "")
    assert isinstance(caplog, pytest.LogCaptureFixture)
    assert caplog.records == []


def test_observing_says_of_a_tensor_what_it_holds() -> None:
    """Twenty images are one batch and a part of one."""
    content, inputs = small_float(), images(20)
    done: list[tuple[int, int]] = []
    seen = observe_onnx(content, inputs, progress=lambda *step: done.append(step))
    assert done == [(16, 20), (20, 20)]
    wanted = summarise(inputs)
    np.testing.assert_array_equal(seen["input"].per_image_low, wanted.per_image_low)
    np.testing.assert_array_equal(seen["input"].histogram, wanted.histogram)
    graph = ModelProto.FromString(content).graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert {node.input[0] for node in layers} <= set(seen)
    assert {node.output[0] for node in layers if node.op_type == "Conv"} <= set(seen)
    # Its result stays float, so that logits have as many values as they like.
    assert "logits" not in seen


def test_no_step_is_spent_below_what_a_hard_swish_lets_through() -> None:
    content = small_float()
    model = ModelProto.FromString(content)
    swish = next(node for node in model.graph.node if node.op_type == "HardSwish").input[0]
    statistics = {swish: summarise(np.asarray([[-9.0, 5.0]], np.float32)), "input": summarise(np.zeros((1, 1)))}
    ranges = choose_onnx_ranges(content, statistics, "min_max")
    assert ranges[swish] == (-3.0, 5.0)
    # A tensor of zeros still has a step.
    assert ranges["input"][0] == 0 < ranges["input"][1]


def test_logits_are_not_rounded() -> None:
    """256 values for a logit saturate: a matrix product in int8 gives float32 as it is."""
    model = ModelProto.FromString(small_int8())
    last = next(node for node in model.graph.node if "logits" in node.output)
    assert last.op_type == "Gemm"


def test_a_missing_range_is_an_error() -> None:
    with pytest.raises(EdgepruneError, match=r"tensors have no range \(input"):
        quantise_onnx(small_float(), {}, metadata={})


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="are no ONNX file"):
        observe_onnx(content, images(1))
    with pytest.raises(InputError, match="are no ONNX file"):
        quantise_onnx(content, {}, metadata={})


def test_a_tiny_row_beside_a_large_bias_does_not_overflow() -> None:
    """A row that weight decay has shrunk: its bias in steps of its own weights is beyond int32."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        network[0].weight[1] *= 1e-12
        network[0].bias[1] = 1.0
    content = export(network.eval())
    made = quantise(content, images())
    assert sqnr_db(logits(made, images()), logits(content, images())) > 20
    # It is made to fit, without room for the products; conditioning gives it that, and the gate says where it lacks.
    assert failed(made) <= {"bias_fits_int32:m"}
    ready = condition_network(network, torch.from_numpy(images()))
    assert failed(quantise(export(ready.network), images())) == set()


def relu_after_addition() -> nn.Module:
    block = Residual(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), block, nn.ReLU(), *head)


def relu6_and_silu() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.SiLU(), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers, nn.ReLU6(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))


class ChannelsLast(nn.Module):
    """Linear layers over channels, which become a matrix product and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.wide, self.narrow, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        x = x + self.narrow(torch.relu(self.wide(x)))
        return self.head(x.mean((1, 2)))


def convolutional_head() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("make", [relu_after_addition, relu6_and_silu, ChannelsLast, convolutional_head])
def test_other_kinds_of_network_become_int8_without_a_float_layer(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    content = export(make().eval())
    made = quantise(content, images())
    assert failed(made) == set()
    assert sqnr_db(logits(made, images()), logits(content, images())) > 15


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "mobilenet_v2", "resnet18", "efficientnet_b0", "squeezenet1_1", "mnasnet0_5"]
)
def test_known_networks_become_int8_without_a_float_layer(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSpec(network=name, num_classes=2, image_size=64, pad="torch"))
    inputs = np.random.default_rng(0).standard_normal((32, 3, 64, 64), dtype=np.float32)
    with torch.no_grad():
        network.train()(torch.from_numpy(inputs))
    ready = condition_network(network.eval(), torch.from_numpy(inputs))
    content = export(ready.network, size=64)
    made = quantise(content, inputs[:16])
    assert failed(made) == set()
    # Weights are a quarter; scales, names and pairs come on top.
    assert len(made) < 0.4 * len(content)
    counted = Counter(node.op_type for node in onnx.load_from_string(made).graph.node)
    assert counted["QuantizeLinear"] > 10


def test_size_is_that_of_the_images_it_was_exported_for() -> None:
    """Shapes in between are not stored; what reads the file infers them from its input."""
    model = onnx.shape_inference.infer_shapes(ModelProto.FromString(small_int8()), strict_mode=True)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, SIZE, SIZE]
    known = {value.name for value in model.graph.value_info}
    assert {name for node in model.graph.node for name in node.output} <= known | {"logits"}
