"""The C++ source of a bundle under real compilers: does it compile without a warning, how big, does it compute right?

Compilers are looked for, not asked for: where one is not installed there is no gate, and ``compiler_notes`` says so.
TFLite Micro's headers are in no Python package; the small stand-ins in ``tflm_headers/`` declare what the source uses.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.camera import PixelFormat, pack_pixels, resize_frame, unpack_pixels
from edgeprune.results import Gate

if TYPE_CHECKING:
    import numpy as np

    from edgeprune.preprocess import IntegerPreprocess

HEADERS = Path(__file__).with_name("tflm_headers")
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-fno-exceptions", "-fno-rtti")
_DRIVER = Path(__file__).with_name("preprocess_driver.cc")
_SECONDS = 120
_SECTIONS = (".text", ".rodata", ".data", ".bss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A compiler that the source is held against.

    Attributes:
        gate: name of the gate.
        command: the program.
        size: the program that measures its objects.
        flags: beyond ``STRICT``.
        package: of Debian, that brings it.
    """

    gate: str
    command: str
    size: str
    flags: tuple[str, ...]
    package: str


HOST = Compiler(gate="c_compiles_gpp", command="g++", size="size", flags=("-O2",), package="g++")
ARM = Compiler(
    gate="c_compiles_arm",
    command="arm-none-eabi-g++",
    size="arm-none-eabi-size",
    flags=("-mcpu=cortex-m4", "-mthumb", "-Os"),
    package="gcc-arm-none-eabi",
)


