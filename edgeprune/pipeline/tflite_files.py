"""The TFLite files of one level: made, run on every test image in their runtimes, and held against each other."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgeprune.data import Dataset, sample_images
from edgeprune.embedded import ArenaReport, Quantisation
from edgeprune.export.tflite_file import FloatModel, strip_model
from edgeprune.export.tflite_int8 import quantise_model
from edgeprune.files import write_atomic
from edgeprune.formats import ModelMetadata
from edgeprune.pipeline.file_judgement import judge_float, judge_int8
from edgeprune.pipeline.int8 import Int8Network
from edgeprune.pipeline.model_file import FLOAT_TOLERANCE_SHARE, MICRO_TOLERANCE_LSB, ModelFile
from edgeprune.preprocess import normalise_pixels, plan_integer_preprocess
from edgeprune.publish.facts import FileFacts
from edgeprune.recipe import Recipe
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.tflite_metadata import add_metadata
from edgeprune.verify.int8_accuracy import check_arena, check_micro_equals_reference
from edgeprune.verify.litert import dequantise, litert_version, read_io, run_litert
from edgeprune.verify.liveness import find_peak
from edgeprune.verify.micro import run_micro
from edgeprune.verify.operators import compare_operators
from edgeprune.verify.tflite_graph import check_tflite

FLOAT_LAYOUT = "NHWC RGB float32"
INT8_LAYOUT = "NHWC RGB int8"
_BATCH = 32
# TFLite Micro is held against the reference kernels on at least so many images, other splits' where test has fewer.
_MICRO_IMAGES = 100
_OPERATOR_IMAGES = 16


def file_name(kind: str, *, rotated: bool) -> str:
    """``model.tflite`` or ``model_int8.tflite``; a file that is fed rotated images says so."""
    return f"{kind}_rot180.tflite" if rotated else f"{kind}.tflite"


def make_float_file(
    recipe: Recipe,
    dataset: Dataset,
    model: FloatModel,
    folder: Path,
    *,
    metadata: ModelMetadata,
    torch_logits: np.ndarray,
) -> ModelFile:
    """Write the float file and run it in LiteRT on the whole test split.

    Args:
        recipe: limits, normalisation.
        dataset: its test split.
        model: converted.
        folder: where the file is written.
        metadata: what it says about itself.
        torch_logits: of the level in torch on the test split.
    """
    rotated = recipe.export.pad == "rotate"
    name = file_name("model", rotated=rotated)
    content = add_metadata(strip_model(model.content), metadata, int8=False)
    write_atomic(folder / name, content)
    inputs = tflite_inputs(recipe, np.asarray(dataset.test.images), None)
    logits = run_litert(content, inputs, reference=False, batch=_BATCH)
    judged = judge_float(recipe, dataset.test, logits, torch_logits, path=name)
    gates = (
        *check_tflite(content, path=name, int8=False, promise_no_pad=promises_no_pad(recipe)),
        *judged.gates,
    )
    facts = FileFacts(
        path=name,
        bytes=len(content),
        runtime=litert_version(),
        accuracy=judged.accuracy,
        layout="NHWC float32",
        rotated=rotated,
        operators=dict(Counter(operator_names(read_model(content)))),
    )
    return ModelFile(
        path=folder / name,
        facts=facts,
        outputs=logits,
        logits=logits,
        tolerance_share=FLOAT_TOLERANCE_SHARE,
        gates=gates,
    )


def make_int8_content(chosen: Int8Network, model: FloatModel, metadata: ModelMetadata) -> bytes:
    """The int8 file of a converted network, with the ranges that were chosen."""
    return add_metadata(strip_model(quantise_model(model.content, chosen.choose_ranges(model))), metadata, int8=True)


def make_int8_file(
    recipe: Recipe,
    dataset: Dataset,
    chosen: Int8Network,
    model: FloatModel,
    folder: Path,
    *,
    metadata: ModelMetadata,
    float_file: ModelFile,
) -> ModelFile:
    """Write the int8 file; run it in TFLite Micro on the whole test split and in LiteRT's reference kernels beside it.

    Args:
        recipe: limits, normalisation.
        dataset: its test split; others fill up the hundred images where test has fewer.
        chosen: how it is quantised.
        model: the chosen network, converted; its tensors are named.
        folder: where the file is written.
        metadata: what it says about itself.
        float_file: what it is held against.
    """
    rotated = recipe.export.pad == "rotate"
    name = file_name("model_int8", rotated=rotated)
    content = make_int8_content(chosen, model, metadata)
    write_atomic(folder / name, content)
    file = read_io(content)
    assert file.input is not None
    assert file.output is not None
    inputs = tflite_inputs(recipe, _images_for_micro(dataset), file.input)
    with ThreadPoolExecutor(2) as pool:
        reference = pool.submit(run_litert, content, inputs, reference=True)
        micro = pool.submit(run_micro, content, inputs)
        in_micro, in_reference = micro.result(), reference.result()
    test = len(dataset.test.labels)
    logits = dequantise(in_micro.outputs[:test], file.output)
    judged = judge_int8(recipe, dataset.test, logits, float_file.logits, path=name)
    figures = compare_operators(
        strip_model(model.content),
        content,
        tflite_inputs(recipe, sample_images(dataset.train, _OPERATOR_IMAGES, recipe.seed), None),
        layers=model.layers,
    )
    peak = find_peak(content)
    arena = ArenaReport(
        head_bytes=in_micro.head_bytes,
        tail_bytes=in_micro.tail_bytes,
        liveness_bytes=peak.peak_bytes,
        peak_operator=peak.operator_index,
        peak_layer=model.layers[peak.operator_index] or figures[peak.operator_index].operator,
        runtime=in_micro.runtime,
    )
    gates = (
        *check_tflite(content, path=name, int8=True, promise_no_pad=promises_no_pad(recipe)),
        *judged.gates,
        *check_micro_equals_reference(
            in_micro.outputs,
            in_reference,
            path=name,
            max_lsb=MICRO_TOLERANCE_LSB,
            min_images=min(_MICRO_IMAGES, len(inputs)),
        ),
        check_arena(arena.head_bytes, arena.liveness_bytes, path=name),
    )
    facts = FileFacts(
        path=name,
        bytes=len(content),
        runtime=in_micro.runtime,
        accuracy=judged.accuracy,
        layout="NHWC int8",
        float_path=float_file.facts.path,
        paired_p=judged.paired_p,
        input=file.input,
        output=file.output,
        rotated=rotated,
        arena=arena,
        operators=dict(Counter(operator_names(read_model(content)))),
        operator_figures=figures,
        calibration=f"{chosen.record.method}, {len(chosen.images)} train images",
        remedies=chosen.record.remedies,
    )
    return ModelFile(
        path=folder / name,
        facts=facts,
        outputs=in_micro.outputs[:test],
        logits=logits,
        tolerance_share=None,
        gates=gates,
    )


def promises_no_pad(recipe: Recipe) -> bool:
    """Whether the recipe's choice of padding leaves no PAD operator."""
    return recipe.model.pad == "same" or recipe.export.pad == "rotate"


def tflite_inputs(recipe: Recipe, images: np.ndarray, quantisation: Quantisation | None) -> np.ndarray:
    """What a TFLite file is fed: float32, or int8 where it has a quantisation, shape (n, height, width, 3)."""
    fed, data = as_fed(recipe, np.asarray(images)), recipe.data
    if quantisation is not None:
        return plan_integer_preprocess(data.mean, data.std, quantisation).apply(fed)
    return np.ascontiguousarray(normalise_pixels(fed, data.mean, data.std).transpose(0, 2, 3, 1))


def as_fed(recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """Images as a TFLite file reads them: upright, or rotated by 180 degrees."""
    return images[:, ::-1, ::-1] if recipe.export.pad == "rotate" else images


def _images_for_micro(dataset: Dataset) -> np.ndarray:
    """All test images, and so many of validation and train that there are a hundred."""
    images = [np.asarray(dataset.test.images)]
    for split in (dataset.val, dataset.train):
        missing = _MICRO_IMAGES - sum(len(part) for part in images)
        if missing > 0:
            images.append(np.asarray(split.images[:missing]))
    return np.concatenate(images)
