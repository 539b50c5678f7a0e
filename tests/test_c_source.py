"""What the C++ source of a bundle says, and the gates that hold it against the file it was made of."""

import dataclasses
import re
import time
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import reseal
from cut_bundles import int8_bundle
from firmware_files import LABELS, NAMESPACE, Firmware, render_again, tiny_firmware, with_arena
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import edgeprune.verify.c_source as under_test
from edgeprune import verify
from edgeprune.camera import PixelFormat, pack_pixels, resize_frame, unpack_pixels
from edgeprune.cpp_literals import read_bytes, read_string, write_bytes, write_string
from edgeprune.embedded import Quantisation
from edgeprune.errors import InputError
from edgeprune.manifest import Manifest, parse_manifest
from edgeprune.micro_operators import RESOLVER_METHODS
from edgeprune.micro_scratch import cmsis_nn_scratch_bytes
from edgeprune.results import Gate
from edgeprune.verify.bundle_texts import read_texts
from edgeprune.verify.c_source import check_c_files
from edgeprune.verify.c_text import ExpectedSource, check_texts
from edgeprune.verify.litert import read_io


@pytest.fixture
def firmware() -> Firmware:
    return tiny_firmware()


@pytest.fixture
def expected(firmware: Firmware) -> ExpectedSource:
    return expected_of(firmware)


def expected_of(firmware: Firmware) -> ExpectedSource:
    tensors = read_io(firmware.model)
    assert tensors.input is not None
    assert tensors.output is not None
    return ExpectedSource(
        model=firmware.model,
        labels=firmware.metadata.labels,
        image_size=firmware.metadata.image_size,
        input=tensors.input,
        output=tensors.output,
        integer=firmware.integer,
        rotate_180=firmware.metadata.rotate_180,
        arena=firmware.arena,
        golden_images=firmware.images,
        golden_inputs=firmware.inputs,
        golden_outputs=firmware.outputs,
        golden_labels=(0, 1),
        tolerance_lsb=1,
    )


def failed(files: dict[str, bytes], expected: ExpectedSource) -> list[str]:
    sources = {path.removeprefix("c/"): content for path, content in files.items()}
    return [gate.name for gate in check_texts(sources, expected, "c/") if not gate.passed]


# --- operators


def test_the_operators_are_those_that_tflite_micro_was_linked_from() -> None:
    """The kernels' functions are named in the package's library, behind the length of each name."""
    import tflite_micro
    from ai_edge_litert import schema_py_generated as schema

    library = next(Path(tflite_micro.__file__).parent.rglob("_runtime.so")).read_bytes()
    names = {
        match[2][: int(match[1][-2:])].decode().removeprefix("Register_")
        for match in re.finditer(rb"(\d+)(Register_[A-Z0-9_]+)", library)
    }
    known = {name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    assert set(RESOLVER_METHODS) == names & known


def test_the_stand_in_resolver_has_every_method_and_no_other() -> None:
    """A method that only the stand-in has would compile here and not in firmware."""
    header = next((Path(verify.__file__).parent / "tflm_headers").rglob("micro_mutable_op_resolver.h")).read_text()
    assert set(re.findall(r"TfLiteStatus (Add\w+)\(\) \{ return Add", header)) == set(RESOLVER_METHODS.values())


def test_an_operator_that_tflite_micro_has_not_is_refused_by_name(firmware: Firmware) -> None:
    with pytest.raises(InputError, match=r"model_int8\.tflite has the operator GELU, which TFLite Micro has not"):
        render_again(firmware, operators={"CONV_2D": 2, "GELU": 1})


def test_scratch_is_the_largest_operator_and_what_stays(firmware: Firmware) -> None:
    """Depthwise 3x3 of 8 channels copies 4 x 124 channels; fully connected keeps 4 bytes an output."""
    assert cmsis_nn_scratch_bytes(firmware.model) == 4 * 124 * 9 + 16


# --- camera


@pytest.mark.parametrize(("width", "height"), [(96, 96), (320, 240), (33, 70), (160, 120), (1, 500), (97, 95)])
def test_the_resize_is_pillows_within_one_step(width: int, height: int) -> None:
    """Training squashed its images with Pillow; what the firmware does must not be another resize."""
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(frame).resize((96, 96), Image.Resampling.BILINEAR))
    assert np.abs(resize_frame(frame, 96).astype(int) - pillow).max() <= 1


def test_a_frame_of_the_right_size_is_not_touched() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert np.array_equal(resize_frame(frame, 96), frame)


@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 1000))
def test_resizing_and_rotating_may_change_places(height: int, width: int, seed: int) -> None:
    """The firmware rotates while it writes, which is the same only because the weights are symmetric."""
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(resize_frame(frame[::-1, ::-1], 8), resize_frame(frame, 8)[::-1, ::-1])


