"""Broken on purpose: a good bundle, really published, spoilt in one way after another; the table says what finds it.

Digests catch none of it: the manifest is written again after every damage, as a mistaken or hostile publisher would.
What lies beside a damaged file is kept in step (the firmware's array with the model, raw vectors with golden.json), so
that the gate in the table has to find the damage itself, not its traces.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import numpy as np
import onnx
import pytest
from bundle_factory import reseal, snapshot
from damage import FLOAT32, INT8_FILE, INT32
from onnx import ModelProto, helper, numpy_helper
from programs import needs
from tiny import make_images, write_recipe

from edgeprune.errors import GateFailedError
from edgeprune.export.onnx_file import OnnxExport, write_onnx
from edgeprune.pipeline import SilentReporter, Workspace, export_levels, make_baseline, prune_to_schedule
from edgeprune.preprocess import IntegerPreprocess
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.tflite_format import read_model, write_model
from edgeprune.tflite_metadata import STANDARD_ENTRY, add_metadata, read_metadata
from edgeprune.tflite_metadata.standard import encode_standard, pack_labels
from edgeprune.verify.bundle import verify_bundle
from edgeprune.verify.bundle_texts import read_texts
from edgeprune.verify.c_source import check_c_source

pytestmark = pytest.mark.long

FLOAT_TFLITE, FLOAT_ONNX, INT8_ONNX = "model.tflite", "model.onnx", "model_int8.onnx"
FILES = (FLOAT_ONNX, FLOAT_TFLITE, INT8_ONNX, INT8_FILE)
FORMATS = ["onnx", "onnx_int8", "tflite", "tflite_int8", "c"]
WRONG_MEAN = (0.5, 0.5, 0.5)


def recipe_for(root: Path, *, formats: list[str]) -> Recipe:
    """A schedule of one level, int8 without training, and limits that a small network on small images can keep."""
    limits = {"max_accuracy_drop": 1.0, "max_int8_drop": 1.0, "min_int8_agreement": 0.0, "min_int8_sqnr_db": 0.001}
    path = write_recipe(
        root / "tiny.yaml",
        root / "images",
        prune={"targets": [0.3]},
        export={"formats": formats},
        quantise={"images": 64, "qat": "never", "calibration": "min_max"},
        verify=limits,
    )
    return read_recipe(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one published bundle that has every kind of file."""
    root = tmp_path_factory.mktemp("broken")
    make_images(root / "images")
    recipe, workspace, listener = recipe_for(root, formats=FORMATS), Workspace(root), SilentReporter()
    make_baseline(recipe, workspace, listener)
    prune_to_schedule(recipe, workspace, listener)
    outcome = export_levels(recipe, workspace, listener, target=0.3)
    for failure in outcome.failures.values():
        raise failure
    return root


@pytest.fixture(scope="module")
def good(root: Path) -> Path:
    """The published bundle, as long as nothing was exported over it."""
    return root / "exports/tiny-s30"


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "exports" / good.name))


@pytest.fixture
def other_network(root: Path) -> bytes:
    """The int8 file of the unpruned network."""
    return (root / "models/tiny-dense/candidates" / INT8_FILE).read_bytes()


# --- the graph of the TFLite files -----------------------------------------------------------------------------------


