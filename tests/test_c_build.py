"""The C++ source of a bundle under real compilers, and its self-test on a stand-in for TFLite Micro's library."""

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from firmware_files import FIRMWARE, LABELS, NAMESPACE, Firmware, tiny_firmware
from programs import needs

from edgeprune.camera import MAX_FRAME_SIDE, MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, PixelFormat, resize_frame
from edgeprune.verify import c_build
from edgeprune.verify.c_build import HEADERS, STRICT, compiler_notes

needs_host = needs("g++", package="g++")
needs_arm = needs("arm-none-eabi-g++", package="gcc-arm-none-eabi and libstdc++-arm-none-eabi-newlib")
needs_cmake = needs("cmake", package="cmake")
rotations = pytest.mark.parametrize("rotate_180", [False, True], ids=["upright", "rotated"])
OK, OPERATORS, ARENA, INPUT, OUTPUT, USED, PREPROCESS, INVOKE, GOLDEN = 0, 2, 3, 4, 5, 6, 8, 9, 10


def write_source(firmware: Firmware, folder: Path, changes: dict[str, bytes] | None = None) -> Path:
    for path, content in {**firmware.files, **(changes or {})}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder / "c"


def link(folder: Path, *extra: Path, flags: tuple[str, ...] = ()) -> Path:
    """All of c/ with the stand-in library, under a sanitizer: reading past an array must not go unnoticed."""
    command = ["g++", *STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += [f"-I{HEADERS}", f"-I{folder}", f"-DEDGEPRUNE_NAMESPACE={NAMESPACE}", *flags]
    command += [str(FIRMWARE / "interpreter.cc"), *map(str, sorted(folder.glob("*.cc"))), *map(str, extra)]
    program = folder / "program"
    subprocess.run([*command, "-o", str(program)], check=True, timeout=120)
    return program


def run(program: Path, **told: int) -> int:
    environment = {"PATH": os.environ["PATH"], **{name: str(value) for name, value in told.items()}}
    return subprocess.run([program], env=environment, check=False, timeout=60).returncode


@pytest.fixture(scope="module")
def self_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tiny_firmware(), tmp_path_factory.mktemp("self_test"))
    return link(folder, flags=("-DEDGEPRUNE_SELF_TEST_MAIN",))


# --- gates


@needs_host
@rotations
def test_what_was_rendered_passes_every_gate(rotate_180: bool) -> None:
    gates = tiny_firmware(rotate_180=rotate_180).check()
    assert [gate for gate in gates.values() if not gate.passed] == []
    assert {"c_array", "c_settings", "c_labels", "c_operators", "c_golden", "c_compiles_gpp", "c_preprocess"} <= set(
        gates
    )


@needs_host
@needs_arm
def test_the_sizes_of_sections_are_told_for_host_and_device() -> None:
    firmware = tiny_firmware()
    gates = firmware.check()
    for name in ("c_compiles_gpp", "c_compiles_arm"):
        assert f"model .rodata {len(firmware.model)}" in gates[name].detail
        assert "code .text" in gates[name].detail
    assert "-mcpu=cortex-m4" in gates["c_compiles_arm"].detail


@needs_host
def test_a_warning_fails_the_compiler_gate_and_is_told() -> None:
    firmware = tiny_firmware()
    changed = firmware.edited("c/preprocess.cc", "int32_t PixelBytes(", "int unused;\nint32_t PixelBytes(")
    gate = firmware.check(changed)["c_compiles_gpp"]
    assert not gate.passed
    assert gate.figure == 1
    assert "preprocess.cc" in gate.detail
    assert "unused" in gate.detail


@needs_arm
def test_source_that_only_a_pc_can_compile_fails_the_device_gate() -> None:
    firmware = tiny_firmware()
    changed = firmware.edited(
        "c/preprocess.h", "#include <stdint.h>", '#include <stdint.h>\nstatic_assert(sizeof(void*) == 8, "a PC");'
    )
    gates = firmware.check(changed)
    assert not gates["c_compiles_arm"].passed


