"""A score on the labels that came late."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Verdict, accused
from specml.kinds import Signal, Window
from specml.metrics import TABLE, bootstrap, known

if TYPE_CHECKING:
    from specml.spec import Spec


class Performance(Signal):
    """A metric of the live answers, once ``specml feedback`` has brought their labels.

    Raised when the whole confidence interval lies beyond the threshold: the model is shown to be worse than that.
    """

    judges: ClassVar[Literal["rows", "labels"]] = "labels"

    type: Literal["performance"] = "performance"
    metric: str
    """A metric of the problem's task, as roc_auc."""
    min: float | None = None
    """Raised when the upper confidence bound is below it."""
    max: float | None = None
    """Raised when the lower confidence bound is above it."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided bootstrap interval."""
    min_rows: Annotated[int, Field(ge=50)] = 200
    """Fewer labelled rows in a window are not measured."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise PydanticCustomError("one_bound", "needs either min or max.")
        return self

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        metric = (found := known(spec.problem)).get(self.metric)
        if metric is None:
            what = f"{self.metric!r} is no metric for a {spec.problem.task} problem."
            yield Disagreement(key=("metric",), what=what, hint=f"Known: {', '.join(found)}.")
        elif getattr(self, wrong := "max" if metric.larger_is_better else "min") is not None:
            better = "larger" if metric.larger_is_better else "smaller"
            what = f"bounds {self.metric} on the wrong side: {better} is better."
            yield Disagreement(key=(wrong,), what=what, hint=f"Use {'min' if wrong == 'max' else 'max'}.")
        yield from super().disagreements(spec)

    @override
    def judge(self, reference: dict[str, Any], window: Window) -> Verdict:
        bound = f"≥ {self.min:g}" if self.min is not None else f"≤ {self.max:g}"
        y, scores, decisions = window.y, window.scores, window.decisions
        if y is None or scores is None or window.rows < self.min_rows:
            reason = f"{window.rows:,} labelled rows, fewer than {self.min_rows:,}."
            return Verdict(outcome="not measured", reason=reason, n=window.rows, threshold=bound)
        metric = TABLE[self.metric].at(window.quantiles)
        interval = bootstrap(metric.over(y, scores, decisions), window.rows, self.confidence, seed=0)
        if interval is None:
            reason = f"{self.metric} is not defined on these {window.rows:,} labels."
            return Verdict(outcome="not measured", reason=reason, n=window.rows, threshold=bound)
        value = metric.measure(y, scores, decisions)
        return accused(self.metric, value, interval, window.rows, minimum=self.min, maximum=self.max)
