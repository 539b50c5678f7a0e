"""What each int8 remedy gives: one network, with more and more remedies, as int8 files on validation and test images.

How: for each set of remedies the network is converted to TFLite, quantised with every calibration of
``edgeprune.calibration.METHODS``, and the file that decides most often as float on validation is run on test, all in
LiteRT's reference kernels, which TFLite Micro equals. The last row is trained by quantisation-aware recovery as an
export does it. dB: signal to quantisation noise of the logits.

    python benchmarks/int8_remedies.py recipes/elpv96.yaml models/elpv96-s60
    python benchmarks/int8_remedies.py RECIPE WEIGHTS.safetensors --data FOLDER    (weights of the recipe's own network)

Last figures (2 shared, busy cores of an AMD EPYC; torch 2.13.0+cpu, litert-torch 0.10.0, ai-edge-quantizer 0.10.0,
ai-edge-litert 2.3.0; one training each, one seed; accuracy, share that decides as float, dB):

    elpv96 at 60 %                      | val 0.8934 (n=394)     | test 0.8438 (n=525)
    BatchNorm folded (min_max)          | 0.3528 0.3274  -0.4 dB | 0.3524 0.3105  -0.5 dB
    dead units, floored rows (mean)     | 0.8299 0.9010   6.5 dB | 0.8362 0.9124   6.5 dB
    evened out, straightened (mean)     | 0.8680 0.9695   8.9 dB | 0.8362 0.9505   8.2 dB
    recovery, 15 epochs (mse)           | 0.8934 0.9797  20.3 dB | 0.8324 0.9695  19.3 dB

    elpv96, unpruned                    | val 0.8934             | test 0.8457
    BatchNorm folded (min_max)          | 0.6802 0.7411   0.1 dB | 0.6800 0.7581   0.1 dB
    recovery, 15 epochs (mse)           | 0.8782 0.9797  19.4 dB | 0.8571 0.9733  18.6 dB

    mobilenet_v3_small on vww96         | val 0.9000 (n=400)     | test 0.8000 (n=400)
    BatchNorm folded (percentile_99_9)  | 0.5650 0.6100  -1.7 dB | 0.5000 0.5250  -2.9 dB
    dead units, floored (moving avg.)   | 0.8775 0.9625   7.1 dB | 0.7550 0.9050   6.2 dB
    evened out, straightened (m. avg.)  | 0.9000 0.9700   7.5 dB | 0.7975 0.9525   6.7 dB
    recovery, 5 epochs (mse)            | 0.9125 0.9825  19.6 dB | 0.7950 0.9800  19.1 dB

Its val is drawn from what that network was trained on, its test is new to it. The rows of recovery come from a second
run, without the others; the unpruned network's rows in between were not run. None of the three agrees on 99 %.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from edgeprune.calibration import METHODS
from edgeprune.data import Dataset, PackedSplit, load_dataset, sample_images
from edgeprune.evaluation import predict_logits
from edgeprune.export.tflite_file import convert_network
from edgeprune.export.tflite_int8 import choose_ranges, observe_ranges, place_ranges, quantise_model
from edgeprune.pipeline.settings import augmentation
from edgeprune.preprocess import normalise_pixels, plan_integer_preprocess
from edgeprune.quantise.condition import condition_network
from edgeprune.quantise.fold import fold_batchnorm
from edgeprune.quantise.recover_int8 import recover_int8
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.verify.litert import dequantise, read_io, run_litert
from edgeprune.zoo import NetworkSpec, build_network, load_checkpoint


def main() -> None:
    """Print a row for each set of remedies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("network", type=Path, help="a checkpoint folder, or weights of the recipe's network")
    parser.add_argument("--data", help="a folder of images in place of the recipe's source")
    asked = parser.parse_args()
    recipe = read_recipe(asked.recipe, data_path=asked.data)
    dataset = _open_data(recipe)
    network = _open_network(recipe, asked.network, classes=len(dataset.classes))
    bench = Bench(recipe, dataset, network)
    print(f"{asked.network}: float {bench.describe_float()}")
    images = torch.from_numpy(bench.images)
    bench.compare("BatchNorm folded", fold_batchnorm(network))
    plain = condition_network(network, images, equalise=False, split=False).network
    bench.compare("dead units removed, rows floored", plain)
    even = condition_network(network, images, split=False).network
    bench.compare("ranges evened out, hard-swish straightened", even)
    conditioned = condition_network(network, images).network
    best = bench.compare("stem in parts", conditioned)
    bench.train("quantisation-aware recovery", conditioned, best)


