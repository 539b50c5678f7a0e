"""TFLite metadata: what is written comes back, any reader of the public schema agrees, and runtimes do not care."""

import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mcu_models import CLASSES, SIZE, TINY_MEAN, TINY_STD, nhwc, tiny_float, tiny_images, tiny_int8

from edgeprune.errors import InputError
from edgeprune.formats import ModelMetadata
from edgeprune.preprocess import Triple, normalise_pixels
from edgeprune.tflite_format import read_model, write_model
from edgeprune.tflite_metadata import (
    LABELS_FILE,
    OWN_ENTRY,
    STANDARD_ENTRY,
    add_metadata,
    read_metadata,
    read_standard,
    standard_part,
)
from edgeprune.tflite_metadata.tables import get_floats, get_only_table, get_table, get_text, read_root

READER = "mediapipe==1.2.2"
INT8 = pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])


def make_fields(
    *,
    int8: bool,
    labels: tuple[str, ...] = CLASSES,
    mean: Triple = TINY_MEAN,
    std: Triple = TINY_STD,
    rotate: bool = False,
) -> ModelMetadata:
    return ModelMetadata(
        name="tiny",
        level="s60",
        version="0.1.0",
        labels=labels,
        image_size=SIZE,
        mean=mean,
        std=std,
        layout="NHWC RGB int8" if int8 else "NHWC RGB float32",
        rotate_180=rotate,
        target=0.6,
        achieved=0.5982,
        macs="1234 fvcore",
        accuracy="0.8327 (n=526) on test, torch",
        data_digest="d" * 64,
        recipe_digest="r" * 64,
    )


def plain(*, int8: bool) -> bytes:
    return tiny_int8() if int8 else tiny_float()


def described(*, int8: bool) -> bytes:
    return add_metadata(plain(int8=int8), make_fields(int8=int8), int8=int8)


def standard_entry(content: bytes) -> bytes:
    model = read_model(content)
    (entry,) = [each for each in model.metadata if each.name == STANDARD_ENTRY.encode()]
    return bytes(bytearray(model.buffers[entry.buffer].data))


def replace_entry(content: bytes, name: str, entry: bytes) -> bytes:
    """The same file with another entry of that name, the zip behind it as it was."""
    model = read_model(content)
    (found,) = [each for each in model.metadata if each.name == name.encode()]
    model.buffers[found.buffer].data = np.frombuffer(entry, np.uint8)
    return write_model(model) + content[content.rindex(b"PK\x03\x04") :]


def run_litert(content: bytes, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(result["index"])[0])
    return np.stack(logits)


def run_micro(content: bytes, images: np.ndarray) -> np.ndarray:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content)
    logits = []
    for image in images:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        logits.append(interpreter.get_output(0)[0].copy())
    return np.stack(logits)


def inputs(*, int8: bool) -> np.ndarray:
    if int8:
        return np.random.default_rng(0).integers(-128, 128, (4, SIZE, SIZE, 3), dtype=np.int8)
    return nhwc(tiny_images(4))


@INT8
def test_every_field_comes_back(int8: bool) -> None:
    content, fields = described(int8=int8), make_fields(int8=int8)
    assert read_metadata(content, origin="tiny.tflite") == fields
    assert read_standard(content) == standard_part(fields)
    assert standard_part(fields).name == "tiny-s60"
    assert standard_part(fields).labels == CLASSES


@INT8
def test_equal_arguments_give_equal_bytes_and_adding_again_changes_nothing(int8: bool) -> None:
    content = described(int8=int8)
    assert content == described(int8=int8)
    assert content == add_metadata(content, make_fields(int8=int8), int8=int8)


def test_what_was_said_before_is_replaced_and_not_kept_beside() -> None:
    first = add_metadata(tiny_float(), make_fields(int8=False, labels=("one", "two", "three")), int8=False)
    again = add_metadata(first, make_fields(int8=False), int8=False)
    assert again == described(int8=False)
    assert b"three" not in again


@INT8
def test_metadata_costs_less_than_two_kilobytes(int8: bool) -> None:
    assert 0 < len(described(int8=int8)) - len(plain(int8=int8)) < 2000


@INT8
def test_litert_answers_the_same_with_metadata_and_a_zip_behind_the_model(int8: bool) -> None:
    images = inputs(int8=int8)
    assert np.array_equal(run_litert(described(int8=int8), images), run_litert(plain(int8=int8), images))


@INT8
def test_tflite_micro_answers_the_same_with_metadata_and_a_zip_behind_the_model(int8: bool) -> None:
    images = inputs(int8=int8)
    with_metadata, without = run_micro(described(int8=int8), images), run_micro(plain(int8=int8), images)
    assert np.array_equal(with_metadata, without)
    assert np.ptp(without.astype(np.float64), axis=0).min() > 0  # images that all give the same would prove nothing


def test_every_weight_stays_on_a_16_byte_boundary() -> None:
    content = described(int8=True)
    for buffer in read_model(content).buffers:
        if buffer.data is not None and len(buffer.data) >= 16:
            assert content.index(bytes(bytearray(buffer.data))) % 16 == 0


