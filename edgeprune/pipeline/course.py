"""Where a run stands on its schedule, and what the next level would be made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeprune import __version__
from edgeprune.pipeline.baseline import Baseline
from edgeprune.pipeline.compact import COMPACT, Compact
from edgeprune.pipeline.one_level import Source
from edgeprune.pipeline.records import RECORD, Inputs, LevelRecord, load_record
from edgeprune.pipeline.settings import recovery_digest
from edgeprune.pipeline.teaching import teacher_path
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe import Recipe
from edgeprune.schedule import halve_step, level_id
from edgeprune.zoo import is_checkpoint


class Course:
    """Where a run stands on its schedule: the last level, and what the next one would be made of.

    Attributes:
        parent: the level that the next one is cut from.
        target, accuracy: its channel sparsity, and its accuracy on validation.
        left: group to dead channels of it that only the alignment kept; they are the first to go.
    """

    def __init__(self, recipe: Recipe, workspace: Workspace, baseline: Baseline) -> None:
        self._recipe, self._workspace, self._baseline = recipe, workspace, baseline
        self._recipe_part = recovery_digest(recipe)
        self._teacher = Source("teacher", teacher_path(recipe, workspace))
        self.parent = Source("dense", baseline.folder)
        self.target, self.accuracy = 0.0, baseline.dense.val.accuracy.value
        self.left: Mapping[str, Sequence[int]] = {}

    @property
    def teacher(self) -> Source:
        """What the next level learns from."""
        return self.parent if self._recipe.recover.teacher == "previous" else self._teacher

    def folder(self, step: float) -> Path:
        """Where the level of a target lies."""
        return self._workspace.level_folder(self._recipe, level_id(step))

    def inputs(self, step: float) -> Inputs:
        """Everything that decides the next level, if it has this target."""
        return Inputs(
            edgeprune=__version__,
            recipe_part=self._recipe_part,
            dataset=self._baseline.dataset.digest,
            parent=self.parent.weights,
            baseline=self._baseline.weights,
            teacher=self.teacher.weights,
            target=step,
        )

    def finished(self, step: float) -> LevelRecord | None:
        """The next level, if it is there already and is what it should be."""
        folder = self.folder(step)
        record = load_record(folder / RECORD, LevelRecord)
        fresh = record is not None and record.inputs == self.inputs(step) and is_checkpoint(folder, record.weights)
        return record if fresh else None

    def halve(self, step: float, record: LevelRecord) -> list[float]:
        """Two steps instead of one that lost more than the recipe allows; none where it did not, or is small."""
        limit = self._recipe.prune.max_step_drop
        middle = halve_step(self.target, step)
        if limit is None or middle is None or self.accuracy - record.val.accuracy.value <= limit:
            return []
        return [middle, step]

    def finer_steps(self, step: float) -> list[float]:
        """The steps that halving would end with, if the first of them is there; else none."""
        steps: list[float] = [step]
        while self._recipe.prune.max_step_drop is not None and self.finished(steps[0]) is None:
            middle = halve_step(self.target, steps[0])
            if middle is None:
                return []
            steps.insert(0, middle)
        return steps if len(steps) > 1 else []

    def start_at(self, compact: Compact) -> None:
        """Begin with what is left once dead channels are gone, which is no step of the schedule."""
        self.left = compact.dead.left
        if compact.level is not None:
            self.parent = Source(COMPACT, compact.folder)
            self.target, self.accuracy = compact.level.plan.achieved, compact.level.val.accuracy.value

    def advance(self, record: LevelRecord) -> None:
        """Go on from a level."""
        self.parent = Source(record.level, self.folder(record.plan.target))
        self.target, self.accuracy = record.plan.target, record.val.accuracy.value
        self.left = {}  # recovery may have revived them
