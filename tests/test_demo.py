"""`edgeprune demo`: what a bundle sees in photographs, in every runtime, without torch."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from bundle_factory import reseal
from command import EDGEPRUNE, ENVIRONMENT, Ask, run_python
from cut_bundles import int8_bundle, onnx_bundle
from PIL import Image, ImageOps

from edgeprune.cli import app
from edgeprune.demo import RUNTIMES, annotate_photo, follow_folder, open_demo
from edgeprune.threshold import decide_positive

WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))\nfrom edgeprune.cli import main; main()"
)
NO_TRAINING = "torch,torchvision,onnx,safetensors,scipy,sklearn,litert_torch"


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_bundle(tmp_path_factory.mktemp("onnx"), difference=0.5)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return int8_bundle(tmp_path_factory.mktemp("int8"), difference=9)


@pytest.fixture
def photos(onnx: Path, tmp_path: Path) -> Path:
    """The golden images of the ONNX bundle as PNG files, whose pixels come back as they were."""
    return save_golden(onnx, tmp_path / "photos")


def save_golden(bundle: Path, to: Path) -> Path:
    to.mkdir()
    record = json.loads((bundle / "golden" / "golden.json").read_text())
    for index, image in enumerate(record["images"]):
        pixels = np.fromfile(bundle / image["path"], np.uint8).reshape(record["shape"])
        Image.fromarray(pixels).save(to / f"{index:02}.png")
    return to


def golden_outputs(bundle: Path) -> np.ndarray:
    (file,) = json.loads((bundle / "golden" / "golden.json").read_text())["files"]
    return np.asarray(file["outputs"])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_gives_the_golden_answers(runtime: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What a person is shown is what the gates have proved, preprocessing included."""
    bundle: Path = request.getfixturevalue("onnx" if runtime == "onnx" else "int8")
    demo = open_demo(bundle, runtime=runtime)
    outputs, cut = golden_outputs(bundle), 0.5 if runtime == "onnx" else 9
    photos = sorted(save_golden(bundle, tmp_path / "photos").iterdir())
    answers = [demo.look_at(photo.read_bytes()) for photo in photos]
    assert [answer.label for answer in answers] == [demo.labels[place] for place in outputs.argmax(axis=1)]
    assert [answer.decision for answer in answers] == [demo.labels[int(each)] for each in decide_positive(outputs, cut)]
    assert demo.difference == cut
    scale = 1.0 if runtime == "onnx" else demo.runner.file.output.quantisation.scale  # type: ignore[union-attr]
    softmax = np.exp(scale * outputs) / np.exp(scale * outputs).sum(axis=1, keepdims=True)
    found = np.asarray([list(answer.probabilities.values()) for answer in answers])
    assert np.abs(found - softmax).max() < (1e-5 if runtime == "onnx" else scale)
    assert all(answer.milliseconds > 0 for answer in answers)


def test_the_runtime_of_the_board_comes_first(int8: Path, onnx: Path) -> None:
    assert open_demo(int8).runner.runtime.startswith("tflite-micro ")
    assert open_demo(onnx).runner.runtime.startswith("onnxruntime ")


