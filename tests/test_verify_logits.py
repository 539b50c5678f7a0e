"""Gates on logits and decisions: plain arithmetic, so each is held against numbers worked out by hand."""

import numpy as np
import pytest

from edgeprune.logits import scaled_difference
from edgeprune.results import Gate
from edgeprune.verify import check_accuracy, check_parity, check_simplification, compare_accuracy


def parity(file_logits: np.ndarray, torch_logits: np.ndarray) -> dict[str, Gate]:
    gates = check_parity(file_logits=file_logits, torch_logits=torch_logits, min_agreement=0.998, max_difference=1e-3)
    return {gate.name: gate for gate in gates}


def accuracy(right: list[bool], reference_right: list[bool], max_drop: float = 0.03) -> dict[str, Gate]:
    """Logits of a two-class problem in which every label is 1."""

    def logits(flags: list[bool]) -> np.ndarray:
        return np.array([[0.0, 1.0] if flag else [1.0, 0.0] for flag in flags], np.float32)

    comparison = compare_accuracy(
        file_logits=logits(right), reference_logits=logits(reference_right), labels=np.ones(len(right), np.int64)
    )
    return {gate.name: gate for gate in check_accuracy(comparison, max_drop=max_drop)}


def random_logits(n: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32)


def test_equal_logits_agree() -> None:
    gates = parity(random_logits(), random_logits())
    assert all(gate.passed for gate in gates.values())
    assert gates["argmax_agreement"].figure == 1
    assert gates["logit_difference"].figure == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [("file",), ("torch",), ("file", "torch")])
def test_nan_from_the_exported_graph_is_drift_not_agreement(value: float, sides: tuple[str, ...]) -> None:
    """NaN compares false with everything, so a naive `diff > limit` would let it pass, and argmax agrees on it."""
    logits = {"file": random_logits(), "torch": random_logits()}
    for side in sides:
        logits[side][3, 0] = value
    gates = parity(logits["file"], logits["torch"])
    assert not gates["argmax_agreement"].passed
    assert not gates["logit_difference"].passed
    assert "1 of them with NaN or infinity" in gates["logit_difference"].detail


def test_agreement_counts_images() -> None:
    """2 of 1000 changed decisions are at the limit of 0.998, 3 are beyond it."""
    for changed, passed in ((2, True), (3, False)):
        logits = random_logits()
        logits[:changed] = logits[:changed, ::-1]
        assert parity(logits, random_logits())["argmax_agreement"].passed is passed


def test_difference_is_scaled_by_the_largest_logit() -> None:
    reference = np.array([[0.001, -10.0], [3.0, 4.0]], np.float32)
    moved = reference + np.array([[0.009, 0], [0, 0]], np.float32)
    assert parity(moved, reference)["logit_difference"].passed
    assert scaled_difference(moved, reference) == pytest.approx(9e-4, rel=1e-3)
    moved[0, 0] += 0.002
    assert not parity(moved, reference)["logit_difference"].passed


@pytest.mark.parametrize("shape", [(999, 2), (1000, 3), (0, 2)])
def test_logits_of_other_shapes_fail_instead_of_broadcasting(shape: tuple[int, int]) -> None:
    gates = parity(np.zeros(shape, np.float32), random_logits() if shape[0] else np.zeros(shape, np.float32))
    assert not any(gate.passed for gate in gates.values())
    with pytest.raises(ValueError, match="cannot be compared"):
        scaled_difference(np.zeros((0, 2)), np.zeros((0, 2)))


def test_a_reference_of_zeros_differs_from_anything_else() -> None:
    """Dividing by the scale 0 must not turn a difference into a pass."""
    zeros = np.zeros((2, 2))
    assert scaled_difference(zeros, zeros) == 0
    assert scaled_difference(zeros + 1e-9, zeros) == np.inf
    assert np.isnan(scaled_difference(zeros * np.nan, zeros))


@pytest.mark.parametrize(("difference", "passed"), [(0.0, True), (1e-6, True), (1e-3, False), (np.nan, False)])
def test_simplification_must_change_nothing(difference: float, passed: bool) -> None:
    assert check_simplification(difference).passed is passed


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (3, True), (4, False)])
def test_a_drop_at_the_limit_passes_and_one_image_more_fails(lost: int, passed: bool) -> None:
    """0.87 - 0.84 is above 0.03 in floating point."""
    reference = [True] * 87 + [False] * 13
    gates = accuracy([True] * (87 - lost) + [False] * (13 + lost), reference)
    assert gates["accuracy_drop"].passed is passed
    assert gates["test_accuracy"].passed is passed
    assert gates["test_accuracy"].figure == pytest.approx((87 - lost) / 100)


def test_a_better_file_has_a_negative_drop() -> None:
    gates = accuracy([True] * 10, [True] * 9 + [False])
    assert gates["accuracy_drop"].figure == pytest.approx(-0.1)
    assert gates["accuracy_drop"].passed


def test_mcnemar_counts_only_images_that_one_of_the_two_gets_right() -> None:
    """10 lost, 2 won: p = 2 * (1 + 12 + 66) / 2**12 = 0.0386, whatever the other images say."""
    right = [False] * 10 + [True] * 2 + [True] * 500 + [False] * 14
    reference = [True] * 10 + [False] * 2 + [True] * 500 + [False] * 14
    gates = accuracy(right, reference)
    assert "p=0.0386, n=526: 10 images lost, 2 won" in gates["accuracy_drop"].detail
    assert "95 %" in gates["test_accuracy"].detail


def test_no_discordant_image_is_no_evidence() -> None:
    assert "p=1, n=4" in accuracy([True] * 4, [True] * 4)["accuracy_drop"].detail


def test_nan_counts_as_wrong_and_fails() -> None:
    """argmax of a row of NaN is 0: with labels of class 0 a broken file would be perfect."""
    labels = np.zeros(50, np.int64)
    good, broken = np.tile(np.float32([1, 0]), (50, 1)), np.full((50, 2), np.nan, np.float32)
    comparison = compare_accuracy(file_logits=broken, reference_logits=good, labels=labels)
    gates = check_accuracy(comparison, max_drop=1.0)
    assert {gate.name: gate.passed for gate in gates} == {
        "finite_logits": False,
        "test_accuracy": False,
        "accuracy_drop": False,
    }
    assert gates[1].figure == 0


def test_a_broken_baseline_does_not_excuse_the_file() -> None:
    good, broken = np.tile(np.float32([1, 0]), (50, 1)), np.full((50, 2), np.nan, np.float32)
    comparison = compare_accuracy(file_logits=good, reference_logits=broken, labels=np.ones(50, np.int64))
    assert not any(gate.passed for gate in check_accuracy(comparison, max_drop=1.0))


def test_a_limit_of_nan_passes_nothing() -> None:
    assert not accuracy([True] * 4, [True] * 4, max_drop=float("nan"))["accuracy_drop"].passed


def test_arrays_of_different_images_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        compare_accuracy(file_logits=np.zeros((3, 2)), reference_logits=np.zeros((4, 2)), labels=np.zeros(3))
