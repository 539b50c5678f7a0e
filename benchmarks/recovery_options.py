"""What each option of recovery gives for the same epochs: one cut, recovered with every option, on validation images.

How: the recipe's baseline is cut once, in one step from dense, at target 0.6 (align 8, l1_norm); the cut network is
recalibrated, then recovered with the recipe's values and one option more, in all epochs (patience never stops it).
The baseline is the teacher but for the assistant, which was cut at 0.3 and recovered before. Test images are not
looked at.

    python benchmarks/recovery_options.py                                   every option, three seeds
    python benchmarks/recovery_options.py --only cosine "ema 0.9" --seeds 0 1
    python benchmarks/recovery_options.py --cache                           seconds an epoch with cache_teacher

A row: validation accuracy of the kept epoch, mean and standard deviation over seeds; mean difference from the default
at the same seed and its standard deviation, in points; validation loss of the kept epoch in nats; mean accuracy of the
last three epochs, which no selection has flattered; seconds an epoch.

Last figures (2 shared, busy cores of an AMD EPYC, so no seconds; torch 2.13.0+cpu; elpv96, n=394, 6 epochs, seed 0
alone): dense 0.8934, cut and recalibrated 0.8223.

    option                     | val    | against | loss   | last three
    default                    | 0.8883 |         | 0.2879 | 0.8807
    cosine                     | 0.8731 |  -1.52  | 0.3158 | 0.8723    (*)
    cosine, lr x2              | 0.8807 |  -0.76  | 0.3041 | 0.8790
    one_cycle                  | 0.8807 |  -0.76  | 0.3099 | 0.8790    (*)
    one_cycle, lr x2           | 0.8883 |  +0.00  | 0.2942 | 0.8807
    ema 0.9                    | 0.8909 |  +0.25  | 0.2928 | 0.8841    (*)
    ema 0.98                   | 0.8858 |  -0.25  | 0.2946 | 0.8799
    mixup 0.2                  | 0.8934 |  +0.51  | 0.3118 | 0.8866    (*)
    label_smoothing 0.1        | 0.8909 |  +0.25  | 0.2990 | 0.8849
    feature_weight 1           | 0.8985 |  +1.02  | 0.3026 | 0.8841
    feature_weight 10          | 0.8934 |  +0.51  | 0.3099 | 0.8866    (*)
    feature_weight 100         | 0.8934 |  +0.51  | 0.3042 | 0.8841
    assistant at 0.3           | 0.8985 |  +1.02  | 0.3020 | 0.8841    (6 epochs more, for the assistant)

(*) with 2 threads, where the default's last three are 0.8841 and its loss 0.2899; the others with 1. A point is four
images: one seed decides nothing here, and every difference among the gains is within what another thread count does to
the last three. The other rows were not run. cache_teacher, processor seconds an epoch, mean of the first 3 epochs, one
run each: 7.06 and 6.13 with it without augmentation; 7.02 and 7.34 with flips and quarter turns, where an image seldom
comes in a form that it had before (88 % are still asked). The training losses differ by 5e-5 at most.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.data import Dataset
from edgeprune.evaluation import evaluate_network
from edgeprune.learning import Fit
from edgeprune.pipeline.baseline import open_dataset
from edgeprune.pipeline.settings import recalibrate, recover
from edgeprune.pipeline.workspace import SilentReporter, Workspace
from edgeprune.plan import choose_channels, find_groups, score_channels
from edgeprune.prune import remove_channels
from edgeprune.recipe import Recipe, read_recipe
from edgeprune.zoo import load_checkpoint

DEFAULT = "default"
ASSISTANT = "assistant at 0.3"
# What each option changes in the recipe's section `recover`.
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "cosine": {"lr_schedule": "cosine"},
    "cosine, warm-up 1": {"lr_schedule": "cosine", "warmup_epochs": 1.0},
    "cosine, lr x2": {"lr_schedule": "cosine", "lr_high": 0.001},
    "one_cycle": {"lr_schedule": "one_cycle"},
    "one_cycle, lr x2": {"lr_schedule": "one_cycle", "lr_high": 0.001},
    "one_cycle, lr x4": {"lr_schedule": "one_cycle", "lr_high": 0.002},
    "ema 0.9": {"ema": 0.9},
    "ema 0.98": {"ema": 0.98},
    "mixup 0.2": {"mixup": 0.2},
    "label_smoothing 0.1": {"label_smoothing": 0.1},
    "feature_weight 1": {"feature_weight": 1.0},
    "feature_weight 10": {"feature_weight": 10.0},
    "feature_weight 100": {"feature_weight": 100.0},
    ASSISTANT: {},
    "cosine, feature_weight 10": {"lr_schedule": "cosine", "feature_weight": 10.0},
    "one_cycle x2, feature 10": {"lr_schedule": "one_cycle", "lr_high": 0.001, "feature_weight": 10.0},
    "one_cycle x2, ema 0.9": {"lr_schedule": "one_cycle", "lr_high": 0.001, "ema": 0.9},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One cut network and what it is recovered with."""

    recipe: Recipe
    dataset: Dataset
    dense: nn.Module
    cut: nn.Module

    def recover(
        self, seed: int, *, network: nn.Module | None = None, teacher: nn.Module | None = None, **changes: Any
    ) -> Fit:
        """Recovery with changes to the recipe's section; of the cut network by the dense one unless told otherwise."""
        values = self.recipe.recover
        changed = values.model_validate(values.model_dump() | {"patience": values.epochs} | changes)
        return recover(
            self.recipe.model_copy(update={"recover": changed}),
            network or self.cut,
            teacher=teacher or self.dense,
            dataset=self.dataset,
            lr=changed.lr_high,
            seed=seed,
        )


