"""Which blocks to remove so that every bound is met and the most importance stays.

Bounds multiply channel counts with each other and memory has a maximum in it, so no order of blocks is right for all
of them. The search goes from a feasible plan to better ones: blocks are removed by importance per what they save of
the bounds that are still broken; then by the prices that the plan itself sets (its gradient), again and again; then
blocks are exchanged as long as that gains something. Every step holds exactly what the cost model says.

Source:
    Dobson 1982, "Worst-case analysis of greedy heuristics for integer programming with nonnegative data" (the first
    plan); Everett 1963, "Generalized Lagrange multiplier method" (the prices).
"""

from collections.abc import Iterator

import numpy as np

from edgeprune.plan.problem import TOLERANCE, Problem

_REPRICINGS = 16
# How fast the price of a bound falls that is not used up.
_ETA = 4.0
_REFINED = 3
_EXCHANGES = 400


def search_plan(problem: Problem) -> np.ndarray:
    """The best plan found; the one that removes every removable block must meet all bounds.

    Returns:
        Blocks removed of each group, shape (groups,).
    """
    nothing = np.zeros(len(problem.blocks), int)
    if problem.feasible(nothing[None])[0]:
        return nothing
    found = [_refill(problem, _remove_greedily(problem))]
    found += _reprice(problem, found[0])
    unique = {tuple(plan): plan for plan in found}
    best = sorted(unique.values(), key=lambda plan: -float(problem.value(plan[None])[0]))[:_REFINED]
    refined = [_exchange(problem, plan) for plan in best]
    return max(refined, key=lambda plan: float(problem.value(plan[None])[0]))


def _remove_greedily(problem: Problem) -> np.ndarray:
    """Remove the block that costs the least importance for what it saves of the bounds that are broken."""
    plan = np.zeros(len(problem.blocks), int)
    used = problem.usage(plan[None])[0]
    while (used > 1 + TOLERANCE).any():
        groups = np.flatnonzero(plan < problem.most)
        steps = _steps(plan, groups, 1)
        after = problem.usage(steps)
        excess = np.maximum(used - 1, 0)
        broken = excess > TOLERANCE
        saved = np.clip(used - after, 0, excess)[:, broken] / excess[broken]
        benefit = saved.sum(axis=1)
        loss = problem.value(plan[None])[0] - problem.value(steps)
        if not (benefit > 0).any():
            # Memory in parts falls in steps of several blocks: whatever has channels there goes on.
            benefit = problem.slopes(plan)[broken][:, groups].sum(axis=0)
            if not (benefit > 0).any():
                benefit = np.ones(len(groups))
        ratio = np.where(benefit > 0, np.maximum(loss, 0) / np.maximum(benefit, 1e-300), np.inf)
        choice = int(ratio.argmin())
        plan, used = steps[choice], after[choice]
    return plan


def _reprice(problem: Problem, plan: np.ndarray) -> Iterator[np.ndarray]:
    """Plans in which all blocks went by the same prices: those that the plan before sets."""
    first = problem.usage(np.zeros((1, len(plan)), int))[0]
    prices = (first > 1 + TOLERANCE).astype(float)
    for _ in range(_REPRICINGS):
        used = problem.usage(plan[None])[0]
        prices = prices * np.exp(_ETA * np.minimum(used - 1, 0))
        prices /= prices.max()
        worth = prices @ problem.slopes(plan)
        ranked = _rank(problem, worth)
        plan = _refill(problem, _shortest_prefix(problem, ranked))
        yield plan


def _rank(problem: Problem, worth: np.ndarray) -> np.ndarray:
    """Groups in the order in which their next blocks go, by importance for what a channel is worth."""
    ratios, groups = [], []
    for group, blocks in enumerate(problem.blocks):
        for block in blocks:
            ratios.append(block.score / worth[group] if worth[group] > 0 else np.inf)
            groups.append(group)
    order = np.argsort(np.array(ratios), kind="stable")
    return np.array(groups, int)[order]