@pytest.mark.parametrize("kind", list(PixelFormat))
def test_packing_loses_only_what_a_format_cannot_hold(kind: PixelFormat) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    again = unpack_pixels(pack_pixels(image, kind), kind)
    lost = {PixelFormat.RGB565_LE: 8, PixelFormat.RGB565_BE: 8}.get(kind, 1)
    if kind is not PixelFormat.GREY8:
        assert np.abs(again.astype(int) - image).max() < lost
    assert np.array_equal(unpack_pixels(pack_pixels(again, kind), kind), again)


# --- literals


@given(st.binary(max_size=200))
def test_bytes_come_back_from_the_source(content: bytes) -> None:
    assert read_bytes(write_bytes(content)) == content


@given(st.text(max_size=30))
def test_names_come_back_from_plain_ascii_without_trigraphs(text: str) -> None:
    literal = write_string(text)
    assert literal.isascii()
    assert "??" not in literal
    assert "\n" not in literal
    assert read_string(literal) == text


@pytest.mark.parametrize("text", ["0x00", "0x0g,", "0X00,", "0x00;", "0x00,/*", "0x00, 0x01,", "0x00,1x00,"])
def test_a_row_of_bytes_hides_nothing_between_them(text: str) -> None:
    with pytest.raises(ValueError, match="not a row of bytes"):
        read_bytes(text)


# --- rendering


def test_every_file_is_in_a_namespace_and_behind_a_guard_of_the_bundle(firmware: Firmware) -> None:
    """Two networks must fit into one firmware."""
    for path, content in firmware.files.items():
        text = content.decode()
        assert NAMESPACE in text, path
        if path.endswith(".h"):
            guard = f"{NAMESPACE.upper()}_{path.removeprefix('c/').replace('.', '_').upper()}_"
            assert f"#ifndef {guard}\n#define {guard}\n" in text
        if path.endswith((".h", ".cc")):
            assert text.isascii()
            assert f"namespace {NAMESPACE} {{" in text


def test_no_place_of_a_template_is_left_open(firmware: Firmware) -> None:
    assert [path for path, content in firmware.files.items() if re.search(rb"@\w+@", content)] == []


def test_equal_arguments_give_equal_bytes(firmware: Firmware) -> None:
    assert render_again(firmware) == firmware.files


def test_the_arena_is_the_sum_of_its_parts_rounded_up(firmware: Firmware) -> None:
    whole = firmware.arena.arena_bytes + cmsis_nn_scratch_bytes(firmware.model)
    text = firmware.files["c/model_settings.h"].decode()
    found = re.search(r"kArenaBytes = (\d+) ", text)
    assert found is not None
    assert int(found[1]) % 16 == 0
    assert whole <= int(found[1]) < whole + 16


def test_a_megabyte_is_rendered_in_well_under_a_second(firmware: Firmware) -> None:
    """The whole export has 90 seconds."""
    start = time.perf_counter()
    render_again(firmware, model=firmware.model + bytes(2**20 - len(firmware.model)))
    assert time.perf_counter() - start < 0.5


def test_golden_arrays_that_do_not_fit_are_refused(firmware: Firmware) -> None:
    with pytest.raises(ValueError, match=r"golden inputs are uint8 \(2, 32, 32, 3\), not int8"):
        render_again(firmware, golden_inputs=firmware.images)


# --- gates on the text


def test_what_was_rendered_passes(firmware: Firmware, expected: ExpectedSource) -> None:
    assert failed(firmware.files, expected) == []


