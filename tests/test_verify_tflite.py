"""Gates on TFLite files: each one is seen to fail on a file that is really damaged."""

import copy

import numpy as np
import pytest
from mcu_models import SIZE, TINY_MEAN, TINY_STD, nhwc, tiny_float, tiny_images, tiny_int8, tiny_named

from edgeprune.errors import InputError
from edgeprune.preprocess import plan_integer_preprocess
from edgeprune.results import Gate
from edgeprune.tflite_format import inline_buffers, operator_names, read_model, write_model
from edgeprune.verify.accuracy import compare_accuracy
from edgeprune.verify.int8_accuracy import check_arena, check_int8_file, check_micro_equals_reference
from edgeprune.verify.litert import dequantise, read_io, run_litert
from edgeprune.verify.liveness import find_peak
from edgeprune.verify.micro import run_micro
from edgeprune.verify.operators import compare_operators
from edgeprune.verify.tflite_graph import check_tflite


def stored(count: int = 16) -> np.ndarray:
    file = read_io(tiny_int8())
    assert file.input is not None
    return plan_integer_preprocess(TINY_MEAN, TINY_STD, file.input).apply(tiny_images(count))


def failed(content: bytes, *, int8: bool = True) -> set[str]:
    gates = check_tflite(content, path="m", int8=int8, promise_no_pad=True)
    return {gate.name.removesuffix(":m") for gate in gates if not gate.passed}


def constant(model, kind: int):
    """The buffer of the first constant tensor of a type."""
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        if (
            tensor.type == kind
            and buffer.data is not None
            and len(buffer.data)
            and len(tensor.shape) == (1 if kind == 2 else 4)
        ):
            return buffer
    raise AssertionError(f"no constant of type {kind}")


def test_good_files_pass_every_gate() -> None:
    assert failed(tiny_int8()) == set()
    assert failed(tiny_float(), int8=False) == set()


def test_buffers_outside_the_flatbuffer_are_found() -> None:
    """TFLite Micro ignores them and computes with garbage, without an error."""
    model = read_model(tiny_int8())
    content = write_model(model)
    damaged = read_model(content)
    buffer = constant(damaged, 9)
    buffer.data, buffer.offset, buffer.size = None, 16, 16
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(damaged.Pack(builder), b"TFL3")
    assert "external_buffers" in failed(bytes(builder.Output()))
    with pytest.raises(ValueError, match="lie outside"):
        write_model(damaged)


def test_buffers_from_behind_the_flatbuffer_come_back_inside() -> None:
    damaged = read_model(tiny_int8())
    buffer = constant(damaged, 9)
    weights = bytes(bytearray(buffer.data))
    buffer.data, buffer.offset, buffer.size = None, 32, len(weights)
    repaired = inline_buffers(damaged, bytes(32) + weights)
    assert write_model(repaired) == write_model(read_model(tiny_int8()))
    damaged = read_model(tiny_int8())
    constant(damaged, 9).offset, constant(damaged, 9).size = 10**6, 64
    with pytest.raises(InputError, match="ends at byte 1000064 of a file of"):
        inline_buffers(damaged, tiny_int8())


