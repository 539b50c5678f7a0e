"""The figures that the card and the size report both show: this level against dense, file by file."""

from edgeprune.publish.facts import BundleFacts, FileFacts
from edgeprune.results import Accuracy, LatencyComparison


def figure_table(facts: BundleFacts) -> list[str]:
    """Lines of the Markdown table that sets this level against dense: flash, RAM, time, accuracy, then the network."""
    rows = [_bytes_row(facts, file) for file in facts.files]
    rows += [*_arena_rows(facts), *_latency_rows(facts)]
    rows += [_accuracy_row(facts, file) for file in facts.files]
    rows += _network_rows(facts)
    return [
        f"| | dense | {facts.level} | change |",
        "|---|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def int8_sentences(facts: BundleFacts) -> list[str]:
    """For each int8 file, how far it is from its float file on the test split, and whether that is chance."""
    sentences = []
    floats = {file.path: file for file in facts.files}
    for file in facts.files:
        if file.float_path is None or file.float_path not in floats:
            continue
        lost = points(floats[file.float_path].accuracy.value, file.accuracy.value)
        sentence = f"`{file.path}` in {file.runtime}: {lost} against `{file.float_path}`"
        if file.paired_p is not None:
            sentence += f", exact McNemar p = {file.paired_p:.3g}"
        sentences.append(f"{sentence}; calibrated by {file.calibration}." if file.calibration else f"{sentence}.")
    return sentences


def latency_sentences(facts: BundleFacts) -> list[str]:
    """How latency was measured, with runtime, threads and processor; one sentence a file."""
    measured = [(file.path, file.latency) for file in facts.files if file.latency is not None]
    if not measured:
        return ["Latency was not measured for any of the files."]
    return [
        *(f"Latency of `{path}`: {_protocol(latency)}." for path, latency in measured),
        "The ratio's interval is 95 %, by bootstrap.",
    ]


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


def points(before: float, after: float) -> str:
    """A difference of two shares in percentage points.

    >>> points(0.84, 0.83)
    '-1.00 points'
    """
    return f"{(after - before) * 100:+.2f} points"


def escape_cell(text: str) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _bytes_row(facts: BundleFacts, file: FileFacts) -> tuple[str, str, str, str]:
    dense = facts.dense_file(file.path)
    if dense is None:
        return f"`{file.path}`, bytes", "", f"{file.bytes:,}", ""
    return f"`{file.path}`, bytes", f"{dense.bytes:,}", f"{file.bytes:,}", change(dense.bytes, file.bytes)


def _arena_rows(facts: BundleFacts) -> list[tuple[str, str, str, str]]:
    rows = []
    for file in facts.files:
        if file.arena is None:
            continue
        arena, dense = file.arena, facts.dense_file(file.path)
        before = dense.arena if dense else None
        pairs = (
            ("arena", before.arena_bytes if before else None, arena.arena_bytes),
            ("of that the head (activations)", before.head_bytes if before else None, arena.head_bytes),
            ("of that the tail (runtime)", before.tail_bytes if before else None, arena.tail_bytes),
        )
        for words, old, new in pairs:
            old_cell, change_cell = ("", "") if old is None else (f"{old:,}", change(old, new))
            rows.append((f"`{file.path}`, {words}, bytes", old_cell, f"{new:,}", change_cell))
        peak = f"`{before.peak_layer}`" if before else ""
        rows.append((f"`{file.path}`, layer at the peak", peak, f"`{arena.peak_layer}`", ""))
    return rows


def _latency_rows(facts: BundleFacts) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"`{file.path}`, latency, ms (median)",
            f"{file.latency.reference_median_ms:.3f}",
            f"{file.latency.median_ms:.3f}",
            f"x {file.latency.ratio:.3f} ({file.latency.ratio_low:.3f} to {file.latency.ratio_high:.3f})",
        )
        for file in facts.files
        if file.latency is not None
    ]


def _accuracy_row(facts: BundleFacts, file: FileFacts) -> tuple[str, str, str, str]:
    dense = facts.dense_file(file.path)
    return (
        f"`{file.path}`, accuracy, test (n={file.accuracy.n})",
        accuracy_cell(dense.accuracy) if dense else "",
        accuracy_cell(file.accuracy),
        points(dense.accuracy.value, file.accuracy.value) if dense else "",
    )


def _network_rows(facts: BundleFacts) -> list[tuple[str, str, str, str]]:
    pruned, dense = facts.pruned.costs, facts.dense.costs
    pairs = [
        ("parameters", dense.params, pruned.params),
        ("MACs of one image, fvcore", dense.macs, pruned.macs),
        ("peak activations, bytes (float32)", dense.peak_activation_bytes, pruned.peak_activation_bytes),
    ]
    if facts.file_macs is not None:
        pairs.insert(2, ("MACs of the file, channels zero-padded", dense.macs, facts.file_macs))
    return [(words, f"{old:,}", f"{new:,}", change(old, new)) for words, old, new in pairs]


def _protocol(latency: LatencyComparison) -> str:
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return f"{latency.runtime}, {threads}, {latency.cpu}; {latency.protocol.rstrip('.')}"
