"""An epoch of recovery against a bare forward and backward loop of the same network: what share of its speed is left.

How: mobilenet_v3_small at 96 pixels in batches of 64, an equal network as teacher, synthetic images. The epoch is
``recover_accuracy``'s: batches drawn from memory, augmented (flips, shifts, crops, rotation, brightness, contrast,
saturation), normalised; the teacher's answers, the loss, the optimiser; validation; the epoch kept on disk. The bare
loop does, with one batch that is there already, the teacher's forward pass, the network's, the loss and the backward
pass, and for validation forward passes; it has no optimiser and no data. Both are timed in turn, epoch by epoch, so
that a machine that is busy with other things is so for both.

    python benchmarks/epoch_speed.py                  with augmentation, and without
    python benchmarks/epoch_speed.py --rounds 12 --threads 2

A row: images/s of both, and their ratio by wall time (median over rounds, and its quartiles) and by processor time,
which also counts what another thread does beside.

Last figures (2 cores of an AMD EPYC that other processes kept busy, load 4 to 6; torch 2.13.0+cpu; one thread, 8
rounds of 16 steps; every complete row that was measured of this code):

    batches   | images/s | bare  | ratio, wall time       | ratio, processor time
    augmented |     82.6 |  91.1 | 0.900 (0.837 to 0.924) | 0.903
    augmented |     87.5 | 103.0 | 0.902 (0.839 to 1.003) | 0.867    (*)
    augmented |    118.6 | 118.6 | 0.912 (0.832 to 1.008) | 0.899    (*)
    plain     |     97.8 |  97.1 | 1.004 (0.934 to 1.032) | 1.014    (*)
    plain     |     78.5 |  82.6 | 0.994 (0.807 to 1.257) | 0.949    (*)

(*) at nice -15. Augmented is at 0.90, no more, with quartiles on both sides of it. Where every core computes, as with
--threads 2 here, nothing is hidden beside the steps and the last column is what to expect. Keeping an epoch took
0.5 s on this disk (24 MB), 5 % of these short epochs and little of a long one.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeprune.data import Dataset, PackedSplit, augment_batch
from edgeprune.learning import Augment, EpochRecord, FitSettings, Unfinished, distillation_loss
from edgeprune.recover import Distillation, recover_accuracy
from edgeprune.zoo import NetworkSpec, build_network

_SIZE, _BATCH = 96, 64
_HALF = (0.5, 0.5, 0.5)
_EVERYTHING = partial(
    augment_batch,
    flip_horizontal=True,
    shift_pixels=4,
    crop_area=0.6,
    rotate_degrees=10,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)


def _make_split(name: str, n: int) -> PackedSplit:
    generator = np.random.default_rng(0)
    return PackedSplit(
        name=name,
        images=generator.integers(0, 256, (n, _SIZE, _SIZE, 3), dtype=np.uint8),
        labels=np.arange(n) % 2,
        names=tuple(f"{name}-{index}" for index in range(n)),
    )


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


class _BareLoop:
    """The least that distillation can cost: no data, no optimiser."""

    def __init__(self, network: nn.Module, teacher: nn.Module) -> None:
        self._network, self._teacher = (
            module.to(memory_format=torch.channels_last) for module in (network, teacher.eval())
        )
        self._images = torch.randn(_BATCH, 3, _SIZE, _SIZE).contiguous(memory_format=torch.channels_last)
        self._labels = torch.arange(_BATCH) % 2

    def run(self, *, steps: int, val_images: int) -> np.ndarray:
        began = _clocks()
        self._network.train()
        for _ in range(steps):
            with torch.inference_mode():
                soft = self._teacher(self._images)
            logits = self._network(self._images)
            loss = distillation_loss(logits, soft.clone(), self._labels, alpha=0.5, temperature=4.0)
            self._network.zero_grad(set_to_none=True)
            loss.backward()
        self._network.eval()
        with torch.inference_mode():
            for _ in range(val_images // _BATCH):
                self._network(self._images)
        return _clocks() - began


def measure(*, augment: Augment | None, steps: int, val_images: int, rounds: int) -> None:
    """Print one row."""
    spec = NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=_SIZE)
    network, teacher, bare_network, bare_teacher = (build_network(spec) for _ in range(4))
    bare = _BareLoop(bare_network, bare_teacher)
    splits = {name: _make_split(name, n) for name, n in (("train", steps * _BATCH), ("val", val_images))}
    dataset = Dataset(
        source="imagefolder", classes=("a", "b"), image_size=_SIZE, **splits, test=splits["val"], digest="",
        split_digest="", skipped=(), credit="",
    )  # fmt: skip
    epochs, bares = [], []
    began = _clocks()

    def take_turn(_: EpochRecord) -> None:
        nonlocal began
        epochs.append(_clocks() - began)
        bares.append(bare.run(steps=steps, val_images=val_images))
        began = _clocks()

    with tempfile.TemporaryDirectory() as folder:
        recover_accuracy(
            network,
            teacher=teacher,
            dataset=dataset,
            distillation=Distillation(alpha=0.5, temperature=4.0),
            settings=FitSettings(
                mean=_HALF, std=_HALF, lr=lambda _: 1e-4, epochs=rounds + 1, patience=None, batch_size=_BATCH,
                weight_decay=1e-4, bn_momentum=0.1, augment=augment, seed=0,
            ),
            on_epoch=take_turn,
            unfinished=Unfinished(folder=Path(folder), key="", say=print),
        )  # fmt: skip
    # The first round warms up.
    ours, theirs = np.array(epochs[1:]), np.array(bares[1:])
    wall, processor = (theirs / ours).T
    low, middle, high = np.quantile(wall, (0.25, 0.5, 0.75))
    images = steps * _BATCH
    print(
        f"{'augmented' if augment else 'plain':9} | {images / np.median(ours[:, 0]):6.1f} | "
        f"{images / np.median(theirs[:, 0]):6.1f} | {middle:.3f} ({low:.3f} to {high:.3f}) | {np.median(processor):.3f}"
    )


def main() -> None:
    """Print a row for batches with and without augmentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16, help="of an epoch")
    parser.add_argument("--val-images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    values = parser.parse_args()
    torch.set_num_threads(values.threads)
    torch.manual_seed(0)
    print("batches   | images/s | bare | ratio, wall time | ratio, processor time")
    for augment in (_EVERYTHING, None):
        measure(augment=augment, steps=values.steps, val_images=values.val_images, rounds=values.rounds)


if __name__ == "__main__":
    main()
