"""Accuracy under a bound on RAM: the arena head of the int8 file, with hard-swish kept, or ReLU in the stem.

How: the recipe's baseline is cut once so that the int8 file's arena head meets the bound; recalibrated, and recovered
by the recipe's own recovery with the baseline as teacher, all epochs. The epoch is chosen on validation; the accuracy
is the float network's on the test split. Bytes are the int8 file's, by liveness, which TFLite Micro's head equals: a
gate of every export. Three seeds of the recovery's order of images and augmentation; the cut is the same.

Last figures (AMD EPYC, one thread, elpv96, three seeds, n=525; unpruned 0.8457 at 51,840 B): ram=48KiB gives an arena
head of 46,080 B and 0.8305 +- 0.0151 with hard-swish kept, 0.8387 +- 0.0124 with ReLU in the stem; 0.932 of the MACs.
32KiB was not run.

    python benchmarks/accuracy_at_ram.py
    python benchmarks/accuracy_at_ram.py --bounds 48KiB --seeds 0
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from accuracy_at_macs import prune_everything
from peers import Subject, count_macs, open_subject
from torch import nn

from edgeprune.budget import parse_budget
from edgeprune.evaluation import evaluate_network
from edgeprune.pipeline.baseline import open_baseline
from edgeprune.pipeline.candidates import describe_level
from edgeprune.pipeline.planning import count_groups, score_groups
from edgeprune.pipeline.settings import recalibrate, recover
from edgeprune.pipeline.structure import measure_structure
from edgeprune.pipeline.workspace import SilentReporter, Workspace
from edgeprune.plan.budget import solve_budget
from edgeprune.plan.cost_model import trace_costs
from edgeprune.prune import remove_channels
from edgeprune.recipe import read_recipe
from edgeprune.zoo import load_checkpoint, with_early_relu


def main() -> None:
    """Print a row for each bound and activation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, default=Path("recipes/elpv96.yaml"))
    parser.add_argument("--bounds", nargs="+", default=["48KiB", "32KiB"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    subject = open_subject(prune_everything(read_recipe(asked.recipe)))
    checkpoint = load_checkpoint(Path("models") / subject.recipe.name, own_factory=subject.recipe.model.network)
    relu = replace(subject, dense=with_early_relu(checkpoint, blocks=1).network)
    for bound in asked.bounds:
        for title, start in (("hard-swish kept", subject), ("ReLU in the stem", relu)):
            small = cut_to_ram(start, bound)
            tests = [recover_and_test(start, small, subject.dense, seed) for seed in asked.seeds]
            spread = statistics.stdev(tests) if len(tests) > 1 else float("nan")
            print(
                f"ram={bound:6s} | {title:17s} | arena head {weigh(start, small):,} B | "
                f"test {statistics.mean(tests):.4f} +- {spread:.4f} | "
                f"{count_macs(small, subject.recipe.data.image_size) / subject.dense_macs:.3f} of the MACs | "
                f"{sum(parameter.numel() for parameter in small.parameters()):,} parameters",
                flush=True,
            )


def cut_to_ram(subject: Subject, bound: str) -> nn.Module:
    """The recipe's importance under a bound on the arena head."""
    recipe, network = subject.recipe, subject.dense
    size = recipe.data.image_size
    groups = count_groups(recipe, network)
    solution = solve_budget(
        score_groups(recipe, network, groups, subject.dataset, seed=recipe.seed),
        trace_costs(network, groups, image_size=size, split_peak=recipe.quantise.split_peak),
        budget=parse_budget(f"ram={bound}"),
        importance=recipe.prune.importance,
        align=recipe.prune.align,
        units={group.layer: group.unit for group in groups},
    )
    return remove_channels(network, groups, solution.plan, image_size=size)


def weigh(subject: Subject, network: nn.Module) -> int:
    """Arena head of its int8 file, bytes."""
    recipe = subject.recipe
    baseline = open_baseline(recipe, Workspace(Path()), SilentReporter())
    metadata = describe_level(recipe, baseline, None, layout="NHWC RGB int8", macs=0)
    return measure_structure(recipe, network, subject.dataset, metadata).ram_bytes


def recover_and_test(subject: Subject, small: nn.Module, teacher: nn.Module, seed: int) -> float:
    """Test accuracy of the recovered network."""
    recipe, dataset = subject.recipe, subject.dataset
    section = recipe.recover.model_copy(update={"patience": recipe.recover.epochs})
    fit = recover(
        recipe.model_copy(update={"recover": section}),
        recalibrate(recipe, small, dataset),
        teacher=teacher,
        dataset=dataset,
        lr=section.lr_high,
        seed=seed,
    )
    return evaluate_network(fit.network, dataset.test, mean=recipe.data.mean, std=recipe.data.std).accuracy.value


if __name__ == "__main__":
    main()
