"""The public metadata schema, as far as an image classifier needs it.

Source:
    metadata_schema.fbs of tensorflow/tflite-support. A reader of its version 1.0.0 knows every field used here.
"""

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from edgeprune.formats import ModelMetadata
from edgeprune.preprocess import Triple
from edgeprune.tflite_metadata.tables import (
    UNION_KIND,
    UNION_VALUE,
    Enum,
    get_floats,
    get_number,
    get_only_table,
    get_table,
    get_text,
    get_union,
    read_root,
    write_root,
)

LABELS_FILE = "labels.txt"
IDENTIFIER = b"M001"

# Field numbers, in the order of the schema.
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_VERSION, _MODEL_SUBGRAPHS, _MODEL_AUTHOR = range(5)
_MODEL_MIN_PARSER_VERSION = 7
_GRAPH_INPUTS, _GRAPH_OUTPUTS = 2, 3
_TENSOR_NAME, _TENSOR_DESCRIPTION = 0, 1
_TENSOR_CONTENT, _TENSOR_PROCESS_UNITS, _TENSOR_STATS, _TENSOR_FILES = range(3, 7)
_IMAGE_COLOUR, _IMAGE_SIZE = 0, 1
_SIZE_WIDTH, _SIZE_HEIGHT = 0, 1
_NORMALISE_MEAN, _NORMALISE_STD = 0, 1
_STATS_MAX, _STATS_MIN = 0, 1
_FILE_NAME, _FILE_DESCRIPTION, _FILE_KIND = 0, 1, 2
# Values of the schema's enumerations.
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2
_NORMALISATION_OPTIONS = 1
_RGB = 1
_TENSOR_AXIS_LABELS = 2

