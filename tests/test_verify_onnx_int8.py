"""Gates on int8 ONNX files: each one is seen to fail on a file that is really damaged."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_models import small_float, small_int8

from edgeprune.verify.onnx_int8 import check_onnx_int8

ALL = {
    "onnx_checker",
    "foreign_operators",
    "float_layers",
    "weight_range",
    "asymmetric_weights",
    "bad_scales",
    "bias_fits_int32",
    "bias_scale_error",
    "bad_weights",
    "float_kernels",
}
Change = Callable[[ModelProto], object]


def failed(content: bytes) -> set[str]:
    return {gate.name.removesuffix(":m.onnx") for gate in check_onnx_int8(content, path="m.onnx") if not gate.passed}


def damaged(change: Change) -> bytes:
    model = ModelProto.FromString(small_int8())
    change(model)
    return model.SerializeToString()


def tensor(model: ModelProto, name: str) -> TensorProto:
    return next(each for each in model.graph.initializer if each.name == name)


def store(model: ModelProto, name: str, values: np.ndarray) -> None:
    tensor(model, name).CopyFrom(numpy_helper.from_array(values, name))


def load(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(tensor(model, name)).copy()


def maker(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def layer(model: ModelProto, index: int = 0, kind: str = "Conv") -> NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][index]


def parts(model: ModelProto, node: NodeProto, which: int = 1) -> list[str]:
    """What the rule of an operator's input is made of: stored, scale, zero point."""
    return list(maker(model, node.input[which]).input)


def test_a_sound_file_passes_every_gate() -> None:
    gates = check_onnx_int8(small_int8(), path="m.onnx")
    assert {gate.name for gate in gates} == {f"{name}:m.onnx" for name in ALL}
    assert failed(small_int8()) == set()


def test_the_float_file_is_not_taken_for_an_int8_one() -> None:
    assert {"float_layers", "float_kernels", "weight_range"} <= failed(small_float())


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a"], ids=["empty", "text", "a version only"])
def test_what_is_no_onnx_file_fails_the_checker_alone(content: bytes) -> None:
    assert failed(content) == {"onnx_checker"}


def test_a_file_that_was_cut_short_fails_the_checker() -> None:
    assert failed(small_int8()[:-2000]) == {"onnx_checker"}


def test_weights_left_in_float_are_found() -> None:
    """It runs, to the same logits, four times as large and in float."""

    def change(model: ModelProto) -> None:
        node = layer(model)
        stored, scale, _ = (load(model, name) for name in parts(model, node))
        values = stored.astype(np.float32) * scale[:, None, None, None]
        model.graph.initializer.append(numpy_helper.from_array(values, "plain"))
        node.input[1] = "plain"

    assert {"float_layers", "float_kernels"} <= failed(damaged(change))


def test_an_input_without_a_scale_is_found() -> None:
    def change(model: ModelProto) -> None:
        layer(model).input[0] = "input"

    assert {"float_layers", "float_kernels"} <= failed(damaged(change))


def test_a_result_that_nobody_rounds_is_found() -> None:
    """onnxruntime then computes the convolution in float, and nothing says so."""

    def change(model: ModelProto) -> None:
        result = layer(model).output[0]
        rounding = next(node for node in model.graph.node if result in node.input)
        back = next(node for node in model.graph.node if rounding.output[0] in node.input)
        for node in model.graph.node:
            node.input[:] = [result if name == back.output[0] else name for name in node.input]

    assert {"float_layers", "float_kernels"} <= failed(damaged(change))


def test_one_scale_for_all_channels_is_found() -> None:
    """Depthwise kernels differ by thousands: one scale for all rounds most of them to zero."""

    def change(model: ModelProto) -> None:
        _, scale, zero = parts(model, layer(model))
        store(model, scale, load(model, scale).max())
        store(model, zero, np.int8(0) * load(model, zero).max())

    assert "float_layers" in failed(damaged(change))