def leave_a_buffer_outside(folder: Path) -> None:
    """As the quantizer writes large weights; TFLite Micro ignores the note and computes with garbage."""
    content = (folder / INT8_FILE).read_bytes()
    model = read_model(content)
    largest = max(model.buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
    weights = bytes(bytearray(largest.data))
    place = -(-len(content) // 16) * 16
    largest.data, largest.offset, largest.size = None, place, len(weights)
    labels = read_metadata(content, origin=INT8_FILE).labels
    damage.store_int8(folder, pack_labels(damage.pack_plainly(model).ljust(place, b"\0") + weights, labels))


def pack_buffers_unaligned(folder: Path) -> None:
    content = (folder / INT8_FILE).read_bytes()
    labels = read_metadata(content, origin=INT8_FILE).labels
    damage.store_int8(folder, pack_labels(damage.pack_plainly(read_model(content)), labels))


def leave_names_in(folder: Path) -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].tensors[5].name = b"tiny/features.0/Conv2d"

    damage.edit_tflite(folder, INT8_FILE, change)


def zero_int8_weights(folder: Path) -> None:
    def change(model: Any) -> None:
        place = damage.operator_at(model, "CONV_2D", 3)
        damage.set_weights(model, place, np.zeros_like(damage.weights_of(model, place)))

    damage.edit_tflite(folder, INT8_FILE, change)


def swap_stem_filters(weights: np.ndarray) -> np.ndarray:
    """The strongest filter and the weakest change places; output channels come first."""
    order = np.abs(weights.astype(np.float32)).reshape(len(weights), -1).sum(axis=1).argsort()
    swapped = weights.copy()
    swapped[[order[0], order[-1]]] = weights[[order[-1], order[0]]]
    return swapped


def swap_channels(folder: Path) -> None:
    """Every figure about the file stays as it was."""

    def change(model: Any) -> None:
        place = damage.operator_at(model, "CONV_2D", 0)
        damage.set_weights(model, place, swap_stem_filters(damage.weights_of(model, place)))

    damage.edit_tflite(folder, INT8_FILE, change)


def swap_classes(folder: Path) -> None:
    """The last layer gives its two answers in the other order."""

    def change(model: Any) -> None:
        place = damage.operator_at(model, "FULLY_CONNECTED", -1)
        damage.set_weights(model, place, damage.weights_of(model, place)[::-1])

    damage.edit_tflite(folder, INT8_FILE, change)


def swap_float_channels(folder: Path) -> None:
    def change(model: Any) -> None:
        place = damage.operator_at(model, "CONV_2D", 0)
        damage.set_weights(model, place, swap_stem_filters(damage.weights_of(model, place)))

    damage.edit_tflite(folder, FLOAT_TFLITE, change)


def put_nan_in_a_weight(folder: Path) -> None:
    def change(model: Any) -> None:
        place = damage.operator_at(model, "CONV_2D", 0)
        weights = damage.weights_of(model, place)
        weights.flat[3] = np.nan
        damage.set_weights(model, place, weights)

    damage.edit_tflite(folder, FLOAT_TFLITE, change)


def overflow_a_bias(folder: Path) -> None:
    """What a weight scale near zero does: the bias stands at the end of int32's range, and nothing complains."""

    def change(model: Any) -> None:
        place = damage.operator_at(model, "CONV_2D", 0)
        bias = damage.weights_of(model, place, which=2)
        bias[0] = 2**31 - 1
        damage.set_weights(model, place, bias, which=2)

    damage.edit_tflite(folder, INT8_FILE, change)


def shift_a_weights_zero_point(folder: Path) -> None:
    """TFLite Micro's kernels never read it; a compiler for an NPU may, and answers differently."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        rule = graph.tensors[graph.operators[damage.operator_at(model, "CONV_2D", 0)].inputs[1]].quantization
        rule.zeroPoint = [5, *list(rule.zeroPoint)[1:]]

    damage.edit_tflite(folder, INT8_FILE, change)


def use_an_operator_that_micro_lacks(folder: Path) -> None:
    def change(model: Any) -> None:
        place = damage.operator_at(model, "HARD_SWISH", 0)
        model.subgraphs[0].operators[place].opcodeIndex = damage.opcode(model, "GELU")

    damage.edit_tflite(folder, INT8_FILE, change)
    damage.fit_firmware_operators(folder)


def put_float_inside(folder: Path) -> None:
    """Out to float and back around one activation: it runs everywhere, ten times as slow, and answers alike."""

    def change(model: Any) -> None:
        graph, place = model.subgraphs[0], damage.operator_at(model, "HARD_SWISH", 0)
        (source,), (result,) = graph.operators[place].inputs, graph.operators[place].outputs
        before = damage.add_tensor(model, source, kind=FLOAT32)
        after = damage.add_tensor(model, result, kind=FLOAT32)
        graph.operators[place].inputs, graph.operators[place].outputs = [before], [after]
        damage.insert_operator(model, place + 1, "QUANTIZE", [after], [result])
        damage.insert_operator(model, place, "DEQUANTIZE", [source], [before])

    damage.edit_tflite(folder, INT8_FILE, change)
    damage.fit_firmware_operators(folder)


def put_a_pad_in(folder: Path) -> None:
    """A PAD of nothing: the same answers, for the memory of one more tensor."""

    def change(model: Any) -> None:
        graph, place = model.subgraphs[0], damage.operator_at(model, "CONV_2D", 0)
        source = int(graph.operators[place].inputs[0])
        padded = damage.add_tensor(model, source)
        widths = damage.add_constant(model, np.zeros((4, 2), np.int32), INT32)
        graph.operators[place].inputs = [padded, *(int(each) for each in graph.operators[place].inputs[1:])]
        damage.insert_operator(model, place, "PAD", [source, widths], [padded])

    damage.edit_tflite(folder, INT8_FILE, change)
    damage.fit_firmware_operators(folder)


def take_all_operators_out(folder: Path) -> None:
    """A graph that gives what nobody computed."""

    def change(model: Any) -> None:
        model.subgraphs[0].operators = []

    damage.edit_tflite(folder, FLOAT_TFLITE, change)


def change_the_input_scale(folder: Path) -> None:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].quantization.scale = [2 * graph.tensors[graph.inputs[0]].quantization.scale[0]]

    damage.edit_tflite(folder, INT8_FILE, change)


def change_the_output_zero_point(folder: Path) -> None:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.outputs[0]].quantization.zeroPoint = [
            int(graph.tensors[graph.outputs[0]].quantization.zeroPoint[0]) + 5
        ]

    damage.edit_tflite(folder, INT8_FILE, change)


def point_an_operator_nowhere(folder: Path) -> None:
    """Whoever follows it leaves the list of tensors; the check has to say so, and not to end with it."""

    def change(model: Any) -> None:
        model.subgraphs[0].operators[3].inputs = [10**6]

    damage.edit_tflite(folder, FLOAT_TFLITE, change)


def point_a_tensor_nowhere(folder: Path) -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].tensors[5].buffer = 10**6

    damage.edit_tflite(folder, INT8_FILE, change)


def cut_the_tflite_short(folder: Path) -> None:
    content = (folder / INT8_FILE).read_bytes()
    damage.store_int8(folder, content[: len(content) // 2])


def cut_the_packed_labels_off(folder: Path) -> None:
    """The last bytes are a zip that no runtime reads, and every Android app does."""
    path = folder / FLOAT_TFLITE
    path.write_bytes(path.read_bytes()[:-40])


# --- the ONNX files --------------------------------------------------------------------------------------------------


def cut_the_onnx_short(folder: Path) -> None:
    content = (folder / FLOAT_ONNX).read_bytes()
    (folder / FLOAT_ONNX).write_bytes(content[: len(content) // 2])


def put_nan_in_an_onnx_weight(folder: Path) -> None:
    def change(model: ModelProto) -> None:
        def poison(values: np.ndarray) -> np.ndarray:
            values.flat[3] = np.nan
            return values

        damage.edit_constant(model, next(node for node in model.graph.node if node.op_type == "Conv").input[1], poison)

    damage.edit_onnx(folder, FLOAT_ONNX, change)


def put_nan_where_no_golden_image_looks(folder: Path) -> None:
    """It changes none of their answers, and some image will look there."""

    def change(model: ModelProto) -> None:
        result = model.graph.output[0].name
        last = next(node for node in model.graph.node if result in node.output)
        last.output[0] = "plain"
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.float32(1e30), "far"),
                numpy_helper.from_array(np.asarray([np.nan, np.nan], np.float32), "trap"),
            ]
        )
        model.graph.node.extend(
            [
                helper.make_node("Greater", ["plain", "far"], ["caught"]),
                helper.make_node("Where", ["caught", "trap", "plain"], [result]),
            ]
        )

    damage.edit_onnx(folder, FLOAT_ONNX, change)


def keep_onnx_weights_outside(folder: Path) -> None:
    """In another file of the bundle, behind its text: who copies the model alone has half of it."""

    def change(model: ModelProto) -> None:
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        card = (folder / "README.md").read_bytes()
        (folder / "README.md").write_bytes(card + largest.raw_data)
        places = {"location": "README.md", "offset": len(card), "length": len(largest.raw_data)}
        for key, value in places.items():
            largest.external_data.add(key=key, value=str(value))
        largest.data_location = onnx.TensorProto.EXTERNAL
        largest.ClearField("raw_data")

    damage.edit_onnx(folder, FLOAT_ONNX, change)


def state_a_wrong_shape(folder: Path) -> None:
    """onnxruntime passes over it; a compiler for a device believes it."""

    def change(model: ModelProto) -> None:
        name = next(node for node in model.graph.node if node.op_type == "Conv").output[0]
        wrong = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 7, 7, 7])
        model.graph.ClearField("value_info")
        model.graph.value_info.append(wrong)

    damage.edit_onnx(folder, FLOAT_ONNX, change)


def zero_onnx_int8_weights(folder: Path) -> None:
    def change(model: ModelProto) -> None:
        damage.edit_constant(model, damage.weight_pair(model, index=3)[0], np.zeros_like)

    damage.edit_onnx(folder, INT8_ONNX, change)


def turn_an_onnx_scale_negative(folder: Path) -> None:
    def change(model: ModelProto) -> None:
        damage.edit_constant(model, damage.weight_pair(model)[1], np.negative)

    damage.edit_onnx(folder, INT8_ONNX, change)


def saturate_onnx_weights(folder: Path) -> None:
    """Weights over 64 saturate on processors with AVX2 and without VNNI: right here, wrong there."""

    def change(model: ModelProto) -> None:
        stored, scale, _ = damage.weight_pair(model)
        damage.edit_constant(model, stored, lambda values: np.clip(values * 2, -127, 127).astype(np.int8))
        damage.edit_constant(model, scale, lambda values: values / 2)

    damage.edit_onnx(folder, INT8_ONNX, change)


def overflow_an_onnx_bias(folder: Path) -> None:
    def change(model: ModelProto) -> None:
        damage.edit_constant(
            model, damage.weight_pair(model, which=2)[0], lambda values: np.full_like(values, 2**31 - 1)
        )

    damage.edit_onnx(folder, INT8_ONNX, change)


def scale_an_onnx_bias_for_something_else(folder: Path) -> None:
    def change(model: ModelProto) -> None:
        damage.edit_constant(model, damage.weight_pair(model, which=2)[1], lambda values: values * 2)

    damage.edit_onnx(folder, INT8_ONNX, change)


def shift_onnx_weights(folder: Path) -> None:
    def change(model: ModelProto) -> None:
        damage.edit_constant(model, damage.weight_pair(model)[2], lambda values: values + np.int8(3))

    damage.edit_onnx(folder, INT8_ONNX, change)


def leave_an_onnx_layer_in_float(folder: Path) -> None:
    """The same logits, from a file that is not what it says."""

    def change(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        stored, scale, _ = (
            numpy_helper.to_array(damage.onnx_tensor(model, each)) for each in damage.weight_pair(model)
        )
        values = stored.astype(np.float32) * scale.reshape(-1, 1, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(values, "plain"))
        node.input[1] = "plain"

    damage.edit_onnx(folder, INT8_ONNX, change)


def use_a_foreign_onnx_operator(folder: Path) -> None:
    """An operator of onnxruntime's own, which no other runtime has."""

    def change(model: ModelProto) -> None:
        result = model.graph.output[0].name
        last = next(node for node in model.graph.node if result in node.output)
        last.output[0] = "plain"
        model.graph.node.append(helper.make_node("Gelu", ["plain"], [result], domain="com.microsoft"))
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    damage.edit_onnx(folder, INT8_ONNX, change)


# --- what files say of themselves, and what is said beside them ------------------------------------------------------


def set_the_mean_alone(folder: Path) -> None:
    damage.rewrite_json(folder / "preprocess.json", lambda values: values.update(mean=list(WRONG_MEAN)))


def set_the_mean_in_all_of_preprocess_json(folder: Path) -> None:
    """With the integer arithmetic that follows from it, and raw vectors made by it."""
    damage.set_mean(folder, WRONG_MEAN)
    damage.write_vectors(folder)


def set_the_mean_everywhere(folder: Path) -> None:
    """In every text and every file's metadata: the networks and the firmware still know better."""
    damage.set_mean(folder, WRONG_MEAN)
    damage.write_vectors(folder)
    damage.edit_metadata(folder, {"mean": WRONG_MEAN})


def reverse_the_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("empty\ndisc\n")


def reverse_the_labels_everywhere(folder: Path) -> None:
    """In labels.txt and in every file: only the firmware still knows better."""
    (folder / "labels.txt").write_text("empty\ndisc\n")
    damage.edit_metadata(folder, {"labels": ("empty", "disc")})


def reverse_the_packed_labels(folder: Path) -> None:
    """The zip behind the file is what an Android app shows."""
    path = folder / FLOAT_TFLITE
    content = path.read_bytes()
    path.write_bytes(pack_labels(write_model(read_model(content)), ("empty", "disc")))


def set_the_mean_of_the_standard_metadata(folder: Path) -> None:
    """What MediaPipe reads differs from what edgeprune reads."""

    def change(model: Any) -> None:
        entry = next(each for each in model.metadata if each.name == STANDARD_ENTRY.encode())
        fields = read_metadata((folder / FLOAT_TFLITE).read_bytes(), origin=FLOAT_TFLITE)
        wrong = fields.model_copy(update={"mean": WRONG_MEAN})
        encoded = encode_standard(wrong, [-2.0, -2.0, -2.0], [2.0, 2.0, 2.0])
        model.buffers[entry.buffer].data = np.frombuffer(encoded, np.uint8)

    damage.edit_tflite(folder, FLOAT_TFLITE, change)


def give_it_the_metadata_of_another_level(folder: Path) -> None:
    damage.edit_metadata(folder, {"level": "s60"}, names=(INT8_FILE,))


def give_an_onnx_file_the_metadata_of_another_level(folder: Path) -> None:
    damage.edit_metadata(folder, {"level": "s60"}, names=(FLOAT_ONNX,))


def swap_the_float_files(folder: Path) -> None:
    paths = folder / FLOAT_TFLITE, folder / FLOAT_ONNX
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def swap_the_int8_file_for_the_float_one(folder: Path) -> None:
    shutil.copy(folder / FLOAT_TFLITE, folder / INT8_FILE)


def call_it_rotated(folder: Path) -> None:
    """The name promises that the image is fed rotated; no text says so."""
    damage.rename_model(folder, FLOAT_TFLITE, "model_rot180.tflite")


def call_it_rotated_everywhere(folder: Path) -> None:
    """The name and the texts promise it; the network was never turned."""
    name = "model_rot180.tflite"
    damage.rename_model(folder, FLOAT_TFLITE, name)
    rotated = {"rotate_180": True}

    def change(values: dict[str, Any]) -> None:
        entry = damage.entry_of(values, name)
        entry.update(rotated)
        entry["formula"] = entry["formula"].replace("rgb[y, x, c]", "rgb[image_size - 1 - y, image_size - 1 - x, c]")

    damage.rewrite_json(folder / "preprocess.json", change)
    damage.write_vectors(folder)
    damage.edit_metadata(folder, {"rotate_180": True}, names=(name,))


# --- golden vectors --------------------------------------------------------------------------------------------------


def rotate_one_golden_image(folder: Path) -> None:
    """One without raw vectors, so that the networks have to notice."""
    path = folder / "golden/05.rgb"
    path.write_bytes(np.fromfile(path, np.uint8).reshape(-1, 3)[::-1].tobytes())


def rotate_the_golden_images(folder: Path) -> None:
    damage.edit_images(folder, lambda image: image[::-1, ::-1])


def turn_golden_images_to_bgr(folder: Path) -> None:
    damage.edit_images(folder, lambda image: image[:, :, ::-1])
    damage.write_vectors(folder)


def shift_the_golden_outputs(folder: Path) -> None:
    """By three steps, in golden.json and in the raw vectors."""

    def change(values: dict[str, Any]) -> None:
        entry = damage.entry_of(values, INT8_FILE)
        entry["outputs"] = [[min(value + 3, 127) for value in row] for row in entry["outputs"]]

    damage.rewrite_json(folder / "golden/golden.json", change)
    damage.write_vectors(folder)


def spoil_a_raw_output(folder: Path) -> None:
    path = folder / "golden/model_int8_tflite/02.output"
    path.write_bytes((np.fromfile(path, np.int8) + np.int8(1)).tobytes())


def widen_the_tolerance_in_steps(folder: Path) -> None:
    """Within a hundred steps, a swapped class passes."""
    damage.rewrite_json(
        folder / "golden/golden.json", lambda values: damage.entry_of(values, INT8_FILE).update(tolerance_lsb=100)
    )
    damage.rewrite_text(folder / "c/golden.h", r"kGoldenToleranceLsb = 1;", "kGoldenToleranceLsb = 100;")


def widen_the_tolerance_in_logits(folder: Path) -> None:
    damage.rewrite_json(
        folder / "golden/golden.json", lambda values: damage.entry_of(values, FLOAT_ONNX).update(tolerance=50.0)
    )


def widen_the_tolerance_by_a_little(folder: Path) -> None:
    """A tenth of the largest logit hides more than another machine's rounding."""

    def change(values: dict[str, Any]) -> None:
        entry = damage.entry_of(values, FLOAT_TFLITE)
        entry["tolerance"] = 0.1 * max(abs(value) for row in entry["outputs"] for value in row)

    damage.rewrite_json(folder / "golden/golden.json", change)


# --- the firmware ----------------------------------------------------------------------------------------------------


def shrink_the_arena(folder: Path) -> None:
    damage.rewrite_text(folder / "c/model_settings.h", r"kArenaBytes = \d+ \+", "kArenaBytes = 65536 +")


def shrink_the_arenas_head(folder: Path) -> None:
    """All figures agree with each other, and the activations do not fit."""
    _set_arena(folder, "Head", lambda size: size - 1024)


def shrink_the_arenas_tail(folder: Path) -> None:
    """All figures agree with each other, and the runtime's own structures do not fit."""
    _set_arena(folder, "Tail", lambda size: size // 2)


def _set_arena(folder: Path, part: str, change: Callable[[int], int]) -> None:
    from edgeprune.cpp_literals import read_constants

    path = folder / "c/model_settings.h"
    constants = read_constants(path.read_text())
    sizes = {name: int(constants[f"kArena{name}Bytes"]) for name in ("Head", "Tail", "Scratch")}
    sizes[part] = change(sizes[part])
    damage.rewrite_text(path, rf"kArena{part}Bytes = \d+;", f"kArena{part}Bytes = {sizes[part]};")
    whole = -(-sum(sizes.values()) // 16) * 16
    damage.rewrite_text(path, r"kArenaBytes = \d+ \+", f"kArenaBytes = {whole} +")


def change_a_byte_of_the_array(folder: Path) -> None:
    path = folder / "c/model_data.cc"
    text = path.read_text()
    place = text.index("0x", len(text) // 2)
    byte = int(text[place : place + 4], 16) ^ 1
    path.write_text(f"{text[:place]}0x{byte:02x}{text[place + 4 :]}")


def change_what_the_self_test_expects(folder: Path) -> None:
    """To what some other network gives: the self-test on the device would pass with that one."""
    damage.rewrite_text(folder / "c/golden.cc", r"(kGoldenOutputs.* = \{\n)\{-?\d+,", r"\1{0,")


def widen_the_tolerance_of_the_self_test(folder: Path) -> None:
    damage.rewrite_text(folder / "c/golden.h", r"kGoldenToleranceLsb = 1;", "kGoldenToleranceLsb = 200;")


def swap_the_labels_of_the_firmware(folder: Path) -> None:
    damage.rewrite_text(folder / "c/model_settings.cc", r'    "disc",\n    "empty",', '    "empty",\n    "disc",')


def forget_an_operator(folder: Path) -> None:
    """It compiles, and stops in the field with an operator that cannot be found."""
    damage.rewrite_text(folder / "c/op_resolver.h", r"^.*AddMean.*\n", "")


def take_the_code_of_another_bundle(folder: Path) -> None:
    path = folder / "c/preprocess.cc"
    path.write_text(path.read_text().replace("edgeprune_tiny_s30", "edgeprune_tiny_s60"))


# --- the verdict -----------------------------------------------------------------------------------------------------


def _gate(values: dict[str, Any], name: str) -> dict[str, Any]:
    return next(gate for gate in values["gates"] if gate["name"] == name)


def publish_with_a_failed_gate(folder: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        _gate(values, "accuracy_drop").update(figure=0.4, limit="<= 0.03", passed=False)
        values["passed"] = True

    damage.rewrite_json(folder / "verify.json", change)


def call_a_failed_gate_passed(folder: Path) -> None:
    """The word was changed, and the figure forgotten."""
    damage.rewrite_json(
        folder / "verify.json", lambda values: _gate(values, "accuracy_drop").update(figure=0.4, limit="<= 0.03")
    )


def leave_a_gate_out(folder: Path) -> None:
    """The one that failed, and that nobody without the test images can run again."""

    def change(values: dict[str, Any]) -> None:
        values["gates"].remove(_gate(values, f"int8_accuracy_drop:{INT8_FILE}"))

    damage.rewrite_json(folder / "verify.json", change)


def at(kind: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{kind}:{name}" for name in names)


GOLDEN_INT8 = (*at("golden", INT8_FILE), *at("golden_tflm", INT8_FILE))

# Every damage with the gates that must find it; others may fail beside them.
TABLE: tuple[tuple[Callable[[Path], None], tuple[str, ...]], ...] = (
    (leave_a_buffer_outside, (*at("external_buffers", INT8_FILE), *at("golden_tflm", INT8_FILE))),
    (pack_buffers_unaligned, at("unaligned_buffers", INT8_FILE)),
    (leave_names_in, at("tensor_names", INT8_FILE)),
    (zero_int8_weights, (*at("bad_weights", INT8_FILE), *GOLDEN_INT8)),
    (swap_channels, GOLDEN_INT8),
    (swap_classes, GOLDEN_INT8),
    (swap_float_channels, at("golden", FLOAT_TFLITE)),
    (put_nan_in_a_weight, (*at("bad_weights", FLOAT_TFLITE), *at("golden", FLOAT_TFLITE))),
    (overflow_a_bias, (*at("bias_fits_int32", INT8_FILE), *GOLDEN_INT8)),
    (shift_a_weights_zero_point, at("asymmetric_weights", INT8_FILE)),
    (use_an_operator_that_micro_lacks, (*at("micro_operators", INT8_FILE), *at("golden_tflm", INT8_FILE))),
    (put_float_inside, at("float_operators", INT8_FILE)),
    (put_a_pad_in, at("pad_operators", INT8_FILE)),
    (take_all_operators_out, at("readable", FLOAT_TFLITE)),
    (change_the_input_scale, at("metadata", INT8_FILE)),
    (change_the_output_zero_point, at("metadata", INT8_FILE)),
    (point_an_operator_nowhere, at("golden", FLOAT_TFLITE)),
    (point_a_tensor_nowhere, at("metadata", INT8_FILE)),
    (cut_the_tflite_short, at("metadata", INT8_FILE)),
    (cut_the_packed_labels_off, at("metadata", FLOAT_TFLITE)),
    (cut_the_onnx_short, at("metadata", FLOAT_ONNX)),
    (put_nan_in_an_onnx_weight, (*at("finite_weights", FLOAT_ONNX), *at("golden", FLOAT_ONNX))),
    (put_nan_where_no_golden_image_looks, at("finite_weights", FLOAT_ONNX)),
    (keep_onnx_weights_outside, at("single_file", FLOAT_ONNX)),
    (state_a_wrong_shape, at("onnx_checker", FLOAT_ONNX)),
    (zero_onnx_int8_weights, (*at("bad_weights", INT8_ONNX), *at("golden", INT8_ONNX))),
    (turn_an_onnx_scale_negative, (*at("bad_scales", INT8_ONNX), *at("golden", INT8_ONNX))),
    (saturate_onnx_weights, at("weight_range", INT8_ONNX)),
    (overflow_an_onnx_bias, at("bias_fits_int32", INT8_ONNX)),
    (scale_an_onnx_bias_for_something_else, at("bias_scale_error", INT8_ONNX)),
    (shift_onnx_weights, at("asymmetric_weights", INT8_ONNX)),
    (leave_an_onnx_layer_in_float, (*at("float_layers", INT8_ONNX), *at("float_kernels", INT8_ONNX))),
    (use_a_foreign_onnx_operator, at("foreign_operators", INT8_ONNX)),
    (set_the_mean_alone, ("bundle_texts", *at("metadata", *FILES))),
    (set_the_mean_in_all_of_preprocess_json, (*at("metadata", *FILES), *at("golden", FLOAT_ONNX, FLOAT_TFLITE))),
    (set_the_mean_everywhere, (*at("golden", FLOAT_ONNX, FLOAT_TFLITE), *at("golden_tflm", INT8_FILE))),
    (reverse_the_labels, at("metadata", *FILES)),
    (reverse_the_labels_everywhere, ("c_labels:c/model_settings.cc", "c_golden:c/golden.cc")),
    (reverse_the_packed_labels, at("metadata", FLOAT_TFLITE)),
    (set_the_mean_of_the_standard_metadata, at("metadata", FLOAT_TFLITE)),
    (give_it_the_metadata_of_another_level, at("metadata", INT8_FILE)),
    (give_an_onnx_file_the_metadata_of_another_level, at("metadata", FLOAT_ONNX)),
    (swap_the_float_files, at("metadata", FLOAT_ONNX, FLOAT_TFLITE)),
    (swap_the_int8_file_for_the_float_one, (*at("metadata", INT8_FILE), *at("float_operators", INT8_FILE))),
    (call_it_rotated, ("bundle_texts",)),
    (call_it_rotated_everywhere, at("golden", "model_rot180.tflite")),
    (rotate_one_golden_image, at("golden", FLOAT_ONNX, FLOAT_TFLITE)),
    (rotate_the_golden_images, at("vectors", *FILES)),
    (turn_golden_images_to_bgr, (*at("golden", FLOAT_ONNX, FLOAT_TFLITE), *at("golden_tflm", INT8_FILE))),
    (shift_the_golden_outputs, GOLDEN_INT8),
    (spoil_a_raw_output, at("vectors", INT8_FILE)),
    (widen_the_tolerance_in_steps, ("bundle_texts",)),
    (widen_the_tolerance_in_logits, ("bundle_texts",)),
    (widen_the_tolerance_by_a_little, ("bundle_texts",)),
    (shrink_the_arena, ("c_settings:c/model_settings.h",)),
    (shrink_the_arenas_head, ("c_settings:c/model_settings.h",)),
    (shrink_the_arenas_tail, at("arena_tail", INT8_FILE)),
    (change_a_byte_of_the_array, ("c_array:c/model_data.cc",)),
    (change_what_the_self_test_expects, ("c_golden:c/golden.cc",)),
    (widen_the_tolerance_of_the_self_test, ("c_golden:c/golden.h",)),
    (swap_the_labels_of_the_firmware, ("c_labels:c/model_settings.cc",)),
    (forget_an_operator, ("c_operators:c/op_resolver.h",)),
    (take_the_code_of_another_bundle, ("c_belongs:c/preprocess.cc",)),
    (publish_with_a_failed_gate, ("verdict",)),
    (call_a_failed_gate_passed, ("recorded_gates",)),
    (leave_a_gate_out, ("recorded_gates",)),
)


def failed(folder: Path) -> set[str]:
    return {gate.name for gate in verify_bundle(folder).gates if not gate.passed}


def test_the_bundle_as_published_passes_every_gate(good: Path) -> None:
    check = verify_bundle(good)
    assert [gate for gate in check.gates if not gate.passed] == []
    assert check.complete


@pytest.mark.parametrize(("spoil", "gates"), TABLE, ids=[spoil.__name__ for spoil, _ in TABLE])
def test_a_damage_fails_the_gates_of_the_table(
    spoil: Callable[[Path], None], gates: tuple[str, ...], bundle: Path
) -> None:
    spoil(bundle)
    reseal(bundle)
    found = failed(bundle)
    assert set(gates) <= found, sorted(found)
    assert "manifest" not in found


def test_every_kind_of_gate_on_a_bundle_is_seen_to_fail(good: Path) -> None:
    """But the manifest's, whose damages are bytes; `test_bundle_verify` has them."""
    kinds = {gate.name.partition(":")[0] for gate in verify_bundle(good).gates}
    assert kinds - {name.partition(":")[0] for _, gates in TABLE for name in gates} == {"manifest"}


def test_the_int8_file_of_another_network_is_found_by_its_answers(bundle: Path, other_network: bytes) -> None:
    """Its metadata, input and output are made those of the file whose place it takes."""
    fields = read_metadata((bundle / INT8_FILE).read_bytes(), origin=INT8_FILE)
    own, other = read_model((bundle / INT8_FILE).read_bytes()), read_model(other_network)
    for side in ("inputs", "outputs"):
        mine, theirs = (getattr(model.subgraphs[0], side)[0] for model in (own, other))
        other.subgraphs[0].tensors[theirs].quantization = own.subgraphs[0].tensors[mine].quantization
    damage.store_int8(bundle, add_metadata(write_model(other), fields, int8=True))
    reseal(bundle)
    found = failed(bundle)
    assert set(GOLDEN_INT8) <= found
    assert f"metadata:{INT8_FILE}" not in found


# --- before anything is published ------------------------------------------------------------------------------------


@needs("g++", package="g++")
def test_preprocessing_of_the_firmware_that_reads_bgr_is_found_when_it_is_compiled(bundle: Path) -> None:
    """A bundle's source is never compiled where it arrives, so the export has to find it."""
    damage.rewrite_text(
        bundle / "c/preprocess.cc",
        r"return \{\{bytes\[0\], bytes\[1\], bytes\[2\]\}\};",
        "return {{bytes[2], bytes[1], bytes[0]}};",
    )
    texts = read_texts(bundle)
    file = texts.input_of(INT8_FILE)
    assert file is not None
    assert file.integer is not None
    rule = file.integer
    integer = IntegerPreprocess(multiplier=rule.multiplier, offset=rule.offset, shift=rule.shift)
    gates = check_c_source(
        {f"c/{path.name}": path.read_bytes() for path in (bundle / "c").iterdir()},
        model=(bundle / INT8_FILE).read_bytes(),
        integer=integer,
        golden_images=texts.images,
        golden_inputs=integer.apply(texts.images),
        rotate_180=False,
    )
    assert [gate.name for gate in gates if not gate.passed] == ["c_preprocess"]


def test_a_candidate_that_fails_is_not_published_and_the_bundle_of_before_stays(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte of it is left in exports/, hidden or not; the verdict lies beside the candidate."""
    again = Path(shutil.copytree(root, tmp_path / "again"))
    before = snapshot(again / "exports")

    def spoil(model: ModelProto) -> None:
        stem = next(node for node in model.graph.node if node.op_type == "Conv")
        damage.edit_constant(model, stem.input[1], swap_stem_filters)
        labels = next(entry for entry in model.metadata_props if entry.key == "labels")
        labels.value = json.dumps(["empty", "disc"])

    def write_spoilt(*args: Any, **kwargs: Any) -> OnnxExport:
        export = write_onnx(*args, **kwargs)
        damage.edit_onnx(export.path.parent, export.path.name, spoil)
        return export

    monkeypatch.setattr("edgeprune.pipeline.candidates.write_onnx", write_spoilt)
    outcome = export_levels(recipe_for(again, formats=["onnx"]), Workspace(again), SilentReporter(), target=0.3)
    assert isinstance(outcome.failures["s30"], GateFailedError)
    assert snapshot(again / "exports") == before
    verdict = json.loads((again / "models/tiny-s30/verify.json").read_text())
    assert not verdict["passed"]
    assert {"logit_difference", "metadata"} <= {gate["name"] for gate in verdict["gates"] if not gate["passed"]}
