"""Prediction intervals hold as much as they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Outcome, Slice, Verdict, bounded, held
from specml.kinds import Gate, unprotected

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

NAME = "the share of targets within their prediction interval"


class Coverage(Gate):
    """The share of held-out rows whose target lies in its prediction interval, and that of each protected group.

    Judged on the lower end of Wilson's interval of that share. An interval that holds 90 % of all rows may hold far
    fewer of some group's, where the model errs more: ``by`` names the columns whose groups must be held, too, each
    with Bonferroni's correction for how many there are. Every group that was not measured refuses.

    Wilson's interval takes rows for independent; neighbours in time are not quite, and are told apart with less.
    """

    type: Literal["coverage"] = "coverage"
    min: Annotated[float, Field(gt=0, lt=1)]
    """The lower confidence bound must reach it: below ``selection.prediction_interval.coverage``, which not even the
    true interval would be shown to hold."""
    by: tuple[str, ...] = ()
    """Protected columns, each of whose groups is judged beside all rows."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval; over all groups of a column together."""
    min_rows: Annotated[int, Field(ge=10)] = 100
    """Fewer rows, in all or of a group, are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        asked = spec.selection.prediction_interval
        if asked is None:
            hint = "Say selection.prediction_interval: {coverage: 0.9}"
            yield Disagreement(key=("type",), what="needs prediction intervals, and none are asked for.", hint=hint)
        elif self.min >= asked.coverage:
            what = f"is {self.min:g}, but the interval is to hold {asked.coverage:g}: chance would refuse half of them."
            yield Disagreement(key=("min",), what=what, hint="Ask for less, or for intervals that hold more.")
        for index, column in enumerate(self.by):
            yield from unprotected(spec, column, ("by", index))

    @override
    def check(self, evidence: Evidence) -> Verdict:
        n = len(evidence.y)
        if evidence.ends is None:
            reason = "the model answers with no prediction interval."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=f"≥ {self.min:g}")
        share, interval, rows = held(evidence.y, evidence.ends, evidence.weight, self.confidence)
        verdict = bounded(NAME, share, interval if rows >= self.min_rows else None, n, minimum=self.min)
        slices = tuple(one for column in self.by for one in self._groups(column, evidence))
        failed = [one for one in slices if one.outcome != "holds"]
        if not failed or verdict.outcome == "refused":
            return verdict.model_copy(update={"slices": slices})
        outcome: Outcome = "refused" if any(one.outcome == "refused" for one in failed) else "not measured"
        told = ", ".join(f"{one.name} ({one.note})" for one in failed if one.outcome == outcome)
        changed = {"outcome": outcome, "reason": f"{NAME}: {outcome} for {told}.", "slices": slices}
        return verdict.model_copy(update=changed)

    def _groups(self, column: str, evidence: Evidence) -> Iterable[Slice]:
        values = evidence.groups[column]
        names = sorted({*values.tolist(), *evidence.declared_groups.get(column, ())})
        confidence = 1 - (1 - self.confidence) / max(1, len(names))
        for name in names:
            yield self._judge(f"{column}={name}", values == name, evidence, confidence)

    def _judge(self, name: str, rows: np.ndarray, evidence: Evidence, confidence: float) -> Slice:
        assert evidence.ends is not None
        weight = None if evidence.weight is None else evidence.weight[rows]
        share, interval, n = held(evidence.y[rows], evidence.ends[rows], weight, confidence)
        if interval is None or n < self.min_rows:
            note = f"{n:.0f} rows, fewer than {self.min_rows}"
            return Slice(name=name, n=round(n), outcome="not measured", note=note)
        outcome: Outcome = "holds" if interval.low >= self.min else "refused"
        note = f"{share:.3f}, {interval.low:.3f} to {interval.high:.3f}"
        return Slice(name=name, n=round(n), value=share, interval=interval, outcome=outcome, note=note)
