"""A small real model, and real bundles around it, for the tests of publishing, pulling and checking."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeprune.embedded import ArenaReport, DeviceFit, NpuReport, OperatorFigures, Quantisation
from edgeprune.formats import ModelMetadata, encode_record
from edgeprune.manifest import FileEntry, Manifest, make_manifest, parse_manifest
from edgeprune.preprocess import normalise_pixels
from edgeprune.publish import Bundle, BundleFacts, DataFacts, FileFacts, GoldenVectors, LevelFacts, publish_bundle
from edgeprune.results import Accuracy, BlockCost, CostReport, Evaluation, Gate, LatencyComparison, Verdict

SIZE = 16
CLASSES = ("functional", "defective")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONFIG = "name: elpv96\ngoal: a smaller detector\n"
LATENCY = LatencyComparison(
    runtime="onnxruntime 1.32.0",
    threads=1,
    cpu="a processor",
    protocol="300 calls each in turns after 50 to warm up, batch 1",
    median_ms=0.54,
    reference_median_ms=0.765,
    ratio_low=0.70,
    ratio=0.706,
    ratio_high=0.713,
)
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
        outputs={"model.onnx": ask_model(path, images)},
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


def _level(*, share: float, correct: int) -> LevelFacts:
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
    return LevelFacts(costs=_costs(share), val=val, test=test)


def _onnx_file(*, correct: int, file_bytes: int, latency: LatencyComparison | None) -> FileFacts:
    return FileFacts(
        path="model.onnx",
        bytes=file_bytes,
        runtime="onnxruntime 1.32.0",
        accuracy=Accuracy(correct=correct, n=526),
        layout="NCHW float32",
        latency=latency,
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
        pruned=_level(share=0.5, correct=437),
        dense=_level(share=1.0, correct=441),
        files=(_onnx_file(correct=437, file_bytes=path.stat().st_size, latency=LATENCY),),
        dense_files=(_onnx_file(correct=441, file_bytes=6_083_000, latency=None),),
        file_macs=None,
        paired_p=0.62,
        verdict=Verdict(gates=(Gate(name="onnx_checker", figure=0, limit="0 problems", passed=True),)),
    )
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def embedded_facts(facts: BundleFacts) -> BundleFacts:
    """The same level with files for a microcontroller, rotated so that no PAD operator is left, as plain figures."""
    arena = ArenaReport(
        head_bytes=73_728,
        tail_bytes=61_440,
        liveness_bytes=73_728,
        peak_operator=0,
        peak_layer="features.0",
        runtime="tflite-micro 0.dev1",
    )
    conv = OperatorFigures(
        index=0,
        operator="CONV_2D",
        layer="features.0.0",
        sqnr_db=32.1,
        weight_scale_ratio=4359.2,
        low=-3.0,
        high=7.25,
    )
    exact = OperatorFigures(
        index=1, operator="RESHAPE", layer="", sqnr_db=math.inf, weight_scale_ratio=None, low=-3.0, high=7.25
    )
    plain = FileFacts(
        path="model_rot180.tflite",
        bytes=3_758_736,
        runtime="LiteRT 2.3.0",
        accuracy=Accuracy(correct=437, n=526),
        layout="NHWC float32",
        rotated=True,
        operators={"CONV_2D": 23, "HARD_SWISH": 4},
    )
    int8 = FileFacts(
        path="model_int8_rot180.tflite",
        bytes=1_107_760,
        runtime="tflite-micro 0.dev1",
        accuracy=Accuracy(correct=436, n=526),
        layout="NHWC int8",
        float_path="model_rot180.tflite",
        paired_p=0.875,
        input=Quantisation(scale=0.0186, zero_point=-14),
        output=Quantisation(scale=0.05, zero_point=3),
        rotated=True,
        arena=arena,
        operators={"CONV_2D": 23, "ADD": 6},
        operator_figures=(conv, exact),
        calibration="percentile_90, 256 train images",
        remedies=("Rows raised to 1e-3 of the layer's largest weight: 75.0 to 79.0 % on val.",),
    )
    short = DeviceFit(
        device="stm32f746",
        board="STM32F746G-DISCO",
        ram_bytes=327_680,
        flash_bytes=1_048_576,
        arena_head_bytes=73_728,
        arena_tail_bytes=61_440,
        reserve_bytes=32_768,
        model_bytes=1_107_760,
        kernel_bytes=150_000,
        latency_ms=45.25,
        latency_source="a public measurement",
        problems=("Flash is short of 209,184 bytes; a higher target helps.",),
    )
    unknown = dataclasses.replace(
        short, device="odd", board="Odd | Board", ram_bytes=None, latency_ms=None, latency_source="", problems=()
    )
    return dataclasses.replace(
        facts,
        files=(*facts.files, plain, int8),
        dense_files=(
            *facts.dense_files,
            dataclasses.replace(int8, bytes=1_810_448, arena=dataclasses.replace(arena, tail_bytes=70_000)),
        ),
        npu=NpuReport(
            accelerator="ethos-u55-128",
            system_config="Ethos_U55_High_End_Embedded",
            memory_mode="Shared_Sram",
            cpu_operators=(),
            npu_operators=60,
            sram_bytes=100_352,
            flash_bytes=901_120,
            file_bytes=950_272,
            inferences_per_second=268.4,
            version="5.2.0",
        ),
        fits=(short, unknown),
        plain_arena_head_bytes=90_144,
    )


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
