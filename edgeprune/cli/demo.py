"""``edgeprune demo``: a bundle on photographs of one's own, or on the frames of a webcam."""

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.console import open_reporter
from edgeprune.errors import InputError

if TYPE_CHECKING:
    from edgeprune.demo import Answer, Demo


class Runtime(StrEnum):
    """Where `demo` runs a file."""

    onnx = "onnx"
    tflite = "tflite"
    tflm = "tflm"


def demo(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a bundle")],
    photos: Annotated[Path, typer.Argument(metavar="IMAGE", help="a photograph, or a folder of them")],
    *,
    runtime: Annotated[
        Runtime | None,
        typer.Option(
            help="tflm: TFLite Micro, as on a board; tflite: LiteRT; onnx: ONNX Runtime; the first that is installed"
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", help="decide the second class above this probability, not at the bundle's threshold"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="wait for images that are added to the folder, until Ctrl-C")
    ] = False,
    annotate: Annotated[
        Path | None, typer.Option(metavar="OUT", help="write copies with the answer drawn in to this folder")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one line of JSON for each image")] = False,
) -> None:
    """Show a bundle photographs: what it sees, how sure it is, what it decides, and how long it took. No torch."""
    from edgeprune.demo import follow_folder, list_photos, open_demo

    if annotate is not None and annotate.resolve() == (photos if photos.is_dir() else photos.parent).resolve():
        raise InputError(f"Copies in {annotate} would replace the photographs there.", "another folder for --annotate")
    opened = open_demo(bundle, runtime=runtime.value if runtime else None, threshold=threshold)
    found: Iterable[Path] = follow_folder(photos) if watch else list_photos(photos)
    broken = []
    with open_reporter(quiet=as_json) as reporter:
        reporter.say(_opening(bundle, opened))
        if watch:
            reporter.say(f"waiting for images in {photos}; Ctrl-C ends")
        for photo in found:
            problem = _show(opened, photo, annotate=annotate, as_json=as_json)
            if problem:
                broken.append(f"{photo.name} ({problem})")
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise InputError(f"No usable image: {broken[0]}{more}.", "open it in an image viewer, and save it again")


def _show(opened: "Demo", photo: Path, *, annotate: Path | None, as_json: bool) -> str:
    """Print one answer; what is wrong with the image, or nothing."""
    from edgeprune.data.decode import BrokenImageError
    from edgeprune.demo import annotate_photo

    try:
        content = photo.read_bytes()
        answer = opened.look_at(content)
    except (BrokenImageError, OSError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        typer.echo(
            json.dumps({"image": str(photo), "problem": problem}) if as_json else f"{photo.name}: not usable: {problem}"
        )
        return problem
    if annotate is not None:
        text = f"{answer.decision} {_sureness(opened, answer)}"
        annotate_photo(content, annotate / photo.name, text, hit=answer.decision == opened.labels[-1])
    if as_json:
        typer.echo(json.dumps(_values(opened, photo, answer), allow_nan=False))
    else:
        typer.echo(f"{photo.name}: {answer.decision}, {_sureness(opened, answer)}, {answer.milliseconds:.1f} ms")
    return ""


def _opening(bundle: Path, opened: "Demo") -> str:
    where = f"{bundle}: {opened.runner.file.path} in {opened.runner.runtime}"
    if opened.threshold is None:
        return where
    return f"{where}; {opened.labels[1]} above a probability of {opened.threshold:.3f}"


def _sureness(opened: "Demo", answer: "Answer") -> str:
    """Of two classes the second one's probability, which is what the threshold is about."""
    label = answer.label if opened.threshold is None else opened.labels[1]
    return f"p({label}) = {answer.probabilities[label]:.3f}"


def _values(opened: "Demo", photo: Path, answer: "Answer") -> dict[str, Any]:
    return {
        "image": str(photo),
        "label": answer.label,
        "probability": answer.probabilities[answer.label],
        "probabilities": answer.probabilities,
        "decision": answer.decision,
        "threshold": opened.threshold,
        "milliseconds": answer.milliseconds,
        "file": opened.runner.file.path,
        "runtime": opened.runner.runtime,
    }
