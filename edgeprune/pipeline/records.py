"""What a finished step leaves beside its files: enough to tell whether it is up to date, and to report it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from edgeprune.errors import InputError
from edgeprune.export.onnx_file import OnnxExport
from edgeprune.files import read_json, write_json
from edgeprune.learning import EpochRecord
from edgeprune.results import ChannelPlan, CostReport, Evaluation, Verdict, as_json
from edgeprune.zoo.architecture import ARCHITECTURE

RECORD = "record.json"
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that decides what a step makes; equal inputs, equal result.

    Attributes:
        edgeprune: version.
        recipe_part: digest of the seed and the recipe's sections that the step reads.
        dataset: digest of every image, label and split.
        parent: digest of the checkpoint that the step starts from.
        baseline: digest of the unpruned checkpoint that all of it descends from, or an empty string.
        teacher: digest of the teacher, or an empty string.
        target: channel sparsity asked for, or 0.
        budget: bounds asked for, and the device that they are of, or an empty string.
    """

    edgeprune: str
    recipe_part: str
    dataset: str
    parent: str
    baseline: str = ""
    teacher: str = ""
    target: float = 0.0
    budget: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """How the unpruned checkpoint was made; stands beside its weights.

    Attributes:
        inputs: what it was made from; ``parent`` is the digest of the initial weights' description.
        initial_weights: one line on where training started.
        weights: digest of the trained weights file.
        best_epoch, epochs: training; selected on validation.
        val, test: evaluations of the kept epoch.
        split_digest: names the split of the images.
        seconds: wall time of the training.
    """

    inputs: Inputs
    initial_weights: str
    weights: str
    best_epoch: int
    epochs: tuple[EpochRecord, ...]
    val: Evaluation
    test: Evaluation
    split_digest: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseRecord:
    """What was measured of the unpruned checkpoint on this machine, level ``dense``."""

    inputs: Inputs
    val: Evaluation
    test: Evaluation
    cost: CostReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRecord:
    """How a level was made, and how it did.

    Attributes:
        inputs: what it was made from.
        level: its id, ``s60``.
        parent_level: the level that it was pruned from, or ``dense``.
        weights: digest of the weights file.
        plan: what this step removed.
        lr: learning rate of its recovery.
        before_recovery: validation after surgery and recalibration.
        best_epoch, epochs: recovery; selected on validation.
        val, test: evaluations of the kept epoch.
        cost: parameters, MACs and memory.
        run: id of the run directory that tells the story.
        seconds: wall time of the whole step.
    """

    inputs: Inputs
    level: str
    parent_level: str
    weights: str
    plan: ChannelPlan
    lr: float
    before_recovery: Evaluation
    best_epoch: int
    epochs: tuple[EpochRecord, ...]
    val: Evaluation
    test: Evaluation
    cost: CostReport
    run: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """The last export of a level: what it was made from, what the gates said, and which bundle came of it.

    Attributes:
        inputs: ``parent`` is the digest of the level.
        verdict: all gates.
        manifest: digest of the bundle's manifest, or an empty string when a gate failed.
        dense_file_bytes: size of the unpruned network's file.
    """

    inputs: Inputs
    verdict: Verdict
    manifest: str
    dense_file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptExport:
    """A candidate that can be used again.

    Attributes:
        key: digest of everything that decides the file.
        sha256: of the file.
        export: what was proven while it was written.
    """

    key: str
    sha256: str
    export: OnnxExport


def require_ours(folder: Path) -> None:
    """Refuse to replace a folder that no step of ours has written.

    Raises:
        InputError: the folder is there, holds something, and is no checkpoint.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is there already and is no folder.", "move it away")
    ours = any((folder / name).is_file() for name in (RECORD, ARCHITECTURE))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise InputError(
            f"{folder} holds files that edgeprune did not write, and this step would replace them.",
            "move them away, or choose another name in the recipe",
        )


def save_record(path: Path, record: object) -> None:
    """Write a record as JSON."""
    write_json(path, as_json(record))


def load_record(path: Path, kind: type[Record]) -> Record | None:
    """Read a record, or None when it is missing or was written by another version in another shape."""
    if not path.is_file():
        return None
    try:
        return TypeAdapter(kind).validate_python(read_json(path))
    except (InputError, ValidationError):
        # A step whose record cannot be read is made again.
        return None