@needs_host
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return {{bytes[2], bytes[1], bytes[0]}};", "return {{bytes[0], bytes[1], bytes[2]}};"),
        ("<< 8 | bytes[0]);", "<< 8 | bytes[1]);"),
        ("green << 2 | green >> 4", "green << 2"),
        ("value >= 0 ? value >> shift : ~(~value >> shift)", "value / (1 << shift)"),
        ("+ weight / 2) / weight", ") / weight"),
        ("2 * (length > kImageSize ? length : kImageSize)", "2 * length"),
        ("frame.stride_bytes == 0 ? frame.width * step : frame.stride_bytes", "frame.width * step"),
        ("const int32_t place = kRotate180 ?", "const int32_t place = !kRotate180 ?"),
    ],
    ids=[
        "bgr_as_rgb",
        "rgb565_bytes",
        "green_bits",
        "shift_to_zero",
        "no_rounding",
        "upsampling",
        "stride",
        "rotation",
    ],
)
def test_wrong_preprocessing_is_seen_when_it_runs(old: str, new: str) -> None:
    """It compiles, and every constant is right; only running it tells."""
    firmware = tiny_firmware()
    changed = firmware.edited("c/preprocess.cc", old, new)
    # What the compiler proves by itself is taken out of its hands.
    text = changed["c/preprocess.cc"].decode()
    changed["c/preprocess.cc"] = "\n".join(
        line for line in text.split("\n") if not line.startswith("static_assert(FloorShift")
    ).encode()
    gates = firmware.check(changed)
    assert gates["c_compiles_gpp"].passed, gates["c_compiles_gpp"]
    assert not gates["c_preprocess"].passed
    assert gates["c_preprocess"].figure != 0


@needs_host
def test_preprocessing_that_crashes_fails_its_gate() -> None:
    firmware = tiny_firmware()
    changed = firmware.edited("c/preprocess.cc", "  const bool fits =", "  __builtin_trap();\n  const bool fits =")
    gate = firmware.check(changed)["c_preprocess"]
    assert not gate.passed
    assert gate.figure == "does not run"