def test_the_normalisation_is_what_the_schema_says_of_pixels_from_0_to_255() -> None:
    standard, images = read_standard(described(int8=False)), tiny_images(2)
    by_the_schema = (images - np.asarray(standard.mean)) / np.asarray(standard.std)
    ours = normalise_pixels(images, TINY_MEAN, TINY_STD).transpose(0, 2, 3, 1)
    assert np.allclose(by_the_schema, ours, atol=1e-5)


@INT8
def test_least_and_largest_are_those_of_black_and_white_pixels_as_the_tensor_holds_them(int8: bool) -> None:
    root = read_root(standard_entry(described(int8=int8)), b"M001")
    image = get_only_table(get_only_table(root, 3), 2)
    high, low = (get_floats(get_table(image, 5), field) for field in (0, 1))
    extremes = nhwc(np.asarray([0, 255], np.uint8)[:, None, None, None].repeat(3, axis=3))[:, 0, 0, :]
    if int8:
        graph = read_model(tiny_int8()).subgraphs[0]
        quantisation = graph.tensors[graph.inputs[0]].quantization
        extremes = np.clip(np.round(extremes / quantisation.scale[0]) + quantisation.zeroPoint[0], -128, 127)
    assert np.allclose([low, high], extremes, atol=1e-6)


def test_the_standard_says_rotation_in_words_and_ours_as_a_field() -> None:
    """No reader of the standard can act on it, so at least a person must be told."""
    content = add_metadata(tiny_int8(), make_fields(int8=True, rotate=True), int8=True)
    image = get_only_table(get_only_table(read_root(standard_entry(content), b"M001"), 3), 2)
    assert get_text(image, 1) == "NHWC RGB int8, 32 x 32 pixels, rotated by 180 degrees."
    assert read_metadata(content, origin="tiny.tflite").rotate_180


def test_the_labels_are_a_stored_file_of_a_fixed_date() -> None:
    with zipfile.ZipFile(io.BytesIO(described(int8=True))) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type) == (LABELS_FILE, zipfile.ZIP_STORED)
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert archive.read(entry).decode().split("\n") == [*CLASSES, ""]


@pytest.mark.parametrize("label", ["", "two\nlines", "carriage\rreturn", "line\u2028separator", "end\n"])
def test_a_label_that_is_no_line_is_refused(label: str) -> None:
    with pytest.raises(InputError, match=r"cannot be a line of labels\.txt"):
        add_metadata(tiny_float(), make_fields(int8=False, labels=("good", label)), int8=False)


def test_metadata_of_the_other_element_type_is_refused() -> None:
    with pytest.raises(ValueError, match="int8 is True"):
        add_metadata(tiny_float(), make_fields(int8=True), int8=True)


def test_a_file_without_metadata_is_refused_by_name() -> None:
    for read, entry in ((read_metadata, OWN_ENTRY), (read_standard, STANDARD_ENTRY)):
        with pytest.raises(InputError, match=rf"plain\.tflite has 0 entries {entry}"):
            read(tiny_float(), origin="plain.tflite")


@pytest.mark.parametrize("entry", [b"not json", b"[1]", b'{"name": 1}', b"[" * 100_000, b"\xff\xfe"])
def test_an_entry_of_ours_that_is_no_object_of_texts_is_refused(entry: bytes) -> None:
    with pytest.raises(InputError, match="EDGEPRUNE_METADATA is not readable"):
        read_metadata(replace_entry(described(int8=False), OWN_ENTRY, entry), origin="tiny.tflite")


def test_a_field_of_ours_that_does_not_fit_is_named() -> None:
    entry = make_fields(int8=False).as_text() | {"image_size": "many"}
    with pytest.raises(InputError, match="`image_size` does not fit"):
        read_metadata(replace_entry(described(int8=False), OWN_ENTRY, json.dumps(entry).encode()), origin="tiny.tflite")


def test_a_file_that_was_cut_short_has_no_labels() -> None:
    content = described(int8=True)
    with pytest.raises(InputError, match="TFLITE_METADATA is not readable"):
        read_standard(content[:-10])


def test_labels_in_another_order_are_not_equal() -> None:
    content = described(int8=True).replace(b"good\nbad\n", b"bad\ngood\n")
    # The zip notices by its checksum; whoever repairs that too is found by the comparison.
    with pytest.raises(InputError, match="Bad CRC-32"):
        read_standard(content)
    swapped = add_metadata(tiny_int8(), make_fields(int8=True, labels=CLASSES[::-1]), int8=True)
    assert read_standard(swapped) != standard_part(make_fields(int8=True))


