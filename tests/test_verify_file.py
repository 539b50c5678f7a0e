"""Gates on the file: each one is shown failing on a real file damaged in exactly that way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from edgeprune.errors import InputError
from edgeprune.export import write_onnx
from edgeprune.results import Gate
from edgeprune.verify import check_graph, check_metadata, check_parity, open_session, read_metadata, run_onnx

METADATA = {"name": "tiny-s60", "labels": '["good", "bad"]', "image_size": "16"}
ALL = {"onnx_checker", "onnxruntime_runs", "opset", "single_file", "finite_weights", "names", "no_local_paths"}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 2)).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((32, 3, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def sound(network: nn.Module, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "model.onnx"
    write_onnx(network, path, image_size=16, dynamic_batch=False, metadata=METADATA, probe=images[:2])
    return path


@pytest.fixture
def damage(sound: Path, tmp_path: Path) -> Callable[[Callable[[ModelProto], object]], Path]:
    def apply(change: Callable[[ModelProto], object]) -> Path:
        model = ModelProto.FromString(sound.read_bytes())
        change(model)
        path = tmp_path / "damaged.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return apply


Damage = Callable[[Callable[[ModelProto], object]], Path]


def failed(gates: tuple[Gate, ...]) -> set[str]:
    return {gate.name for gate in gates if not gate.passed}


def test_a_sound_file_passes_every_gate(sound: Path) -> None:
    gates = check_graph(sound)
    assert {gate.name for gate in gates} == ALL
    assert failed(gates) == set()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("packed", [True, False])
def test_one_bad_weight_among_all_fails_finite_weights(damage: Damage, value: float, packed: bool) -> None:
    """ONNX stores numbers as raw bytes or as a list; a gate that reads one of the two misses the other."""

    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[5] = value
        name = tensor.name
        stored = numpy_helper.from_array(values, name)
        tensor.CopyFrom(stored if packed else helper.make_tensor(name, TensorProto.FLOAT, values.shape, values.ravel()))

    gates = check_graph(damage(change))
    assert failed(gates) == {"finite_weights"}
    (gate,) = (gate for gate in gates if gate.name == "finite_weights")
    assert gate.figure == 1


def test_infinity_in_an_attribute_fails_finite_weights(damage: Damage) -> None:
    def change(model: ModelProto) -> None:
        (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
        del gemm.attribute[:]
        gemm.attribute.extend([helper.make_attribute("alpha", float("inf")), helper.make_attribute("transB", 1)])

    assert failed(check_graph(damage(change))) == {"finite_weights"}


def test_another_opset_fails(damage: Damage) -> None:
    """The exporter has written 18 when asked for 17, without a word."""
    path = damage(lambda model: setattr(model.opset_import[0], "version", 17))
    assert "opset" in failed(check_graph(path))


def test_a_second_operator_set_fails(damage: Damage) -> None:
    """A device's runtime has the standard operators only."""
    assert failed(check_graph(damage(lambda model: model.opset_import.add(domain="com.microsoft", version=1)))) == {
        "opset"
    }


def test_weights_in_a_second_file_fail(sound: Path, tmp_path: Path) -> None:
    """Whoever copies model.onnx alone would copy no weights."""
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(sound), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    gates = check_graph(path)
    assert "single_file" in failed(gates)
    (gate,) = (gate for gate in gates if gate.name == "single_file")
    assert isinstance(gate.figure, int)
    assert gate.figure > 0


@pytest.mark.parametrize(
    "trace",
    ["/home/ana/net.py", "see /tmp/build-7/x", "/root/net.py", "/Users/ana/net.py", "C:\\Users\\ana\\net.py"],
)
@pytest.mark.parametrize("place", ["model doc", "node doc", "metadata", "node metadata", "tensor name", "attribute"])
def test_a_path_of_this_machine_fails_wherever_it_stands(damage: Damage, trace: str, place: str) -> None:
    def change(model: ModelProto) -> None:
        node = model.graph.node[0]
        if place == "model doc":
            model.doc_string = trace
        elif place == "node doc":
            node.doc_string = trace
        elif place == "metadata":
            model.metadata_props.add(key="note", value=trace)
        elif place == "node metadata":
            node.metadata_props.add(key="stack_trace", value=trace)
        elif place == "tensor name":
            node.name = trace
        else:
            node.attribute.append(helper.make_attribute("auto_pad_note", trace))

    assert "no_local_paths" in failed(check_graph(damage(change)))


