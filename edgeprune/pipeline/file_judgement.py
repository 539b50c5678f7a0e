"""What the answers of one file are worth: the gates on them, and the figures that a bundle tells."""

from dataclasses import dataclass

import numpy as np

from edgeprune.data import PackedSplit
from edgeprune.recipe import Recipe
from edgeprune.results import Accuracy, Gate
from edgeprune.verify.accuracy import compare_accuracy
from edgeprune.verify.int8_accuracy import check_float_file, check_int8_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A file's answers on the test split.

    Attributes:
        accuracy: of the file.
        paired_p: exact McNemar test against what it was held against.
        gates: on its answers.
    """

    accuracy: Accuracy
    paired_p: float
    gates: tuple[Gate, ...]


def judge_float(
    recipe: Recipe, test: PackedSplit, logits: np.ndarray, torch_logits: np.ndarray, *, path: str
) -> Judgement:
    """A float file against the network in torch; logits have the shape (n, classes)."""
    compared = compare_accuracy(file_logits=logits, reference_logits=torch_logits, labels=np.asarray(test.labels))
    gates = check_float_file(
        logits,
        torch_logits,
        path=path,
        min_agreement=recipe.verify.min_agreement,
        max_difference=recipe.verify.max_logit_difference,
    )
    return Judgement(accuracy=compared.accuracy, paired_p=compared.p_value, gates=tuple(gates))


def judge_int8(
    recipe: Recipe, test: PackedSplit, logits: np.ndarray, float_logits: np.ndarray, *, path: str
) -> Judgement:
    """An int8 file against its own float file; logits are real numbers, shape (n, classes)."""
    compared = compare_accuracy(file_logits=logits, reference_logits=float_logits, labels=np.asarray(test.labels))
    gates = check_int8_file(
        logits,
        float_logits,
        compared,
        path=path,
        max_drop=recipe.verify.max_int8_drop,
        min_agreement=recipe.verify.min_int8_agreement,
        min_sqnr_db=recipe.verify.min_int8_sqnr_db,
    )
    return Judgement(accuracy=compared.accuracy, paired_p=compared.p_value, gates=tuple(gates))
