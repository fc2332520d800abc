"""A score on the holdout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import TABLE, How, Judged, known

if TYPE_CHECKING:
    from specml.spec import Spec


class MetricGate(Gate):
    """A metric's confidence bound, not its point value, meets the threshold on rows that no stage trained on.

    References: Efron & Tibshirani (1993), *An Introduction to the Bootstrap*, ch. 13 (percentile interval); Wilson
    (1927) for proportions; DeLong et al. (1988), *Biometrics* 44:837-845, for the area under the ROC curve.
    """

    type: Literal["metric"] = "metric"
    metric: str
    """A metric of the problem's task, by scikit-learn's name, as roc_auc: docs/metrics.md lists them."""
    min: float | None = None
    """The lower confidence bound must reach it."""
    max: float | None = None
    """The upper confidence bound must stay within it."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    interval: How = "auto"
    """``bootstrap``: resampled rows, of a forecast in blocks of time. ``analytic``: in closed form, where one is known:
    Wilson's for shares of rows, DeLong's for roc_auc, Student's for means of losses. ``auto``: Wilson's and DeLong's
    where they apply, which hang on no chance, and else the bootstrap."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Fewer holdout rows are not measured: intervals are too coarse below. Of scores of decisions, rows that are
    decided; weighted rows count as Kish's effective number of them."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise PydanticCustomError("one_bound", "needs either min or max.")
        return self

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        metric = (found := known(spec.problem)).get(self.metric)
        if metric is None:
            yield Disagreement(
                key=("metric",),
                what=f"{self.metric!r} is no metric for a {spec.problem.task} problem.",
                hint=f"Known: {', '.join(found)}.",
            )
            return
        wrong = "min" if not metric.larger_is_better else "max"
        if getattr(self, wrong) is not None:
            better = "larger" if metric.larger_is_better else "smaller"
            yield Disagreement(
                key=(wrong,),
                what=f"bounds {self.metric} on the wrong side: {better} is better.",
                hint=f"Use {'min' if metric.larger_is_better else 'max'}.",
            )
        if self.interval == "analytic" and (not metric.analytic or spec.problem.forecast):
            of = "a forecast, whose errors go together" if spec.problem.forecast else self.metric
            yield Disagreement(
                key=("interval",), what=f"is not known in closed form of {of}.", hint="Say auto or bootstrap."
            )
        if not metric.weighs and any(one.role == "weight" for one in spec.data.columns.values()):
            what = f"{self.metric!r} is not defined of weighted rows."
            yield Disagreement(key=("metric",), what=what, hint="Choose another, or leave data.columns' weight out.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        metric = TABLE[self.metric].at(evidence.quantiles)
        rows, n, interval = Judged(*evidence.at(slice(None))), len(evidence.y), None
        if (counted := metric.counted(rows)) < self.min_rows:
            n = counted
        else:
            interval = metric.interval(rows, self.confidence, evidence.seed, evidence.serial, self.interval)
        found = bounded(self.metric, metric.measure(*rows), interval, n, minimum=self.min, maximum=self.max)
        if 0 < n < self.min_rows:
            return found.model_copy(update={"reason": f"{self.metric}: {n:,} rows are fewer than {self.min_rows:,}."})
        if self.metric != "max_error" or interval is None:
            return found
        is_or_not = "is" if found.outcome == "holds" else "is not"
        reason = f"max_error is {found.value:.4g} on these {n} rows, which {is_or_not} {found.threshold}"
        return found.model_copy(update={"reason": f"{reason}; no interval tells it of others."})
