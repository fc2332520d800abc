"""As good on other rows as on those it saw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml import intervals
from specml.component import Disagreement
from specml.evidence import Evidence, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import TABLE, Judged, known

if TYPE_CHECKING:
    from specml.spec import Spec

FEWEST = 3
"""Folds below which a spread says nothing."""
TINY = 1e-30
"""Keeps a mean, or an error, of 0 from a division."""


class Stability(Gate):
    """A metric moves little: over the folds of cross-validation, or from the rows that trained to those that did not.

    ``of: folds`` judges the standard deviation of the primary metric over the folds, as a share of its mean, on the
    upper end of the χ² interval. Folds share training rows, so that they vary less than new tables would: there is no
    unbiased estimate of that (Bengio & Grandvalet 2004, *Journal of Machine Learning Research* 5:1089-1105).

    ``of: gap`` judges by how much the metric is better on training rows than on the held-out ones, in the metric's
    unit, of an error in the target's unit as a share of the held-out error. On the upper end of the interval of two
    independent samples (Zou & Donner 2008, *Statistics in Medicine* 27:1693-1702; the ratio by Donner & Zou 2012,
    *Statistical Methods in Medical Research* 21:347-359). A flexible model has a gap without being worse for it: the
    gate says how far its training score misleads. Under ``data.split.method: time`` the gap also holds what changed.
    """

    stricter: ClassVar = {}
    reads_training: ClassVar[bool] = True

    type: Literal["stability"] = "stability"
    of: Literal["folds", "gap"]
    """What may not move: the ``folds``' scores, or the ``gap`` between training and held-out rows."""
    metric: str | None = None
    """``gap``: a metric of the problem's task; the primary one unless said. Folds are known by the primary one."""
    max: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The upper confidence bound must stay within it. Of three folds that bound is 6.3 times the deviation that they
    show, of five 2.9 times, of ten 1.8 times: more folds tell more."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """``gap``: fewer training or holdout rows are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.of == "folds":
            if self.metric is not None:
                what = f"has no effect on folds, which are known by {spec.problem.metric}."
                yield Disagreement(key=("metric",), what=what, hint="Leave it out, or say of: gap.")
            if spec.search.folds < FEWEST:
                what = f"needs {FEWEST} folds at least, and search.folds is {spec.search.folds}."
                yield Disagreement(key=("of",), what=what, hint="Raise search.folds.")
        elif self.metric is not None and self.metric not in (found := known(spec.problem)):
            what = f"{self.metric!r} is no metric for a {spec.problem.task} problem."
            yield Disagreement(key=("metric",), what=what, hint=f"Known: {', '.join(found)}.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        return self._folds(evidence) if self.of == "folds" else self._gap(evidence)

    def _folds(self, evidence: Evidence) -> Verdict:
        import numpy as np

        scores, n = evidence.folds, len(evidence.folds)
        name = f"the standard deviation of {evidence.metric} over the folds, as a share of its mean,"
        if not len(evidence.y) or n < FEWEST or not np.isfinite(scores).all():
            reason = f"{name.rstrip(',')} could not be measured on {n} folds, fewer than {FEWEST} or not defined."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=f"≤ {self.max:g}")
        middle = max(abs(float(np.mean(scores))), TINY)
        value, interval = intervals.spread([one / middle for one in scores], self.confidence)
        found = bounded(name, value, interval, n, maximum=self.max)
        told = ", ".join(f"{one:.4g}" for one in scores)
        return found.model_copy(update={"reason": f"{found.reason[:-1]}; the {n} folds: {told}."})

    def _gap(self, evidence: Evidence) -> Verdict:
        import numpy as np

        metric = TABLE[self.metric or evidence.metric].at(evidence.quantiles)
        n, value, interval, told = len(evidence.y), float("nan"), None, ""
        training = evidence.training() if evidence.training is not None and n >= self.min_rows else None
        if training is not None and len(training.y) >= self.min_rows:
            sides = []
            for one in (training, evidence):
                rows = Judged(*one.at(slice(None)))
                found = metric.interval(rows, self.confidence, evidence.seed, one.serial)
                sides.append((metric.measure(*rows), found))
            (inner, of_inner), (outer, of_outer) = sides
            told = (
                f"; {metric.name} is {inner:.4g} on {len(training.y):,} training rows and {outer:.4g} on held-out ones"
            )
            if of_inner and of_outer and np.isfinite([inner, outer]).all():
                if metric.of_target:
                    share = intervals.ratio(inner, max(outer, TINY), of_inner, of_outer)
                    value, interval = 1 - inner / max(outer, TINY), share and intervals.turned(share, 1.0)
                elif metric.larger_is_better:
                    value, interval = inner - outer, intervals.apart(inner, outer, of_inner, of_outer)
                else:
                    value, interval = outer - inner, intervals.apart(outer, inner, of_outer, of_inner)
        share_of = ", as a share of the held-out error," if metric.of_target else ""
        verdict = bounded(f"the gap in {metric.name}{share_of}", value, interval, n, maximum=self.max)
        if n < self.min_rows:
            told = f": fewer than {self.min_rows:,}"
        return verdict.model_copy(update={"reason": f"{verdict.reason[:-1]}{told}."})
