"""Whether live prediction intervals hold as much as they should."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Verdict, held
from specml.kinds import Signal, Window

if TYPE_CHECKING:
    from specml.spec import Spec

NAME = "the share of labels within their prediction interval"


class Coverage(Signal):
    """The share of labels that lie in the interval that was answered, once ``specml feedback`` has brought them.

    Raised when the whole confidence interval (Wilson's) of that share lies below ``min``.
    """

    judges: ClassVar[Literal["rows", "labels"]] = "labels"

    type: Literal["coverage"] = "coverage"
    min: Annotated[float, Field(gt=0, lt=1)]
    """Raised when the upper confidence bound is below it: ``selection.prediction_interval.coverage``, or less."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""
    min_rows: Annotated[int, Field(ge=50)] = 200
    """Fewer labelled rows in a window are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        asked = spec.selection.prediction_interval
        if asked is None:
            hint = "Say selection.prediction_interval: {coverage: 0.9}"
            yield Disagreement(key=("type",), what="needs prediction intervals, and none are asked for.", hint=hint)
        elif self.min > asked.coverage:
            what = f"is {self.min:g}, more than the intervals are to hold ({asked.coverage:g}): it would be raised."
            yield Disagreement(key=("min",), what=what)
        if spec.monitoring.capture is None:
            hint = "Set monitoring.capture: {share: 1.0, retention: 30d}"
            yield Disagreement(key=("type",), what="needs captured answers to join late labels to.", hint=hint)
        if self.min_rows > spec.monitoring.window.labels:
            what = f"is {self.min_rows}, but a window has {spec.monitoring.window.labels} labels: never measured."
            hint = "Raise monitoring.window.labels, or lower this."
            yield Disagreement(key=("min_rows",), what=what, hint=hint)

    @override
    def judge(self, reference: dict[str, Any], window: Window) -> Verdict:
        bound = f"≥ {self.min:g}"
        if window.y is None or window.ends is None or window.rows < self.min_rows:
            reason = f"{window.rows:,} labelled rows, fewer than {self.min_rows:,}."
            if window.y is not None and window.ends is None:
                reason = "the live model answers with no prediction interval."
            return Verdict(outcome="not measured", reason=reason, n=window.rows, threshold=bound)
        share, interval, _ = held(window.y, window.ends, None, self.confidence)
        assert interval is not None
        beyond = interval.high < self.min
        told = f"{interval.low:.4g} to {interval.high:.4g}"
        side = "is beyond" if beyond else "is not wholly beyond"
        return Verdict(
            outcome="refused" if beyond else "holds",
            reason=f"{NAME} is {share:.4g}; its {self.confidence * 100:g} % interval, {told}, {side} {bound}.",
            value=share,
            interval=interval,
            n=window.rows,
            threshold=bound,
        )
