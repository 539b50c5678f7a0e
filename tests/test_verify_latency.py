"""The latency gate on real files: what is as fast, what is faster, and the pruned file that is slower than dense."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mcu_models import nhwc, tiny_float, tiny_images
from torch import nn

from edgeprune.export import write_onnx
from edgeprune.results import LatencyComparison
from edgeprune.verify import check_latency, compare_latency
from edgeprune.zoo import NetworkSpec, build_network, read_channels, resize_channels

pytestmark = pytest.mark.timed

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 96, 96), dtype=np.float32)


def mobilenet(keep: float, *, odd: bool = False) -> nn.Module:
    """The reference network with this share of its expansion channels, a multiple of 8 or one more than that."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96, pad="torch"))
    channels = read_channels(network)
    for block in range(4, 12):
        prefix = f"features.{block}.block"
        old = channels[f"{prefix}.0.0"]["out_channels"]
        new = max(8, int(old * keep) // 8 * 8) + odd
        for name in list(channels):
            if name.startswith(prefix):
                # Of a block's counts exactly those of its expansion have this size.
                channels[name] = {key: new if count == old else count for key, count in channels[name].items()}
    resize_channels(network, channels)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.ones_(module.running_var)
    return network.eval()


def written(network: nn.Module, path: Path) -> Path:
    write_onnx(network, path, image_size=96, dynamic_batch=False, metadata={}, probe=IMAGES)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("latency")


@pytest.fixture(scope="module")
def dense(folder: Path) -> Path:
    return written(mobilenet(1.0), folder / "dense.onnx")


def test_the_same_bytes_are_as_fast_as_themselves(dense: Path, folder: Path) -> None:
    """The gate must not fail at random: the dense level is held against itself in every run."""
    copy = folder / "copy.onnx"
    copy.write_bytes(dense.read_bytes())
    started = time.perf_counter()
    comparison = compare_latency(copy, dense, IMAGES)
    assert time.perf_counter() - started < 20
    assert check_latency(comparison).passed
    assert comparison.ratio_low <= comparison.ratio <= comparison.ratio_high
    assert 0.8 < comparison.ratio < 1.25


def test_half_the_channels_in_eights_are_faster(dense: Path, folder: Path) -> None:
    comparison = compare_latency(written(mobilenet(0.5), folder / "aligned.onnx"), dense, IMAGES)
    assert check_latency(comparison).passed
    assert comparison.ratio_high < 1
    assert comparison.threads == 1
    assert comparison.cpu
    assert comparison.runtime.startswith("onnxruntime ")
    assert "1 thread" in comparison.protocol


def test_fewer_channels_that_do_not_fill_a_kernel_are_slower_and_fail(dense: Path, folder: Path) -> None:
    """onnxruntime leaves its blocked kernels at channel counts that no multiple of 4: fewer MACs, more time."""
    comparison = compare_latency(written(mobilenet(0.8, odd=True), folder / "odd.onnx"), dense, IMAGES)
    gate = check_latency(comparison)
    assert comparison.ratio_low > 1
    assert not gate.passed


def test_the_verdict_looks_at_the_interval_not_at_the_ratio(dense: Path) -> None:
    """A ratio of 1.01 within noise is no evidence; 1.01 with an interval above 1 is."""
    measured = LatencyComparison(
        runtime="onnxruntime",
        threads=1,
        cpu="cpu",
        protocol="by hand",
        median_ms=1.01,
        reference_median_ms=1.0,
        ratio_low=0.99,
        ratio=1.01,
        ratio_high=1.03,
    )
    assert check_latency(measured).passed
    assert not check_latency(dataclasses.replace(measured, ratio_low=1.005)).passed
    assert not check_latency(dataclasses.replace(measured, ratio_low=float("nan"))).passed
    assert not check_latency(dataclasses.replace(measured, ratio=float("nan"), ratio_low=float("nan"))).passed


def test_the_budget_bounds_the_time_of_a_slow_file(dense: Path) -> None:
    started = time.perf_counter()
    comparison = compare_latency(dense, dense, IMAGES, sessions=2, rounds=100_000, budget_seconds=0.5)
    assert time.perf_counter() - started < 10
    assert "100000" not in comparison.protocol


def test_tflite_files_are_timed_in_litert(tmp_path: Path) -> None:
    """Each file in the runtime that it is for: onnxruntime could not even open this one."""
    one, other = tmp_path / "one.tflite", tmp_path / "other.tflite"
    for path in (one, other):
        path.write_bytes(tiny_float())
    comparison = compare_latency(one, other, nhwc(tiny_images(4)), sessions=2, rounds=4, budget_seconds=0.5)
    assert comparison.runtime.startswith("LiteRT ")
    assert comparison.ratio_low <= comparison.ratio <= comparison.ratio_high
    assert 0.2 < comparison.ratio < 5
