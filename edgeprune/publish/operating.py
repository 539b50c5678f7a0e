"""What a bundle says about its threshold: ``threshold.json``, and the paragraph of the card and the size report."""

from edgeprune.formats import FileThreshold, ThresholdRecord
from edgeprune.publish.facts import BundleFacts, FileFacts, GoldenVectors
from edgeprune.publish.figures import accuracy_cell
from edgeprune.threshold import OperatingPoint, criterion_value, decide_positive


def threshold_record(facts: BundleFacts, golden: GoldenVectors) -> ThresholdRecord | None:
    """``threshold.json``; None where argmax decides."""
    points = {file.path: file.operating for file in facts.files if file.operating is not None}
    if not points:
        return None
    negative, positive = facts.classes
    first = next(iter(points.values()))
    return ThresholdRecord(
        negative=negative,
        positive=positive,
        criterion=first.criterion,
        images=sum(map(sum, first.val)),
        files=tuple(
            FileThreshold(
                path=path,
                difference=point.difference,
                probability=point.probability,
                argmax=criterion_value(point.val_argmax, point.criterion),
                chosen=criterion_value(point.val, point.criterion),
                golden=tuple(
                    positive if decided else negative
                    for decided in decide_positive(golden.outputs[path], point.difference)
                ),
            )
            for path, point in points.items()
        ),
    )


def threshold_lines(facts: BundleFacts) -> list[str]:
    """Lines of Markdown: where each file's answers are cut, and what that gives on test; empty where argmax decides."""
    cut = [(file, file.operating) for file in facts.files if file.operating is not None]
    if not cut:
        return []
    negative, positive = facts.classes
    point = cut[0][1]
    words = point.criterion.replace("_", " ")
    return [
        "## Threshold",
        "",
        f"`{positive}` is decided where its output is more than `difference` above that of `{negative}`: in logits, or "
        f"in stored int8 steps. Each file's threshold was chosen from its own outputs on {sum(map(sum, point.val))} "
        f"validation images, where it makes {words} largest; test only measured it. The second row of each file is "
        "argmax, a difference of 0. Intervals are 95 % (Wilson); `threshold.json` is for machines.",
        "",
        f"| file | difference | probability of `{positive}` | {words}, val | accuracy, test (n={point.accuracy.n}) | "
        f"recall of `{positive}` | recall of `{negative}` | ROC AUC, test |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(row for file, each in cut for row in _rows(file, each)),
        "",
    ]


def _rows(file: FileFacts, point: OperatingPoint) -> list[str]:
    (tn, fp), (fn, tp) = point.test
    difference = f"{point.difference}" if isinstance(point.difference, int) else f"{point.difference:.4f}"
    chosen = criterion_value(point.val, point.criterion)
    return [
        f"| `{file.path}` | {difference} | {point.probability:.4f} | {chosen:.4f} | {accuracy_cell(point.accuracy)} | "
        f"{tp / max(1, tp + fn):.4f} | {tn / max(1, tn + fp):.4f} | {point.roc_auc:.4f} |",
        f"| argmax | 0 | 0.5000 | {criterion_value(point.val_argmax, point.criterion):.4f} | "
        f"{accuracy_cell(file.accuracy)} | | | |",
    ]
