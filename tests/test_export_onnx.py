"""The ONNX file: what it computes, what stands in it, and that it is the same file every time."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgeprune.errors import EdgepruneError
from edgeprune.export import OnnxExport, write_onnx
from edgeprune.verify import check_graph, check_parity, check_simplification, run_onnx
from edgeprune.zoo import NetworkSpec, SameConv2d, build_network

METADATA = {"name": "elpv96-s60", "layout": "NCHW RGB float32", "achieved": "0.6"}


def trained_like(network: nn.Module) -> nn.Module:
    """BatchNorm with real shifts and scales, which fresh ones do not have: else the exporter drops every bias."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


def reference_network(pad: str = "torch", image_size: int = 96) -> nn.Module:
    torch.manual_seed(0)
    spec = NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=image_size, pad=pad)  # type: ignore[arg-type]
    return trained_like(build_network(spec))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = (SameConv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return trained_like(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3)).eval())


def images(image_size: int, n: int = 4) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((n, 3, image_size, image_size), dtype=np.float32)


def export(network: nn.Module, path: Path, image_size: int = 32, *, dynamic_batch: bool = False) -> OnnxExport:
    probe = images(image_size, 2)
    return write_onnx(network, path, image_size=image_size, dynamic_batch=dynamic_batch, metadata=METADATA, probe=probe)


def torch_logits(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(inputs)).numpy()


def assert_same_answers(path: Path, network: nn.Module, inputs: np.ndarray) -> None:
    gates = check_parity(
        file_logits=run_onnx(path, inputs),
        torch_logits=torch_logits(network, inputs),
        min_agreement=1,
        max_difference=1e-4,
    )
    assert all(gate.passed for gate in gates), gates


@pytest.fixture(scope="module")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> OnnxExport:
    return export(reference_network(), tmp_path_factory.mktemp("reference") / "model.onnx", 96)


def test_the_file_answers_as_torch_does_and_passes_every_graph_gate(reference_file: OnnxExport) -> None:
    assert_same_answers(reference_file.path, reference_network(), images(96))
    assert all(gate.passed for gate in check_graph(reference_file.path)), check_graph(reference_file.path)
    assert reference_file.opset == 18
    assert reference_file.size_bytes == reference_file.path.stat().st_size
    assert reference_file.simplify_difference < 1e-5


def test_another_process_in_another_folder_writes_the_same_bytes(reference_file: OnnxExport, tmp_path: Path) -> None:
    """A digest in a manifest is worth something only when anyone can make the file again."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_export_onnx as t;"
        "t.export(t.reference_network(), Path('other.onnx'), 96)"
    )
    # Another hash seed, because an exporter that iterates over a set would differ only then.
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (tmp_path / "other.onnx").read_bytes() == reference_file.path.read_bytes()


def test_names_and_bytes_do_not_depend_on_what_was_exported_before(tmp_path: Path) -> None:
    """Counters that live as long as the process would give the second export other names."""
    first = export(small_network(), tmp_path / "first.onnx")
    second = export(small_network(), tmp_path / "second.onnx")
    assert first.path.read_bytes() == second.path.read_bytes()


def test_names_are_numbered_in_the_order_of_the_graph(reference_file: OnnxExport) -> None:
    """The exporter's own counters skip whatever it threw away on the way, and change with its version."""
    graph = onnx.load(reference_file.path).graph
    assert [node.name for node in graph.node] == [f"{node.op_type}_{index}" for index, node in enumerate(graph.node)]
    assert all(node.output == [f"{node.name}_output"] for node in graph.node[:-1])
    weights = {tensor.name for tensor in graph.initializer}
    assert "features.0.0.weight" in weights
    assert {name for name in weights if "." not in name} == {"constant_0", "constant_1"}


def test_memory_layout_of_the_weights_does_not_reach_the_file(tmp_path: Path) -> None:
    """Training runs in channels_last; a checkpoint that was loaded does not."""
    trained = small_network().to(memory_format=torch.channels_last)
    export(trained, tmp_path / "trained.onnx")
    export(small_network(), tmp_path / "loaded.onnx")
    assert (tmp_path / "trained.onnx").read_bytes() == (tmp_path / "loaded.onnx").read_bytes()