def test_the_working_directory_fails_wherever_it_is(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build server keeps its checkouts where no general pattern looks."""
    monkeypatch.setattr(Path, "cwd", lambda: Path("/srv/build-7"))
    for text, gates in (("/srv/build-7/net.py", {"no_local_paths"}), ("/srv/build-70/net.py", set())):
        assert failed(check_graph(damage(lambda model, text=text: setattr(model, "doc_string", text)))) == gates


def test_the_users_name_fails_as_a_part_of_a_path_only(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user called `features` must still be able to export a network with a module of that name."""
    import pwd

    class Entry:
        pw_name = "features"

    monkeypatch.setattr(pwd, "getpwuid", lambda _: Entry)
    assert failed(check_graph(damage(lambda model: setattr(model, "doc_string", "features.0.weight")))) == set()
    assert failed(check_graph(damage(lambda model: setattr(model, "doc_string", "/data/features/net.py")))) == {
        "no_local_paths"
    }


def test_a_renamed_input_fails(damage: Damage) -> None:
    def change(model: ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "x"

    assert failed(check_graph(damage(change))) == {"names"}


def test_a_second_output_fails(damage: Damage) -> None:
    def change(model: ModelProto) -> None:
        extra = helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [1, 8, 7, 7])
        model.graph.output.append(extra)

    assert failed(check_graph(damage(change))) == {"names", "onnxruntime_runs"}


def test_a_first_dimension_other_than_one_or_batch_fails(damage: Damage) -> None:
    def change(model: ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "s77"

    assert failed(check_graph(damage(change))) == {"names"}


def test_a_declared_shape_that_the_graph_does_not_give_fails_the_checker(damage: Damage) -> None:
    """Only strict shape inference sees this: every single node is valid, and onnxruntime only warns."""
    path = damage(lambda model: setattr(model.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 5))
    assert failed(check_graph(path)) == {"onnx_checker"}


def test_weights_that_do_not_fit_their_input_fail_on_the_first_image(damage: Damage) -> None:
    """onnx.checker accepts this convolution of 2 channels on an image of 3, and onnxruntime loads it."""

    def change(model: ModelProto) -> None:
        weight = model.graph.initializer[0]
        values = numpy_helper.to_array(weight)[:, :2]
        weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), weight.name))

    assert failed(check_graph(damage(change))) == {"onnxruntime_runs"}


def test_a_node_that_reads_nothing_known_fails_the_checker(damage: Damage) -> None:
    path = damage(lambda model: model.graph.node[1].input.__setitem__(0, "nowhere"))
    assert failed(check_graph(path)) == {"onnx_checker", "onnxruntime_runs"}


@pytest.mark.parametrize("content", ["half", "garbage", "empty", "missing"])
def test_a_file_that_is_no_onnx_fails_with_a_reason(sound: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.onnx"
    whole = sound.read_bytes()
    if content != "missing":
        path.write_bytes({"half": whole[: len(whole) // 2], "garbage": b"not a graph" * 9, "empty": b""}[content])
    gates = check_graph(path)
    (gate,) = (gate for gate in gates if gate.name == "onnx_checker")
    assert not gate.passed
    assert gate.detail
    assert not check_metadata(path, METADATA).passed
    with pytest.raises(InputError, match=r"model\.onnx"):
        open_session(path)


def test_a_tensor_with_too_few_bytes_fails_with_its_name(damage: Damage) -> None:
    def change(model: ModelProto) -> None:
        model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]

    gates = check_graph(damage(change))
    (gate,) = (gate for gate in gates if gate.name == "finite_weights")
    assert not gate.passed
    assert "0.weight" in gate.detail


def test_metadata_must_be_there_and_equal(sound: Path, damage: Damage) -> None:
    assert read_metadata(sound) == METADATA
    assert check_metadata(sound, METADATA).passed
    missing = check_metadata(sound, {**METADATA, "macs": "11625984 fvcore"})
    assert not missing.passed
    assert "macs is missing" in missing.detail
    different = check_metadata(sound, {**METADATA, "image_size": "96"})
    assert not different.passed
    assert "image_size is '16', expected '96'" in different.detail
    assert not check_metadata(damage(lambda model: model.ClearField("metadata_props")), METADATA).passed


def test_expecting_no_metadata_is_no_check(sound: Path) -> None:
    """An empty expectation comes from a mistake, and would pass for every file."""
    assert not check_metadata(sound, {}).passed


def test_swapped_class_rows_fail_parity(network: nn.Module, images: np.ndarray, damage: Damage) -> None:
    """The file is valid, finite and named well, and wrong for every image."""

    def change(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.startswith("6."):
                values = np.ascontiguousarray(numpy_helper.to_array(tensor)[::-1])
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    path = damage(change)
    assert failed(check_graph(path)) == set()
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    gates = check_parity(
        file_logits=run_onnx(path, images), torch_logits=expected, min_agreement=0.998, max_difference=1e-3
    )
    assert failed(gates) == {"argmax_agreement", "logit_difference"}


def test_logits_come_as_float32_in_the_order_of_the_images(sound: Path, network: nn.Module, images: np.ndarray) -> None:
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    logits = run_onnx(sound, images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_session_is_loaded_once_for_many_calls(sound: Path, images: np.ndarray) -> None:
    session = open_session(sound, threads=1)
    again = run_onnx(Path("not-opened.onnx"), images, session=session)
    np.testing.assert_array_equal(again, run_onnx(sound, images))


def test_batches_do_not_matter_for_a_static_file(sound: Path, images: np.ndarray) -> None:
    np.testing.assert_array_equal(run_onnx(sound, images, batch=8), run_onnx(sound, images))


@pytest.mark.parametrize("shape", [(4, 3, 17, 16), (4, 1, 16, 16), (3, 16, 16), (0, 3, 16, 16)])
def test_images_of_another_shape_are_refused_with_both_shapes(sound: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="takes images of shape 1 x 3 x 16 x 16, given"):
        run_onnx(sound, np.zeros(shape, np.float32))


def test_damaged_files_print_nothing(damage: Damage, images: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime writes its errors to stderr beside raising them."""
    path = damage(lambda model: model.graph.node[1].input.__setitem__(0, "nowhere"))
    check_graph(path)
    with pytest.raises(InputError):
        run_onnx(path, images)
    assert capfd.readouterr() == ("", "")