def test_scales_along_input_channels_are_found() -> None:
    def change(model: ModelProto) -> None:
        # As many outputs as inputs, so that shapes fit either way.
        node = next(
            node
            for node in model.graph.node
            if node.op_type == "Conv" and load(model, parts(model, node)[0]).shape[:2] == (8, 8)
        )
        rule = maker(model, node.input[1])
        next(attribute for attribute in rule.attribute if attribute.name == "axis").i = 1

    assert "float_layers" in failed(damaged(change))


def test_weights_in_the_full_range_are_found() -> None:
    """With AVX2 and no VNNI, pairs of products saturate at 16 bits: 6 dB and 3 points on the reference network."""

    def change(model: ModelProto) -> None:
        stored = parts(model, layer(model))[0]
        values = load(model, stored)
        values.flat[0] = -128
        store(model, stored, values)

    assert failed(damaged(change)) == {"weight_range"}


@pytest.mark.parametrize("which", [1, 2], ids=["weights", "bias"])
def test_a_zero_point_of_weights_or_biases_is_found(which: int) -> None:
    def change(model: ModelProto) -> None:
        rule = maker(model, layer(model).input[which])
        stored = load(model, rule.input[0])
        del rule.input[2:]
        shifted = np.ones(len(stored), stored.dtype)
        model.graph.initializer.append(numpy_helper.from_array(shifted, "shifted"))
        rule.input.append("shifted")

    assert "asymmetric_weights" in failed(damaged(change))


@pytest.mark.parametrize("value", [0.0, -0.01, np.nan, np.inf])
def test_a_scale_that_is_no_positive_number_is_found(value: float) -> None:
    def change(model: ModelProto) -> None:
        scale = parts(model, layer(model), 0)[1]
        store(model, scale, np.asarray(value, np.float32))

    assert "bad_scales" in failed(damaged(change))


def test_a_pair_that_gives_back_by_another_scale_is_found() -> None:
    def change(model: ModelProto) -> None:
        rule = maker(model, layer(model, 1).input[0])
        other = load(model, rule.input[1]) * np.float32(1.1)
        model.graph.initializer.append(numpy_helper.from_array(other, "other"))
        rule.input[1] = "other"

    assert {"bad_scales", "bias_scale_error"} <= failed(damaged(change))


def test_a_bias_at_the_end_of_int32_is_found() -> None:
    """It has overflowed, or will as products are added to it: the network turns to noise, without an error."""

    def change(model: ModelProto) -> None:
        stored = parts(model, layer(model), 2)[0]
        values = load(model, stored)
        values[0] = np.iinfo(np.int32).min
        store(model, stored, values)

    assert failed(damaged(change)) == {"bias_fits_int32"}


def test_a_bias_that_was_scaled_for_something_else_is_found() -> None:
    """A runtime that follows the file step by step and one that fuses would decide differently."""

    def change(model: ModelProto) -> None:
        scale = parts(model, layer(model), 2)[1]
        store(model, scale, load(model, scale) * np.float32(1.01))

    assert failed(damaged(change)) == {"bias_scale_error"}


def test_weights_of_zeros_are_found() -> None:
    def change(model: ModelProto) -> None:
        stored = parts(model, layer(model, 2))[0]
        store(model, stored, np.zeros_like(load(model, stored)))

    assert failed(damaged(change)) == {"bad_weights"}


def test_nan_in_what_is_left_in_float_is_found() -> None:
    def change(model: ModelProto) -> None:
        scale = parts(model, layer(model))[1]
        values = load(model, scale)
        values[1] = np.nan
        store(model, scale, values)

    assert {"bad_weights", "bad_scales", "bias_scale_error"} <= failed(damaged(change))


def test_an_operator_of_one_runtime_is_found() -> None:
    def change(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        node = layer(model, kind="HardSwish")
        node.op_type, node.domain = "QuickGelu", "com.microsoft"

    assert "foreign_operators" in failed(damaged(change))


def test_a_file_that_onnxruntime_cannot_load_fails_float_kernels() -> None:
    def change(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("nobody", 1))
        node = layer(model, kind="HardSwish")
        node.domain = "nobody"

    gates = {gate.name: gate for gate in check_onnx_int8(damaged(change), path="m.onnx")}
    assert gates["float_kernels:m.onnx"].figure == "nan"
    assert not gates["float_kernels:m.onnx"].passed