def test_a_photograph_is_turned_and_squashed_as_in_training(onnx: Path, tmp_path: Path) -> None:
    """Phones store photographs lying on their side, with a note that says so."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    upright = Image.fromarray(noise).resize((80, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned to the right
    turned = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(turned)).size == (80, 50)
    plain = io.BytesIO()
    upright.save(plain, "PNG")
    demo = open_demo(onnx)
    assert demo.look_at(turned.getvalue()).probabilities == demo.look_at(plain.getvalue()).probabilities


def test_each_image_is_one_line_for_people_and_one_for_machines(onnx: Path, photos: Path, ask: Ask) -> None:
    answer = ask("demo", str(onnx), str(photos), at=photos.parent)
    assert answer.code == 0, answer.err
    head, *lines = answer.out.splitlines()
    assert head == f"{onnx}: model.onnx in {open_demo(onnx).runner.runtime}; defective above a probability of 0.622"
    assert [line.partition(": ")[0] for line in lines] == [f"{index:02}.png" for index in range(8)]
    assert all(" p(defective) = 0." in line and line.endswith(" ms") for line in lines)

    spoken = ask("demo", str(onnx), str(photos / "03.png"), "--json", at=photos.parent)
    (value,) = map(json.loads, spoken.out.splitlines())
    assert value["image"] == str(photos / "03.png")
    assert value["threshold"] == pytest.approx(0.6224593)
    assert value["file"] == "model.onnx"
    assert lines[3].startswith(f"03.png: {value['decision']}, p(defective) = {value['probabilities']['defective']:.3f}")


def test_a_threshold_that_is_typed_wins_over_the_bundles(onnx: Path, photos: Path, ask: Ask) -> None:
    decided = {}
    for threshold in ("0.000001", "0.999999"):
        lines = ask("demo", str(onnx), str(photos), "--json", "--threshold", threshold, at=photos.parent).out
        decided[threshold] = {json.loads(line)["decision"] for line in lines.splitlines()}
    assert decided == {"0.000001": {"defective"}, "0.999999": {"functional"}}


def test_copies_have_the_answer_drawn_in_and_the_photographs_stay(onnx: Path, photos: Path, ask: Ask) -> None:
    before = (photos / "00.png").read_bytes()
    assert ask("demo", str(onnx), str(photos), "--annotate", "out", at=photos.parent).code == 0
    out = photos.parent / "out"
    assert sorted(path.name for path in out.iterdir()) == [f"{index:02}.png" for index in range(8)]
    assert (photos / "00.png").read_bytes() == before
    copied, original = (np.asarray(Image.open(folder / "00.png").convert("RGB")) for folder in (out, photos))
    assert not np.array_equal(copied[:6], original[:6])
    assert np.array_equal(copied[-3:], original[-3:])


@pytest.mark.parametrize("ending", [".jpg", ".bmp", ".webp", ".unknown"])
def test_a_copy_is_an_image_whatever_its_ending(ending: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("L", (300, 200), 90).save(content, "PNG")
    annotate_photo(content.getvalue(), tmp_path / f"copy{ending}", "person p(person) = 0.93", hit=True)
    with Image.open(tmp_path / f"copy{ending}") as copy:
        red, green, blue = copy.convert("RGB").getpixel((290, 2))  # type: ignore[misc]
        assert copy.size == (300, 200)
    assert green > max(red, blue) + 60


def test_no_torch_is_needed(onnx: Path, photos: Path) -> None:
    answer = run_python("-c", WITHOUT, NO_TRAINING, "demo", str(onnx), str(photos / "00.png"), at=photos.parent)
    assert answer.code == 0, answer.err
    assert "00.png: " in answer.out


@pytest.mark.parametrize(
    ("missing", "runtime", "said"),
    [
        ("onnxruntime", [], "`edgeprune demo` needs the package onnxruntime"),
        ("PIL", [], "`edgeprune demo` needs the package PIL"),
        ("numpy", [], "`edgeprune demo` needs the package numpy"),
        ("onnxruntime", ["--runtime", "onnx"], "`edgeprune demo --runtime onnx` needs the package onnxruntime"),
    ],
)
def test_what_is_not_installed_is_named_with_the_extra(
    onnx: Path, photos: Path, missing: str, runtime: list[str], said: str
) -> None:
    answer = run_python("-c", WITHOUT, missing, "demo", str(onnx), str(photos), *runtime, at=photos.parent)
    assert said in answer.refusal()
    assert "pip install 'edgeprune[demo]'" in answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BUNDLE", "nowhere"], "nowhere does not exist."),
        (["BUNDLE", "empty"], "empty holds no image directly in it."),
        (["BUNDLE", "no.png"], "No usable image: no.png (not an image)."),
        (["empty", "photos"], "empty/manifest.json cannot be read"),
        (["BUNDLE", "photos", "--threshold", "60"], "The threshold 60 is outside (0, 1)."),
        (["BUNDLE", "photos", "--threshold", "nan"], "The threshold nan is outside (0, 1)."),
        (["BUNDLE", "photos", "--runtime", "tflm"], "has no file for the runtime tflm."),
        (["BUNDLE", "photos", "--annotate", "photos"], "Copies in photos would replace the photographs there."),
        (["BUNDLE", "photos/00.png", "--watch"], "photos/00.png is no folder."),
    ],
)
def test_wrong_input_is_one_sentence(onnx: Path, photos: Path, ask: Ask, arguments: list[str], said: str) -> None:
    (photos.parent / "empty").mkdir()
    (photos.parent / "no.png").write_text("no image")
    typed = [str(onnx) if argument == "BUNDLE" else argument for argument in arguments]
    assert said in ask("demo", *typed, at=photos.parent).refusal()


def test_a_damaged_bundle_is_not_run(onnx: Path, photos: Path, ask: Ask) -> None:
    """A runtime that is given a damaged file may end the program, or answer."""
    copy = photos.parent / "bundle"
    shutil.copytree(onnx, copy)
    content = bytearray((copy / "model.onnx").read_bytes())
    content[-9] ^= 1
    (copy / "model.onnx").write_bytes(content)
    assert "model.onnx has SHA-256" in ask("demo", str(copy), str(photos), at=photos.parent).refusal()


@pytest.mark.parametrize(
    ("text", "change", "said"),
    [
        ("preprocess.json", lambda text: text.replace('"image_size": 16', '"image_size": 24'), "contradicts itself"),
        ("labels.txt", lambda text: text + "another\n", "contradicts itself|names 3 labels"),
    ],
)
def test_a_bundle_that_does_not_fit_its_file_is_a_sentence(
    onnx: Path, photos: Path, ask: Ask, tmp_path: Path, *, text: str, change: Callable[[str], str], said: str
) -> None:
    """Sealed anew by whoever changed it, so that every byte is right."""
    bundle = Path(shutil.copytree(onnx, tmp_path / "bundle"))
    before = (bundle / text).read_text(encoding="utf-8")
    assert change(before) != before
    (bundle / text).write_text(change(before), encoding="utf-8")
    reseal(bundle)
    assert re.search(said, ask("demo", str(bundle), str(photos), at=tmp_path).refusal())


def test_a_broken_image_keeps_no_other_from_its_answer(onnx: Path, photos: Path, ask: Ask) -> None:
    (photos / "04.png").write_bytes((photos / "04.png").read_bytes()[:200])
    (photos / "notes.txt").write_text("not looked at")
    answer = ask("demo", str(onnx), str(photos), "--json", at=photos.parent)
    assert answer.code == 2
    assert "No usable image: 04.png" in answer.err
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert ["problem" in line for line in lines] == [index == 4 for index in range(8)]


# --- watching


def test_a_file_is_shown_once_it_is_written_and_again_when_it_changes(tmp_path: Path) -> None:
    """A webcam's tool takes its time to write a frame, and half of one is no image."""
    (tmp_path / "old.jpg").write_bytes(b"there before")
    frames = follow_folder(tmp_path, poll_seconds=0.01)
    growing = tmp_path / "frame.jpg"
    written = []

    def grow() -> Iterator[None]:
        for part in range(4):
            with growing.open("ab") as file:
                file.write(b"part" * (part + 1))
            written.append(growing.stat().st_size)
            yield

    writer = grow()
    original = time.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.demo.photos.time.sleep", lambda seconds: (next(writer, None), original(0.002))[1])
        assert next(frames) == growing
        assert len(written) == 4, "it was shown before it was whole"
    (tmp_path / "frame.txt").write_bytes(b"no image")
    (tmp_path / ".frame2.jpg").write_bytes(b"hidden while it is written")
    growing.write_bytes(b"the next frame under the same name")
    assert next(frames) == growing
    (tmp_path / "b.png").write_bytes(b"x")
    os.utime(tmp_path / "b.png", ns=(1, 1))
    (tmp_path / "a.png").write_bytes(b"x")
    assert [next(frames).name, next(frames).name] == ["b.png", "a.png"]


