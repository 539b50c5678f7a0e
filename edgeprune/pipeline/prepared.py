"""Levels made ready to be judged: every file written and run on the test split; several levels side by side.

Timing is not among it: latency is measured afterwards, when nothing else runs.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from edgeprune.devices import DeviceProfile
from edgeprune.errors import EdgepruneError
from edgeprune.evaluation import predict_logits
from edgeprune.pipeline.baseline import Baseline, open_baseline
from edgeprune.pipeline.candidates import Candidate, make_candidate
from edgeprune.pipeline.finished import audit_level
from edgeprune.pipeline.level_files import LevelFiles, make_level_files
from edgeprune.pipeline.records import RECORD, LevelRecord, load_record
from edgeprune.pipeline.workspace import Reporter, SilentReporter, Workspace
from edgeprune.recipe import Recipe
from edgeprune.results import CostReport
from edgeprune.zoo import load_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLevel:
    """A level whose files are there, and have answered.

    Attributes:
        cost: of the network.
        torch_logits: of the network on the test split, shape (n, classes).
        onnx: the float ONNX file.
        others: all other files.
        lines: what was said on the way, where nobody was listening.
    """

    cost: CostReport
    torch_logits: np.ndarray
    onnx: Candidate
    others: LevelFiles
    lines: tuple[str, ...] = ()


def prepare_levels(
    recipe: Recipe,
    workspace: Workspace,
    reporter: Reporter,
    baseline: Baseline,
    levels: dict[str, tuple[Path, LevelRecord]],
    *,
    device: DeviceProfile | None,
) -> Iterator[tuple[str, PreparedLevel | EdgepruneError]]:
    """Prepare levels, each in a process of its own where there are several and cores for them.

    Args:
        recipe: formats, int8 settings, limits.
        workspace: where things lie.
        reporter: is told what goes on.
        baseline: data set, and the unpruned network, measured already.
        levels: level id to folder and record.
        device: that each must fit.

    Yields:
        Level id and what came of it, in the order of ``levels``; a level that fails does not keep the others back.
    """
    at_once = min(len(levels), os.cpu_count() or 1)
    if at_once < 2:
        for level, (folder, record) in levels.items():
            try:
                yield level, _prepare_level(recipe, reporter, baseline, folder=folder, record=record, device=device)
            except EdgepruneError as error:
                yield level, error
        return
    reporter.say(f"{at_once} levels at a time: {', '.join(levels)}")
    # A fresh interpreter each: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(at_once, mp_context=get_context("spawn"))
    try:
        waiting = {
            level: pool.submit(_prepare_alone, recipe, workspace, folder, device)
            for level, (folder, _) in levels.items()
        }
        with reporter.track("exporting levels") as progress:
            for done, (level, future) in enumerate(waiting.items()):
                progress(done, len(waiting))
                try:
                    prepared = future.result()
                except EdgepruneError as error:
                    yield level, error
                    continue
                for line in prepared.lines:
                    reporter.say(line)
                yield level, prepared
    finally:
        pool.shutdown(cancel_futures=True)


class _Note(SilentReporter):
    """Keeps what is said until somebody listens."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def _prepare_alone(recipe: Recipe, workspace: Workspace, folder: Path, device: DeviceProfile | None) -> PreparedLevel:
    """In a process of its own, which opens everything for itself: nothing but plain values comes and goes."""
    note = _Note()
    baseline = open_baseline(recipe, workspace, note)
    record = load_record(folder / RECORD, LevelRecord)
    assert record is not None
    prepared = _prepare_level(recipe, note, baseline, folder=folder, record=record, device=device)
    return PreparedLevel(
        cost=prepared.cost,
        torch_logits=prepared.torch_logits,
        onnx=prepared.onnx,
        others=prepared.others,
        lines=tuple(note.lines),
    )


def _prepare_level(
    recipe: Recipe,
    reporter: Reporter,
    baseline: Baseline,
    *,
    folder: Path,
    record: LevelRecord,
    device: DeviceProfile | None,
) -> PreparedLevel:
    level, test = record.level, baseline.dataset.test
    reporter.say(f"{level}: exporting, and proving every file on {len(test.labels)} test images")
    checkpoint = load_checkpoint(folder, own_factory=recipe.model.network)
    cost = audit_level(checkpoint, folder, dense=baseline.dense.cost)
    logits = predict_logits(checkpoint.network, test, mean=checkpoint.mean, std=checkpoint.std)
    onnx = make_candidate(recipe, baseline, checkpoint, folder, record=record)
    others = make_level_files(
        recipe,
        reporter,
        baseline,
        checkpoint,
        folder,
        record=record,
        onnx=onnx,
        torch_logits=logits,
        device=device,
    )
    return PreparedLevel(cost=cost, torch_logits=logits, onnx=onnx, others=others)
