"""What the leader of a team tells the others before a training that they share; alone, nobody is told anything."""

import shutil
from dataclasses import replace
from pathlib import Path

from torch import nn

from edgeprune.data import Dataset
from edgeprune.learning import Unfinished
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe import Recipe
from edgeprune.results import as_json
from edgeprune.zoo import Checkpoint, NetworkSpec, save_checkpoint


def tell_training(
    recipe: Recipe, workspace: Workspace, dataset: Dataset, *, spec: NetworkSpec, unfinished: Unfinished
) -> None:
    """Training of a network of this structure begins; its weights come with the first step."""
    workspace.team.tell(
        kind="train",
        recipe=recipe.model_dump(mode="json"),
        dataset=dataset.digest,
        spec=as_json(spec),
        unfinished=str(unfinished.folder),
        key=unfinished.key,
    )


def tell_recalibration(
    recipe: Recipe, workspace: Workspace, dataset: Dataset, *, network: nn.Module, origin: Checkpoint, level: str
) -> None:
    """Recalibration of a network begins.

    Args:
        recipe, workspace, dataset: of the run.
        network: cut from ``origin``; the others find it in a folder of the workspace.
        origin: a checkpoint of the network before the cut.
        level: names the folder.
    """
    if workspace.team.size > 1:
        folder = _student_folder(workspace, level)
        save_checkpoint(folder, replace(origin, network=network))
        workspace.team.tell(
            kind="recalibrate",
            recipe=recipe.model_dump(mode="json"),
            dataset=dataset.digest,
            student=str(folder),
        )


def tell_recovery(
    recipe: Recipe,
    workspace: Workspace,
    dataset: Dataset,
    *,
    level: str,
    teacher: Path,
    lr: float,
    seed: int,
    unfinished: Unfinished,
) -> None:
    """Recovery of the network that was recalibrated last begins; its weights come with the first step."""
    workspace.team.tell(
        kind="recover",
        recipe=recipe.model_dump(mode="json"),
        dataset=dataset.digest,
        student=str(_student_folder(workspace, level)),
        teacher=str(teacher),
        lr=lr,
        seed=seed,
        unfinished=str(unfinished.folder),
        key=unfinished.key,
    )


def forget_student(workspace: Workspace, level: str) -> None:
    """Remove what was written for the others."""
    shutil.rmtree(_student_folder(workspace, level), ignore_errors=True)


def _student_folder(workspace: Workspace, level: str) -> Path:
    return workspace.unfinished / f"{level}-cut"
