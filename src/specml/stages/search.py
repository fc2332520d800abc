"""Search a candidate's settings: a portfolio, then Optuna, judged by cross-validation and kept in a journal.

Trials are proposed in generations of fixed size, each from the results of the generations before alone: how many
run at once, in which order they end, and whether the search was interrupted change nothing in what is found.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from specml.metrics import TABLE
from specml.space import with_settings
from specml.stages.cross_validation import cross_validate
from specml.stages.journal import Journal, Trial
from specml.stages.judges import Judges
from specml.stages.proposals import proposed
from specml.stages.work import threads

if TYPE_CHECKING:
    import polars as pl

    from specml.data import Layout
    from specml.kinds import Candidate
    from specml.stages.work import Work

GENERATION = 4
"""Trials proposed at once."""


def search(work: Work, candidate: Candidate, layout: Layout, train: pl.DataFrame) -> tuple[Trial, list[dict[str, Any]]]:
    """The best trial, the first of equals, and every trial as ``number``, ``options`` and ``mean``."""
    spec, space = work.spec, candidate.space or candidate.usual_space
    judge = partial(cross_validate, spec, layout=layout, train=train)
    if spec.search.trials == 1 or not space:
        return Trial(0, {}, judge(candidate=candidate, threads=threads(), say=work.say)), []
    better = max if TABLE[spec.problem.metric].larger_is_better else min
    journal = Journal.open(work, candidate)
    found = {trial.number: trial for trial in journal.read() if trial.number < spec.search.trials}
    with Judges(partial(judge, say=_silent), most=GENERATION) as judges:
        for first in range(0, spec.search.trials, GENERATION):
            numbers = range(first, min(first + GENERATION, spec.search.trials))
            settings = proposed(candidate, space, spec, [found[number] for number in range(first)], numbers)
            new = {n: with_settings(candidate, one) for n, one in settings.items() if n not in found}
            for number, judged in judges(new):
                found[number] = Trial(number, settings[number], judged)
                journal.write(found[number])
                leading = better(trial.mean for trial in found.values())
                text = f"trial {len(found)} of {spec.search.trials}: best {spec.problem.metric} {leading:.4f}"
                work.say(text, done=0.9 * len(found) / spec.search.trials)
    trials = [found[number] for number in sorted(found)]
    best = better(trials, key=lambda trial: trial.mean)
    told = [{"number": one.number, "options": one.settings, "mean": one.mean} for one in trials]
    return replace(best, judged=replace(best.judged, out_of_fold=journal.out_of_fold(best.number))), told


def _silent(text: str, done: float = 0.0) -> None:
    """Tell nobody: the trial is told as a whole."""
