"""Judge each candidate as its options are, before any is searched: those that are far behind try few settings more.

What is judged here is the first trial of each search, and stands in its journal: nothing is done twice.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from specml import transformed
from specml.data import Layout
from specml.files import canonical_json, read_json, write_atomic
from specml.metrics import TABLE
from specml.plan import Stage
from specml.space import with_settings
from specml.stages import feasibility, prepare
from specml.stages.cross_validation import cross_validate
from specml.stages.journal import Journal, Trial
from specml.stages.judges import timed
from specml.stages.proposals import planned, usual_space
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from specml.kinds import Candidate
    from specml.space import Dimension
    from specml.spec import Spec
    from specml.stages.cross_validation import Judged
    from specml.stages.work import Work

OUT = "artifacts/screen/${key}.json"
FEWEST = 4
"""Trials that a candidate makes however far it is behind: its own options, and the first of its strong settings."""
FAR = 2.0
"""Standard errors of the folds' differences: who is further behind the best is far behind."""


PARAMS = (
    "features",
    "mitigation.reweighing",
    "plugins",
    "problem.decision.threshold",
    "problem.primary_metric",
    "problem.quantiles",
    "problem.task",
    "search",
)
"""What a trial depends on beside its candidate."""


def judged_from(spec: Spec) -> tuple[str, ...]:
    """The files that a trial reads; what is feasible is told before anything is judged."""
    return (
        prepare.TRAIN,
        prepare.LAYOUT,
        *((feasibility.METRICS,) if spec.problem.feasibility.learning_curve else ()),
    )


def declare(spec: Spec) -> Stage:
    """There only where ``search.screen`` asks for it."""
    return Stage(
        name="screen",
        summary="judge each candidate once; the far behind are searched less",
        params=("candidates", *PARAMS),
        deps=judged_from(spec),
        outs=tuple(OUT.replace("${key}", name) for name in sorted(spec.candidates)),
    )


def work(work: Work) -> None:
    """Training rows → how many trials each candidate makes."""
    import polars as pl
    from threadpoolctl import threadpool_limits

    spec = work.spec
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    train = pl.read_parquet(work.path(prepare.TRAIN))
    for name, candidate in sorted(spec.candidates.items()):
        transformed.check(candidate, train[layout.target].to_numpy(), f"candidates.{name}")
    names = sorted(spec.candidates, key=lambda name: (spec.candidates[name].complexity, name))
    spaces = {one: spec.candidates[one].space or usual_space(spec.candidates[one], layout, train) for one in names}
    judge = partial(cross_validate, spec, layout=layout, train=train, threads=threads(), say=_silent)
    found: dict[str, tuple[float, ...]] = {}
    with threadpool_limits(1, user_api="blas"):
        for number, (name, space) in enumerate(spaces.items()):
            if not space:  # it has one trial, and no journal
                continue
            first = _first(replace(work, key=name), spec.candidates[name], space, judge)
            found[name] = first.judged.folds
            told = f"{name}: cv {spec.problem.metric} {first.mean:.4f} with its own options"
            work.say(told, done=(number + 1) / len(names))
    far = behind(found, larger_is_better=TABLE[spec.problem.metric].larger_is_better)
    for name in names:
        trials = min(FEWEST, spec.search.trials) if name in far else spec.search.trials
        write_atomic(work.path(OUT.replace("${key}", name)), canonical_json({"trials": trials}))
    for name in far:
        work.say(f"{name} is far behind {far[name]}, and makes {min(FEWEST, spec.search.trials)} trials", note=True)


def trials(work: Work) -> int:
    """How many trials the candidate that ``work`` trains makes."""
    return int(read_json(work.path(OUT))["trials"]) if work.spec.search.screen else work.spec.search.trials


def behind(folds: Mapping[str, tuple[float, ...]], *, larger_is_better: bool) -> dict[str, str]:
    """Who is far behind the best, by name: behind whom. ``folds``: scores on the same folds."""
    import numpy as np

    scores = {name: np.array(one) * (1 if larger_is_better else -1) for name, one in sorted(folds.items())}
    best = max(scores, key=lambda name: scores[name].mean(), default="")
    lacks = {name: scores[best] - one for name, one in scores.items() if name != best}
    return {name: best for name, one in lacks.items() if one.mean() > FAR * one.std(ddof=1) / len(one) ** 0.5}


def _first(work: Work, candidate: Candidate, space: Mapping[str, Dimension], judge: Callable[..., Judged]) -> Trial:
    """The candidate's first trial: from its journal, or judged and written there."""
    journal = Journal.open(work, candidate)
    for known in journal.read():
        if known.number == 0:
            return known
    settings = planned(candidate, space)[0]
    trial = Trial(0, settings, *timed(judge, with_settings(candidate, settings), ()))
    journal.write(trial)
    return trial


def _silent(text: str, done: float = 0.0) -> None:
    """Tell nobody: the trial is told as a whole."""
