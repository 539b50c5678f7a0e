"""From scores to channels: the schedule of the seed log, blocks, and the nearest fraction that can be reached."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import UnreachableTargetError
from edgeprune.plan import choose_channels
from edgeprune.results import ChannelPlan

# Expansion channels of features.4 to features.11 of the reference network.
LOG = {"4": 96, "5": 240, "6": 240, "7": 120, "8": 144, "9": 288, "10": 576, "11": 576}
PRUNABLE = 2280

Scores = dict[str, np.ndarray]


def plan_for(scores: Scores, target: float, align: int, prunable: int | None = None) -> ChannelPlan:
    prunable = prunable or sum(len(values) for values in scores.values())
    return choose_channels(scores, target=target, prunable=prunable, importance="l1_norm", align=align)


def shrink(scores: Scores, plan: ChannelPlan) -> Scores:
    return {group.layer: scores[group.layer][list(group.kept)] for group in plan.groups}


def random_scores(sizes: dict[str, int], seed: int = 0) -> Scores:
    generator = np.random.default_rng(seed)
    return {name: generator.uniform(0.1, 1, size) * generator.uniform(0.5, 2) for name, size in sizes.items()}


def schedule(scores: Scores, targets: list[float], align: int) -> Iterator[ChannelPlan]:
    """Cumulative steps, each on what the one before left, with fresh noise as if recovered."""
    generator = np.random.default_rng(1)
    prunable = sum(len(values) for values in scores.values())
    for target in targets:
        plan = plan_for(scores, target, align, prunable)
        yield plan
        scores = {
            name: values * generator.uniform(0.8, 1.2, len(values)) for name, values in shrink(scores, plan).items()
        }


def test_every_ten_percent_removes_exactly_228_channels() -> None:
    """The seed log's schedule, to the channel."""
    plans = list(schedule(random_scores(LOG), [step / 10 for step in range(1, 10)], align=1))
    assert [plan.removed_now for plan in plans] == [228] * 9
    assert [plan.achieved for plan in plans] == [pytest.approx(step / 10, abs=1e-12) for step in range(1, 10)]


def test_rounding_of_the_target_never_costs_a_channel() -> None:
    """0.07 * 100 is 7.000000000000001 in floating point, and 0.1 + 0.2 of 2280 is 684.0000000000001."""
    assert plan_for(random_scores({"a": 100}), 0.07, 1).removed_now == 7
    assert plan_for(random_scores(LOG), 0.1 + 0.2, 1).removed_now == 684


def test_steps_of_five_percent_remove_114() -> None:
    plans = list(schedule(random_scores(LOG), [step / 100 for step in range(10, 85, 5)], align=1))
    assert [plan.removed_now for plan in plans] == [228] + [114] * 14


def test_one_channel_a_layer_is_where_it_ends() -> None:
    highest = (PRUNABLE - len(LOG)) / PRUNABLE
    plan = plan_for(random_scores(LOG), highest, 1)
    assert [len(group.kept) for group in plan.groups] == [1] * len(LOG)
    with pytest.raises(UnreachableTargetError, match=r"Target 0\.998 cannot be reached.*0\.9965") as caught:
        plan_for(random_scores(LOG), 0.998, 1)
    assert "at most 0.996" in caught.value.remedy
    assert plan_for(random_scores(LOG), 0.996, 1).achieved >= 0.996


def test_the_highest_target_counts_what_earlier_steps_removed() -> None:
    scores = random_scores({"a": 8, "b": 8})
    left = shrink(scores, plan_for(scores, 0.5, 1))
    with pytest.raises(UnreachableTargetError, match=r"is 0\.8750"):
        plan_for(left, 0.9, 1, prunable=16)


