"""``size_report.json`` and ``size_report.md``: what an embedded engineer reads first, on one page.

Flash, RAM, time and accuracy of every file against dense; what fits where; then operators, int8, and where in the
network the cost lies.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from edgeprune.publish.device_table import fit_lines, npu_lines
from edgeprune.publish.facts import BundleFacts, FileFacts, LevelFacts
from edgeprune.publish.figures import change, figure_table, latency_sentences
from edgeprune.publish.operating import threshold_lines
from edgeprune.publish.operator_table import int8_lines, operator_lines, padding_lines
from edgeprune.results import as_json

_BAR_WIDTH = 30


def size_values(facts: BundleFacts) -> dict[str, Any]:
    """The content of ``size_report.json``: sizes in bytes, MACs of one image by fvcore, latency in milliseconds."""
    dense = facts.dense_file(facts.headline.path)
    return {
        "format": 2,
        "name": facts.name,
        "level": facts.level,
        "target": facts.target,
        "achieved": facts.achieved,
        "accuracy": as_json(facts.headline.accuracy),
        "accuracy_of": facts.headline.path,
        "dense_accuracy": as_json(dense.accuracy) if dense else None,
        "files": [_file_values(file) for file in facts.files],
        "dense_files": [_file_values(file) for file in facts.dense_files],
        "macs_counter": "fvcore",
        "file_macs": facts.file_macs,
        "pruned": _level_values(facts.pruned),
        "dense": _level_values(facts.dense),
        "npu": as_json(facts.npu),
        "device": facts.device,
        "fits": as_json(facts.fits),
        "plain_arena_head_bytes": facts.plain_arena_head_bytes,
    }


def render_size_report(facts: BundleFacts) -> str:
    """The content of ``size_report.md``."""
    lines = [
        f"# {facts.bundle}: size and speed",
        "",
        f"{facts.achieved * 100:.2f} % of the prunable channels are gone ({facts.target * 100:g} % were asked for).",
        "",
        *figure_table(facts),
        "",
        " ".join(_notes(facts)),
        "",
        *threshold_lines(facts),
        *fit_lines(facts),
        *npu_lines(facts.npu),
        *padding_lines(facts),
        *operator_lines(facts),
        *int8_lines(facts),
        *_network_lines(facts),
    ]
    return "\n".join(lines) + "\n"


def _notes(facts: BundleFacts) -> list[str]:
    pruned, dense = facts.pruned.costs, facts.dense.costs
    notes = ["Flash holds the file."]
    runtimes = dict.fromkeys(file.arena.runtime for file in facts.files if file.arena)
    if runtimes:
        notes.append(
            f"RAM holds the arena, as the recording allocator of {', '.join(runtimes)} tells it on a 64-bit host: the "
            "head is exact, the tail an upper bound of a 32-bit device's, and scratch of optimised kernels comes on "
            "top."
        )
    notes.append(
        "Peak activations are live float32 tensors of one image, by liveness over the network in PyTorch; they stand "
        f"at `{pruned.peak_activation_at}` (dense: `{dense.peak_activation_at}`)."
    )
    return [*notes, *latency_sentences(facts)]


def _network_lines(facts: BundleFacts) -> list[str]:
    pruned, dense = facts.pruned.costs, facts.dense.costs
    operators = [
        (f"`{name}`", dense.macs_by_operator.get(name, 0), pruned.macs_by_operator.get(name, 0))
        for name in dict.fromkeys((*dense.macs_by_operator, *pruned.macs_by_operator))
    ]
    return [
        "## Multiply-accumulates by block",
        "",
        "`█` is left, `░` was pruned away; one image, counter fvcore.",
        "",
        *_chart(_by_block(facts.dense, "macs"), _by_block(facts.pruned, "macs")),
        "",
        "## Parameters by block",
        "",
        *_chart(_by_block(facts.dense, "params"), _by_block(facts.pruned, "params")),
        "",
        "## Multiply-accumulates by operator",
        "",
        f"| operator | dense | {facts.level} | change |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {old:,} | {new:,} | {change(old, new)} |" for name, old, new in operators),
        f"| all | {dense.macs:,} | {pruned.macs:,} | {change(dense.macs, pruned.macs)} |",
        "",
        "By thop's formula, which counts four operations for each BatchNorm element where fvcore counts two, the "
        f"totals are {dense.macs_thop:,} and {pruned.macs_thop:,}.",
    ]


def _chart(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    names = list(dict.fromkeys((*before, *after)))
    width = max((len(name) for name in names), default=0)
    largest = max((*before.values(), *after.values(), 1))
    rows = []
    for name in names:
        old, new = before.get(name, 0), after.get(name, 0)
        left = round(new / largest * _BAR_WIDTH)
        bar = "█" * left + "░" * (round(old / largest * _BAR_WIDTH) - left)
        rows.append(f"{name:<{width}}  {bar:<{_BAR_WIDTH}}  {old:>12,} -> {new:>12,}  {change(old, new):>8}")
    total_old, total_new = sum(before.values()), sum(after.values())
    total = f"{'all':<{width}}  {'':<{_BAR_WIDTH}}  {total_old:>12,} -> {total_new:>12,}"
    return ["```text", *rows, f"{total}  {change(total_old, total_new):>8}", "```"]


def _by_block(level: LevelFacts, quantity: str) -> dict[str, int]:
    return _summed((block.name, block.macs if quantity == "macs" else block.params) for block in level.costs.blocks)


def _summed(items: Iterable[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for name, value in items:
        totals[name] = totals.get(name, 0) + value
    return totals


def _file_values(file: FileFacts) -> dict[str, Any]:
    values: dict[str, Any] = as_json(file)
    if file.operators is not None:
        values["operators"] = dict(file.operators)
    for figure in values["operator_figures"]:
        for key, value in figure.items():
            # An operator that loses nothing has an infinite SQNR; JSON has none, so it is stored as text, as in gates.
            if isinstance(value, float) and not math.isfinite(value):
                figure[key] = str(value)
    return values


def _level_values(level: LevelFacts) -> dict[str, Any]:
    costs = level.costs
    return {
        "params": costs.params,
        "macs": costs.macs,
        "macs_thop": costs.macs_thop,
        "macs_by_operator": dict(costs.macs_by_operator),
        "macs_by_block": _by_block(level, "macs"),
        "params_by_block": _by_block(level, "params"),
        "peak_activation_bytes": costs.peak_activation_bytes,
        "peak_activation_at": costs.peak_activation_at,
    }