def test_only_our_metadata_is_in_the_file(reference_file: OnnxExport) -> None:
    """The exporter leaves some 250 KB of stack traces with the paths of the machine it ran on."""
    model = onnx.load(reference_file.path)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == sorted(METADATA.items())
    assert model.producer_name == "edgeprune"
    weights = sum(np.prod(tensor.dims) * 4 for tensor in model.graph.initializer)
    assert reference_file.size_bytes - weights < 40_000
    content = reference_file.path.read_bytes()
    assert b"stack_trace" not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("image_size", [96, 97])
def test_same_padding_needs_no_pad_operator(image_size: int, tmp_path: Path) -> None:
    """A PAD operator is a copy of the largest activation on a device; the convolution can pad for itself."""
    network = reference_network("same", image_size)
    export(network, tmp_path / "same.onnx", image_size)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "same.onnx").graph.node)
    assert operators["Pad"] == 0
    assert operators["Conv"] == 52
    assert_same_answers(tmp_path / "same.onnx", network, images(image_size))


def test_a_free_batch_is_named_and_any_size_runs(tmp_path: Path) -> None:
    network = small_network()
    export(network, tmp_path / "free.onnx", dynamic_batch=True)
    (source,) = onnx.load(tmp_path / "free.onnx").graph.input
    assert source.type.tensor_type.shape.dim[0].dim_param == "batch"
    inputs = images(32, 5)
    expected = torch_logits(network, inputs)
    for batch in (1, 2, 5, 64):
        np.testing.assert_allclose(run_onnx(tmp_path / "free.onnx", inputs, batch=batch), expected, atol=1e-5)
    assert all(gate.passed for gate in check_graph(tmp_path / "free.onnx"))


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    """A stage does not change what it was given: neither the mode, nor the layout, nor a weight."""
    network = small_network().to(memory_format=torch.channels_last).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export(network, tmp_path / "model.onnx")
    assert network.training
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Only the command line prints; the exporter would tell of its progress, with check marks."""
    export(small_network(), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


class Normalised(nn.Module):
    """GroupNorm becomes several operators, of which onnxsim makes fewer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.activation, self.head = nn.GroupNorm(1, 3), nn.GELU(), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.activation(self.norm(x)).mean(dim=(2, 3)))


def test_the_simplified_graph_is_kept_when_it_is_smaller_and_equal(tmp_path: Path) -> None:
    written = export(Normalised().eval(), tmp_path / "model.onnx")
    assert written.simplified
    assert written.size_bytes < written.plain_size_bytes
    assert_same_answers(written.path, Normalised().eval(), images(32))


def test_a_simplified_graph_that_answers_differently_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof must be able to fail: here the simplifier returns the graph with one weight changed."""
    simplify = onnxsim.simplify

    def break_a_weight(model: onnx.ModelProto, check_n: int) -> tuple[onnx.ModelProto, bool]:
        broken, _ = simplify(model, check_n=check_n)
        (head,) = (tensor for tensor in broken.graph.initializer if tensor.name == "head.weight")
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.01), head.name))
        return broken, True

    monkeypatch.setattr(onnxsim, "simplify", break_a_weight)
    written = export(Normalised().eval(), tmp_path / "model.onnx")
    assert not written.simplified
    assert written.simplify_difference > 1e-3
    assert not check_simplification(written.simplify_difference).passed
    assert_same_answers(written.path, Normalised().eval(), images(32))


def test_a_network_with_nan_is_written_for_the_gates_to_refuse(tmp_path: Path) -> None:
    """The candidate is kept for inspection; a traceback in the exporter would hide which weight it was.

    The simplified graph is smaller here, and is not taken: with NaN on both sides nothing was proven.
    """
    network = Normalised().eval()
    network.head.weight.data[0, 0] = float("nan")
    written = export(network, tmp_path / "nan.onnx")
    assert np.isnan(written.simplify_difference)
    assert not written.simplified
    assert {gate.name for gate in check_graph(written.path) if not gate.passed} == {"finite_weights"}


def test_an_operator_without_onnx_form_is_one_sentence(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x[:, 0]).real

    with pytest.raises(EdgepruneError, match="cannot export Odd to ONNX") as raised:
        export(Odd(), tmp_path / "model.onnx")
    assert "\n" not in raised.value.problem
    assert not list(tmp_path.iterdir())
