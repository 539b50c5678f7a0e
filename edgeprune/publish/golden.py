"""The texts of a bundle that say what goes into each file and what must come out: preprocessing and golden vectors."""

from typing import Literal, cast

from edgeprune.formats import (
    FileInput,
    GoldenFile,
    GoldenImage,
    GoldenRecord,
    GoldenVector,
    PreprocessRecord,
    encode_record,
    feed_images,
    image_path,
    make_file_input,
    raw_bytes,
    vector_path,
)
from edgeprune.publish.facts import BundleFacts, FileFacts, GoldenVectors

# Enough for a self-test on a device; the expected outputs of all golden images are in golden.json.
RAW_IMAGES = 4


def preprocess_record(facts: BundleFacts) -> PreprocessRecord:
    """``preprocess.json``.

    Raises:
        ValueError: there is no integer arithmetic for a file's input quantisation.
    """
    return PreprocessRecord(
        image_size=facts.image_size,
        mean=facts.mean,
        std=facts.std,
        files=tuple(_file_input(facts, file) for file in facts.files),
    )


def golden_files(facts: BundleFacts, golden: GoldenVectors) -> dict[str, bytes]:
    """Everything below ``golden/``: upright images, what each file is fed and gives, and the record of it.

    Raises:
        ValueError: the golden vectors do not fit the facts, or two model files would share a folder.
    """
    import numpy as np

    count, size = len(golden.images), facts.image_size
    if golden.images.shape != (count, size, size, 3) or golden.images.dtype != np.uint8:
        raise ValueError(
            f"golden images are {golden.images.dtype} {golden.images.shape}, not uint8 (n, {size}, {size}, 3)"
        )
    contents = {image_path(index): image.tobytes() for index, image in enumerate(golden.images)}
    files = []
    for file in facts.files:
        record, raw = _golden_file(facts, file, golden)
        twice = sorted(set(raw) & set(contents))
        if twice:
            raise ValueError(f"golden vectors of {file.path} would overwrite {twice[0]}")
        contents.update(raw)
        files.append(record)
    whole = GoldenRecord(
        shape=(size, size, 3),
        images=tuple(
            GoldenImage(path=image_path(index), label=facts.classes[label], name=name)
            for index, (label, name) in enumerate(zip(golden.labels, golden.names, strict=True))
        ),
        files=tuple(files),
    )
    return {**contents, "golden/golden.json": encode_record(whole)}


def _file_input(facts: BundleFacts, file: FileFacts) -> FileInput:
    layout = cast('Literal["NCHW", "NHWC"]', file.layout.partition(" ")[0])
    if (file.layout == "NHWC int8") != (file.input is not None):
        raise ValueError(f"{file.path} has the layout {file.layout} and the input quantisation {file.input}")
    return make_file_input(
        file.path,
        layout=layout,
        image_size=facts.image_size,
        classes=len(facts.classes),
        mean=facts.mean,
        std=facts.std,
        input_quantisation=file.input,
        output_quantisation=file.output,
        rotate_180=file.rotated,
        dynamic_batch=facts.dynamic_batch and file.path.endswith(".onnx"),
    )


def _golden_file(facts: BundleFacts, file: FileFacts, golden: GoldenVectors) -> tuple[GoldenFile, dict[str, bytes]]:
    import numpy as np

    outputs = golden.outputs[file.path]
    expected, dtype = (len(golden.images), len(facts.classes)), np.int8 if file.output else np.float32
    if outputs.shape != expected or outputs.dtype != dtype:
        raise ValueError(
            f"golden outputs of {file.path} are {outputs.dtype} {outputs.shape}, not {np.dtype(dtype)} {expected}"
        )
    inputs, tolerance = _file_input(facts, file), golden.tolerance[file.path]
    fed = feed_images(golden.images[:RAW_IMAGES], inputs, mean=facts.mean, std=facts.std)
    raw, vectors = {}, []
    for index, image in enumerate(fed):
        vector = GoldenVector(
            input=vector_path(file.path, index, "input"), output=vector_path(file.path, index, "output")
        )
        raw[vector.input] = raw_bytes(image)
        raw[vector.output] = raw_bytes(outputs[index])
        vectors.append(vector)
    record = GoldenFile(
        path=file.path,
        runtime=file.runtime,
        input=inputs.input,
        output=inputs.output,
        layout=inputs.layout,
        outputs=tuple(tuple(row) for row in outputs.tolist()),
        tolerance=None if file.output else float(tolerance),
        tolerance_lsb=round(tolerance) if file.output else None,
        vectors=tuple(vectors),
    )
    return record, raw