def _shortest_prefix(problem: Problem, ranked: np.ndarray) -> np.ndarray:
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) // 2
        plan = np.bincount(ranked[:middle], minlength=len(problem.blocks))
        if problem.feasible(plan[None])[0]:
            high = middle
        else:
            low = middle + 1
    return np.bincount(ranked[:low], minlength=len(problem.blocks))


def _refill(problem: Problem, plan: np.ndarray, *, closed: int = -1) -> np.ndarray:
    """Put blocks back that fit: most importance first, for the share of what is left of the tightest bound.

    Args:
        problem: see there.
        plan: a feasible one.
        closed: group that gets none back.
    """
    used = problem.usage(plan[None])[0]
    while True:
        groups = np.flatnonzero(plan > 0)
        groups = groups[groups != closed]
        if not len(groups):
            return plan
        steps = _steps(plan, groups, -1)
        after = problem.usage(steps)
        gain = problem.value(steps) - problem.value(plan[None])[0]
        fits = (after <= 1 + TOLERANCE).all(axis=1) & (gain > 0)
        if not fits.any():
            return plan
        taken = ((after - used) / (np.maximum(1 - used, 0) + TOLERANCE)).max(axis=1)
        density = np.where(fits, gain / np.maximum(taken, TOLERANCE), -np.inf)
        ranked = groups[np.argsort(-density, kind="stable")[: int(fits.sum())]]
        # Where there is much room many go back at once, and the next look is taken with what they have used.
        counts = [len(ranked) // 2**halvings for halvings in range(1, len(ranked).bit_length())]
        steps = np.repeat(plan[None], len(counts) + 1, axis=0)
        for row, count in enumerate([*counts, 1]):
            steps[row, ranked[:count]] -= 1
        after = problem.usage(steps)
        row = int((after <= 1 + TOLERANCE).all(axis=1).argmax())
        plan, used = steps[row], after[row]


def _exchange(problem: Problem, plan: np.ndarray) -> np.ndarray:
    """Take one or two blocks out and put others in, as long as that keeps more importance."""
    for _ in range(_EXCHANGES):
        better = _best_swap(problem, plan)
        if better is None:
            better = _best_rebuild(problem, plan)
        if better is None:
            return plan
        plan = _refill(problem, better)
    return plan


def _best_swap(problem: Problem, plan: np.ndarray) -> np.ndarray | None:
    """One block out of one group, one back into another."""
    groups = len(plan)
    pairs = [
        (taken, put)
        for taken in np.flatnonzero(plan < problem.most)
        for put in np.flatnonzero(plan > 0)
        if taken != put
    ]
    out, back = np.array(pairs, int).reshape(-1, 2).T
    if not len(out):
        return None
    steps = np.repeat(plan[None], len(out), axis=0)
    rows = np.arange(len(out))
    steps[rows, out] += 1
    steps[rows, back] -= 1
    gain = problem.value(steps) - problem.value(plan[None])[0]
    scale = max(abs(float(problem.value(plan[None])[0])), 1e-300)
    order = np.argsort(-gain, kind="stable")
    order = order[gain[order] > 1e-12 * scale]
    for start in range(0, len(order), 4 * groups):
        chunk = order[start : start + 4 * groups]
        fits = problem.feasible(steps[chunk])
        if fits.any():
            return np.asarray(steps[chunk[int(fits.argmax())]])
    return None


def _best_rebuild(problem: Problem, plan: np.ndarray) -> np.ndarray | None:
    """One or two blocks out, whatever fits back in."""
    value = float(problem.value(plan[None])[0])
    least = value + 1e-12 * max(abs(value), 1e-300)
    best: np.ndarray | None = None
    for count in (1, 2):
        for group in np.flatnonzero(plan + count <= problem.most):
            ruined = plan.copy()
            ruined[group] += count
            rebuilt = _refill(problem, ruined, closed=int(group))
            reached = float(problem.value(rebuilt[None])[0])
            if reached > least:
                best, least = rebuilt, reached
    return best


def _steps(plan: np.ndarray, groups: np.ndarray, change: int) -> np.ndarray:
    steps = np.repeat(plan[None], len(groups), axis=0)
    steps[np.arange(len(groups)), groups] += change
    return steps
