"""How far apart the outcomes of protected groups are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.casting import declared_groups
from specml.component import Disagreement
from specml.data import MISSING
from specml.evidence import Evidence, Interval, Outcome, Slice, Verdict, wilson
from specml.kinds import Gate, unprotected

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

Policy = Literal["block", "warn"]


class GroupDisparity(Gate):
    """A rate of each protected group stays close to the highest such rate.

    Judged on the confidence bound of the smallest ratio, or of the largest difference.

    Three verdicts. *Holds*: the bound meets the threshold for every group. *Refused*: for some group the whole
    interval lies beyond it. *Not measured*: the rows can't tell, because a group has fewer than
    ``min_group_size`` of them or its interval straddles the threshold; ``policy`` decides what that means.
    The gate assesses a disparity; it does not certify that there is none.

    References: Newcombe (1998), *Statistics in Medicine* 17:873-890, method 10 (difference of two Wilson
    intervals); Donner & Zou (2012), *Statistical Methods in Medical Research* 21:347-359 (MOVER, ratio);
    Bonferroni over the groups compared. 29 CFR 1607.4(D) for the ratio of selection rates and 0.8.
    """

    type: Literal["group_disparity"] = "group_disparity"
    metric: Literal[
        "selection_rate_ratio",
        "selection_rate_difference",
        "true_positive_rate_ratio",
        "true_positive_rate_difference",
        "false_positive_rate_ratio",
        "false_positive_rate_difference",
    ]
    """Rates are of the favourable class: how often it is decided, among all rows, among those whose true
    outcome it is, and among those whose true outcome it is not. A row that is not decided counts among them, as one
    that did not get it: a model that abstains more often for a group shows here."""
    by: Annotated[tuple[str, ...], Field(min_length=1)]
    """Protected columns, each judged by itself."""
    min: Annotated[float, Field(gt=0, le=1)] | None = None
    """Ratios: the lower bound must reach it."""
    max: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Differences: the upper bound must stay within it."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided intervals, over all groups of a column together."""
    min_group_size: Annotated[int, Field(ge=1)] = 100
    """Fewer rows (of those that the rate is over) than this are not measured."""
    policy: Policy = "block"
    """What ``not measured`` does: refuse the release, or let it pass with the fact told."""
    group_policy: dict[str, Policy] = {}
    """Another policy for single groups, by ``column=group``."""

    @model_validator(mode="after")
    def _bound(self) -> Self:
        bound, other = ("min", "max") if self.metric.endswith("ratio") else ("max", "min")
        if getattr(self, bound) is None or getattr(self, other) is not None:
            kind = "ratio" if bound == "min" else "difference"
            raise PydanticCustomError(
                "bound", "needs {bound}, and only that: it judges a {kind}.", {"bound": bound, "kind": kind}
            )
        return self

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.learns == "regression":
            yield Disagreement(key=("type",), what="needs decisions, which a regression problem has none of.")
        if spec.problem.task == "multiclass" and spec.problem.favourable_class is None:
            hint = "Set problem.favourable_class."
            yield Disagreement(key=("type",), what="needs to know which of several classes a person wants.", hint=hint)
        for index, column in enumerate(self.by):
            yield from unprotected(spec, column, ("by", index))
        for group in self.group_policy:
            column, _, name = group.partition("=")
            known = (*declared_groups(spec.column(column)), "other", MISSING)
            if column in self.by and len(known) > 2 and name not in known:
                what = f"names {name!r}, which is no group of {column!r}."
                yield Disagreement(key=("group_policy", group), what=what, hint=f"Known: {', '.join(known)}.")
            if column not in self.by:
                yield Disagreement(
                    key=("group_policy", group), what="names no group of a column in `by`; write column=group."
                )

    @override
    def check(self, evidence: Evidence) -> Verdict:
        bound = f"≥ {self.min:g}" if self.min is not None else f"≤ {self.max:g}"
        slices: list[Slice] = []
        for column in self.by:
            slices += self._compare(column, evidence)
        if evidence.decisions is None or not slices:
            return Verdict(outcome="not measured", reason="no group was measured.", n=len(evidence.y), threshold=bound)
        outcomes = {s.outcome for s in slices}
        outcome: Outcome = (
            "refused" if "refused" in outcomes else "not measured" if "not measured" in outcomes else "holds"
        )
        unmeasured = [s for s in slices if s.outcome == "not measured"]
        measured = [s for s in slices if s.value is not None]
        worst = (min if self.min is not None else max)(measured, key=_value, default=None)
        return Verdict(
            outcome=outcome,
            reason=self._reason(outcome, slices, worst),
            value=worst.value if worst else None,
            interval=worst.interval if worst else None,
            n=len(evidence.y),
            threshold=bound,
            slices=tuple(slices),
            blocking=any(self.group_policy.get(s.name, self.policy) == "block" for s in unmeasured),
        )

    def _reason(self, outcome: Outcome, slices: list[Slice], worst: Slice | None) -> str:
        concerned = [s for s in slices if s.outcome == outcome]
        if outcome == "holds":
            return f"{self.metric}: the bound is met for all {len(slices)} groups" + (
                f"; the furthest apart is {worst.name}." if worst else "."
            )
        names = ", ".join(f"{s.name} ({s.note})" if s.note else s.name for s in concerned)
        return f"{self.metric}: {outcome} for {names}."

    def _compare(self, column: str, evidence: Evidence) -> list[Slice]:
        """Each group of a column beside the group with the highest rate."""
        values = evidence.groups[column]
        names = sorted({*values.tolist(), *evidence.declared_groups.get(column, ())})
        rates = {name: group_rate(self.metric, evidence, values == name) for name in names}
        measured = {name: rate for name, rate in rates.items() if rate.n >= self.min_group_size}
        if not measured or len(rates) < 2:
            alone = "the only group" if len(rates) < 2 else ""
            return [
                Slice(
                    name=f"{column}={group}", n=round(rate.n), outcome="not measured", note=alone or self._too_few(rate)
                )
                for group, rate in rates.items()
            ]
        reference = max(sorted(measured), key=lambda name: measured[name].value)
        comparisons = max(1, len(measured) - 1)
        confidence = 1 - (1 - self.confidence) / comparisons
        slices = []
        for group, rate in rates.items():
            name = f"{column}={group}"
            if group not in measured:
                slices.append(Slice(name=name, n=round(rate.n), outcome="not measured", note=self._too_few(rate)))
            elif group != reference:
                slices.append(self._judge(name, rate, measured[reference], reference, confidence))
        return slices

    def _too_few(self, rate: Rate) -> str:
        return f"{rate.n:.0f} rows, fewer than {self.min_group_size}"

    def _judge(self, name: str, rate: Rate, best: Rate, reference: str, confidence: float) -> Slice:
        if self.min is not None:
            value, interval = ratio(rate, best, confidence)
            if value is None or interval is None:
                return Slice(name=name, n=round(rate.n), outcome="not measured", note=f"the rate of {reference} is 0")
            holds, refused = interval.low >= self.min, interval.high < self.min
        else:
            assert self.max is not None
            value, interval = difference(best, rate, confidence)
            holds, refused = interval.high <= self.max, interval.low > self.max
        outcome: Outcome = "holds" if holds else "refused" if refused else "not measured"
        note = f"{value:.3f}, {interval.low:.3f} to {interval.high:.3f}, beside {reference}"
        return Slice(name=name, n=round(rate.n), value=value, interval=interval, outcome=outcome, note=note)


