"""The C++ source of the tiny int8 network, for tests of what it says and of what compilers make of it."""

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mcu_models
import numpy as np

from edgeprune.embedded import ArenaReport
from edgeprune.export.c_source import render_c_source
from edgeprune.formats import ModelMetadata
from edgeprune.preprocess import IntegerPreprocess, plan_integer_preprocess
from edgeprune.results import Gate
from edgeprune.tflite_format import operator_names, read_model
from edgeprune.tflite_metadata import add_metadata
from edgeprune.verify.c_source import check_c_source
from edgeprune.verify.litert import read_io
from edgeprune.verify.micro import run_micro

FIRMWARE = Path(__file__).with_name("firmware")
NAMESPACE = "edgeprune_tiny32_s60"
# Every character that C++ source could trip over.
LABELS = ("good", 'caf\u00e9 "??/" \\ */ %d')


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """An int8 file and its source, with what it was rendered from."""

    model: bytes
    metadata: ModelMetadata
    arena: ArenaReport
    integer: IntegerPreprocess
    images: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    files: dict[str, bytes]

    def check(self, changes: dict[str, bytes] | None = None) -> dict[str, Gate]:
        """The gates, by name without path, of the files with some replaced; of two with one name, the worse."""
        gates = check_c_source(
            {**self.files, **(changes or {})},
            model=self.model,
            integer=self.integer,
            golden_images=self.images,
            golden_inputs=self.inputs,
            rotate_180=self.metadata.rotate_180,
            arena=self.arena,
            golden_outputs=self.outputs,
        )
        found: dict[str, Gate] = {}
        for gate in sorted(gates, key=lambda gate: gate.passed):
            found.setdefault(gate.name.partition(":")[0], gate)
        return found

    def edited(self, path: str, old: str, new: str) -> dict[str, bytes]:
        """One file with one place changed."""
        text = self.files[path].decode()
        assert text.count(old) == 1, f"{old!r} is in {path} {text.count(old)} times"
        return {path: text.replace(old, new).encode()}


@functools.cache
def tiny_firmware(*, rotate_180: bool = False) -> Firmware:
    """Rendered from the real file, with TFLite Micro's own answers."""
    metadata = ModelMetadata(
        name="tiny32",
        level="s60",
        version="0.1.0",
        labels=LABELS,
        image_size=mcu_models.SIZE,
        mean=mcu_models.TINY_MEAN,
        std=mcu_models.TINY_STD,
        layout="NHWC RGB int8",
        rotate_180=rotate_180,
        target=0.6,
        achieved=0.6,
        macs="1 fvcore",
        accuracy="0.5",
        data_digest="d",
        recipe_digest="r",
    )
    model = add_metadata(mcu_models.tiny_int8(), metadata, int8=True)
    tensors = read_io(model)
    assert tensors.input is not None
    assert tensors.output is not None
    integer = plan_integer_preprocess(metadata.mean, metadata.std, tensors.input)
    images = mcu_models.tiny_images(2)
    inputs = np.ascontiguousarray(integer.apply(images[:, ::-1, ::-1] if rotate_180 else images))
    run = run_micro(model, inputs)
    arena = ArenaReport(
        head_bytes=run.head_bytes,
        tail_bytes=run.tail_bytes,
        liveness_bytes=run.head_bytes,
        peak_operator=0,
        peak_layer="0",
        runtime=run.runtime,
    )
    files = render_c_source(
        model=model,
        model_path="model_int8_rot180.tflite" if rotate_180 else "model_int8.tflite",
        metadata=metadata,
        operators=Counter(operator_names(read_model(model))),
        arena=arena,
        input=tensors.input,
        output=tensors.output,
        integer=integer,
        golden_images=images,
        golden_inputs=inputs,
        golden_outputs=run.outputs,
        golden_labels=(0, 1),
        tolerance_lsb=1,
    )
    return Firmware(
        model=model,
        metadata=metadata,
        arena=arena,
        integer=integer,
        images=images,
        inputs=inputs,
        outputs=run.outputs,
        files=files,
    )


def render_again(firmware: Firmware, **changes: object) -> dict[str, bytes]:
    """The source rendered with other arguments than the firmware's own."""
    tensors = read_io(firmware.model)
    values: dict[str, object] = {
        "model": firmware.model,
        "model_path": "model_int8.tflite",
        "metadata": firmware.metadata,
        "operators": Counter(operator_names(read_model(firmware.model))),
        "arena": firmware.arena,
        "input": tensors.input,
        "output": tensors.output,
        "integer": firmware.integer,
        "golden_images": firmware.images,
        "golden_inputs": firmware.inputs,
        "golden_outputs": firmware.outputs,
        "golden_labels": (0, 1),
        "tolerance_lsb": 1,
    }
    return render_c_source(**{**values, **changes})  # type: ignore[arg-type]


def with_arena(firmware: Firmware, **changes: int) -> ArenaReport:
    return dataclasses.replace(firmware.arena, **changes)
