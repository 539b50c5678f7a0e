"""The operating threshold of each file of a level: chosen on validation images, from that file's own outputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeprune.data import Dataset
from edgeprune.embedded import Quantisation
from edgeprune.errors import InputError
from edgeprune.pipeline.answers import answer_images
from edgeprune.pipeline.model_file import ModelFile
from edgeprune.recipe import Recipe
from edgeprune.threshold import OperatingPoint, area_under_roc, choose_difference, count_decisions, probability_at


def require_two_classes(recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Refuse a threshold where there is no one class to decide for.

    Raises:
        InputError: the recipe asks for one, and there are not two classes.
    """
    if recipe.export.threshold != "none" and len(classes) != 2:
        raise InputError(
            f"export.threshold is {recipe.export.threshold}, which is for 2 classes; the images have {len(classes)}.",
            "leave export.threshold out of the recipe",
        )


def choose_operating_point(
    recipe: Recipe,
    dataset: Dataset,
    path: Path,
    test_outputs: np.ndarray,
    *,
    input: Quantisation | None,  # noqa: A002  it is the tensor's name everywhere
    output: Quantisation | None,
) -> OperatingPoint | None:
    """The threshold of one file; None where the recipe asks for none.

    Args:
        recipe: criterion, normalisation.
        dataset: the choice is made on ``val``; ``test`` only measures it.
        path: of the file.
        test_outputs: what it gave for every test image, as it stores them.
        input, output: quantisation of its tensors; None where they are float32.
    """
    criterion = recipe.export.threshold
    if criterion == "none":
        return None
    labels = np.asarray(dataset.val.labels)
    outputs = answer_images(recipe, path, np.asarray(dataset.val.images), quantisation=input)
    difference = choose_difference(outputs, labels, criterion)
    test = np.asarray(dataset.test.labels)
    return OperatingPoint(
        criterion=criterion,
        difference=difference,
        probability=probability_at(difference, output.scale if output else 1.0),
        val_argmax=count_decisions(outputs, labels, 0),
        val=count_decisions(outputs, labels, difference),
        test=count_decisions(test_outputs, test, difference),
        roc_auc=area_under_roc(test_outputs, test),
    )


def with_operating_point(recipe: Recipe, dataset: Dataset, file: ModelFile) -> ModelFile:
    """The file with its threshold among its facts."""
    facts = file.facts
    point = choose_operating_point(recipe, dataset, file.path, file.outputs, input=facts.input, output=facts.output)
    return replace(file, facts=replace(facts, operating=point))
