"""Which values a trial tries: the next of a grid, drawn at random, or where TPE expects the most.

Every answer depends on the sweep, the number of the trial and what is known of the others, and on nothing that only
this process remembers: a sweep that goes on tomorrow, or on another machine, proposes what it would have proposed.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.errors import MissingExtraError
from edgeprune.recipe.space import Dimension, Sweep

# Draws of a trial before a finite space counts as used up.
_DRAWS = 50

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a trial.

    Attributes:
        values: that it tries.
        state: ``done`` (with figures), ``poor`` (stopped early), ``running``, or ``failed``.
        accuracy: on validation, of its last level so far.
        cost: of that level.
    """

    values: Values
    state: Literal["done", "poor", "running", "failed"]
    accuracy: float = 0.0
    cost: float = math.inf


def propose_values(sweep: Sweep, index: int, known: Sequence[Known]) -> Values | None:
    """What a trial shall try.

    Args:
        sweep: its space, search and seed.
        index: of the trial, from 0.
        known: the other trials, in the order of their numbers.

    Returns:
        Dotted key to value; None when there is nothing left to try.
    """
    if sweep.search == "grid":
        return _grid_point(sweep.space, index)
    tried = [other.values for other in known]
    for draw in range(_DRAWS):
        # Text, because hash() of it is not the same in another process and random.seed of text is.
        seed = random.Random(f"{sweep.seed} {index} {draw}").getrandbits(31)
        values = _draw(sweep.space, seed) if sweep.search == "random" else _ask_tpe(sweep, seed, known)
        if values not in tried:
            return values
    return None


def _grid_point(space: Mapping[str, Dimension], index: int) -> Values | None:
    """The last key changes fastest."""
    values: Values = {}
    for key, dimension in reversed(list(space.items())):
        index, place = divmod(index, len(dimension.options))
        values[key] = _plain(dimension.options[place])
    return {key: values[key] for key in space} if index == 0 else None


def _draw(space: Mapping[str, Dimension], seed: int) -> Values:
    generator, values = random.Random(seed), {}
    for key, dimension in space.items():
        if dimension.uniform is not None:
            values[key] = generator.uniform(*dimension.uniform)
        elif dimension.log_uniform is not None:
            low, high = dimension.log_uniform
            values[key] = min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)
        else:
            values[key] = _plain(generator.choice(dimension.options))
    return values


def _ask_tpe(sweep: Sweep, seed: int, known: Sequence[Known]) -> Values:
    """Ask Optuna's multi-objective TPE (Ozaki et al. 2022); the study is made anew from what is known.

    Source:
        Bergstra, Bardenet, Bengio, Kégl 2011, "Algorithms for Hyper-Parameter Optimization"; Ozaki, Tanigaki, Watanabe,
        Nomura, Onishi 2022, "Multiobjective Tree-Structured Parzen Estimator".
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise MissingExtraError("search: tpe", "cluster", "optuna") from None
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    distributions: dict[str, BaseDistribution] = {}
    for key, dimension in sweep.space.items():
        if dimension.choice is not None:
            # By place: a choice may be a list, which Optuna cannot hold.
            distributions[key] = CategoricalDistribution(range(len(dimension.choice)))
        elif dimension.integer is not None:
            distributions[key] = IntDistribution(*dimension.integer)
        else:
            assert dimension.bounds is not None
            distributions[key] = FloatDistribution(*dimension.bounds, log=dimension.log_uniform is not None)
    sampler = optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=max(4, min(10, sweep.count // 3)),  # drawn at random, before anything can be said
        constant_liar=True,  # those that run side by side shall differ
    )
    # Without its own logger: the study is made anew for each question, and each would be announced.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    done = [other for other in known if other.state in {"done", "poor"}]
    worst = (min((other.accuracy for other in done), default=0.0), max((other.cost for other in done), default=0.0))
    for other in known:
        params = {key: _place(sweep.space[key], value) for key, value in other.values.items()}
        if other.state in {"done", "poor"}:
            # A trial that was stopped has a level of another size; it is no better than any.
            figures = [other.accuracy, other.cost] if other.state == "done" else list(worst)
            study.add_trial(
                create_trial(state=TrialState.COMPLETE, params=params, distributions=distributions, values=figures)
            )
        else:
            state = TrialState.RUNNING if other.state == "running" else TrialState.FAIL
            study.add_trial(create_trial(state=state, params=params, distributions=distributions))
    asked = study.ask(distributions)
    return {
        key: _plain(dimension.choice[asked.params[key]]) if dimension.choice is not None else asked.params[key]
        for key, dimension in sweep.space.items()
    }


def _place(dimension: Dimension, value: Any) -> Any:
    if dimension.choice is None:
        return value
    return [_plain(option) for option in dimension.choice].index(value)


def _plain(option: Any) -> Any:
    """As JSON has it, so that what was read back from a trial's file compares equal."""
    return [_plain(item) for item in option] if isinstance(option, tuple) else option
