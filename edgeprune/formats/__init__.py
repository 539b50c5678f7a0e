"""The small JSON files inside a bundle, as publish writes them and verify reads them, and what a model says of itself.

Written once here, so that what one stage puts down and the other expects cannot drift apart. Base install only.

- ``preprocessing``: ``preprocess.json``, and the tensor that each file is fed.
- ``golden``: ``golden/golden.json``: real inputs with expected outputs.
- ``threshold``: ``threshold.json``: where a two-class bundle's answers are cut.
- ``verdict``: ``verify.json``.
- ``metadata``: what a model file says about itself.
"""

from edgeprune.formats.golden import (
    GoldenFile,
    GoldenImage,
    GoldenRecord,
    GoldenVector,
    image_path,
    raw_bytes,
    vector_folder,
    vector_path,
)
from edgeprune.formats.metadata import LAYOUT, ModelMetadata, parse_metadata
from edgeprune.formats.preprocessing import (
    RESIZE_RULE,
    FileInput,
    IntegerRecord,
    PreprocessRecord,
    QuantisationRecord,
    TensorRecord,
    feed_images,
    make_file_input,
)
from edgeprune.formats.threshold import THRESHOLD, FileThreshold, ThresholdRecord
from edgeprune.formats.verdict import GateRecord, VerifyRecord, encode_json, encode_record

__all__ = [
    "LAYOUT",
    "RESIZE_RULE",
    "THRESHOLD",
    "FileInput",
    "FileThreshold",
    "GateRecord",
    "GoldenFile",
    "GoldenImage",
    "GoldenRecord",
    "GoldenVector",
    "IntegerRecord",
    "ModelMetadata",
    "PreprocessRecord",
    "QuantisationRecord",
    "TensorRecord",
    "ThresholdRecord",
    "VerifyRecord",
    "encode_json",
    "encode_record",
    "feed_images",
    "image_path",
    "make_file_input",
    "parse_metadata",
    "raw_bytes",
    "vector_folder",
    "vector_path",
]
