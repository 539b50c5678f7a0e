"""Ask a bundle's models again: do they describe themselves as the texts do, and answer as they did when published?

Needs numpy and onnxruntime, no torch. The bytes have been checked before anything here opens a file.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.formats import LAYOUT, GoldenFile, GoldenRecord, ModelMetadata, PreprocessRecord, parse_metadata
from edgeprune.manifest import FileEntry, Manifest, parse_record
from edgeprune.preprocess import normalise_pixels
from edgeprune.results import Gate, at_most

if TYPE_CHECKING:
    import numpy as np


def replay_models(folder: Path, manifest: Manifest) -> list[Gate]:
    """Gates of every ONNX file of a bundle whose bytes are right: its metadata, and its golden answers.

    Args:
        folder, manifest: every listed file is there, with the size and digest it should have.

    Returns:
        ``metadata:<path>`` and ``golden:<path>`` for each file, or ``bundle_texts`` alone when the texts beside the
        models cannot be read.
    """
    try:
        labels = tuple(read_listed(folder / "labels.txt").decode().removesuffix("\n").split("\n"))
        rule = parse_record(PreprocessRecord, read_listed(folder / "preprocess.json"), origin="preprocess.json")
        golden = parse_record(GoldenRecord, read_listed(folder / "golden" / "golden.json"), origin="golden/golden.json")
        images = _read_golden(folder, golden)
    except (InputError, UnicodeDecodeError) as error:
        detail = error.problem if isinstance(error, InputError) else "labels.txt is not UTF-8"
        return [Gate(name="bundle_texts", figure="refused", limit="readable, consistent", passed=False, detail=detail)]
    expected = {file.path: file for file in golden.files}
    gates: list[Gate] = []
    for entry in manifest.files:
        if is_onnx(entry):
            gates += _check_model(
                folder / entry.path,
                name=entry.path,
                manifest=manifest,
                labels=labels,
                rule=rule,
                golden=expected.get(entry.path),
                images=images,
            )
    return gates


def _check_model(
    path: Path,
    *,
    name: str,
    manifest: Manifest,
    labels: tuple[str, ...],
    rule: PreprocessRecord,
    golden: GoldenFile | None,
    images: "np.ndarray",
) -> list[Gate]:
    import numpy as np

    from edgeprune.verify.onnx_runtime import open_session, run_onnx

    try:
        session = open_session(path)
        metadata = parse_metadata(dict(session.get_modelmeta().custom_metadata_map), origin=name)
        logits = run_onnx(path, normalise_pixels(images, rule.mean, rule.std), session=session)
        tensors = (session.get_inputs()[0].name, session.get_outputs()[0].name)
    except InputError as error:
        return [Gate(name=f"metadata:{name}", figure="refused", limit="runs", passed=False, detail=error.problem)]
    problems = [
        *_identity_problems(metadata, manifest),
        *_text_problems(metadata, labels, rule),
        *([] if tensors == (rule.input.name, rule.output.name) else [f"tensors {tensors} are not preprocess.json's"]),
        *([] if logits.shape[1] == len(labels) else [f"{logits.shape[1]} logits for {len(labels)} labels"]),
    ]
    gates = [
        Gate(
            name=f"metadata:{name}",
            figure=len(problems),
            limit="0 differences from labels.txt, preprocess.json and manifest.json",
            passed=not problems,
            detail="; ".join(problems),
        )
    ]
    if golden is None or len(golden.logits[0]) != logits.shape[1]:
        detail = f"golden/golden.json has no logits of {name}, or too few"
        return [*gates, Gate(name=f"golden:{name}", figure="missing", limit="logits", passed=False, detail=detail)]
    difference = np.abs(logits.astype(np.float64) - np.asarray(golden.logits, dtype=np.float64)).max(axis=1)
    # argmax takes the first NaN for the largest, which is what we want to be told about.
    detail = f"{len(images)} images, largest at golden/{int(difference.argmax()):02}.rgb"
    return [*gates, at_most(f"golden:{name}", float(difference.max()), golden.tolerance, detail)]


def _identity_problems(metadata: ModelMetadata, manifest: Manifest) -> list[str]:
    pairs = (
        ("name", metadata.name, manifest.name),
        ("level", metadata.level, manifest.level),
        ("version", metadata.version, manifest.edgeprune),
    )
    return [f"{key} is {ours!r}, the manifest says {theirs!r}" for key, ours, theirs in pairs if ours != theirs]


def _text_problems(metadata: ModelMetadata, labels: tuple[str, ...], rule: PreprocessRecord) -> Iterable[str]:
    if metadata.labels != labels:
        yield f"labels are {', '.join(metadata.labels)}, labels.txt says {', '.join(labels)}"
    if metadata.layout != LAYOUT:
        yield f"layout is {metadata.layout!r}, this version knows {LAYOUT!r}"
    if abs(rule.scale * 255 - 1) > 1e-9:
        yield f"preprocess.json has the scale {rule.scale}, the model was made for 1/255"
    for key in ("image_size", "mean", "std"):
        ours, theirs = getattr(metadata, key), getattr(rule, key)
        if ours != theirs:
            yield f"{key} is {ours}, preprocess.json says {theirs}"


def _read_golden(folder: Path, golden: GoldenRecord) -> "np.ndarray":
    import numpy as np

    images = []
    for index, image in enumerate(golden.images):
        # Only names that the manifest lists, so checked ones, exist in this folder; still, never a path out of it.
        if image.path != f"golden/{index:02}.rgb":
            raise InputError(f"golden/golden.json names the image {image.path!r}.", "publish the bundle again")
        content = read_listed(folder / image.path)
        if len(content) != math.prod(golden.shape):
            raise InputError(
                f"{image.path} has {len(content)} bytes, its shape {golden.shape} makes {math.prod(golden.shape)}.",
                "publish the bundle again",
            )
        images.append(np.frombuffer(content, np.uint8).reshape(golden.shape))
    return np.stack(images)


def is_onnx(entry: FileEntry) -> bool:
    """True for a model that onnxruntime can run."""
    return entry.role == "model" and entry.path.endswith(".onnx")


def read_listed(path: Path) -> bytes:
    """The bytes of a small file of the bundle.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.", "pull the bundle again") from None