def test_a_compiler_that_is_missing_is_told_and_gives_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that nothing stands behind would be worse than none."""
    monkeypatch.setattr(c_build.shutil, "which", lambda _: None)
    gates = tiny_firmware().check()
    assert {name for name in gates if name.startswith(("c_compiles", "c_preprocess"))} == set()
    assert len(compiler_notes()) == 2
    assert "arm-none-eabi-g++ is not installed (Debian: gcc-arm-none-eabi)" in gates["c_array"].detail


@needs_host
def test_extreme_frames_overflow_nothing_and_are_not_read_past_their_end(tmp_path: Path) -> None:
    """Under sanitizers: the sums of weights of the largest sides in the smallest image are closest to 32 bits."""
    firmware = tiny_firmware()
    small = firmware.edited("c/model_settings.h", "kImageSize = 32;", f"kImageSize = {MIN_IMAGE_SIZE};")
    text = small["c/model_settings.h"].replace(b"kInputBytes = 3072", b"kInputBytes = %d" % (3 * MIN_IMAGE_SIZE**2))
    folder = write_source(firmware, tmp_path, {"c/model_settings.h": text})
    program = tmp_path / "driver"
    command = ["g++", *STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{folder}"]
    command += [f"-DEDGEPRUNE_NAMESPACE={NAMESPACE}", str(Path(c_build.__file__).with_name("preprocess_driver.cc"))]
    command += [str(folder / "preprocess.cc"), str(folder / "model_settings.cc"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    for height, width in [(MAX_FRAME_SIDE, 3), (3, MAX_FRAME_SIDE), (1, 1), (MIN_IMAGE_SIZE, MIN_IMAGE_SIZE)]:
        frame = np.full((height, width, 3), 255, np.uint8)
        frame[:: max(height // 3, 1)] = 1
        question = struct.pack("=5i", PixelFormat.RGB888, width, height, 0, frame.size) + frame.tobytes()
        answer = subprocess.run([program], input=question, capture_output=True, check=True, timeout=120).stdout
        assert answer == firmware.integer.apply(resize_frame(frame, MIN_IMAGE_SIZE)).tobytes()
    for width, height, stride, kind in [(0, 5, 0, 0), (5, -1, 0, 0), (4097, 1, 0, 0), (5, 5, 14, 0), (5, 5, 0, 9)]:
        refused = struct.pack("=5i", kind, width, height, stride, 75) + bytes(75)
        assert subprocess.run([program], input=refused, capture_output=True, check=False).returncode == 2


def test_the_limits_of_the_resize_are_the_same_in_both_languages() -> None:
    text = tiny_firmware().files["c/preprocess.cc"].decode()
    assert f"kMaxSide = {MAX_FRAME_SIDE};" in text
    assert f"kImageSize >= {MIN_IMAGE_SIZE} && kImageSize <= {MAX_IMAGE_SIZE}" in text


# --- the self-test


@needs_host
def test_the_self_test_returns_0_on_right_answers(self_test: Path) -> None:
    assert run(self_test) == OK


@needs_host
@rotations
def test_the_self_test_holds_for_upright_and_rotated_networks(tmp_path: Path, rotate_180: bool) -> None:
    folder = write_source(tiny_firmware(rotate_180=rotate_180), tmp_path)
    assert run(link(folder, flags=("-DEDGEPRUNE_SELF_TEST_MAIN",))) == OK


@needs_host
@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"OUTPUT_ERROR": 1}, OK),
        ({"OUTPUT_ERROR": 2}, GOLDEN),
        ({"OUTPUT_ERROR": -2}, GOLDEN),
        ({"NEEDED_BYTES": 1_000_000}, ARENA),
        ({"OPERATORS": 6}, ARENA),
        ({"USED_BYTES": 1_000_000}, USED),
        ({"INPUT_SIDE": 96}, INPUT),
        ({"INPUT_TYPE": 1}, INPUT),
        ({"INPUT_ZERO_POINT": 0}, INPUT),
        ({"INPUTS": 2}, INPUT),
        ({"OUTPUT_SCALE_TIMES": 2}, OUTPUT),
        ({"INVOKE_FAILS": 1}, INVOKE),
    ],
    ids=lambda value: "-".join(f"{name}={number}" for name, number in value.items()) if isinstance(value, dict) else "",
)
def test_the_self_test_says_what_is_wrong(self_test: Path, told: dict[str, int], code: int) -> None:
    assert run(self_test, **told) == code


@needs_host
@pytest.mark.parametrize(
    ("path", "old", "new", "code"),
    [
        ("c/preprocess.cc", "{{bytes[0], bytes[1], bytes[2]}}", "{{bytes[2], bytes[1], bytes[0]}}", PREPROCESS),
        ("c/model_settings.h", "kRotate180 = false", "kRotate180 = true", PREPROCESS),
        ("c/op_resolver.h", "kOperatorKinds = 5", "kOperatorKinds = 4", OPERATORS),
    ],
    ids=["red_and_blue", "rotation", "too_few_operators"],
)
def test_the_self_test_sees_source_that_was_changed(tmp_path: Path, path: str, old: str, new: str, code: int) -> None:
    firmware = tiny_firmware()
    folder = write_source(firmware, tmp_path, firmware.edited(path, old, new))
    assert run(link(folder, flags=("-DEDGEPRUNE_SELF_TEST_MAIN",))) == code


@needs_host
def test_the_self_test_sees_another_schema_version(tmp_path: Path) -> None:
    firmware = tiny_firmware()
    folder = write_source(firmware, tmp_path, firmware.edited("c/model_settings.h", "Version = 3", "Version = 4"))
    assert run(link(folder, flags=("-DEDGEPRUNE_SELF_TEST_MAIN",))) == 1


@needs_host
def test_classify_gives_the_label_of_the_golden_output(tmp_path: Path) -> None:
    """The ten lines that firmware needs, with a label that C++ could trip over."""
    firmware = tiny_firmware()
    program = link(write_source(firmware, tmp_path), FIRMWARE / "classify_main.cc")
    told = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    for line, output in zip(told, firmware.outputs, strict=True):
        label, name, stored, runner_up, _ = line.split("|")
        best = int(output.argmax())
        assert (int(label), name) == (best, LABELS[best])
        assert (int(stored), int(runner_up)) == (output.max(), output.min())


@needs_host
def test_two_networks_fit_into_one_program(tmp_path: Path) -> None:
    """Their names, guards and files must not meet."""
    firmware = tiny_firmware()
    other = {path: content.replace(b"s60", b"s50").replace(b"S60", b"S50") for path, content in firmware.files.items()}
    first, second = write_source(firmware, tmp_path / "one"), write_source(firmware, tmp_path / "two", other)
    main = tmp_path / "main.cc"
    main.write_text(
        f'#include "{first}/preprocess.h"\n#include "{second}/preprocess.h"\n'
        "int main() {\n"
        "  return edgeprune_tiny32_s60::PreprocessFrame({}, nullptr) ||\n"
        "         edgeprune_tiny32_s50::PreprocessFrame({}, nullptr);\n"
        "}\n"
    )
    sources = [str(folder / f"{name}.cc") for folder in (first, second) for name in ("preprocess", "model_settings")]
    command = ["g++", "-std=c++17", *sources, str(main), "-o", str(tmp_path / "program")]
    subprocess.run(command, check=True, timeout=120)
    assert run(tmp_path / "program") == 0


# --- CMake


@needs_host
@needs_cmake
def test_cmake_builds_the_self_test(tmp_path: Path) -> None:
    folder = write_source(tiny_firmware(), tmp_path)
    library = tmp_path / "libstand-in.a"
    command = ["g++", *STRICT, f"-DEDGEPRUNE_NAMESPACE={NAMESPACE}", f"-I{HEADERS}", f"-I{folder}"]
    subprocess.run([*command, "-c", str(FIRMWARE / "interpreter.cc"), "-o", str(tmp_path / "stand_in.o")], check=True)
    subprocess.run(["ar", "rcs", str(library), str(tmp_path / "stand_in.o")], check=True)
    # A static library that calls back into the one before it; the real one does not.
    link_flags = f"-DCMAKE_CXX_STANDARD_LIBRARIES={library} {tmp_path}/build/lib{NAMESPACE}.a"
    build_with_cmake(folder, tmp_path / "build", f"-DTFLM_DIR={HEADERS}", f"-DTFLM_LIBRARY={library}", link_flags)
    assert run(tmp_path / "build" / f"{NAMESPACE}_self_test") == OK


@needs_cmake
def test_cmake_says_what_it_needs(tmp_path: Path) -> None:
    folder = write_source(tiny_firmware(), tmp_path)
    configured = subprocess.run(
        ["cmake", "-S", str(folder), "-B", str(tmp_path / "build")], capture_output=True, text=True, check=False
    )
    assert configured.returncode != 0
    assert "Give -DTFLM_DIR=/path/to/tflite-micro" in configured.stderr


if os.environ.get("TFLM_DIR"):

    def test_the_real_tflite_micro_gives_the_golden_outputs(tmp_path: Path) -> None:
        """There with TFLM_DIR set to a tree of tflite-micro whose library was built: `make -f ... microlite`."""
        folder = write_source(tiny_firmware(), tmp_path)
        build_with_cmake(folder, tmp_path / "build", f"-DTFLM_DIR={os.environ['TFLM_DIR']}")
        assert run(tmp_path / "build" / f"{NAMESPACE}_self_test") == OK


def build_with_cmake(folder: Path, build: Path, *options: str) -> None:
    for command in (
        ["cmake", "-S", str(folder), "-B", str(build), "-DEDGEPRUNE_SELF_TEST=ON", *options],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
