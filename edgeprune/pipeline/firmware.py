"""The firmware side of a level: the int8 file as C++ source, compiled and run on this machine before it ships."""

from dataclasses import dataclass, field

import numpy as np

from edgeprune.export.c_source import render_c_source
from edgeprune.formats import ModelMetadata
from edgeprune.pipeline.model_file import MICRO_TOLERANCE_LSB, ModelFile
from edgeprune.pipeline.tflite_files import as_fed
from edgeprune.preprocess import plan_integer_preprocess
from edgeprune.publish.facts import GoldenVectors
from edgeprune.recipe import Recipe
from edgeprune.results import Gate
from edgeprune.verify.c_source import check_c_source

# Pixels, input and output of each stand in flash beside the network.
_IMAGES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """The folder ``c/``: path in the bundle to bytes, and what its gates say."""

    files: dict[str, bytes] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()


def make_firmware(recipe: Recipe, file: ModelFile, golden: GoldenVectors, *, metadata: ModelMetadata) -> Firmware:
    """Write the C++ source of an int8 file and check it.

    Args:
        recipe: normalisation.
        file: int8, run in TFLite Micro.
        golden: what it gave for real images.
        metadata: what it says about itself.

    Raises:
        InputError: TFLite Micro has no such operator.
    """
    facts = file.facts
    assert facts.arena is not None
    assert facts.input is not None
    assert facts.output is not None
    difference = None if facts.operating is None else int(facts.operating.difference)
    integer = plan_integer_preprocess(recipe.data.mean, recipe.data.std, facts.input)
    images = golden.images[:_IMAGES]
    inputs = integer.apply(as_fed(recipe, images))
    content, outputs = file.path.read_bytes(), golden.outputs[facts.path][:_IMAGES]
    files = render_c_source(
        model=content,
        model_path=facts.path,
        metadata=metadata,
        operators=dict(facts.operators or {}),
        arena=facts.arena,
        input=facts.input,
        output=facts.output,
        integer=integer,
        golden_images=images,
        golden_inputs=np.ascontiguousarray(inputs),
        golden_outputs=outputs,
        golden_labels=golden.labels[:_IMAGES],
        tolerance_lsb=MICRO_TOLERANCE_LSB,
        decision_difference=difference,
        drawn=recipe.export.golden == "drawn",
    )
    gates = check_c_source(
        files,
        model=content,
        integer=integer,
        golden_images=images,
        golden_inputs=inputs,
        rotate_180=facts.rotated,
        arena=facts.arena,
        golden_outputs=outputs,
        decision_difference=difference,
    )
    return Firmware(files=files, gates=gates)