class Rate(NamedTuple):
    """``hits`` of ``n`` rows."""

    hits: float
    n: float

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else float("nan")


def difference(a: Rate, b: Rate, confidence: float) -> tuple[float, Interval]:
    """``a - b`` with Newcombe's interval from two Wilson intervals."""
    wa, wb = wilson(*a, confidence), wilson(*b, confidence)
    low = a.value - b.value - ((a.value - wa.low) ** 2 + (wb.high - b.value) ** 2) ** 0.5
    high = a.value - b.value + ((wa.high - a.value) ** 2 + (b.value - wb.low) ** 2) ** 0.5
    return a.value - b.value, Interval(low=low, high=high, confidence=confidence, method="newcombe")


def ratio(a: Rate, b: Rate, confidence: float) -> tuple[float | None, Interval | None]:
    """``a / b`` with the MOVER interval from two Wilson intervals; None when ``b`` is 0."""
    if b.hits == 0:
        return None, None
    wa, wb = wilson(*a, confidence), wilson(*b, confidence)
    p, q, product = a.value, b.value, a.value * b.value
    low_root = max(0.0, product**2 - wa.low * wb.high * (2 * p - wa.low) * (2 * q - wb.high))
    high_root = max(0.0, product**2 - wa.high * wb.low * (2 * p - wa.high) * (2 * q - wb.low))
    low = (product - low_root**0.5) / (wb.high * (2 * q - wb.high))
    high = (product + high_root**0.5) / (wb.low * (2 * q - wb.low))
    return p / q, Interval(low=max(0.0, low), high=high, confidence=confidence, method="mover-wilson")


def _value(one: Slice) -> float:
    return one.value if one.value is not None else float("nan")


def group_rate(metric: str, evidence: Evidence, mask: np.ndarray) -> Rate:
    """A rate over the rows in ``mask``; weighted rows count as Kish's effective number of them (Kish 1965, p. 259)."""
    assert evidence.decisions is not None
    if metric.startswith("true_positive"):
        mask = mask & (evidence.y == evidence.favourable)
    elif metric.startswith("false_positive"):
        mask = mask & (evidence.y != evidence.favourable)
    selected = evidence.decisions[mask] == evidence.favourable
    if evidence.weight is None:
        return Rate(float(selected.sum()), float(mask.sum()))
    weight = evidence.weight[mask]
    total = float(weight.sum())
    effective = total**2 / float((weight**2).sum()) if total else 0.0
    return Rate(float(weight[selected].sum()) / total * effective if total else 0.0, effective)