def test_unaligned_buffers_are_found() -> None:
    """The generated code aligns bytes to 1, whatever the schema says."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(read_model(tiny_int8()).Pack(builder), b"TFL3")
    assert failed(bytes(builder.Output())) == {"unaligned_buffers"}


def test_an_overflowing_bias_is_found() -> None:
    damaged = read_model(tiny_int8())
    buffer = constant(damaged, 2)
    bias = np.frombuffer(bytes(bytearray(buffer.data)), np.int32).copy()
    bias[0] = 2**31 - 1
    buffer.data = np.frombuffer(bias.tobytes(), np.uint8)
    assert failed(write_model(damaged)) == {"bias_fits_int32"}


def test_weights_of_zeros_and_weights_of_nan_are_found() -> None:
    zeroed = read_model(tiny_int8())
    buffer = constant(zeroed, 9)
    buffer.data = np.zeros(len(buffer.data), np.uint8)
    assert failed(write_model(zeroed)) == {"bad_weights"}
    poisoned = read_model(tiny_float())
    buffer = constant(poisoned, 0)
    values = np.frombuffer(bytes(bytearray(buffer.data)), np.float32).copy()
    values[3] = np.nan
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    assert failed(write_model(poisoned), int8=False) == {"bad_weights"}


def test_names_pads_float_operators_and_truncation_are_found() -> None:
    assert failed(tiny_named().content, int8=False) == {"tensor_names"}
    assert failed(tiny_int8(pad_same=False)) == {"pad_operators"}
    assert failed(tiny_float()) == {"float_operators"}
    assert failed(tiny_int8()[:1000]) == {"readable"}
    assert failed(b"no model at all") == {"readable"}


def test_tflite_micro_equals_the_reference_kernels_on_the_file_that_ships() -> None:
    inputs = stored(100)
    micro, reference = run_micro(tiny_int8(), inputs), run_litert(tiny_int8(), inputs, reference=True)
    assert all(gate.passed for gate in check_micro_equals_reference(micro.outputs, reference, path="m"))
    assert len(np.unique(micro.outputs, axis=0)) > 10
    wrong = reference.copy()
    wrong[0, 0] += 2
    gates = {g.name: g.passed for g in check_micro_equals_reference(micro.outputs, wrong, path="m")}
    assert gates == {"tflm_images:m": True, "tflm_difference_lsb:m": False}
    few = check_micro_equals_reference(micro.outputs[:99], reference[:99], path="m")
    assert [gate.passed for gate in few] == [False, True]


def test_the_arena_head_is_the_peak_of_live_tensors() -> None:
    run = run_micro(tiny_int8(), stored(1))
    peak = find_peak(tiny_int8())
    assert run.head_bytes == peak.peak_bytes == 2 * 16 * (SIZE // 2) ** 2
    assert check_arena(run.head_bytes, peak.peak_bytes, path="m").passed
    assert not check_arena(run.head_bytes // 2, peak.peak_bytes, path="m").passed
    assert not check_arena(run.head_bytes * 2, peak.peak_bytes, path="m").passed


def test_an_arena_that_is_too_small_is_a_sentence() -> None:
    run = run_micro(tiny_int8(), stored(1))
    assert run_micro(tiny_int8(), stored(1), arena_bytes=run.head_bytes + run.tail_bytes + 1024).runtime
    with pytest.raises(InputError, match="does not run in tflite-micro"):
        run_micro(tiny_int8(), stored(1), arena_bytes=run.head_bytes)


def test_a_file_that_takes_the_interpreter_down_is_a_sentence() -> None:
    with pytest.raises(InputError, match="does not run in tflite-micro"):
        run_micro(tiny_int8()[:1000], stored(1))


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="takes int8 images of shape"):
        run_litert(tiny_int8(), stored(2)[:, :8], reference=True)
    with pytest.raises(InputError, match="takes int8 images"):
        run_litert(tiny_int8(), nhwc(tiny_images(2)), reference=True)


def test_batches_change_nothing() -> None:
    images = nhwc(tiny_images(10))
    one = run_litert(tiny_float(), images, reference=False)
    assert np.array_equal(one, run_litert(tiny_float(), images, reference=False, batch=4))


def test_int8_gates_fail_on_lost_accuracy_agreement_and_noise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = rng.normal(0, 0.2, (200, 2)).astype(np.float32)
    logits[np.arange(200), labels] += 3

    def verdicts(found: np.ndarray) -> list[Gate]:
        compared = compare_accuracy(file_logits=found, reference_logits=logits, labels=labels)
        return check_int8_file(found, logits, compared, path="m", max_drop=0.01, min_agreement=0.9, min_sqnr_db=3.0)

    assert [gate.passed for gate in verdicts(logits + 0.01)] == [True] * 3
    assert [gate.passed for gate in verdicts(logits[:, ::-1])] == [False] * 3
    assert [gate.passed for gate in verdicts(np.full_like(logits, np.nan))] == [False] * 3
    assert [gate.passed for gate in verdicts(logits * 5)] == [True, True, False]


def test_operators_are_compared_in_the_order_of_the_graph() -> None:
    layers = tiny_named().layers
    figures = compare_operators(tiny_float(), tiny_int8(), nhwc(tiny_images(8)), layers=layers)
    assert tuple(each.operator for each in figures) == operator_names(read_model(tiny_int8()))
    assert tuple(each.layer for each in figures) == layers
    assert min(each.sqnr_db for each in figures) > 15
    convolution = figures[0]
    assert convolution.weight_scale_ratio is not None
    assert convolution.weight_scale_ratio >= 1
    shorter = copy.deepcopy(read_model(tiny_float()))
    shorter.subgraphs[0].operators.pop()
    with pytest.raises(InputError, match="not the operators of the float one"):
        compare_operators(write_model(shorter), tiny_int8(), nhwc(tiny_images(1)), layers=layers)


def test_int8_answers_are_near_to_float_ones() -> None:
    file = read_io(tiny_int8())
    assert file.output is not None
    found = dequantise(run_litert(tiny_int8(), stored(), reference=True), file.output)
    wanted = run_litert(tiny_float(), nhwc(tiny_images()), reference=False)
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max() + 2 * file.output.scale
