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
from specml.metrics import TABLE, bootstrap, known

if TYPE_CHECKING:
    from specml.spec import Spec


class MetricGate(Gate):
    """A metric's confidence bound, not its point value, meets the threshold on rows that no stage trained on.

    References: Efron & Tibshirani (1993), *An Introduction to the Bootstrap*, ch. 13 (percentile interval).
    """

    type: Literal["metric"] = "metric"
    metric: str
    """A metric of the problem's task, as roc_auc."""
    min: float | None = None
    """The lower confidence bound must reach it."""
    max: float | None = None
    """The upper confidence bound must stay within it."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Fewer holdout rows are not measured: the bootstrap is too coarse below."""

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

    @override
    def check(self, evidence: Evidence) -> Verdict:
        metric = TABLE[self.metric].at(evidence.quantiles)
        n = len(evidence.y)
        rows = evidence.at(slice(None))
        value, interval = metric.measure(*rows), None
        if n >= self.min_rows:
            interval = bootstrap(metric.over(*rows), n, self.confidence, evidence.seed, evidence.serial)
        return bounded(self.metric, value, interval, n, minimum=self.min, maximum=self.max)
