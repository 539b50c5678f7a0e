"""Is a bundle's threshold the one that its recipe asks for, the same everywhere, and what its golden outputs decide?

Needs numpy only: the golden outputs are held against the files by gates of their own.
"""

import math
from collections.abc import Iterable
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.formats import THRESHOLD, FileThreshold, GoldenFile, ThresholdRecord
from edgeprune.manifest import Manifest, parse_record
from edgeprune.results import Gate
from edgeprune.threshold import decide_positive, probability_at
from edgeprune.verify.bundle_texts import BundleTexts, read_listed, read_recipe_key

_ROUNDING = 1e-9


def read_threshold(folder: Path) -> ThresholdRecord | None:
    """``threshold.json`` of a bundle; None where it has none.

    Raises:
        InputError: it does not have the form it should have.
    """
    path = folder / THRESHOLD
    return parse_record(ThresholdRecord, read_listed(path), origin=THRESHOLD) if path.is_file() else None


def check_threshold(folder: Path, manifest: Manifest, texts: BundleTexts) -> list[Gate]:
    """A gate ``threshold:<path>`` for each model file; none where recipe and bundle have no threshold.

    Args:
        folder, manifest: of a bundle whose bytes are right.
        texts: as read; they agree with each other.
    """
    models = [entry.path for entry in manifest.files if entry.role == "model"]
    wanted = _criterion_of(folder)
    try:
        record = read_threshold(folder)
    except InputError as error:
        return [_gate(path, [error.problem]) for path in models]
    if record is None and wanted == "none":
        return []
    problems = list(_record_problems(record, wanted, models, texts))
    return [_gate(path, [*problems, *_file_problems(record, path, texts)]) for path in models]


def _criterion_of(folder: Path) -> str:
    # Recipes from before there were thresholds, and stranger ones, ask for none.
    asked = read_recipe_key(folder, "export", "threshold")
    return asked if isinstance(asked, str) else "none"


def _record_problems(
    record: ThresholdRecord | None, wanted: str, models: list[str], texts: BundleTexts
) -> Iterable[str]:
    if record is None:
        yield f"{THRESHOLD} is missing, and config.yaml has export.threshold {wanted}"
        return
    if record.criterion != wanted:
        yield f"the criterion is {record.criterion}, config.yaml has export.threshold {wanted}"
    if (record.negative, record.positive) != texts.labels:
        yield f"it is about {record.negative} and {record.positive}, labels.txt has {', '.join(texts.labels)}"
    if sorted(file.path for file in record.files) != sorted(models):
        yield f"it is about {', '.join(file.path for file in record.files)}, the model files are {', '.join(models)}"


def _file_problems(record: ThresholdRecord | None, path: str, texts: BundleTexts) -> Iterable[str]:
    file, golden = record.of(path) if record else None, texts.golden_of(path)
    if record is None or file is None or golden is None or len(texts.labels) != 2:
        # The problems above, or the gate on the texts, say so.
        return
    rule = golden.output.quantisation
    if rule is not None and not isinstance(file.difference, int):
        yield f"the outputs are int8, and the difference {file.difference} is no whole number"
    probability = probability_at(file.difference, rule.scale if rule else 1.0)
    if not math.isclose(file.probability, probability, rel_tol=_ROUNDING):
        yield f"the probability is {file.probability}, a difference of {file.difference} makes {probability}"
    yield from _decision_problems(record, file, golden)


def _decision_problems(record: ThresholdRecord, file: FileThreshold, golden: GoldenFile) -> Iterable[str]:
    import numpy as np

    positive = decide_positive(np.asarray(golden.outputs), file.difference)
    decided = tuple(record.positive if each else record.negative for each in positive)
    wrong = [f"{index:02}" for index, pair in enumerate(zip(decided, file.golden, strict=False)) if pair[0] != pair[1]]
    if len(decided) != len(file.golden):
        yield f"it has {len(file.golden)} decisions for {len(decided)} golden images"
    elif wrong:
        yield f"its decisions for the golden images {', '.join(wrong)} are not what golden.json's outputs give"


def _gate(path: str, problems: list[str]) -> Gate:
    return Gate(
        name=f"threshold:{path}",
        figure=len(problems),
        limit="0 differences from config.yaml, labels.txt and what golden.json decides",
        passed=not problems,
        detail="; ".join(problems),
    )
