"""A small real model, and real bundles around it, for the tests of publishing, pulling and checking."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeprune.formats import ModelMetadata, encode_record
from edgeprune.manifest import FileEntry, Manifest, make_manifest, parse_manifest
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish import Bundle, BundleFacts, DataFacts, GoldenVectors, LevelFacts, publish_bundle
from edgeprune.results import Accuracy, BlockCost, CostReport, Evaluation, Gate, LatencyComparison, Verdict

SIZE = 16
CLASSES = ("functional", "defective")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONFIG = "name: elpv96\ngoal: a smaller detector\n"
ENVIRONMENT = {"onnxruntime": onnxruntime.__version__, "cpu": "a processor"}


def metadata(**changes: object) -> ModelMetadata:
    values: dict[str, object] = {
        "name": "elpv96",
        "level": "s60",
        "version": "0.1.0",
        "labels": CLASSES,
        "image_size": SIZE,
        "mean": MEAN,
        "std": STD,
        "target": 0.6,
        "achieved": 0.6035,
        "macs": "4731904 fvcore",
        "accuracy": "0.8308 (n=526)",
        "data_digest": "d" * 64,
        "recipe_digest": "e" * 64,
    }
    return ModelMetadata.model_validate({**values, **changes})


def write_model(path: Path, properties: dict[str, str], *, weight_scale: float = 1.0) -> Path:
    """A linear classifier of every pixel, so that a rotated or wrongly scaled image changes the logits."""
    weights = np.random.default_rng(0).normal(0, 0.05 * weight_scale, (3 * SIZE * SIZE, len(CLASSES)))
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["logits"])],
        "classifier",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(CLASSES)])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, properties)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def ask_model(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = normalise_pixels(images, MEAN, STD)
    return np.concatenate([session.run(["logits"], {"input": image[None]})[0] for image in inputs])


def golden_for(path: Path) -> GoldenVectors:
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    return GoldenVectors(
        images=images,
        labels=(0, 1, 0, 1, 0, 1, 0, 1),
        names=tuple(f"cell{index:04}.png" for index in range(8)),
        logits={"model.onnx": ask_model(path, images)},
        tolerance={"model.onnx": 1e-4},
    )


def _costs(share: float) -> CostReport:
    return CostReport(
        params=int(1_519_906 * share),
        macs_by_operator={"conv": int(10_457_536 * share), "linear": 591_872, "batch_norm": int(518_976 * share)},
        macs_thop=int(12_147_832 * share),
        blocks=(
            BlockCost(name="features.0", macs=1_002_240, params=464),
            BlockCost(name="features.4", macs=int(9_974_272 * share), params=int(927_000 * share)),
            BlockCost(name="classifier", macs=591_872, params=592_442),
        ),
        peak_activation_bytes=294_912,
        peak_activation_at="features.1",
        checkpoint_bytes=int(6_100_000 * share),
    )


def _level(*, share: float, correct: int, file_bytes: int) -> LevelFacts:
    wrong = 526 - correct
    test = Evaluation(
        split="test",
        accuracy=Accuracy(correct=correct, n=526),
        loss=0.41,
        confusion=((363 - wrong // 2, wrong // 2), (wrong - wrong // 2, 163 - wrong + wrong // 2)),
        roc_auc=0.8712,
        seconds=1.2,
    )
    val = dataclasses.replace(test, split="val", accuracy=Accuracy(correct=330, n=394))
    return LevelFacts(
        costs=_costs(share),
        val=val,
        test=test,
        file_accuracy=Accuracy(correct=correct, n=526),
        file_bytes={"model.onnx": file_bytes},
    )


def facts_for(path: Path, **changes: object) -> BundleFacts:
    facts = BundleFacts(
        name="elpv96",
        level="s60",
        version="0.1.0",
        target=0.6,
        achieved=0.6035,
        recipe_digest="e" * 64,
        goal="a smaller detector",
        importance="l1_norm",
        align=8,
        data=DataFacts(
            source="elpv",
            digest="d" * 64,
            split_digest="f" * 64,
            split_sizes={"train": 1704, "val": 394, "test": 526},
            credit="ELPV data set, CC BY-NC-SA 4.0.",
        ),
        classes=CLASSES,
        image_size=SIZE,
        mean=MEAN,
        std=STD,
        network="mobilenet_v3_small",
        pad="same",
        weights="torchvision's IMAGENET1K_V1",
        dynamic_batch=False,
        pruned=_level(share=0.5, correct=437, file_bytes=path.stat().st_size),
        dense=_level(share=1.0, correct=441, file_bytes=6_083_000),
        file_macs=None,
        paired_p=0.62,
        latency=LatencyComparison(
            runtime="onnxruntime 1.32.0",
            threads=1,
            cpu="a processor",
            protocol="300 calls each in turns after 50 to warm up, batch 1",
            median_ms=0.54,
            reference_median_ms=0.765,
            ratio_low=0.70,
            ratio=0.706,
            ratio_high=0.713,
        ),
        verdict=Verdict(gates=(Gate(name="onnx_checker", figure=0, limit="0 problems", passed=True),)),
    )
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def publish(exports: Path, model: Path, **changes: object) -> Bundle:
    """Publish the model as a bundle; changes go to the facts."""
    return publish_bundle(
        exports=exports,
        facts=facts_for(model, **changes),
        model_files={"model.onnx": model},
        golden=golden_for(model),
        config_yaml=CONFIG,
        environment=ENVIRONMENT,
    )


def reseal(folder: Path) -> Manifest:
    """Write the manifest again after files were changed: what a mistaken or hostile publisher would do."""
    old = parse_manifest((folder / "manifest.json").read_bytes(), origin="manifest.json")
    files = [
        FileEntry(
            path=entry.path,
            sha256=hashlib.sha256((folder / entry.path).read_bytes()).hexdigest(),
            bytes=(folder / entry.path).stat().st_size,
            role=entry.role,
            media_type=entry.media_type,
        )
        for entry in old.files
    ]
    manifest = make_manifest(name=old.name, level=old.level, version=old.edgeprune, files=files)
    (folder / "manifest.json").write_bytes(encode_record(manifest))
    return manifest


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and leftovers included."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_json(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
