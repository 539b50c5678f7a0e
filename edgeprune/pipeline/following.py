"""What the other processes of a team do: told of a training, they rebuild it from the recipe and share its work.

They write nothing and say nothing; the leader does the rest of the pipeline alone.
"""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.data import Dataset
from edgeprune.distributed import Team, TeamBrokenError, join_team
from edgeprune.errors import EdgepruneError
from edgeprune.learning import Unfinished
from edgeprune.pipeline.baseline import open_dataset
from edgeprune.pipeline.settings import recalibrate, recover, train
from edgeprune.pipeline.teaching import open_file_teacher, open_teacher, teacher_file
from edgeprune.pipeline.workspace import SilentReporter, Workspace
from edgeprune.recipe import Recipe, parse_recipe
from edgeprune.zoo import NetworkSpec, build_network, load_checkpoint

# The leader's last words about what went wrong with it come within this, or never.
_PATIENCE_SECONDS = 2.0


def follow_leader(root: Path) -> None:
    """Share every training that the leader of the team tells of, until it tells the end.

    Args:
        root: of the project, which the leader shares.

    Raises:
        EdgepruneError: the leader is gone without a word, or what it tells of does not lie here.
    """
    with join_team() as team:
        try:
            follower = _Follower(Workspace(root, team))
            for job in team.jobs():
                follower.share(job)
        except TeamBrokenError:
            if _said_why(team):
                raise SystemExit(1) from None
            raise
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def _said_why(team: Team) -> bool:
    """Whether the leader has told a person what went wrong, so that nobody else need."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        if team.has_failed():
            return True
        time.sleep(0.05)
    return False


@dataclass(slots=True)
class _Follower:
    """A process that is told what to do, with the images of the last job."""

    workspace: Workspace
    dataset: Dataset | None = None

    def share(self, job: dict[str, Any]) -> None:
        recipe = parse_recipe(job["recipe"], origin="the leader's recipe")
        dataset = self._open_dataset(recipe, job["dataset"])
        team = self.workspace.team
        match job["kind"]:
            case "train":
                teacher = None
                if recipe.train.alpha:
                    teacher, _ = open_file_teacher(recipe, teacher_file(recipe, self.workspace), dataset)
                network = build_network(NetworkSpec(**job["spec"]))
                train(recipe, network, teacher=teacher, dataset=dataset, unfinished=_unfinished(job), team=team)
            case "recalibrate":
                recalibrate(recipe, _student(recipe, job), dataset, team)
            case "recover":
                recover(
                    recipe,
                    _student(recipe, job),
                    teacher=open_teacher(recipe, Path(job["teacher"]), dataset),
                    dataset=dataset,
                    lr=job["lr"],
                    seed=job["seed"],
                    unfinished=_unfinished(job),
                    team=team,
                )
            case other:
                raise ValueError(other)

    def _open_dataset(self, recipe: Recipe, digest: str) -> Dataset:
        if self.dataset is None or self.dataset.digest != digest:
            self.dataset = open_dataset(recipe, self.workspace, SilentReporter())
            if self.dataset.digest != digest:
                raise EdgepruneError(
                    f"Process {self.workspace.team.rank} finds other images than the leader under {recipe.data.path}.",
                    "the same images at the same place on every machine",
                )
        return self.dataset


def _student(recipe: Recipe, job: dict[str, Any]) -> nn.Module:
    return load_checkpoint(Path(job["student"]), own_factory=recipe.model.network).network


def _unfinished(job: dict[str, Any]) -> Unfinished:
    return Unfinished(folder=Path(job["unfinished"]), key=job["key"], say=lambda _: None)
