"""What a search tries next: the candidate's own options, its family's portfolio, then what Optuna proposes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from specml.metrics import TABLE
from specml.space import Dimension, setting, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import optuna
    import polars as pl

    from specml.data import Layout
    from specml.kinds import Candidate
    from specml.space import Setting
    from specml.spec import Spec
    from specml.stages.journal import Trial

    Settings = dict[str, Setting]

TRANSFORM = "target_transform"
TRANSFORMS = Dimension(choices=("none", "sqrt", "log"))
AT_RANDOM = 4
"""Optuna proposes at random until it knows as many trials: the first generation. Its own ten would spend a small
search on chance, although the portfolio has already told where settings are good."""


def usual_space(candidate: Candidate, layout: Layout, train: pl.DataFrame) -> Mapping[str, Dimension]:
    """The family's own ranges, and how a regression's target is learned, where that may be a choice."""
    usual = candidate.usual_space
    fixed = candidate.answers_with_past or layout.task != "regression"
    if not usual or fixed or train[layout.target].min() < 0:  # type: ignore[operator]
        return usual
    return {**usual, TRANSFORM: TRANSFORMS}


def planned(candidate: Candidate, space: Mapping[str, Dimension]) -> list[Settings]:
    """The first trials, which depend on no result: the candidate's own options, then the portfolio, without repeats.

    A regression's target is learned in every way that it may be before the portfolio begins. Of this counts what
    ``space`` lets vary, within its ranges; other options keep the candidate's value, or take the nearest that lies in
    their range.
    """
    ranges = _ranges(candidate, space)
    own = {name: setting(candidate, name) for name in ranges}
    plan = [own]
    base = {name: _nearest(ranges[name], value) for name, value in own.items()}
    ways = space[TRANSFORM].choices if TRANSFORM in space else ()
    for one in (*({TRANSFORM: way} for way in ways), *candidate.portfolio):
        changes = {name: value for name, value in one.items() if name in ranges and _lies_in(ranges[name], value)}
        if (settings := base | changes) not in plan:
            plan.append(settings)
    return plan


def proposed(
    candidate: Candidate, space: Mapping[str, Dimension], spec: Spec, before: list[Trial], numbers: range
) -> dict[int, Settings]:
    """Settings for the trials ``numbers``; a function of what is given alone."""
    plan = dict(enumerate(planned(candidate, space)))
    if before and TRANSFORM in space:
        # The portfolio goes on from the way to learn the target that is the best so far.
        way = best_of(before, spec.problem.metric).settings[TRANSFORM]
        plan |= {number: {**plan[number], TRANSFORM: way} for number in numbers if number in plan}
    if numbers[-1] in plan:
        return {number: plan[number] for number in numbers}
    ranges = _ranges(candidate, space)
    study = _study(spec, ranges, before, numbers)
    return {number: plan[number] if number in plan else dict(study.ask(ranges).params) for number in numbers}


def best_of(trials: Iterable[Trial], metric: str) -> Trial:
    """The first of equals among those that went through every fold."""
    better = max if TABLE[metric].larger_is_better else min
    return better((trial for trial in trials if not trial.judged.pruned), key=lambda trial: trial.mean)


def _study(spec: Spec, ranges: dict[str, Any], before: list[Trial], numbers: range) -> optuna.Study:
    """Knows the trials ``before``, and is seeded by the first of ``numbers``."""
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(np.random.SeedSequence((spec.search.seed, numbers.start)).generate_state(1)[0])
    study = optuna.create_study(
        direction="maximize" if TABLE[spec.problem.metric].larger_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=AT_RANDOM
        ),
    )
    for trial in before:
        if all(_lies_in(ranges[name], value) for name, value in trial.settings.items()):
            study.add_trial(_known(trial, ranges))
    return study


def _known(trial: Trial, ranges: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A trial as Optuna knows it; the sampler counts a pruned one below every finished one."""
    import optuna

    create = partial(optuna.trial.create_trial, params=trial.settings, distributions=ranges)
    if not trial.judged.pruned:
        return create(value=trial.mean)
    return create(state=optuna.trial.TrialState.PRUNED, intermediate_values={len(trial.judged.folds): trial.mean})


def _ranges(candidate: Candidate, space: Mapping[str, Dimension]) -> dict[str, optuna.distributions.BaseDistribution]:
    return {name: _distribution(candidate, name, one) for name, one in sorted(space.items())}


def _distribution(candidate: Candidate, name: str, one: Dimension) -> optuna.distributions.BaseDistribution:
    import optuna

    if one.choices:
        return optuna.distributions.CategoricalDistribution(one.choices)
    if whole(candidate, name, one):
        return optuna.distributions.IntDistribution(one.low, one.high, log=one.log)
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)


def _lies_in(distribution: Any, value: Setting) -> bool:
    """Whether Optuna can learn from a value: the candidate's own may lie outside of its space."""
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(distribution.low <= value <= distribution.high)


def _nearest(distribution: Any, value: Setting) -> Setting:
    """``value``, or what of the distribution comes nearest; the first of choices, which have no order."""
    if _lies_in(distribution, value):
        return value
    if hasattr(distribution, "choices"):
        first: Setting = distribution.choices[0]
        return first
    below = not isinstance(value, int | float) or value < distribution.low
    end: Setting = distribution.low if below else distribution.high
    return end
