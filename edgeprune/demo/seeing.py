"""From a bundle and a photograph to an answer: preprocessed, run and decided as the bundle says."""

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path

from edgeprune.data.decode import decode_image, prepared_decoders
from edgeprune.demo.runners import Runner, open_runner
from edgeprune.embedded import Quantisation
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.formats import RESIZE_RULE, PreprocessRecord, feed_images
from edgeprune.manifest import damaged_files
from edgeprune.publish.landing import read_manifest
from edgeprune.threshold import decide_positive, difference_at, probability_at
from edgeprune.verify.bundle_texts import check_texts, read_texts
from edgeprune.verify.litert import dequantise
from edgeprune.verify.threshold import read_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a bundle sees in a photograph.

    Attributes:
        label: of the largest output.
        probabilities: softmax of the outputs, class by class in their order; not calibrated.
        decision: at the threshold; the label where there are not two classes.
        milliseconds: of the network alone, on this machine.
    """

    label: str
    probabilities: dict[str, float]
    decision: str
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A bundle, ready to be shown photographs.

    Attributes:
        labels: classes in the order of the outputs.
        rule: ``preprocess.json``.
        runner: the file that is asked.
        difference: where two classes are cut, see ``edgeprune.threshold``; None where there are not two.
    """

    labels: tuple[str, ...]
    rule: PreprocessRecord
    runner: Runner
    difference: float | None

    @property
    def threshold(self) -> float | None:
        """The probability of the second class above which it is decided; None where there are not two classes."""
        return None if self.difference is None else probability_at(self.difference, _scale(self.runner))

    def look_at(self, content: bytes) -> Answer:
        """Ask the network about a photograph, given as the bytes of its file.

        Raises:
            BrokenImageError: they are no image, or a damaged one.
        """
        import numpy as np

        with prepared_decoders():
            square = decode_image(content, self.rule.image_size)
        file = self.runner.file
        inputs = feed_images(square[None], file, mean=self.rule.mean, std=self.rule.std)
        began = time.perf_counter()
        outputs = self.runner.ask(inputs)
        milliseconds = (time.perf_counter() - began) * 1000
        record = file.output.quantisation
        logits = (
            outputs
            if record is None
            else dequantise(outputs, Quantisation(scale=record.scale, zero_point=record.zero_point))
        )[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        label = self.labels[int(logits.argmax())]
        decided = label
        if self.difference is not None:
            decided = self.labels[int(decide_positive(outputs, self.difference)[0])]
        return Answer(
            label=label,
            probabilities=dict(zip(self.labels, (shares / shares.sum()).tolist(), strict=True)),
            decision=decided,
            milliseconds=milliseconds,
        )


def open_demo(folder: Path, *, runtime: str | None = None, threshold: float | None = None) -> Demo:
    """Check a bundle's bytes, and load the file that is asked.

    Args:
        folder: of the bundle.
        runtime: see ``open_runner``.
        threshold: a probability of the second class, in place of the bundle's own.

    Raises:
        MissingExtraError: numpy, Pillow or the runtime is not installed.
        InputError: no bundle, a damaged one, one whose preprocessing this version does not know, or a threshold
            outside (0, 1) or for other than two classes.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"The threshold {threshold:g} is outside (0, 1).", "0.5, a probability of the second class")
    manifest = read_manifest(folder)
    for module in ("numpy", "PIL"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("edgeprune demo", "demo", module)
    damaged = damaged_files(folder, manifest)
    if damaged:
        path, problem = next(iter(damaged.items()))
        raise InputError(f"{folder / path} {problem}.", f"edgeprune verify {folder}, and pull the bundle again")
    texts, record = read_texts(folder), read_threshold(folder)
    if texts.rule.resize != RESIZE_RULE:
        raise InputError(
            f"{folder} resizes by the rule {texts.rule.resize!r}, which this version of edgeprune does not know.",
            f"the version that published it, {manifest.edgeprune}",
        )
    agreed = check_texts(texts, manifest)
    if not agreed.passed:
        raise InputError(f"{folder} contradicts itself: {agreed.detail}.", "pull the bundle again")
    runner = open_runner(folder, texts, runtime=runtime)
    own = record.of(runner.file.path) if record else None
    difference = own.difference if own else 0.0
    if threshold is not None:
        difference = difference_at(threshold, _scale(runner))
    if len(texts.labels) == 2:
        return Demo(labels=texts.labels, rule=texts.rule, runner=runner, difference=difference)
    if threshold is not None:
        raise InputError(
            f"A threshold is for 2 classes; {folder} has {len(texts.labels)}.", "the same command without --threshold"
        )
    return Demo(labels=texts.labels, rule=texts.rule, runner=runner, difference=None)


def _scale(runner: Runner) -> float:
    record = runner.file.output.quantisation
    return record.scale if record else 1.0