def test_watching_answers_frames_as_they_come_until_it_is_interrupted(onnx: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    command = [*EDGEPRUNE, "demo", str(onnx), str(folder), "--watch"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        assert watching.stdout.readline() == f"waiting for images in {folder}; Ctrl-C ends\n"
        time.sleep(0.3)
        shutil.copy(photos / "05.png", folder / "frame-1.png")
        assert watching.stdout.readline().startswith("frame-1.png: ")
        (folder / "frame-2.png").write_text("no image")
        assert watching.stdout.readline() == "frame-2.png: not usable: not an image\n"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 130


def test_help_is_quick_and_names_every_option() -> None:
    """Nothing heavy is imported to say what a command is for."""
    program = (
        "import sys; from edgeprune.cli import main\n"
        "try: main()\nfinally: print([name for name in ('numpy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, "demo", "--help"], capture_output=True, text=True, check=True)
    for option in ("--runtime", "--threshold", "--watch", "--annotate", "--json"):
        assert option in done.stdout
    assert done.stdout.rstrip().endswith("[]")


# --- the page


PAGE = Path(__file__).parent.parent / "docs" / "bundle-on-your-board.md"


def commands_of_page() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("edgeprune ")]


@pytest.mark.parametrize("line", commands_of_page())
def test_every_command_of_the_page_is_one_that_the_program_understands(line: str) -> None:
    """A first page that does not work is the last one that somebody reads."""
    _, command, *arguments = shlex.split(line)
    group = typer.main.get_command(app)
    context = group.make_context("edgeprune", [command, *arguments])
    subcommand = group.get_command(context, command)  # type: ignore[attr-defined]
    assert subcommand is not None
    subcommand.make_context(command, arguments, parent=context)


def test_the_page_shows_every_option_of_the_demo() -> None:
    shown = set(re.findall(r" (--[a-z-]+)", "\n".join(line for line in commands_of_page() if " demo " in line)))
    assert {"--annotate", "--json", "--watch", "--threshold"} <= shown


@pytest.mark.parametrize("name", ["DecideLabel", "kDecisionDifference", "RunSelfTest", "Classify", "kRgb565BigEndian"])
def test_what_the_page_calls_is_in_the_firmware(int8: Path, name: str) -> None:
    assert name in PAGE.read_text(encoding="utf-8")
    assert any(name in header.read_text() for header in (int8 / "c").glob("*.h"))
