"""Latency at equal multiply-accumulates, in ONNX Runtime and LiteRT: ours against Torch-Pruning, rounded or not.

How: the recipe's baseline is cut to a share of its MACs (fvcore) as in ``accuracy_at_macs.py``, which says how accurate
each of these networks is after recovery; weights do not change what a call takes, so nothing is trained here. Each cut
is exported as a level is (float32 ONNX, float32 TFLite) and timed in turns with the unpruned file of the same format:
``compare_latency``, one thread, batch 1. A seed decides nothing but which of equal channels go; the figure is the mean
of the repeats' ratios with their standard deviation.

Last figures (AMD EPYC, onnxruntime 1.32.0, LiteRT 2.3.0, elpv96, beside other work; share of the unpruned file's time
in ONNX Runtime and in LiteRT, mean of three comparisons, whose standard deviation is 0.003 to 0.14):

    method                   | -40 % MACs   | -60 % MACs   | -80 % MACs
    ours                     | 0.566  0.525 | 0.424  0.347 | 0.266  0.223
    TP Magnitude             | 2.216  0.822 | 1.370  0.480 | 0.940  0.289
    TP Magnitude, round_to 8 | 0.762  0.756 | 0.594  0.509 | 0.294  0.201
    TP Taylor                | 1.693  0.663 | 1.425  0.442 | 0.944  0.315
    TP Taylor, round_to 8    | 0.697  0.599 | 0.465  0.378 | not reached by any ratio

    python benchmarks/latency_at_macs.py
    python benchmarks/latency_at_macs.py --cuts 0.8 --repeats 1
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch_pruning
from accuracy_at_macs import prune_everything
from peers import PEERS, UnreachedError, count_macs, cut_ours, cut_theirs, open_subject
from torch import nn

from edgeprune.export.onnx_file import write_onnx
from edgeprune.export.tflite_file import strip_model
from edgeprune.pipeline.conversions import Conversions
from edgeprune.preprocess import normalise_pixels
from edgeprune.recipe import read_recipe
from edgeprune.verify.latency import compare_latency, read_cpu_name

_IMAGES = 16
METHODS = {
    "ours": cut_ours,
    "TP Magnitude": PEERS["TP Magnitude"],
    "TP Magnitude, round_to 8": cut_theirs(
        torch_pruning.pruner.MagnitudePruner,
        lambda: torch_pruning.importance.MagnitudeImportance(p=1),
        round_to=8,
    ),
    "TP Taylor": PEERS["TP Taylor"],
    "TP Taylor, round_to 8": cut_theirs(
        torch_pruning.pruner.BasePruner,
        torch_pruning.importance.GroupTaylorImportance,
        gradients=True,
        round_to=8,
    ),
}


def main() -> None:
    """Print a row for each method and cut."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, default=Path("recipes/elpv96.yaml"))
    parser.add_argument("--cuts", type=float, nargs="+", default=[0.4, 0.6, 0.8], help="shares of the MACs that go")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    subject = open_subject(prune_everything(read_recipe(asked.recipe)))
    data = subject.recipe.data
    images = normalise_pixels(np.asarray(subject.dataset.test.images[:_IMAGES]), data.mean, data.std)
    print(f"{read_cpu_name()}, one thread")
    with tempfile.TemporaryDirectory() as folder:
        dense = write_files(subject.dense, Path(folder) / "dense", images)
        for cut in asked.cuts:
            for method, make in METHODS.items():
                try:
                    small = make(subject, int(subject.dense_macs * (1 - cut)), 0)
                except UnreachedError as error:
                    print(f"-{cut:.0%} | {method:24s} | {error}", flush=True)
                    continue
                files = write_files(small, Path(folder) / f"{method}-{cut}", images)
                share = count_macs(small, data.image_size) / subject.dense_macs
                ratios = describe(files, dense, images, asked.repeats)
                print(f"-{cut:.0%} | {method:24s} | {share:.3f} of the MACs | {ratios}", flush=True)


def write_files(network: nn.Module, folder: Path, images: np.ndarray) -> dict[str, Path]:
    """ONNX and TFLite files of a network, by the runtime that they are for."""
    folder.mkdir()
    size = images.shape[-1]
    onnx, tflite = folder / "model.onnx", folder / "model.tflite"
    write_onnx(network, onnx, image_size=size, dynamic_batch=False, metadata={}, probe=images)
    tflite.write_bytes(strip_model(Conversions(image_size=size, rotate=False).convert(network).content))
    return {"ONNX Runtime": onnx, "LiteRT": tflite}


def describe(files: dict[str, Path], dense: dict[str, Path], images: np.ndarray, repeats: int) -> str:
    """Ratios of latency in both runtimes."""
    parts = []
    for runtime, path in files.items():
        inputs = images if path.suffix == ".onnx" else images.transpose(0, 2, 3, 1).copy()
        ratios = [compare_latency(path, dense[runtime], inputs).ratio for _ in range(repeats)]
        spread = statistics.stdev(ratios) if repeats > 1 else float("nan")
        parts.append(f"{runtime} {statistics.mean(ratios):.3f} +- {spread:.3f} of the time")
    return " | ".join(parts)


if __name__ == "__main__":
    main()