def main() -> None:
    """Print a row for each option."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, default=Path("recipes/elpv96.yaml"))
    parser.add_argument("--target", type=float, default=0.6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), metavar="OPTION")
    parser.add_argument("--cache", action="store_true", help="measure cache_teacher instead")
    asked = parser.parse_args()
    bench = open_bench(read_recipe(asked.recipe), asked.target)
    if asked.cache:
        for line in time_cache(bench):
            print(line, flush=True)
        return
    fits: dict[str, list[Fit]] = {}
    for option in [DEFAULT, *(option for option in asked.only if option != DEFAULT)]:
        fits[option] = [run_option(bench, option, seed) for seed in asked.seeds]
        print(describe(option, fits[option], fits[DEFAULT]), flush=True)


def open_bench(recipe: Recipe, target: float) -> Bench:
    """The recipe's baseline, and its cut at a target."""
    workspace = Workspace(Path())
    dataset = open_dataset(recipe, workspace, SilentReporter())
    dense = load_checkpoint(workspace.baseline_folder(recipe), own_factory=recipe.model.network).network
    cut = cut_once(recipe, dataset, dense, target)
    for title, network in (("dense", dense), ("cut and recalibrated", cut)):
        val = evaluate_network(network, dataset.val, mean=recipe.data.mean, std=recipe.data.std)
        print(f"{title}: val {val.accuracy.value:.4f} (n={val.accuracy.n}), loss {val.loss:.4f}", flush=True)
    return Bench(recipe=recipe, dataset=dataset, dense=dense, cut=cut)


def cut_once(recipe: Recipe, dataset: Dataset, network: nn.Module, target: float) -> nn.Module:
    """A network cut at a target in one step, with its statistics recalibrated."""
    size = recipe.data.image_size
    groups = find_groups(network, image_size=size, scope="expand", protect=())
    scores = score_channels(network, groups, importance="l1_norm")
    prunable = sum(group.channels for group in groups)
    plan = choose_channels(scores, target=target, prunable=prunable, importance="l1_norm", align=8)
    return recalibrate(recipe, remove_channels(network, groups, plan, image_size=size), dataset)


def run_option(bench: Bench, option: str, seed: int) -> Fit:
    """One recovery."""
    if option != ASSISTANT:
        return bench.recover(seed, **OPTIONS[option])
    between = cut_once(bench.recipe, bench.dataset, bench.dense, 0.3)
    return bench.recover(seed, teacher=bench.recover(seed, network=between).network)


def describe(option: str, fits: list[Fit], default: list[Fit]) -> str:
    """One row."""
    kept = [fit.epochs[fit.best_epoch - 1] for fit in fits]
    accuracies = [epoch.val_accuracy for epoch in kept]
    against = [
        100 * (accuracy - max(epoch.val_accuracy for epoch in other.epochs))
        for accuracy, other in zip(accuracies, default, strict=True)
    ]
    last = [epoch.val_accuracy for fit in fits for epoch in fit.epochs[-3:]]
    seconds = statistics.median(epoch.seconds for fit in fits for epoch in fit.epochs)
    return (
        f"{option:26s} | {statistics.mean(accuracies):.4f} +- {_spread(accuracies):.4f} | "
        f"{statistics.mean(against):+5.2f} +- {_spread(against):4.2f} | "
        f"loss {statistics.mean(epoch.val_loss for epoch in kept):.4f} | last three {statistics.mean(last):.4f} | "
        f"{seconds:4.1f} s"
    )


def time_cache(bench: Bench) -> Iterator[str]:
    """Processor seconds an epoch with and without remembered answers, in turns: the better one of two each."""
    augments = {
        "no augmentation": {},
        "one flip": {"flip_horizontal": True},
        "flips and quarter turns": {"flip_horizontal": True, "flip_vertical": True, "quarter_turns": True},
    }
    for title, changes in augments.items():
        section = type(bench.recipe.augment)(**changes)
        plain = replace(bench, recipe=bench.recipe.model_copy(update={"augment": section}))
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(2):
            for cache, measured in seconds.items():
                began = time.process_time()
                fit = plain.recover(turn, cache_teacher=cache)
                measured.append((time.process_time() - began) / len(fit.epochs))
        without, remembered = (min(seconds[cache]) for cache in (False, True))
        yield (
            f"{title:24s} | asked each time {without:.2f} s | remembered {remembered:.2f} s an epoch, mean of "
            f"{bench.recipe.recover.epochs} | {remembered / without:.2f}"
        )


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
