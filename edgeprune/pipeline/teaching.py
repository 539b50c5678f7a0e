"""Who is learnt from: the unpruned network, another checkpoint of ours, or a stronger network in a file."""

from pathlib import Path

from torch import nn

from edgeprune.data import Dataset
from edgeprune.errors import InputError
from edgeprune.evaluation import evaluate_network
from edgeprune.files import digest_file
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe import Recipe
from edgeprune.results import Evaluation
from edgeprune.teacher import FileTeacher
from edgeprune.zoo import checkpoint_digest, load_checkpoint


def teacher_path(recipe: Recipe, workspace: Workspace) -> Path:
    """The file, or the folder of the checkpoint, that recovery learns from."""
    if recipe.recover.teacher == "file":
        return teacher_file(recipe, workspace)
    if recipe.recover.teacher in {"baseline", "previous"}:  # the first level follows the baseline either way
        return workspace.baseline_folder(recipe)
    return workspace.root / recipe.recover.teacher


def teacher_file(recipe: Recipe, workspace: Workspace) -> Path:
    """The file that the section ``teacher`` names; a recipe that asks for one names one."""
    assert recipe.teacher.path is not None
    return workspace.root / Path(recipe.teacher.path).expanduser()


def weights_digest(path: Path) -> str:
    """Digest of a teacher's file, or of the weights in the folder of a checkpoint.

    Raises:
        InputError: there is no such file, or the folder holds no checkpoint.
    """
    if path.suffix not in {".tflite", ".onnx"}:
        return checkpoint_digest(path)
    try:
        return digest_file(path)
    except OSError as error:
        raise InputError(
            f"The teacher {path} cannot be read: {error.strerror}.", "`teacher: path.tflite` of a file that exists"
        ) from None


def open_teacher(recipe: Recipe, path: Path, dataset: Dataset) -> nn.Module:
    """What recovery learns from, as a module that reads the student's images and gives its classes.

    Raises:
        InputError: the teacher answers other classes, wants another size, or cannot be read.
    """
    if recipe.recover.teacher == "file":
        return open_file_teacher(recipe, path, dataset)[0]
    checkpoint = load_checkpoint(path, own_factory=recipe.model.network)
    classes, size = dataset.classes, recipe.data.image_size
    if (checkpoint.mean, checkpoint.std) != (recipe.data.mean, recipe.data.std):
        raise InputError(
            f"recover.teacher = {recipe.recover.teacher!r} was trained with mean {list(checkpoint.mean)} and std "
            f"{list(checkpoint.std)}, the recipe has {list(recipe.data.mean)} and {list(recipe.data.std)}.",
            "a teacher with the same normalisation, or teacher: baseline",
        )
    if checkpoint.classes != classes or checkpoint.spec.image_size != size:
        raise InputError(
            f"recover.teacher = {recipe.recover.teacher!r} answers {list(checkpoint.classes)} at "
            f"{checkpoint.spec.image_size} pixels, the student {list(classes)} at {size}.",
            "a teacher trained on the same classes and size, or teacher: baseline",
        )
    return checkpoint.network


def open_file_teacher(recipe: Recipe, path: Path, dataset: Dataset) -> tuple[FileTeacher, Evaluation]:
    """The network in a file, and what it gets right on the validation split.

    Raises:
        InputError: the file cannot be read, gives other classes, or is right no more often than chance.
        MissingExtraError: its runtime is not installed.
    """
    section, classes = recipe.teacher, dataset.classes
    names = section.classes or classes
    if sorted(names) != sorted(classes):
        raise InputError(
            f"teacher.classes = {list(names)}, and the images are of {list(classes)}.",
            "the same names, in the order of the teacher's outputs",
        )
    teacher = FileTeacher(
        path,
        student_mean=recipe.data.mean,
        student_std=recipe.data.std,
        mean=section.mean,
        std=section.std,
        order=tuple(names.index(name) for name in classes),
    )
    judged = evaluate_network(teacher, dataset.val, mean=recipe.data.mean, std=recipe.data.std)
    if judged.accuracy.value <= 1 / len(classes):
        raise InputError(
            f"The teacher {path.name} is right on {judged.accuracy.value:.1%} of {judged.accuracy.n} validation "
            f"images; chance is {1 / len(classes):.1%}.",
            f"`teacher: {{classes: {list(reversed(names))}}}` if its outputs have another order, or its mean and std",
        )
    return teacher, judged
