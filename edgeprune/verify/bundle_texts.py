"""The texts beside a bundle's models, read without trust and held against each other; needs numpy only.

Labels, preprocessing and golden vectors must agree among themselves before a model is asked anything.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from edgeprune.embedded import Quantisation
from edgeprune.errors import InputError
from edgeprune.formats import (
    FileInput,
    GoldenFile,
    GoldenRecord,
    PreprocessRecord,
    QuantisationRecord,
    TensorRecord,
    feed_images,
    image_path,
    make_file_input,
    vector_path,
)
from edgeprune.manifest import Manifest, parse_record
from edgeprune.results import Gate

if TYPE_CHECKING:
    import numpy as np

# Pixels are 0.0039 apart; float32 arithmetic of another machine moves the last place.
_INPUT_TOLERANCE = 1e-5
# TFLite Micro and LiteRT's reference kernels may be one step apart, see `pipeline.tflite_files`.
_MAX_TOLERANCE_LSB = 1
# Published are 0.001 of the test split's largest logit, and 0.05 with int8 inside, where one value that is rounded the
# other way is carried on. The golden images are a few of that split: theirs may be up to four times smaller.
_MAX_TOLERANCE_SHARE = 0.004
_MAX_TOLERANCE_SHARE_INT8 = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleTexts:
    """What a bundle says beside its models.

    Attributes:
        labels: classes in the order of the outputs.
        rule: ``preprocess.json``.
        golden: ``golden/golden.json``.
        images: the golden images, uint8, shape (n, height, width, 3), upright.
    """

    labels: tuple[str, ...]
    rule: PreprocessRecord
    golden: GoldenRecord
    images: "np.ndarray"

    def input_of(self, path: str) -> FileInput | None:
        """The entry of ``preprocess.json`` for a model file."""
        return next((file for file in self.rule.files if file.path == path), None)

    def golden_of(self, path: str) -> GoldenFile | None:
        """The entry of ``golden.json`` for a model file."""
        return next((file for file in self.golden.files if file.path == path), None)


def read_texts(folder: Path) -> BundleTexts:
    """Read labels, preprocessing and golden images of a bundle whose bytes are right.

    Raises:
        InputError: one of them cannot be read, or does not have the form it should have; the sentence names it.
    """
    try:
        labels = tuple(read_listed(folder / "labels.txt").decode().removesuffix("\n").split("\n"))
    except UnicodeDecodeError:
        raise InputError("labels.txt is not UTF-8.", "publish the bundle again") from None
    rule = parse_record(PreprocessRecord, read_listed(folder / "preprocess.json"), origin="preprocess.json")
    golden = parse_record(GoldenRecord, read_listed(folder / "golden" / "golden.json"), origin="golden/golden.json")
    return BundleTexts(labels=labels, rule=rule, golden=golden, images=_read_images(folder, golden))


def check_texts(texts: BundleTexts, manifest: Manifest) -> Gate:
    """The gate ``bundle_texts``: the texts name the models that are there, each once, and agree about them."""
    models = sorted(entry.path for entry in manifest.files if entry.role == "model")
    problems = []
    for name, paths in (
        ("preprocess.json", [file.path for file in texts.rule.files]),
        ("golden/golden.json", [file.path for file in texts.golden.files]),
    ):
        if sorted(paths) != models:
            problems.append(f"{name} is about {', '.join(paths)}, the model files are {', '.join(models)}")
    if abs(texts.rule.scale * 255 - 1) > 1e-9:
        problems.append(f"preprocess.json has the scale {texts.rule.scale}, the models were made for 1/255")
    size = texts.rule.image_size
    if texts.golden.shape != (size, size, 3):
        problems.append(f"golden images are {texts.golden.shape}, the image_size of preprocess.json is {size}")
    for file in texts.rule.files:
        problems += _entry_problems(file, texts)
    problems += [problem for file in texts.golden.files if (problem := _tolerance_problem(file))]
    listed = {entry.path for entry in manifest.files if entry.role == "golden"}
    named = {"golden/golden.json", *(image.path for image in texts.golden.images)}
    named |= {path for file in texts.golden.files for pair in file.vectors for path in (pair.input, pair.output)}
    problems += [f"golden/golden.json does not name {path}" for path in sorted(listed - named)]
    problems += [
        f"golden/golden.json has the label {image.label!r}, which labels.txt has not"
        for image in texts.golden.images
        if image.label not in texts.labels
    ]
    return Gate(
        name="bundle_texts",
        figure=len(problems),
        limit="0 differences between labels.txt, preprocess.json and golden.json",
        passed=not problems,
        detail="; ".join(problems),
    )


def check_vectors(folder: Path, path: str, texts: BundleTexts) -> Gate:
    """The gate ``vectors:<path>``: the raw golden bytes are what preprocessing makes of the images, and the outputs.

    Args:
        folder: of the bundle, whose bytes are right.
        path: of a model file that both texts are about.
        texts: as read.
    """
    file, golden = texts.input_of(path), texts.golden_of(path)
    try:
        problems = list(_vector_problems(folder, file, golden, texts)) if file and golden else ["it is in no text"]
    except (InputError, ValueError) as error:
        problems = [error.problem if isinstance(error, InputError) else f"its inputs cannot be made: {error}"]
    return Gate(
        name=f"vectors:{path}",
        figure=len(problems),
        limit="0 golden inputs or outputs that differ from golden images and golden.json",
        passed=not problems,
        detail="; ".join(problems),
    )


def read_listed(path: Path) -> bytes:
    """The bytes of a small file of the bundle.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.", "pull the bundle again") from None