def _open_data(recipe: Recipe) -> Dataset:
    data = recipe.data
    return load_dataset(
        source=data.source,
        path=Path(data.path) if data.path else None,
        image_size=data.image_size,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
        skip_broken=data.skip_broken,
        cache_dir=Path(".cache/edgeprune"),
        say=print,
    )


def _open_network(recipe: Recipe, path: Path, *, classes: int) -> nn.Module:
    if path.is_dir():
        return load_checkpoint(path).network
    spec = NetworkSpec(
        network=recipe.model.network, num_classes=classes, image_size=recipe.data.image_size, pad=recipe.model.pad
    )
    network = build_network(spec)
    network.load_state_dict(load_file(path))
    return network.eval()


class Bench:
    """One network with its data, and what it answers in float."""

    def __init__(self, recipe: Recipe, dataset: Dataset, network: nn.Module) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.mean, self.std = recipe.data.mean, recipe.data.std
        self.images = normalise_pixels(
            sample_images(dataset.train, recipe.quantise.images, recipe.seed), self.mean, self.std
        )
        self.wanted = {
            split.name: predict_logits(network, split, mean=self.mean, std=self.std)
            for split in (dataset.val, dataset.test)
        }

    def describe_float(self) -> str:
        """Accuracies of the float network."""
        return ", ".join(
            f"{split.name} {np.mean(self.wanted[split.name].argmax(1) == split.labels):.4f} (n={len(split.labels)})"
            for split in (self.dataset.val, self.dataset.test)
        )

    def compare(self, title: str, network: nn.Module) -> str:
        """Print the best calibration's figures; returns the one with the nearest logits."""
        began = time.perf_counter()
        model = convert_network(network, image_size=self.recipe.data.image_size)
        statistics = observe_ranges(model.content, np.ascontiguousarray(self.images.transpose(0, 2, 3, 1)))
        files = {
            method: quantise_model(model.content, choose_ranges(model.content, statistics, method))
            for method in METHODS
        }
        judged = {method: self.judge(content, self.dataset.val) for method, content in files.items()}
        best = max(judged, key=lambda method: judged[method][1:])
        seconds = time.perf_counter() - began
        self.report(f"{title} ({best})", files[best], seconds)
        return max(judged, key=lambda method: judged[method][2])

    def train(self, title: str, network: nn.Module, method: str) -> None:
        """Train from the ranges of a calibration, and print the figures of the file."""
        settings, began = self.recipe.quantise, time.perf_counter()
        fit = recover_int8(
            network,
            images=torch.from_numpy(self.images),
            method=method,
            dataset=self.dataset,
            mean=self.mean,
            std=self.std,
            epochs=settings.epochs,
            lr=settings.lr,
            batch_size=settings.batch_size,
            augment=augmentation(self.recipe),
            seed=self.recipe.seed,
        )
        seconds = time.perf_counter() - began
        model = convert_network(fit.network, image_size=self.recipe.data.image_size)
        statistics = observe_ranges(model.content, np.ascontiguousarray(self.images.transpose(0, 2, 3, 1)))
        otherwise = choose_ranges(model.content, statistics, method)
        content = quantise_model(model.content, place_ranges(model, fit.ranges, otherwise=otherwise))
        self.report(f"{title}, {settings.epochs} epochs ({method})", content, seconds)

    def judge(self, content: bytes, split: PackedSplit) -> tuple[float, float, float]:
        """Accuracy, share that decides as float, dB."""
        file = read_io(content)
        assert file.input is not None
        assert file.output is not None
        pixels = plan_integer_preprocess(self.mean, self.std, file.input).apply(np.asarray(split.images))
        logits = dequantise(run_litert(content, pixels, reference=True), file.output)
        wanted = self.wanted[split.name]
        decided = logits.argmax(1)
        return (
            float(np.mean(decided == split.labels)),
            float(np.mean(decided == wanted.argmax(1))),
            float(10 * np.log10(np.square(wanted).sum() / max(np.square(logits - wanted).sum(), 1e-12))),
        )

    def report(self, title: str, content: bytes, seconds: float) -> None:
        """Print one row: accuracy, share that decides as float, and dB; on validation and on test."""
        figures = [self.judge(content, split) for split in (self.dataset.val, self.dataset.test)]
        shown = " | ".join(f"{accuracy:.4f} {agreement:.4f} {sqnr:4.1f} dB" for accuracy, agreement, sqnr in figures)
        print(f"{title:62s} | {shown} | {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