def compiler_notes() -> tuple[str, ...]:
    """One sentence for each compiler that is not installed here, so that nothing passes in silence."""
    return tuple(
        f"{compiler.command} is not installed (Debian: {compiler.package}), so the C++ source was not compiled with it"
        for compiler in (HOST, ARM)
        if shutil.which(compiler.command) is None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What became of the source in a temporary folder.

    Attributes:
        gates: one a compiler that is installed.
        objects: of the host's compiler, by file name; empty where something did not compile or there is none.
        folder: where the sources are.
    """

    gates: tuple[Gate, ...]
    objects: Mapping[str, Path]
    folder: Path


@contextmanager
def build_sources(sources: Mapping[str, bytes]) -> Iterator[Built]:
    """Compile every ``.cc`` with each compiler that is installed, side by side; the objects live within the block.

    Args:
        sources: file name to content, headers included.
    """
    compilers = [compiler for compiler in (HOST, ARM) if shutil.which(compiler.command)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in sources.items():
            (folder / path).write_bytes(content)
        # The network's array takes longer than all else together, so it goes first.
        files = sorted((path for path in sources if path.endswith(".cc")), key=lambda path: -len(sources[path]))
        jobs = [(compiler, file) for file in files for compiler in compilers]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            problems = dict(zip(jobs, pool.map(lambda job: _compile(job[0], job[1], folder), jobs), strict=True))
        gates, objects = [], {}
        for compiler in compilers:
            failed = {file: problems[compiler, file] for file in files if problems[compiler, file]}
            gates.append(_compiles_gate(compiler, files, failed, folder))
            if compiler is HOST and not failed:
                objects = {file: _object(HOST, file, folder) for file in files}
        yield Built(gates=tuple(gates), objects=objects, folder=folder)


def check_preprocess(
    built: Built,
    namespace: str,
    *,
    integer: "IntegerPreprocess",
    golden_images: "np.ndarray",
    golden_inputs: "np.ndarray",
    rotate_180: bool,
) -> Gate:
    """The gate ``c_preprocess``: compiled for this host and fed frames, it gives Python's bytes.

    The golden images in every pixel format must come out as ``camera`` and ``IntegerPreprocess`` make them, those in
    RGB888 as the golden inputs; so must larger and smaller frames of noise, with and without padded rows.

    Args:
        built: with objects of the host's compiler.
        namespace: of the source.
        integer: the preprocessing.
        golden_images: uint8, shape (n, height, width, 3), upright.
        golden_inputs: int8, shape (n, height, width, 3), as fed.
        rotate_180: the image is fed rotated.
    """
    import numpy as np

    limit = "0 bytes that differ from Python's"
    size = golden_images.shape[1]
    frames = [(image, kind, 0) for kind in PixelFormat for image in golden_images]
    noise = np.random.default_rng(0).integers(0, 256, (2 * size + 1, 3 * size + 2, 3), dtype=np.uint8)
    frames += [(noise, kind, padding) for kind, padding in zip(PixelFormat, (0, 1, 7, 0, 64), strict=True)]
    frames += [(noise[: size // 2, : size // 3], PixelFormat.RGB888, 5), (noise[:size, :1], PixelFormat.GREY8, 0)]
    question, expected = [], []
    for image, kind, padding in frames:
        packed = np.ascontiguousarray(pack_pixels(image, kind))
        rows = packed.reshape(len(packed), -1)
        padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
        stride = padded.shape[1] if padding else 0
        question.append(struct.pack("=5i", kind, image.shape[1], image.shape[0], stride, padded.size))
        question.append(padded.tobytes())
        square = resize_frame(unpack_pixels(packed, kind), size)
        expected.append(integer.apply(square[::-1, ::-1] if rotate_180 else square))
    wanted = np.stack(expected)
    # The first frames are the golden images in RGB888.
    wanted[: len(golden_images)] = golden_inputs
    try:
        answer = _drive(built, namespace, b"".join(question))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        detail = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        return Gate(name="c_preprocess", figure="does not run", limit=limit, passed=False, detail=detail[:500])
    found = np.frombuffer(answer, np.int8)
    if found.size != wanted.size:
        detail = f"{found.size} bytes came back, not {wanted.size}"
        return Gate(name="c_preprocess", figure="does not run", limit=limit, passed=False, detail=detail)
    wrong = found.reshape(wanted.shape) != wanted
    bad = [index for index in range(len(frames)) if wrong[index].any()]
    kinds = sorted({frames[index][1].name for index in bad})
    detail = (
        f"{len(frames)} frames: {len(golden_images)} golden images in {len(PixelFormat)} formats, and resized noise"
    )
    return Gate(
        name="c_preprocess",
        figure=int(wrong.sum()),
        limit=limit,
        passed=not bad,
        detail=f"{len(bad)} of {detail}; differs in {', '.join(kinds)}" if bad else detail,
    )


def _drive(built: Built, namespace: str, question: bytes) -> bytes:
    program = built.folder / "preprocess_driver"
    objects = [str(built.objects[file]) for file in ("preprocess.cc", "model_settings.cc")]
    command = ["g++", "-std=c++17", "-O1", f"-DEDGEPRUNE_NAMESPACE={namespace}", f"-I{built.folder}", str(_DRIVER)]
    _run([*command, *objects, "-o", str(program)], built.folder)
    return subprocess.run([program], input=question, capture_output=True, timeout=_SECONDS, check=True).stdout


def _compile(compiler: Compiler, file: str, folder: Path) -> str:
    """Compile one file; what the compiler had to say, or nothing."""
    target = _object(compiler, file, folder)
    try:
        _run(
            [compiler.command, *STRICT, *compiler.flags, f"-I{HEADERS}", "-c", str(folder / file), "-o", str(target)],
            folder,
        )
    except subprocess.CalledProcessError as error:
        return str(error.stderr.decode(errors="replace")).replace(f"{folder}{os.sep}", "")
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def _compiles_gate(compiler: Compiler, files: list[str], failed: Mapping[str, str], folder: Path) -> Gate:
    version = _run([compiler.command, "-dumpfullversion", "-dumpversion"], folder).decode().split()[0]
    told = f"{compiler.command} {version} {' '.join(compiler.flags)}"
    if failed:
        line = next((line for line in "\n".join(failed.values()).splitlines() if "error" in line), "no message")
        detail = f"{told}: {', '.join(failed)}: {line[:300]}"
    else:
        detail = f"{told}: {_section_sizes(compiler, files, folder)}"
    return Gate(
        name=compiler.gate,
        figure=len(failed),
        limit=f"0 of {len(files)} files fail under -Wall -Wextra -Werror -Wpedantic",
        passed=not failed,
        detail=detail,
    )


def _section_sizes(compiler: Compiler, files: list[str], folder: Path) -> str:
    """Bytes by section: of the network, of the golden images, and of all else together."""
    groups = {"model_data.cc": "model", "golden.cc": "golden images"}
    totals: dict[str, dict[str, int]] = {}
    for file in files:
        try:
            lines = (
                _run([compiler.size, "-A", "-d", str(_object(compiler, file, folder))], folder).decode().splitlines()
            )
        except (OSError, subprocess.SubprocessError):
            return f"sections unknown, {compiler.size} does not tell"
        group = totals.setdefault(groups.get(file, "code"), dict.fromkeys(_SECTIONS, 0))
        for name, count in (line.split()[:2] for line in lines if line.startswith(_SECTIONS)):
            group["." + name.split(".")[1]] += int(count)
    return "; ".join(
        f"{group} {', '.join(f'{name} {count}' for name, count in sizes.items() if count)}"
        for group, sizes in sorted(totals.items())
    )


def _object(compiler: Compiler, file: str, folder: Path) -> Path:
    return folder / f"{compiler.gate}.{file}.o"


def _run(command: list[str], folder: Path) -> bytes:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=_SECONDS, check=True
    ).stdout
