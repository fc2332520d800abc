"""Whether live prediction intervals hold as much as they should."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Verdict, accused, held
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
        yield from super().disagreements(spec)

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
        return accused(NAME, share, interval, window.rows, minimum=self.min)
