"""Search a candidate's settings: a portfolio, then Optuna, judged by cross-validation and kept in a journal.

Trials are proposed in generations of fixed size, each from the results of the generations before alone: how many
run at once, in which order they end, and whether the search was interrupted change nothing in what is found. The
same holds for what ends a trial or a search early, but for the cap on CPU seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from specml.space import with_settings
from specml.stages.cluster import ClusterJudges
from specml.stages.cross_validation import cross_validate
from specml.stages.journal import Journal, Trial
from specml.stages.judges import Judges
from specml.stages.proposals import best_of, proposed, usual_space
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl

    from specml.data import Layout
    from specml.kinds import Candidate
    from specml.stages.work import Work

GENERATION = 4
"""Trials proposed at once."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: Trial
    """The first of equals, with its out-of-fold predictions."""
    trials: tuple[Trial, ...] = ()
    """Every trial by its number; none where the candidate's own options were all that was tried."""
    planned: int = 1
    ended_by: Literal["trials", "patience", "max_cpu_seconds"] = "trials"

    @property
    def pruned(self) -> int:
        """Trials that were given up before their last fold."""
        return sum(trial.judged.pruned for trial in self.trials)


def search(work: Work, candidate: Candidate, layout: Layout, train: pl.DataFrame, trials: int) -> Found:
    """Try ``trials`` settings of ``candidate``; goes on from what its journal holds."""
    spec, space = work.spec, candidate.space or usual_space(candidate, layout, train)
    judge = partial(cross_validate, spec, layout=layout, train=train)
    if trials == 1 or not space:
        return Found(Trial(0, {}, judge(candidate=candidate, threads=threads(), say=work.say)))
    journal, wanted = Journal.open(work, candidate), spec.search
    known = {trial.number: trial for trial in journal.read()}
    course = _Course(work, trials, wanted.max_cpu_seconds)
    silent = partial(judge, say=_silent)
    on_cluster = wanted.executor == "ray"
    aside = journal.path.with_name("begin")
    with ClusterJudges(silent, wanted.ray_address) if on_cluster else Judges(silent, GENERATION, aside) as judges:
        for first in range(0, trials, GENERATION):
            numbers = range(first, min(first + GENERATION, trials))
            settings = proposed(candidate, space, spec, course.trials, numbers)
            rival = course.best.judged.folds if first else ()
            course.add(known[number] for number in numbers if number in known)
            new = {n: with_settings(candidate, one) for n, one in settings.items() if n not in known}
            for number, (judged, seconds) in judges(new, rival, course.may_begin):
                trial = Trial(number, settings[number], judged, seconds)
                journal.write(trial)
                course.add([trial])
                course.tell(len(judges.nodes))
            if course.ends(numbers.stop, wanted.patience):
                break
    best = course.best
    best = replace(best, judged=replace(best.judged, out_of_fold=journal.out_of_fold(best.number)))
    return Found(best, tuple(course.trials), trials, course.ended_by)


@dataclass
class _Course:
    """How far a search is."""

    work: Work
    planned: int
    cap: float | None
    """CPU seconds."""
    found: dict[int, Trial] = field(default_factory=dict)
    ended_by: Literal["trials", "patience", "max_cpu_seconds"] = "trials"
    begun: float = field(default_factory=time.monotonic)
    done_here: int = 0
    """Trials of this run: those of the journal took it no time."""

    @property
    def trials(self) -> list[Trial]:
        """By their numbers."""
        return [self.found[number] for number in sorted(self.found)]

    @property
    def best(self) -> Trial:
        """The first of equals among those that went through every fold."""
        return best_of(self.trials, self.work.spec.problem.metric)

    def add(self, trials: Iterable[Trial]) -> None:
        self.found |= {trial.number: trial for trial in trials}

    def may_begin(self, under_way: int) -> bool:
        """Whether another trial is expected to end within the cap, beside as many that are ``under_way``."""
        if self.cap is None or not self.found:
            return True
        spent = sum(trial.cpu_seconds for trial in self.found.values())
        if spent + (under_way + 1) * spent / len(self.found) <= self.cap:
            return True
        self.ended_by = "max_cpu_seconds"
        return False

    def ends(self, made: int, patience: int | None) -> bool:
        """Whether the search is over after the first ``made`` trials."""
        if self.ended_by == "max_cpu_seconds":
            what = f"search.max_cpu_seconds ({self.cap:g}) ended the search after {len(self.found)} of {self.planned}"
            self.work.say(f"{what} trials: a repeated run may find another model", note=True)
            return True
        if patience is not None and made < self.planned and made - 1 - self.best.number >= patience:
            self.ended_by = "patience"
        return self.ended_by == "patience"

    def tell(self, nodes: int) -> None:
        """Tell a person, and as facts a program, after each trial."""
        self.done_here += 1
        made, metric, best = len(self.found), self.work.spec.problem.metric, self.best
        left = (time.monotonic() - self.begun) / self.done_here * (self.planned - made)
        pruned = sum(trial.judged.pruned for trial in self.found.values())
        facts: dict[str, Any] = {
            "trials": made,
            "planned": self.planned,
            "pruned": pruned,
            "metric": metric,
            "best": best.mean,
            "best_trial": best.number,
            "seconds_left": round(left, 3),
        }
        text = f"trial {made} of {self.planned}: best {metric} {best.mean:.4f} (trial {best.number})"
        text += f", {pruned} pruned" if pruned else ""
        if nodes:
            facts["nodes"] = nodes
            text += f", by {nodes} node{'s' if nodes > 1 else ''}"
        self.work.say(text, done=0.9 * made / self.planned, search=facts)


def _silent(text: str, done: float = 0.0) -> None:
    """Tell nobody: the trial is told as a whole."""