@pytest.mark.parametrize("align", [2, 4, 8, 16])
def test_every_layer_keeps_a_multiple_of_align_and_at_least_one_block(align: int) -> None:
    sizes = {name: size // align * align for name, size in LOG.items()}
    for plan in schedule(random_scores(sizes), [step / 10 for step in range(1, 10)], align):
        kept = [len(group.kept) for group in plan.groups]
        assert all(count % align == 0 and count >= align for count in kept)
        assert 0 <= plan.achieved - plan.target < align / plan.prunable


def test_the_default_schedule_in_blocks_of_eight() -> None:
    """Targets of 228 channels each, of which 8 goes into none: the figures that the levels of the log get."""
    plans = list(schedule(random_scores(LOG), [step / 10 for step in range(1, 10)], align=8))
    removed = list(itertools.accumulate(plan.removed_now for plan in plans))
    assert removed == [-(-228 * step // 8) * 8 for step in range(1, 10)]


def test_the_lowest_scores_of_the_whole_network_go_first() -> None:
    scores = random_scores(LOG)
    plan = plan_for(scores, 0.3, 1)
    threshold = np.sort(np.concatenate(list(scores.values())))[684]
    for group in plan.groups:
        assert list(group.kept) == [index for index, score in enumerate(scores[group.layer]) if score >= threshold]


def test_blocks_are_ranked_by_their_mean_and_filled_by_rank() -> None:
    """A layer's worst channels make its first block, wherever they stand."""
    scores = {"a": np.array([9.0, 1.0, 9.0, 2.0]), "b": np.array([1.4, 8.0, 8.0, 1.4])}
    assert [group.kept for group in plan_for(scores, 0.25, 2).groups] == [(0, 1, 2, 3), (1, 2)]
    assert [group.kept for group in plan_for(scores, 0.5, 2).groups] == [(0, 2), (1, 2)]


def test_a_layer_that_is_no_multiple_of_align_becomes_one_with_its_first_removal() -> None:
    """11 channels lose 3 and not 8, or 3 would be left over for ever."""
    scores = {"a": np.linspace(0.1, 0.2, 11), "b": np.linspace(1, 2, 16)}
    plan = plan_for(scores, 3 / 27, 8)
    assert [len(group.kept) for group in plan.groups] == [8, 16]
    assert plan.groups[0].kept == tuple(range(3, 11))


def test_a_layer_smaller_than_a_block_is_left_alone() -> None:
    plan = plan_for({"a": np.full(5, 0.01), "b": np.linspace(1, 2, 24)}, 0.5, 8)
    assert [len(group.kept) for group in plan.groups] == [5, 8]


def test_a_target_that_was_reached_already_removes_nothing() -> None:
    scores = random_scores({"a": 16, "b": 16})
    left = shrink(scores, plan_for(scores, 0.5, 8))
    plan = plan_for(left, 0.3, 8, prunable=32)
    assert plan.removed_now == 0
    assert plan.achieved == 0.5


def test_ties_fall_the_same_way_every_time() -> None:
    """Equal scores: network order first, then the lower index."""
    plan = plan_for({"b": np.ones(4), "a": np.ones(4)}, 0.5, 1)
    assert [(group.layer, group.kept) for group in plan.groups] == [("b", (3,)), ("a", (1, 2, 3))]


@pytest.mark.parametrize(("score", "size"), [(0.1, 19), (0.2, 19), (0.7, 22), (0.7, 23)])
def test_rounding_never_lets_a_full_block_go_before_the_odd_one(score: float, size: int) -> None:
    """The mean of three 0.1 is 0.10000000000000002, that of eight is 0.1: so 11 channels were kept of 19."""
    plan = plan_for({"a": np.full(size, score)}, 0.01, 8)
    assert len(plan.groups[0].kept) == 16


def test_odd_blocks_that_add_up_badly_make_room_for_a_full_one() -> None:
    """Eight channels are wanted: 3 and 7 are cheaper than a block of 8, but leave 2 more than asked for."""
    plan = plan_for({"a": np.full(11, 0.1), "b": np.full(15, 0.2), "c": np.full(16, 1.0)}, 8 / 42, 8)
    assert plan.removed_now == 8


def test_the_plan_does_not_depend_on_the_scale_of_the_scores() -> None:
    scores = random_scores(LOG)
    scaled = {name: values * 1024 for name, values in scores.items()}
    assert plan_for(scores, 0.6, 8).groups == plan_for(scaled, 0.6, 8).groups


def layers(align: int, *, multiples: bool) -> st.SearchStrategy[dict[str, np.ndarray]]:
    sizes = st.integers(1, 4).map(lambda blocks: blocks * align) if multiples else st.integers(1, 3 * align + 2)
    # Few different values, so that ties and sums that differ by rounding only are common.
    score = st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0])
    layer = sizes.flatmap(lambda size: st.lists(score, min_size=size, max_size=size)).map(np.array)
    return st.lists(layer, min_size=1, max_size=4).map(lambda found: {str(index): it for index, it in enumerate(found)})


cases = st.sampled_from([1, 2, 4, 8]).flatmap(
    lambda align: st.tuples(st.just(align), st.booleans().flatmap(lambda multiples: layers(align, multiples=multiples)))
)
odd_cases = st.sampled_from([4, 8]).flatmap(lambda align: st.tuples(st.just(align), layers(align, multiples=False)))


def reachable_counts(scores: Scores, align: int) -> set[int]:
    """By brute force: every sum of what single layers can lose."""
    choices = []
    for values in scores.values():
        size = len(values)
        choices.append([0, *(size - kept for kept in range(align, size, align))])
    return {sum(combination) for combination in itertools.product(*choices)}


@settings(max_examples=150)
@given(cases | odd_cases, st.floats(0.001, 0.999))
def test_achieved_is_the_nearest_reachable_fraction_not_below_the_target(
    case: tuple[int, Scores], target: float
) -> None:
    align, scores = case
    total = sum(len(values) for values in scores.values())
    enough = [count for count in reachable_counts(scores, align) if count >= target * total - 1e-6]
    if not enough:
        with pytest.raises(UnreachableTargetError):
            plan_for(scores, target, align)
        return
    assert plan_for(scores, target, align).removed_now == min(enough)


@given(cases, st.floats(0.001, 0.999))
def test_what_stays_is_aligned_and_better_than_what_goes(case: tuple[int, Scores], target: float) -> None:
    align, scores = case
    try:
        plan = plan_for(scores, target, align)
    except UnreachableTargetError:
        return
    for group in plan.groups:
        values = scores[group.layer]
        assert group.channels == len(values)
        assert list(group.kept) == sorted(set(group.kept))
        assert group.kept
        if group.removed:
            assert len(group.kept) % align == 0
            gone = sorted(set(range(len(values))) - set(group.kept))
            assert max(values[gone]) <= min(values[list(group.kept)])


def best_by_trying_all(scores: Scores, units: dict[str, int], align: int, removed: int) -> float:
    """The most importance that any number of blocks of each group keeps when so many channels go in all."""
    choices = []
    for name, values in scores.items():
        unit, size = units[name], math.lcm(align, units[name])
        order = np.argsort(values.reshape(-1, unit).mean(axis=1), kind="stable")
        counts = [len(values), *range(size, len(values), size)]
        kept = [sum(values[u * unit : (u + 1) * unit].sum() for u in order[len(order) - n // unit :]) for n in counts]
        choices.append([(len(values) - count, value) for count, value in zip(counts, kept, strict=True)])
    fitting = [each for each in itertools.product(*choices) if sum(gone for gone, _ in each) == removed]
    return max(sum(value for _, value in each) for each in fitting)


unit_cases = st.tuples(
    st.sampled_from([1, 2, 4]), st.lists(st.sampled_from([1, 2, 3, 6]), min_size=1, max_size=3)
).flatmap(
    lambda case: st.tuples(
        st.just(case[0]),
        st.just({str(index): unit for index, unit in enumerate(case[1])}),
        st.tuples(
            *(
                st.integers(1, 24 // unit).flatmap(
                    lambda count, unit=unit: st.lists(
                        st.floats(0.1, 10), min_size=count * unit, max_size=count * unit
                    ).map(np.array)
                )
                for unit in case[1]
            )
        ).map(lambda found: {str(index): values for index, values in enumerate(found)}),
    )
)


@settings(max_examples=150)
@given(unit_cases, st.floats(0.001, 0.999))
def test_no_plan_of_as_many_channels_keeps_more_importance(
    case: tuple[int, dict[str, int], Scores], target: float
) -> None:
    """Exact, because blocks rise within a group: against every other choice of blocks."""
    align, units, scores = case
    prunable = sum(len(values) for values in scores.values())
    try:
        plan = choose_channels(scores, target=target, prunable=prunable, importance="l1_norm", align=align, units=units)
    except UnreachableTargetError:
        return
    kept = sum(scores[group.layer][list(group.kept)].sum() for group in plan.groups)
    assert kept == pytest.approx(best_by_trying_all(scores, units, align, plan.removed_now), rel=1e-9)
    for group in plan.groups:
        unit = units[group.layer]
        assert {index // unit * unit + i for index in group.kept for i in range(unit)} == set(group.kept)
        assert not group.removed or len(group.kept) % math.lcm(align, unit) == 0


def test_units_are_ranked_by_their_mean() -> None:
    """A unit with the network's worst channel stays where its others make up for it."""
    scores = {"a": np.array([0.0, 9.0, 2.0, 2.0, 3.0, 3.0])}
    plan = choose_channels(scores, target=0.5, prunable=6, importance="l1_norm", align=1, units={"a": 2})
    assert plan.groups[0].kept == (0, 1)


def test_a_unit_of_one_changes_nothing() -> None:
    scores = random_scores(LOG)
    with_units = choose_channels(
        scores, target=0.6, prunable=PRUNABLE, importance="l1_norm", align=8, units=dict.fromkeys(LOG, 1)
    )
    assert with_units == plan_for(scores, 0.6, 8)