def test_damage_anywhere_in_the_entries_is_an_error_to_read_or_harmless() -> None:
    content, dice = described(int8=True), random.Random(0)
    entry, refused = standard_entry(content), 0
    start = content.index(entry)
    places = [*range(start, start + len(entry)), *range(content.rindex(b"PK\x03\x04"), len(content))]
    for _ in range(400):
        damaged = bytearray(content)
        for place in dice.sample(places, dice.choice((1, 1, 2, 8))):
            damaged[place] = dice.randrange(256)
        try:
            read_standard(bytes(damaged))
        except InputError:
            refused += 1
    assert refused > 200


# Readers that share no code with ours. MediaPipe's C++ task reads the table, the zip and the normalisation by itself.
_SCHEMA_READER = """
import io, json, sys, zipfile
from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata, schema_py_generated as schema

content = open(sys.argv[1], "rb").read()
model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
(buffer,) = [entry.buffer for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
entry = bytes(bytearray(model.buffers[buffer].data))
assert metadata.ModelMetadata.ModelMetadataBufferHasIdentifier(entry, 0)
root = metadata.ModelMetadataT.InitFromObj(metadata.ModelMetadata.GetRootAsModelMetadata(entry, 0))
(graph,) = root.subgraphMetadata
(image,), (output,) = graph.inputTensorMetadata, graph.outputTensorMetadata
(unit,), (file,) = image.processUnits, output.associatedFiles
content_kind = metadata.ContentProperties.ImageProperties
assert image.content.contentPropertiesType == content_kind
assert unit.optionsType == metadata.ProcessUnitOptions.NormalizationOptions
assert file.type == metadata.AssociatedFileType.TENSOR_AXIS_LABELS
properties = image.content.contentProperties
assert properties.colorSpace == metadata.ColorSpaceType.RGB
print(json.dumps({
    "name": root.name.decode(), "version": root.version.decode(), "author": root.author.decode(),
    "description": root.description.decode(), "min_parser_version": root.minParserVersion.decode(),
    "image": image.name.decode(), "size": [properties.defaultSize.width, properties.defaultSize.height],
    "mean": [float(value) for value in unit.options.mean], "std": [float(value) for value in unit.options.std],
    "low": [float(value) for value in image.stats.min], "high": [float(value) for value in image.stats.max],
    "labels": zipfile.ZipFile(io.BytesIO(content)).read(file.name.decode()).decode().splitlines(),
}))
"""
_CLASSIFIER = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks.python import BaseOptions, vision

options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
answers = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for image in numpy.load(sys.argv[2]):
        result = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))
        answers.append({each.category_name: each.score for each in result.classifications[0].categories})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment that has MediaPipe and nothing of ours."""
    folder = tmp_path_factory.mktemp("reader")
    python = folder / "bin" / "python"
    for command in ([sys.executable, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "-q", READER]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"no independent reader: `{' '.join(command)}` failed:\n{done.stderr}", pytrace=False)
    yield python
    # Half a gigabyte; pytest would keep it for three runs.
    shutil.rmtree(folder)


def ask(python: Path, script: str, *arguments: Path) -> object:
    command = [str(python), "-I", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{READER} cannot read the file:\n{done.stderr}"
    return json.loads(done.stdout)


@pytest.mark.long
@INT8
def test_mediapipes_own_code_of_the_schema_reads_what_we_wrote(reader: Path, tmp_path: Path, int8: bool) -> None:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(described(int8=int8))
    said = ask(reader, _SCHEMA_READER, path)
    assert isinstance(said, dict)
    standard = standard_part(make_fields(int8=int8))
    assert (said["name"], said["version"], said["author"]) == ("tiny-s60", "0.1.0", "edgeprune 0.1.0")
    assert said["description"].startswith("Image classifier, 0.5982 of the prunable channels removed; accuracy 0.8327")
    assert said["min_parser_version"] == "1.0.0"
    assert (said["image"], said["size"]) == ("image", [SIZE, SIZE])
    assert tuple(said["labels"]) == CLASSES
    assert (tuple(said["mean"]), tuple(said["std"])) == (standard.mean, standard.std)
    assert all(low < 0 < high for low, high in zip(said["low"], said["high"], strict=True))


@pytest.mark.long
def test_mediapipes_classifier_normalises_and_names_as_we_do(reader: Path, tmp_path: Path) -> None:
    """Its scores equal LiteRT's on our own preprocessing, so the units of the normalisation are right.

    The task refuses a normalisation that differs between channels, and int8 inputs; so this is the float file with one
    mean and one deviation.
    """
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    content = add_metadata(tiny_float(), make_fields(int8=False, mean=mean, std=std), int8=False)
    images = tiny_images(4)
    path, pictures = tmp_path / "tiny.tflite", tmp_path / "images.npy"
    path.write_bytes(content)
    np.save(pictures, images)
    expected = run_litert(content, np.ascontiguousarray(normalise_pixels(images, mean, std).transpose(0, 2, 3, 1)))
    answers = ask(reader, _CLASSIFIER, path, pictures)
    assert isinstance(answers, list)
    for answer, logits in zip(answers, expected, strict=True):
        assert set(answer) == set(CLASSES)
        assert np.allclose([answer[label] for label in CLASSES], logits, atol=1e-4)