def read_recipe_key(folder: Path, section: str, key: str) -> object:
    """What ``config.yaml`` says, which may come from anyone; None where it says nothing or cannot be read as YAML.

    Raises:
        InputError: there is no such file.
    """
    try:
        return yaml.safe_load(read_listed(folder / "config.yaml"))[section][key]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _entry_problems(file: FileInput, texts: BundleTexts) -> Iterable[str]:
    try:
        expected = make_file_input(
            file.path,
            layout=file.layout,
            image_size=texts.rule.image_size,
            classes=len(texts.labels),
            mean=texts.rule.mean,
            std=texts.rule.std,
            input_quantisation=_quantisation(file.input.quantisation),
            output_quantisation=_quantisation(file.output.quantisation),
            rotate_180=Path(file.path).stem.endswith("_rot180"),
            dynamic_batch=file.dynamic_batch,
        )
    except (ValueError, ArithmeticError) as error:
        yield f"preprocess.json, {file.path}: {str(error).splitlines()[0]}"
        return
    for key in ("input", "output", "rotate_180", "integer", "formula"):
        found, wanted = getattr(file, key), getattr(expected, key)
        if found != wanted:
            yield f"preprocess.json, {file.path}: {key} is {_shown(found)}, not {_shown(wanted)}"
    golden = texts.golden_of(file.path)
    if golden is not None:
        for key in ("input", "output", "layout"):
            found, wanted = getattr(golden, key), getattr(file, key)
            if found != wanted:
                yield f"golden.json, {file.path}: {key} is {_shown(found)}, preprocess.json says {_shown(wanted)}"


def _tolerance_problem(file: GoldenFile) -> str:
    """Why a tolerance is no test: within a wide one, the answers of a wrong file are right."""
    if file.tolerance is None:
        limit: float = _MAX_TOLERANCE_LSB
    else:
        share = _MAX_TOLERANCE_SHARE_INT8 if "_int8" in Path(file.path).stem else _MAX_TOLERANCE_SHARE
        limit = share * max(1.0, *(abs(value) for row in file.outputs for value in row))
    if file.limit <= limit:
        return ""
    unit = "steps" if file.tolerance is None else "logits"
    return f"golden.json, {file.path}: the tolerance is {file.limit:g} {unit}, {limit:g} would be enough"


def _vector_problems(folder: Path, file: FileInput, golden: GoldenFile, texts: BundleTexts) -> Iterable[str]:
    import numpy as np

    if not golden.vectors:
        yield "golden.json has no vectors for it"
    with np.errstate(all="ignore"):
        fed = feed_images(texts.images[: len(golden.vectors)], file, mean=texts.rule.mean, std=texts.rule.std)
    for index, vector in enumerate(golden.vectors):
        places = vector_path(file.path, index, "input"), vector_path(file.path, index, "output")
        if (vector.input, vector.output) != places:
            yield f"golden.json names the vectors {vector.input!r} and {vector.output!r}, not {' and '.join(places)}"
            continue
        expected = np.asarray(golden.outputs[index], np.dtype(file.output.dtype))
        for path, wanted, tensor, source in (
            (vector.input, fed[index], file.input, f"preprocess.json makes of {image_path(index)}"),
            (vector.output, expected, file.output, "golden.json says"),
        ):
            differing = _differing(read_listed(folder / path), wanted, tensor)
            if differing:
                yield f"{path} is not what {source}: {differing} of {wanted.size} elements differ"


def _differing(content: bytes, wanted: "np.ndarray", tensor: TensorRecord) -> int:
    import numpy as np

    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    if len(content) != wanted.size * dtype.itemsize:
        return int(wanted.size)
    found = np.frombuffer(content, dtype).reshape(wanted.shape).astype(np.float64)
    limit = 0.0 if tensor.dtype == "int8" else _INPUT_TOLERANCE
    # Counted as what is not within the limit, so that NaN counts.
    return int(wanted.size - np.count_nonzero(np.abs(found - wanted.astype(np.float64)) <= limit))


def _read_images(folder: Path, golden: GoldenRecord) -> "np.ndarray":
    import numpy as np

    images = []
    for index, image in enumerate(golden.images):
        # Only names that the manifest lists, so checked ones, exist in this folder; still, never a path out of it.
        if image.path != image_path(index):
            raise InputError(f"golden/golden.json names the image {image.path!r}.", "publish the bundle again")
        content = read_listed(folder / image.path)
        if len(content) != math.prod(golden.shape):
            raise InputError(
                f"{image.path} has {len(content)} bytes, its shape {golden.shape} makes {math.prod(golden.shape)}.",
                "publish the bundle again",
            )
        images.append(np.frombuffer(content, np.uint8).reshape(golden.shape))
    return np.stack(images)


def _quantisation(record: QuantisationRecord | None) -> Quantisation | None:
    return None if record is None else Quantisation(scale=record.scale, zero_point=record.zero_point)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
