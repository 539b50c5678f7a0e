"""The part of the size report about int8: operators, what quantising cost each of them, and what the remedies gave."""

import math
from collections.abc import Iterable

from edgeprune.embedded import OperatorFigures
from edgeprune.publish.facts import BundleFacts, FileFacts
from edgeprune.publish.figures import escape_cell, int8_sentences


def operator_lines(facts: BundleFacts) -> list[str]:
    """Lines of Markdown: operators of every file that they were counted in; empty where there is none."""
    counted = [file for file in facts.files if file.operators]
    if not counted:
        return []
    names = sorted({name for file in counted for name in file.operators or {}})
    return [
        "## Operators",
        "",
        "What a runtime must have kernels for, and how often each occurs.",
        "",
        f"| operator | {' | '.join(f'`{file.path}`' for file in counted)} |",
        f"|---|{'---:|' * len(counted)}",
        *(
            f"| `{escape_cell(name)}` | {' | '.join(str((file.operators or {}).get(name, 0)) for file in counted)} |"
            for name in names
        ),
        "",
    ]


def int8_lines(facts: BundleFacts) -> list[str]:
    """Lines of Markdown on what int8 costs and what was done about it; empty where no file is int8."""
    sentences = int8_sentences(facts)
    if not sentences:
        return []
    lines = ["## Int8 against float", "", *(f"- {sentence}" for sentence in sentences), ""]
    for file in facts.files:
        if file.remedies:
            lines += [f"What each remedy for `{file.path}` gave:", "", *(f"- {text}" for text in file.remedies), ""]
        if file.operator_figures:
            lines += _figures_of(file)
    return lines


def padding_lines(facts: BundleFacts) -> list[str]:
    """Lines of Markdown on the arena that the rotation by 180 degrees saves; empty where no file is rotated."""
    file = facts.embedded
    if file is None or not file.rotated:
        return []
    lines = [
        "## No PAD operators",
        "",
        f"`{file.path}` is fed the image rotated by 180 degrees; in exchange its stride-2 convolutions need no PAD "
        "operator, and its outputs equal those of the plain export.",
    ]
    if facts.plain_arena_head_bytes is not None and file.arena is not None:
        saved = facts.plain_arena_head_bytes - file.arena.head_bytes
        lines.append(
            f"Arena head with PAD operators {facts.plain_arena_head_bytes:,} bytes, without {file.arena.head_bytes:,}: "
            f"{saved:,} bytes saved ({saved / facts.plain_arena_head_bytes * 100:.1f} %)."
        )
    return [*lines, ""]


def _figures_of(file: FileFacts) -> list[str]:
    return [
        f"`{file.path}`, operator by operator. SQNR is the signal to quantisation noise of the output, over the same "
        "operator in float; the weight-scale ratio is the largest over the smallest per-channel scale; the range is "
        "what the output can express.",
        "",
        "| # | operator | layer | SQNR, dB | weight-scale ratio | range |",
        "|---:|---|---|---:|---:|---:|",
        *_figure_rows(file.operator_figures),
        "",
    ]


def _figure_rows(figures: Iterable[OperatorFigures]) -> Iterable[str]:
    for figure in figures:
        layer = f"`{escape_cell(figure.layer)}`" if figure.layer else ""
        yield (
            f"| {figure.index} | `{escape_cell(figure.operator)}` | {layer} | {_decibels(figure.sqnr_db)} | "
            f"{_ratio(figure.weight_scale_ratio)} | {figure.low:.4g} to {figure.high:.4g} |"
        )


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "no signal"
    if math.isinf(value):
        return "exact" if value > 0 else "no signal"
    return f"{value:.1f}"


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if math.isfinite(value) else "a scale of 0"
