"""``size_report.json`` and ``size_report.md``: what the level costs beside the dense network, and where."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgeprune.publish.facts import BundleFacts, LevelFacts
from edgeprune.results import Accuracy, as_json

_BAR_WIDTH = 30


def size_values(facts: BundleFacts) -> dict[str, Any]:
    """The content of ``size_report.json``: sizes in bytes, MACs of one image by fvcore, latency in milliseconds."""
    return {
        "format": 1,
        "name": facts.name,
        "level": facts.level,
        "target": facts.target,
        "achieved": facts.achieved,
        "accuracy": as_json(facts.pruned.file_accuracy),
        "dense_accuracy": as_json(facts.dense.file_accuracy),
        "macs_counter": "fvcore",
        "file_macs": facts.file_macs,
        "pruned": _level_values(facts.pruned),
        "dense": _level_values(facts.dense),
        "latency": as_json(facts.latency),
    }


def render_size_report(facts: BundleFacts) -> str:
    """The content of ``size_report.md``: figures against dense, then charts by block and a table by operator."""
    pruned, dense = facts.pruned.costs, facts.dense.costs
    before, after = _by_block(facts.dense, "macs"), _by_block(facts.pruned, "macs")
    weights_before, weights_after = _by_block(facts.dense, "params"), _by_block(facts.pruned, "params")
    operators = [
        (f"`{name}`", dense.macs_by_operator.get(name, 0), pruned.macs_by_operator.get(name, 0))
        for name in dict.fromkeys((*dense.macs_by_operator, *pruned.macs_by_operator))
    ]
    lines = [
        f"# {facts.bundle}: size and speed",
        "",
        f"{facts.achieved * 100:.2f} % of the prunable channels are gone ({facts.target * 100:g} % were asked for).",
        "",
        *figure_table(facts),
        "",
        "Flash holds the file. RAM holds the peak of live activations, float32, one image, by liveness over the graph; "
        f"it stands at `{pruned.peak_activation_at}` (dense: `{dense.peak_activation_at}`).",
        latency_sentence(facts),
        "",
        "## Multiply-accumulates by block",
        "",
        "`█` is left, `░` was pruned away; one image, counter fvcore.",
        "",
        *_chart(before, after),
        "",
        "## Parameters by block",
        "",
        *_chart(weights_before, weights_after),
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
    return "\n".join(lines) + "\n"


def figure_table(facts: BundleFacts) -> list[str]:
    """Lines of the Markdown table that sets this level against dense; the card shows the same one."""
    pruned, dense = facts.pruned.costs, facts.dense.costs
    latency = facts.latency
    rows = [
        (
            f"`{path}`, bytes",
            _count(facts.dense.file_bytes.get(path)),
            f"{size:,}",
            change(facts.dense.file_bytes.get(path, 0), size),
        )
        for path, size in facts.pruned.file_bytes.items()
    ]
    rows += [
        ("parameters", f"{dense.params:,}", f"{pruned.params:,}", change(dense.params, pruned.params)),
        ("MACs of one image, fvcore", f"{dense.macs:,}", f"{pruned.macs:,}", change(dense.macs, pruned.macs)),
    ]
    if facts.file_macs is not None:
        macs = facts.file_macs
        rows.append(
            ("MACs of the file, channels zero-padded", f"{dense.macs:,}", f"{macs:,}", change(dense.macs, macs))
        )
    rows += [
        (
            "peak activations, bytes (float32)",
            f"{dense.peak_activation_bytes:,}",
            f"{pruned.peak_activation_bytes:,}",
            change(dense.peak_activation_bytes, pruned.peak_activation_bytes),
        ),
        (
            "latency, ms (median)",
            f"{latency.reference_median_ms:.3f}",
            f"{latency.median_ms:.3f}",
            f"x {latency.ratio:.3f} ({latency.ratio_low:.3f} to {latency.ratio_high:.3f})",
        ),
        (
            f"accuracy of the file, test (n={facts.pruned.file_accuracy.n})",
            accuracy_cell(facts.dense.file_accuracy),
            accuracy_cell(facts.pruned.file_accuracy),
            _points(facts.dense.file_accuracy.value, facts.pruned.file_accuracy.value),
        ),
    ]
    return [
        f"| | dense | {facts.level} | change |",
        "|---|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def latency_sentence(facts: BundleFacts) -> str:
    """How latency was measured, with runtime, threads and processor."""
    latency = facts.latency
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return (
        f"Latency: {latency.runtime}, {threads}, {latency.cpu}; {latency.protocol.rstrip('.')}. "
        "The ratio's interval is 95 %, by bootstrap."
    )


def accuracy_cell(accuracy: Accuracy) -> str:
    """Accuracy with its 95 % Wilson interval, for a table whose row names n.

    >>> accuracy_cell(Accuracy(correct=437, n=526))
    '0.8308 (0.7964 to 0.8604)'
    """
    low, high = accuracy.interval
    return f"{accuracy.value:.4f} ({low:.4f} to {high:.4f})"


def change(before: float, after: float) -> str:
    """A change in percent of what was there before.

    >>> change(200, 150), change(0, 0), change(0, 3)
    ('-25.0 %', '0.0 %', 'new')
    """
    if before == 0:
        return "new" if after else "0.0 %"
    percent = (after - before) / before * 100
    return f"{percent:+.1f} %" if round(percent, 1) else "0.0 %"


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


def _level_values(level: LevelFacts) -> dict[str, Any]:
    costs = level.costs
    return {
        "file_bytes": dict(level.file_bytes),
        "params": costs.params,
        "macs": costs.macs,
        "macs_thop": costs.macs_thop,
        "macs_by_operator": dict(costs.macs_by_operator),
        "macs_by_block": _by_block(level, "macs"),
        "params_by_block": _by_block(level, "params"),
        "peak_activation_bytes": costs.peak_activation_bytes,
        "peak_activation_at": costs.peak_activation_at,
    }


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _points(before: float, after: float) -> str:
    return f"{(after - before) * 100:+.2f} points"
