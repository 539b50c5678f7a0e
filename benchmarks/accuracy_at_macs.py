"""Accuracy at equal multiply-accumulates and equal recovery: ours, Torch-Pruning's pruners, random, and from scratch.

How: the recipe's baseline is cut once to a share of its MACs (fvcore), by every method; recalibrated, and recovered by
the recipe's own recovery with the baseline as teacher, all epochs (patience never stops it). The epoch is chosen on
validation, the figure is the test split's. A seed decides the order of images, augmentation and what is drawn at
random; the baseline is the same. ``scratch`` is our shape with new weights, trained in the same way for as long.

Last figures (2 shared cores of an AMD EPYC, one thread, torch 2.13.0, Torch-Pruning 1.6.0; elpv96, three seeds, mean
and standard deviation of test accuracy, n=525; the unpruned network has 0.8457):

    method          | -40 % MACs        | -60 % MACs        | -80 % MACs        | parameters, thousands
    ours            | 0.8635 +- 0.0029  | 0.8578 +- 0.0162  | 0.8133 +- 0.0033  | 256, 101, 32
    TP Taylor       | 0.8298 +- 0.0072  | 0.8083 +- 0.0090  | 0.7892 +- 0.0188  | 636, 381, 182
    TP BNScale      | 0.8222 +- 0.0055  | 0.7975 +- 0.0067  | 0.7714 +- 0.0182  | 1,112, 803, 436
    TP GroupNorm    | 0.8038 +- 0.0137  | 0.7410 +- 0.0119  | 0.7581 +- 0.0116  | 1,354, 950, 305
    TP Magnitude    | 0.8000 +- 0.0101  | 0.7867 +- 0.0033  | 0.7657 +- 0.0188  | 1,250, 792, 117
    random          | 0.8197 +- 0.0148  | 0.7930 +- 0.0029  | 0.7835 +- 0.0116  | 859, 542, 232
    ours, l1_norm   | 0.7968 +- 0.0241  | 0.7638 +- 0.0069  | 0.7181 +- 0.0182  | 1,225, 990, 678
    scratch         | 0.7613 +- 0.0040  | 0.7479 +- 0.0029  | 0.7606 +- 0.0048  | 256, 101, 32

    python benchmarks/accuracy_at_macs.py                                     everything: about an hour on one core
    python benchmarks/accuracy_at_macs.py --cuts 0.8 --seeds 0 --only ours "TP Taylor"
    python benchmarks/accuracy_at_macs.py --keep results.jsonl                goes on where it was interrupted
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Subject, count_macs, cut_ours, open_subject
from torch import nn

from edgeprune.evaluation import evaluate_network
from edgeprune.pipeline.settings import recalibrate, recover
from edgeprune.recipe import Recipe, read_recipe

METHODS = ["ours", "ours, l1_norm", *PEERS, "scratch"]


def main() -> None:
    """Measure what is missing, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", type=Path, default=Path("recipes/elpv96.yaml"))
    parser.add_argument("--cuts", type=float, nargs="+", default=[0.4, 0.6, 0.8], help="shares of the MACs that go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--keep", type=Path, help="file of finished results, a line each; read first, then added to")
    asked = parser.parse_args()
    subject = open_subject(prune_everything(read_recipe(asked.recipe)))
    done = [json.loads(line) for line in asked.keep.read_text().splitlines()] if _exists(asked.keep) else []
    for cut in asked.cuts:
        for seed in asked.seeds:
            for method in asked.only:
                if any((row["cut"], row["seed"], row["method"]) == (cut, seed, method) for row in done):
                    continue
                row = {"cut": cut, "seed": seed, "method": method, **measure(subject, method, cut, seed)}
                done.append(row)
                print(row, flush=True)
                if asked.keep:
                    with asked.keep.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    for cut in asked.cuts:
        for method in asked.only:
            print(describe([row for row in done if (row["cut"], row["method"]) == (cut, method)]))


def prune_everything(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with every shared channel to prune, and the importance that budgets are best met with."""
    section = recipe.prune.model_copy(
        update={"scope": "all", "importance": "taylor", "coupled": "all", "max_drop": None} | changes
    )
    return recipe.model_copy(update={"prune": section})


def measure(subject: Subject, method: str, cut: float, seed: int) -> dict[str, float]:
    """Cut, recalibrate, recover; test accuracy, and what the network costs."""
    recipe, dataset = subject.recipe, subject.dataset
    small = make_network(subject, method, int(subject.dense_macs * (1 - cut)), seed)
    data = recipe.data
    macs = count_macs(small, data.image_size)
    if method != "scratch":
        small = recalibrate(recipe, small, dataset)
    before = evaluate_network(small, dataset.val, mean=data.mean, std=data.std)
    section = recipe.recover.model_copy(update={"patience": recipe.recover.epochs})
    fit = recover(
        recipe.model_copy(update={"recover": section}),
        small,
        teacher=subject.dense,
        dataset=dataset,
        lr=section.lr_high,
        seed=seed,
    )
    test = evaluate_network(fit.network, dataset.test, mean=data.mean, std=data.std)
    return {
        "before": before.accuracy.value,
        "val": fit.epochs[fit.best_epoch - 1].val_accuracy,
        "test": test.accuracy.value,
        "n": test.accuracy.n,
        "macs": macs / subject.dense_macs,
        "params": sum(parameter.numel() for parameter in small.parameters()),
    }


def make_network(subject: Subject, method: str, macs: int, seed: int) -> nn.Module:
    """The smaller network of a method."""
    if method in PEERS:
        return PEERS[method](subject, macs, seed)
    if method == "ours, l1_norm":
        recipe = prune_everything(subject.recipe, importance="l1_norm", coupled="producer")
        subject = Subject(recipe=recipe, dataset=subject.dataset, dense=subject.dense, dense_macs=subject.dense_macs)
    small = cut_ours(subject, macs, seed)
    if method == "scratch":
        torch.manual_seed(seed)
        for module in small.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    return small


def describe(rows: list[dict[str, Any]]) -> str:
    """One row: mean and standard deviation over seeds."""
    if not rows:
        return ""
    test = [row["test"] for row in rows]
    spread = statistics.stdev(test) if len(test) > 1 else float("nan")
    return (
        f"-{rows[0]['cut']:.0%} MACs | {rows[0]['method']:14s} | test {statistics.mean(test):.4f} +- {spread:.4f} | "
        f"val {statistics.mean(row['val'] for row in rows):.4f} | "
        f"before recovery, val {statistics.mean(row['before'] for row in rows):.4f} | "
        f"{statistics.mean(row['params'] for row in rows):9,.0f} parameters"
    )


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
