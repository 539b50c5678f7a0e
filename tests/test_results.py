"""Ratios are derived from measurements, verdicts cannot be talked into passing, and results survive JSON."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score

from edgeprune.results import (
    Accuracy,
    ChannelPlan,
    CostReport,
    Evaluation,
    Gate,
    GroupPlan,
    Verdict,
    as_json,
    at_least,
    at_most,
)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons_and_stays_in_the_unit_interval(counts: tuple[int, int]) -> None:
    correct, n = counts
    low, high = Accuracy(correct=correct, n=n).interval
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= correct / n + 1e-12
    assert correct / n - 1e-12 <= high <= 1


def test_an_accuracy_is_printed_with_n_and_its_interval() -> None:
    assert str(Accuracy(correct=437, n=526)) == "0.8308 (n=526, 95 % 0.7964 to 0.8604)"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_macro_figures_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Every class counts once, however rare it is; a class without images does not count as missed."""
    pairs += [(label, 0) for label in range(3)]
    labels, predicted = zip(*pairs, strict=True)
    confusion = tuple(tuple(pairs.count((row, column)) for column in range(3)) for row in range(3))
    evaluation = Evaluation(
        split="test",
        accuracy=Accuracy(correct=1, n=len(pairs)),
        loss=0.0,
        confusion=confusion,
        roc_auc=0.5,
        seconds=0.0,
    )
    assert evaluation.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    expected = f1_score(labels, predicted, average="macro", labels=[0, 1, 2], zero_division=0)
    assert evaluation.macro_f1 == pytest.approx(expected)


def test_achieved_counts_what_earlier_steps_removed() -> None:
    plan = ChannelPlan(
        target=0.5,
        prunable=20,
        groups=(
            GroupPlan(layer="a", channels=8, kept=(0, 3)),
            GroupPlan(layer="b", channels=6, kept=(0, 1, 2, 3, 4, 5)),
        ),
        importance="l1_norm",
        align=1,
    )
    assert (plan.removed_before, plan.removed_now) == (6, 6)
    assert plan.achieved == 0.6


def test_macs_are_the_sum_over_operators() -> None:
    report = CostReport(
        params=1,
        macs_by_operator={"conv": 5, "linear": 2},
        macs_thop=9,
        blocks=(),
        peak_activation_bytes=4,
        peak_activation_at="input",
        checkpoint_bytes=0,
    )
    assert report.macs == 7


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_gate_never_shows_what_json_cannot_hold(figure: float) -> None:
    for gate in (at_most("drop", figure, 0.03), at_least("agreement", figure, 0.9)):
        assert json.loads(json.dumps(as_json(gate), allow_nan=False))["figure"] == str(figure)


def test_nan_passes_no_gate_in_either_direction() -> None:
    """NaN compares false with everything, so a check for failure would let it pass."""
    assert not at_most("drop", math.nan, 0.03).passed
    assert not at_least("agreement", math.nan, 0.9).passed


def test_the_limit_itself_passes_and_the_verdict_is_a_plain_bool() -> None:
    gates = (at_most("drop", 0.03, 0.03), at_least("agreement", 0.9, 0.9))
    assert [gate.passed for gate in gates] == [True, True]
    assert [gate.limit for gate in gates] == ["<= 0.03", ">= 0.9"]
    assert not at_most("drop", 0.031, 0.03).passed
    assert not at_least("agreement", 0.89, 0.9).passed


def test_no_gates_is_no_verdict() -> None:
    """`all` of nothing is true; a verify stage that checked nothing must not publish."""
    passed = at_most("drop", 0.0, 0.03)
    failed = Gate(name="x", figure=1, limit="0", passed=False)
    assert not Verdict(gates=()).passed
    assert Verdict(gates=(passed,)).passed
    assert not Verdict(gates=(passed, failed)).passed


def test_results_become_plain_json() -> None:
    plan = GroupPlan(layer="a", channels=4, kept=(0, 2))
    assert as_json({"plan": (plan,), "at": Path("models") / "a", 3: None}) == {
        "plan": [{"layer": "a", "channels": 4, "kept": [0, 2]}],
        "at": "models/a",
        "3": None,
    }


def test_results_are_frozen() -> None:
    plan = GroupPlan(layer="a", channels=4, kept=(0, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.channels = 2  # type: ignore[misc]
