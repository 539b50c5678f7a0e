"""One model file of a bundle with everything that is needed to ask it, and how its answers are judged."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.formats import FileInput, GoldenFile, ModelMetadata
from edgeprune.manifest import Manifest
from edgeprune.results import Gate, at_most
from edgeprune.verify.bundle_texts import BundleTexts

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One model file of a bundle with everything that is needed to ask it.

    Attributes:
        folder: of the bundle on this machine.
        name: its path in the bundle.
        manifest, texts: of the bundle.
        file, golden: what the texts say about this file.
        inputs: what it is fed for the golden images, in its dtype and layout.
    """

    folder: Path
    name: str
    manifest: Manifest
    texts: BundleTexts
    file: FileInput
    golden: GoldenFile
    inputs: "np.ndarray"

    @property
    def path(self) -> Path:
        """Of the file on this machine."""
        return self.folder / self.name


def compare_golden(name: str, outputs: "np.ndarray", golden: GoldenFile) -> Gate:
    """A gate on how far outputs are from the golden ones, in logits or in steps of the last place.

    Args:
        name: of the gate.
        outputs: float32 logits or int8 values as stored, shape (n, classes).
        golden: with one row for each of them.
    """
    import numpy as np

    if outputs.shape != (len(golden.outputs), golden.output.shape[-1]) or outputs.dtype != golden.output.dtype:
        detail = f"it gives {outputs.dtype} {outputs.shape}, golden.json has {golden.output.dtype} of another shape"
        return Gate(name=name, figure="refused", limit="outputs", passed=False, detail=detail)
    difference = np.abs(outputs.astype(np.float64) - np.asarray(golden.outputs, np.float64)).max(axis=1)
    unit = "logits" if golden.tolerance is not None else "steps of the last place"
    # argmax takes the first NaN for the largest, which is what we want to be told about.
    detail = f"{len(outputs)} images, in {unit}, largest at golden/{int(difference.argmax()):02}.rgb"
    return at_most(name, float(difference.max()), golden.limit, detail)


def compare_metadata(metadata: ModelMetadata, question: Question) -> Iterable[str]:
    """Where what a model says of itself differs from the texts beside it, one clause each."""
    manifest, labels, rule = question.manifest, question.texts.labels, question.texts.rule
    identity = (
        ("name", metadata.name, manifest.name),
        ("level", metadata.level, manifest.level),
        ("version", metadata.version, manifest.edgeprune),
    )
    for key, ours, theirs in identity:
        if ours != theirs:
            yield f"{key} is {ours!r}, the manifest says {theirs!r}"
    if metadata.labels != labels:
        yield f"labels are {', '.join(metadata.labels)}, labels.txt says {', '.join(labels)}"
    described: tuple[tuple[str, object, object], ...] = (
        ("layout", metadata.layout, question.file.pixels),
        ("rotate_180", metadata.rotate_180, question.file.rotate_180),
        ("image_size", metadata.image_size, rule.image_size),
        ("mean", metadata.mean, rule.mean),
        ("std", metadata.std, rule.std),
    )
    for key, mine, wanted in described:
        if mine != wanted:
            yield f"{key} is {mine!r}, preprocess.json says {wanted!r}"


def metadata_gate(name: str, problems: list[str]) -> Gate:
    """The gate ``metadata:<path>``."""
    limit = "0 differences from labels.txt, preprocess.json and manifest.json"
    return Gate(
        name=f"metadata:{name}", figure=len(problems), limit=limit, passed=not problems, detail="; ".join(problems)
    )


def refused(name: str, error: InputError) -> Gate:
    """The gate ``metadata:<path>`` of a file that no runtime accepts."""
    return Gate(name=f"metadata:{name}", figure="refused", limit="runs", passed=False, detail=error.problem)