# File, what is changed in it into what, and the gate that must see it.
DAMAGES = [
    ("model_data.cc", "0x54,0x46,0x4c,0x33,", "0x54,0x46,0x4c,0x34,", "c_array"),
    ("model_data.cc", "0x54,0x46,0x4c,0x33,", "", "c_array"),
    ("model_data.cc", "0x54,0x46,0x4c,0x33,", "0x54,/*,0x4c,0x33,", "c_array"),
    ("model_data.h", "kModelBytes = ", "kModelBytes = 1", "c_array"),
    ("model_settings.h", "kImageSize = 32", "kImageSize = 64", "c_settings"),
    ("model_settings.h", "kInputScale = 0", "kInputScale = 1", "c_settings"),
    ("model_settings.h", "kOutputScale = 0", "kOutputScale = 9", "c_settings"),
    ("model_settings.h", "kInputZeroPoint = -", "kInputZeroPoint = ", "c_settings"),
    ("model_settings.h", "kRotate180 = false", "kRotate180 = true", "c_settings"),
    ("model_settings.h", "kPixelShift = 22", "kPixelShift = 21", "c_settings"),
    ("model_settings.h", "kPixelOffset[kChannels] = {-", "kPixelOffset[kChannels] = {", "c_settings"),
    ("model_settings.h", "kArenaHeadBytes = 8", "kArenaHeadBytes = 7", "c_settings"),
    ("model_settings.h", "kArenaBytes = 1", "kArenaBytes = ", "c_settings"),
    ("model_settings.h", "constexpr int kPixelShift", "constexpr int kPixelSwing", "c_settings"),
    ("model_settings.cc", '"good"', '"bad"', "c_labels"),
    ("op_resolver.h", "AddHardSwish", "AddRelu", "c_operators"),
    ("op_resolver.h", "kOperatorKinds = 5", "kOperatorKinds = 6", "c_operators"),
    ("golden.h", "kGoldenToleranceLsb = 1", "kGoldenToleranceLsb = 100", "c_golden"),
    ("golden.h", "kGoldenImages = 2", "kGoldenImages = 9", "c_golden"),
    ("golden.cc", "kGoldenLabels[kGoldenImages] = {0, 1}", "kGoldenLabels[kGoldenImages] = {1, 1}", "c_golden"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage[0]}-{damage[2]}")
def test_damaged_source_fails_the_gate_of_its_file(
    firmware: Firmware, expected: ExpectedSource, damage: tuple[str, str, str, str]
) -> None:
    file, old, new, gate = damage
    files = {**firmware.files, **firmware.edited(f"c/{file}", old, new)}
    assert f"{gate}:c/{file}" in failed(files, expected)


@pytest.mark.parametrize("name", ["golden_images", "golden_inputs", "golden_outputs"])
def test_golden_arrays_of_another_export_fail(firmware: Firmware, expected: ExpectedSource, name: str) -> None:
    array = getattr(expected, name).copy()
    array.ravel()[-1] ^= 1
    assert failed(firmware.files, dataclasses.replace(expected, **{name: array})) == ["c_golden:c/golden.cc"]


def test_reversed_labels_fail(firmware: Firmware, expected: ExpectedSource) -> None:
    found = failed(firmware.files, dataclasses.replace(expected, labels=LABELS[::-1]))
    assert found == ["c_labels:c/model_settings.cc"]


def test_an_arena_below_the_live_tensors_fails_whatever_was_measured(
    firmware: Firmware, expected: ExpectedSource
) -> None:
    small = with_arena(firmware, head_bytes=firmware.arena.head_bytes - 16)
    files = render_again(firmware, arena=small)
    assert failed(files, dataclasses.replace(expected, arena=small)) == ["c_settings:c/model_settings.h"]


def test_a_missing_file_fails(firmware: Firmware, expected: ExpectedSource) -> None:
    files = {path: content for path, content in firmware.files.items() if path != "c/model_settings.cc"}
    assert failed(files, expected) == ["c_labels:c/model_settings.cc"]


# --- a bundle from elsewhere


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return int8_bundle(tmp_path)


def bundle_gates(folder: Path) -> dict[str, Gate]:
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), origin="manifest.json")
    return {gate.name: gate for gate in check_c_files(folder, manifest, read_texts(folder))}


def test_a_published_bundle_has_a_gate_for_every_source_file(published: Path, firmware: Firmware) -> None:
    gates = bundle_gates(published)
    assert sorted(name.partition(":")[2] for name in gates) == sorted(firmware.files)
    assert [gate for gate in gates.values() if not gate.passed] == []


def test_a_bundle_is_only_read_never_compiled(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its source may come from anyone."""
    monkeypatch.setattr(under_test, "build_sources", None)
    monkeypatch.setattr("subprocess.run", None)
    assert all(gate.passed for gate in bundle_gates(published).values())


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage[0]}-{damage[2]}")
def test_a_resealed_bundle_with_damaged_source_fails(
    published: Path, firmware: Firmware, damage: tuple[str, str, str, str]
) -> None:
    file, old, new, gate = damage
    path = f"c/{file}"
    (published / path).write_bytes(firmware.edited(path, old, new)[path])
    reseal(published)
    assert not bundle_gates(published)[f"{gate}:{path}"].passed


def test_code_of_another_bundle_fails(published: Path, firmware: Firmware) -> None:
    other = firmware.files["c/classify.cc"].replace(b"s60", b"s50")
    (published / "c/classify.cc").write_bytes(other)
    reseal(published)
    assert not bundle_gates(published)["c_belongs:c/classify.cc"].passed


def test_a_bundle_without_source_has_no_such_gates(published: Path) -> None:
    manifest = parse_manifest((published / "manifest.json").read_bytes(), origin="manifest.json")
    other = Manifest.model_construct(**{**dict(manifest), "files": manifest.files[-2:]})
    assert check_c_files(published, other, read_texts(published)) == []


def test_source_without_an_int8_model_fails(published: Path) -> None:
    texts = read_texts(published)
    manifest = parse_manifest((published / "manifest.json").read_bytes(), origin="manifest.json")
    rule = texts.rule.model_copy(
        update={"files": tuple(file.model_copy(update={"path": "model.onnx"}) for file in texts.rule.files)}
    )
    gates = check_c_files(published, manifest, dataclasses.replace(texts, rule=rule))
    assert gates
    assert not any(gate.passed for gate in gates)


def test_scales_are_written_with_all_the_digits_of_float32(firmware: Firmware, expected: ExpectedSource) -> None:
    """The self-test compares them with the tensor's for equality."""
    scale = float(np.float32(0.1) / np.float32(3))
    files = render_again(firmware, input=Quantisation(scale=scale, zero_point=expected.input.zero_point))
    found = re.search(r"kInputScale = (\S+)f;", files["c/model_settings.h"].decode())
    assert found is not None
    assert np.float32(found[1]) == np.float32(scale)
