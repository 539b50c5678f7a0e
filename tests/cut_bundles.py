"""Two small published bundles whose answers may be cut at a threshold: a float ONNX file, and int8 with firmware."""

import dataclasses
from pathlib import Path

from bundle_factory import CONFIG, ENVIRONMENT, facts_for, golden_for, metadata, write_model
from firmware_files import render_again, tiny_firmware

from edgeprune.publish import BundleFacts, FileFacts, GoldenVectors, publish_bundle
from edgeprune.results import Accuracy, Gate, Verdict
from edgeprune.threshold import OperatingPoint, probability_at
from edgeprune.verify.litert import read_io

# What a receiver cannot run again, and so must find in verify.json.
_RECORDED = ("int8_accuracy_drop", "int8_agreement", "int8_sqnr_db", "tflm_images", "tflm_difference_lsb")
CUT_CONFIG = f"{CONFIG}export:\n  threshold: balanced_accuracy\n"


def operating_point(difference: float, *, scale: float = 1.0) -> OperatingPoint:
    return OperatingPoint(
        criterion="balanced_accuracy",
        difference=difference,
        probability=probability_at(difference, scale),
        val_argmax=((30, 10), (10, 30)),
        val=((32, 8), (8, 32)),
        test=((300, 63), (20, 143)),
        roc_auc=0.8765,
    )


def onnx_bundle(root: Path, *, difference: float | None = None, drawn: bool = False) -> Path:
    """``elpv96-s60``: a linear classifier of 16 x 16 pixels."""
    model = write_model(root / "model.onnx", metadata().as_text())
    facts = facts_for(model, drawn=drawn)
    if difference is not None:
        cut = dataclasses.replace(facts.files[0], operating=operating_point(difference))
        facts = dataclasses.replace(facts, files=(cut,))
    return _publish(root, facts, model, golden_for(model), {})


def int8_bundle(root: Path, *, difference: int | None = None) -> Path:
    """``tiny32-s60``: an int8 network of 32 x 32 pixels, and ``c/``."""
    firmware = tiny_firmware()
    model, tensors = root / "model_int8.tflite", read_io(firmware.model)
    root.mkdir(parents=True, exist_ok=True)
    model.write_bytes(firmware.model)
    assert tensors.output is not None
    file = FileFacts(
        path=model.name,
        bytes=len(firmware.model),
        runtime=firmware.arena.runtime,
        accuracy=Accuracy(correct=1, n=2),
        layout="NHWC int8",
        input=tensors.input,
        output=tensors.output,
        arena=firmware.arena,
        operating=None if difference is None else operating_point(difference, scale=tensors.output.scale),
    )
    said = firmware.metadata
    facts = dataclasses.replace(
        facts_for(model),
        name=said.name,
        level=said.level,
        classes=said.labels,
        image_size=said.image_size,
        mean=said.mean,
        std=said.std,
        files=(file,),
        dense_files=(file,),
        verdict=Verdict(gates=tuple(_passed(f"{name}:{model.name}") for name in _RECORDED)),
    )
    golden = GoldenVectors(
        images=firmware.images,
        labels=(0, 1),
        names=("a", "b"),
        outputs={model.name: firmware.outputs},
        tolerance={model.name: 1},
    )
    return _publish(root, facts, model, golden, render_again(firmware, decision_difference=difference))


def _passed(name: str) -> Gate:
    return Gate(name=name, figure=0, limit="<= 0", passed=True)


def _publish(root: Path, facts: BundleFacts, model: Path, golden: GoldenVectors, extra: dict[str, bytes]) -> Path:
    return publish_bundle(
        exports=root / "exports",
        facts=facts,
        model_files={model.name: model},
        golden=golden,
        config_yaml=CONFIG if facts.files[0].operating is None else CUT_CONFIG,
        environment=ENVIRONMENT,
        extra_files=extra,
    ).folder