_PARSER_VERSION = "1.0.0"
_BRIGHTEST = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardMetadata:
    """What the public schema holds about a classifier.

    Attributes:
        name: of the model: ``elpv96-s60``.
        version: of the edgeprune that made it.
        labels: classes in the order of the outputs, from the file that is packed with the model.
        mean, std: one value a channel, in units of [0, 255] pixels, rounded to float32: ``(pixel - mean) / std``.
        image_size: height and width, pixels.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    mean: Triple
    std: Triple
    image_size: int


def standard_part(fields: ModelMetadata) -> StandardMetadata:
    """What ``read_standard`` gives for a file that ``add_metadata`` wrote with these fields; exactly equal."""
    return StandardMetadata(
        name=f"{fields.name}-{fields.level}",
        version=fields.version,
        labels=fields.labels,
        mean=_scaled(fields.mean),
        std=_scaled(fields.std),
        image_size=fields.image_size,
    )


def encode_standard(fields: ModelMetadata, low: list[float], high: list[float]) -> bytes:
    """The bytes of the standard's entry.

    Args:
        fields: what is said.
        low, high: least and largest value of each channel of the input tensor.
    """
    standard, side = standard_part(fields), fields.image_size
    sparsity = f"{fields.achieved:.4g} of the prunable channels removed" if fields.achieved else "not pruned"
    rotated = ", rotated by 180 degrees" if fields.rotate_180 else ""
    image = {
        _TENSOR_NAME: "image",
        _TENSOR_DESCRIPTION: f"{fields.layout}, {side} x {side} pixels{rotated}.",
        _TENSOR_CONTENT: {
            UNION_KIND: Enum(_IMAGE_PROPERTIES),
            UNION_VALUE: {_IMAGE_COLOUR: Enum(_RGB), _IMAGE_SIZE: {_SIZE_WIDTH: side, _SIZE_HEIGHT: side}},
        },
        _TENSOR_PROCESS_UNITS: [
            {
                UNION_KIND: Enum(_NORMALISATION_OPTIONS),
                UNION_VALUE: {_NORMALISE_MEAN: list(standard.mean), _NORMALISE_STD: list(standard.std)},
            }
        ],
        _TENSOR_STATS: {_STATS_MAX: high, _STATS_MIN: low},
    }
    labels = {
        _FILE_NAME: LABELS_FILE,
        _FILE_DESCRIPTION: "One class a line, in the order of the outputs.",
        _FILE_KIND: Enum(_TENSOR_AXIS_LABELS),
    }
    output = {
        _TENSOR_NAME: "logits",
        _TENSOR_DESCRIPTION: "One logit a class; softmax makes probabilities of them.",
        _TENSOR_CONTENT: {UNION_KIND: Enum(_FEATURE_PROPERTIES), UNION_VALUE: {}},
        _TENSOR_FILES: [labels],
    }
    model = {
        _MODEL_NAME: standard.name,
        _MODEL_DESCRIPTION: f"Image classifier, {sparsity}; accuracy {fields.accuracy}.",
        _MODEL_VERSION: standard.version,
        _MODEL_SUBGRAPHS: [{_GRAPH_INPUTS: [image], _GRAPH_OUTPUTS: [output]}],
        _MODEL_AUTHOR: f"edgeprune {fields.version}",
        _MODEL_MIN_PARSER_VERSION: _PARSER_VERSION,
    }
    return write_root(model, IDENTIFIER)


def decode_standard(entry: bytes, read_labels: Callable[[str], tuple[str, ...]]) -> StandardMetadata:
    """Read the bytes of the standard's entry.

    Args:
        entry: as ``encode_standard`` or any other writer of the schema made it.
        read_labels: from the name of a packed file to its lines.

    Raises:
        ValueError: it does not describe one RGB image of fixed square size with its normalisation and one output with
            labels. Damaged bytes raise more, see ``tables.read_root``.
    """
    root = read_root(entry, IDENTIFIER)
    graph = get_only_table(root, _MODEL_SUBGRAPHS)
    image, output = get_only_table(graph, _GRAPH_INPUTS), get_only_table(graph, _GRAPH_OUTPUTS)
    properties = get_union(get_table(image, _TENSOR_CONTENT), _IMAGE_PROPERTIES)
    size = get_table(properties, _IMAGE_SIZE)
    width, height = get_number(size, _SIZE_WIDTH, bits=32), get_number(size, _SIZE_HEIGHT, bits=32)
    if get_number(properties, _IMAGE_COLOUR, bits=8) != _RGB or width != height:
        raise ValueError(f"its input is no square RGB image ({width} x {height})")
    normalisation = get_union(get_only_table(image, _TENSOR_PROCESS_UNITS), _NORMALISATION_OPTIONS)
    labels = get_only_table(output, _TENSOR_FILES)
    if get_number(labels, _FILE_KIND, bits=8) != _TENSOR_AXIS_LABELS:
        raise ValueError("its output has no labels")
    return StandardMetadata(
        name=get_text(root, _MODEL_NAME),
        version=get_text(root, _MODEL_VERSION),
        labels=read_labels(get_text(labels, _FILE_NAME)),
        mean=_triple(get_floats(normalisation, _NORMALISE_MEAN)),
        std=_triple(get_floats(normalisation, _NORMALISE_STD)),
        image_size=width,
    )


def pack_labels(content: bytes, labels: tuple[str, ...]) -> bytes:
    """A model with its labels in a zip behind it, one a line; the same bytes whenever and wherever it is done."""
    packed = io.BytesIO(content)
    # Appending keeps the model's bytes in front, and counts every place in the zip from the start of the file.
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(LABELS_FILE, date_time=(1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same bytes on every system
        archive.writestr(entry, "".join(f"{label}\n" for label in labels))
    return packed.getvalue()


def unpack_labels(content: bytes, name: str) -> tuple[str, ...]:
    """The lines of a file in the zip behind a model.

    Raises:
        ValueError: it is compressed, which the standard does not have. A damaged zip raises more: BadZipFile, KeyError,
            RuntimeError, EOFError, OSError.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = archive.getinfo(name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content):
            raise ValueError(f"{name} is compressed")
        return tuple(archive.read(entry).decode().splitlines())


def _triple(values: tuple[float, ...]) -> Triple:
    if len(values) != 3:
        raise ValueError(f"{len(values)} values where there are three channels")
    return values[0], values[1], values[2]


def _scaled(values: Triple) -> Triple:
    """From units of [0, 1] pixels to [0, 255], as a float32 holds them."""
    red, green, blue = struct.unpack("<3f", struct.pack("<3f", *(_BRIGHTEST * value for value in values)))
    return red, green, blue
