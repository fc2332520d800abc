"""Good enough everywhere, not on average alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml import formulas
from specml.component import Disagreement
from specml.evidence import ROWS_TOLD, Evidence, Interval, Outcome, Slice, Verdict
from specml.kinds import Gate, Stricter
from specml.metrics import TABLE, Judged, Metric, bootstrap, known
from specml.resamples import losses
from specml.segments import Search, Segment, by_category, by_quantile, discovered

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from specml.spec import Spec

NAMED = 4
"""Slices that a reason names."""


class Found(NamedTuple):
    """A slice that is to be judged."""

    name: str
    rows: np.ndarray
    """Indices int64 of the held-out rows that judge it."""
    declared: bool = True


class Slices(Gate):
    """No segment of the rows is much worse off than a bound, or than all rows: declared ones, and ones that are found.

    ``by`` and ``where`` declare segments. ``discover`` looks for weak ones: a shallow tree is fitted to what each row
    loses on one half of the held-out rows, and its worst leaves are judged on the other half, which did not choose
    them: measured on the rows that chose them, the worst of many segments looks bad in any model (Chung et al. 2019,
    *Slice Finder*, IEEE ICDE; Sagadeeva & Boehm 2021, *SliceLine*, SIGMOD). Of a forecast the earlier half chooses.

    Each segment is judged on its interval against the bound: it *holds* where the bound is met by the whole interval,
    is *refused* where none of it meets it, and else, or with fewer than ``min_rows`` rows, is *not measured*: of
    declared segments ``policy`` decides what that means; a found one speaks only where it is shown to be weak. That
    none is found does not show that there is none. Beside all rows (``max_drop``) their value is taken as known, which
    makes intervals a little too wide, since a segment is a part of them.

    Over many segments chance alone would refuse one: Holm's step-down procedure (Holm 1979, *Scandinavian Journal of
    Statistics* 6:65-70) or Bonferroni's keep the chance of any false refusal within one less ``confidence``.
    Intervals are in closed form where one is known, else normal, by the bootstrap's standard error (Efron & Tibshirani
    1993, section 12.3), whose tails resamples would take too many of. Small segments of skewed metrics are the weak
    point of both.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {
        "where": "more",
        "max_drop": "smaller",
        # A found segment speaks only where it is shown to be weak, a declared one must be shown not to be.
        **dict.fromkeys(("confidence", "min_rows", "multiplicity"), ()),
    }

    type: Literal["slices"] = "slices"
    metric: str | None = None
    """A metric of the problem's task; the problem's primary one unless said."""
    by: tuple[str, ...] = ()
    """Columns: each category, and the ``bins`` quantile bins of a number, is a segment. Categories with fewer than
    ``min_rows`` rows are one together."""
    bins: Annotated[int, Field(ge=2, le=20)] = 4
    """Of equally many rows, in which numbers are divided."""
    where: dict[str, str] = {}
    """Segments by name, each a condition over columns in the language of ``features.derive``: ``age > 60 and job ==
    'clerk'``. A comparison with a missing value is false; ``isnan(age)`` asks for it."""
    discover: Annotated[int, Field(ge=0, le=10)] = 0
    """How many weak segments are looked for."""
    depth: Annotated[int, Field(ge=1, le=4)] = 2
    """``discover``: by how many conditions a found segment is told at most."""
    min: float | None = None
    """Every segment must reach it, where larger is better."""
    max: float | None = None
    """Every segment must stay within it, where smaller is better."""
    max_drop: Annotated[float, Field(gt=0)] | None = None
    """By how much a segment may be worse than all rows: in the metric's unit, of an error in the target's unit as a
    share of that of all rows."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided intervals, over all segments together."""
    multiplicity: Literal["holm", "bonferroni", "none"] = "holm"
    """How it is shared among segments; Holm's finds more with the same assurance."""
    min_rows: Annotated[int, Field(ge=20)] = 100
    """A segment of fewer rows is not measured; nor are fewer than twice as many in all."""
    policy: Literal["block", "warn"] = "block"
    """What a declared segment that is not measured does: refuse the release, or let it pass with the fact told."""

    @field_validator("where")
    @classmethod
    def _conditions(cls, where: dict[str, str]) -> dict[str, str]:
        for expr in where.values():
            try:
                formulas.parsed(expr)
            except ValueError as error:
                raise PydanticCustomError("where", "{why}", {"why": str(error)}) from None
        return where

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(one is not None for one in (self.min, self.max, self.max_drop)) != 1:
            raise PydanticCustomError("one_bound", "needs one of min, max and max_drop.")
        if not (self.by or self.where or self.discover):
            raise PydanticCustomError("no_slices", "needs segments: by, where or discover.")
        return self

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        name = self.metric or spec.problem.metric
        metric = (found := known(spec.problem)).get(name)
        if metric is None:
            what = f"{name!r} is no metric for a {spec.problem.task} problem."
            yield Disagreement(key=("metric",), what=what, hint=f"Known: {', '.join(found)}.")
            return
        if name == "max_error":
            yield Disagreement(key=("metric",), what="is a largest error, which has no interval.", hint="Use another.")
        right, wrong = ("min", "max") if metric.larger_is_better else ("max", "min")
        if getattr(self, wrong) is not None:
            better = "larger" if metric.larger_is_better else "smaller"
            what = f"bounds {name} on the wrong side: {better} is better."
            yield Disagreement(key=(wrong,), what=what, hint=f"Use {right}.")
        named: list[tuple[tuple[str | int, ...], Iterable[str]]] = []
        named += [(("by", index), [column]) for index, column in enumerate(self.by)]
        named += [(("where", one), formulas.columns(expr)) for one, expr in self.where.items()]
        for key, columns in named:
            if spec.problem.target in columns:
                what = f"names {spec.problem.target!r}, the target: no row is known by it before it is judged."
                yield Disagreement(key=key, what=what, hint="Name columns that are known beforehand.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        name, n = self.metric or evidence.metric, len(evidence.y)
        metric, bound = TABLE[name].at(evidence.quantiles), self._words(name)
        lacking = ""
        if n < 2 * self.min_rows:
            lacking = f"{n:,} rows are fewer than {2 * self.min_rows:,}"
        elif evidence.rows is None or (self.discover and evidence.model is None):
            lacking = f"of {n:,} rows it is not known what the model was given"
        if lacking:
            return Verdict(outcome="not measured", reason=f"{name}: {lacking}.", n=n, threshold=bound)
        whole = metric.measure(*evidence.at(slice(None)))
        if not np.isfinite(whole) or not np.isfinite(evidence.scores).all():
            return Verdict(outcome="not measured", reason=f"{name} is not defined on {n:,} rows.", n=n, threshold=bound)
        limit = self._limit(metric, whole)
        if self.max_drop is not None:
            bound = f"{'≥' if metric.larger_is_better else '≤'} {limit:.4g}, {bound}"
        try:
            segments = [*self._declared(evidence)]
        except ValueError as error:
            return Verdict(outcome="not measured", reason=f"{error}"[:-1] + ".", n=n, threshold=bound)
        segments += self._found(evidence)
        judged = self._judged(metric, evidence, segments, limit)
        return self._verdict(evidence, whole, bound, list(zip(judged, segments, strict=True)))

    def _words(self, name: str) -> str:
        if self.max_drop is not None:
            return f"worse than all rows by ≤ {self.max_drop:g}"
        return f"≥ {self.min:g}" if self.min is not None else f"≤ {self.max:g}"

    def _limit(self, metric: Metric, whole: float) -> float:
        """The value that every segment must reach, or stay within."""
        if self.max_drop is None:
            return self.min if self.min is not None else self.max  # type: ignore[return-value]
        if metric.of_target:
            return whole * (1 + self.max_drop)
        return whole - self.max_drop if metric.larger_is_better else whole + self.max_drop

    def _declared(self, evidence: Evidence) -> Iterator[Found]:
        import numpy as np

        assert evidence.rows is not None
        for column in self.by:
            if column not in evidence.rows.columns:
                raise ValueError(f"the model and the spec's protected columns know no {column!r}.")
            segments: Iterable[Segment] = (
                by_quantile(evidence.rows[column], self.bins)
                if column not in evidence.groups and evidence.rows[column].dtype.is_numeric()
                else by_category(column, evidence.rows[column], self.min_rows)
            )
            for one in segments:
                yield Found(one.name, np.flatnonzero(one.holds))
        for name, expr in self.where.items():
            yield Found(name, np.flatnonzero(formulas.computed(expr, evidence.rows) == 1))

    def _found(self, evidence: Evidence) -> Iterator[Found]:
        """The worst leaves of a tree on the losses of one half, with their rows of the other."""
        import numpy as np

        if not self.discover:
            return
        assert evidence.rows is not None
        n = len(evidence.y)
        if evidence.serial is not None:
            chooses = np.argsort(np.argsort(evidence.serial.number, kind="stable"), kind="stable") < n // 2
        else:
            chooses = np.random.default_rng(evidence.seed).permutation(n) < n // 2
        search = Search(chooses, self.discover, self.depth, self.min_rows)
        for one in discovered(evidence.rows, self._features(evidence), losses(evidence), search):
            yield Found(one.name, np.flatnonzero(one.holds & ~chooses), declared=False)

    @staticmethod
    def _features(evidence: Evidence) -> list[str]:
        """What a segment may be told by: what the model is given, texts and images not, and the protected columns."""
        given = [] if evidence.model is None else [one.name for one in evidence.model.inputs if one.kind != "text"]
        return [*given, *(name for name in evidence.groups if name not in given)]

    def _judged(self, metric: Metric, evidence: Evidence, segments: list[Found], limit: float) -> list[Slice]:
        """Each segment's verdict, in order."""
        measured: dict[int, tuple[float, Callable[[float], Interval | None]]] = {}
        for index, one in enumerate(segments):
            rows = Judged(*evidence.at(one.rows))
            if metric.counted(rows) >= self.min_rows:
                serial = evidence.only(one.rows).serial if evidence.serial else None
                measured[index] = metric.measure(*rows), partial(_interval, metric, rows, evidence.seed, serial)
        beyond = {index: _beyond(metric, *one, limit) for index, one in measured.items()}
        order = sorted(measured, key=lambda index: -beyond[index])
        out: dict[int, Slice] = {}
        left, weak = len(order), True
        for index in order:
            share = {"holm": max(1, left), "bonferroni": len(order), "none": 1}[self.multiplicity]
            value, interval_at = measured[index]
            interval = interval_at(1 - (1 - self.confidence) / share)
            out[index] = self._slice(segments[index], value, interval, limit, metric)
            weak = weak and out[index].outcome == "refused"
            left -= 1 if weak else 0
        for index, one in enumerate(segments):
            if index not in out:
                few = metric.counted(Judged(*evidence.at(one.rows)))
                note = f"{few:,} rows, fewer than {self.min_rows:,}"
                out[index] = Slice(name=one.name, n=len(one.rows), outcome="not measured", note=note)
        return [out[index] for index in range(len(segments))]

    def _slice(self, one: Found, value: float, interval: Interval | None, limit: float, metric: Metric) -> Slice:
        import numpy as np

        n = len(one.rows)
        if interval is None or not np.isfinite([value, interval.low, interval.high]).all():
            return Slice(name=one.name, n=n, outcome="not measured", note=f"not defined on {n:,} rows")
        if metric.larger_is_better:
            holds, refused = interval.low >= limit, interval.high < limit
        else:
            holds, refused = interval.high <= limit, interval.low > limit
        outcome: Outcome = "holds" if holds else "refused" if refused else "not measured"
        note = f"{value:.4g}, {interval.low:.4g} to {interval.high:.4g}, on {n:,} rows"
        return Slice(name=one.name, n=n, value=value, interval=interval, outcome=outcome, note=note)

    def _verdict(self, evidence: Evidence, whole: float, bound: str, judged: list[tuple[Slice, Found]]) -> Verdict:
        import numpy as np

        name, n = self.metric or evidence.metric, len(evidence.y)
        every = f"{name} is {whole:.4g} on all {n:,} rows"
        if not judged:
            # Nothing is declared, and the search named no segment: no leaf lost more than all rows did.
            reason = f"{every}, and no segment of {self.min_rows} rows was found that loses more."
            return Verdict(outcome="holds", reason=reason, n=n, threshold=bound)
        unknown = [one for one, found in judged if found.declared and one.outcome == "not measured"]
        weak = [one for one, _ in judged if one.outcome == "refused"]
        known_ones = [pair for pair in judged if pair[0].value is not None]
        outcome: Outcome = "refused" if weak else "not measured" if unknown or not known_ones else "holds"
        sign = -1 if TABLE[name].larger_is_better else 1
        worst = max(
            known_ones, key=lambda pair: (pair[0].outcome == "refused", sign * (pair[0].value or 0)), default=None
        )
        found = sum(not one.declared for _, one in judged)
        many = "segment" if len(judged) == 1 else "segments"
        of = f"{every}, and of {len(judged)} {many}{f', {found} of them found,' if self.discover else ''}"
        if told := weak or unknown:
            more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
            what = f"{len(told)} {'is' if len(told) == 1 else 'are'} {outcome}: "
            what += "; ".join(f"{one.name} ({one.note})" for one in told[:NAMED]) + more
        else:
            what = "none is shown to be weak" + (f"; the worst is {worst[0].name} ({worst[0].note})" if worst else "")
        rows: tuple[int, ...] = ()
        if worst is not None:
            inside = worst[1].rows
            rows = tuple(inside[np.argsort(-losses(evidence)[inside], kind="stable")][:ROWS_TOLD].tolist())
        return Verdict(
            outcome=outcome,
            reason=f"{of} {what}.",
            value=worst[0].value if worst else None,
            interval=worst[0].interval if worst else None,
            n=n,
            threshold=bound,
            slices=tuple(one for one, _ in judged),
            rows=rows,
            blocking=self.policy == "block",
        )


def _interval(metric: Metric, rows: Judged, seed: int, serial: Any, confidence: float) -> Interval | None:
    """In closed form, else normal by the bootstrap's standard error."""
    from scipy.special import ndtri

    if metric.analytic and serial is None:
        return metric.interval(rows, confidence, seed, None, "analytic")
    if rows.weight is not None and not metric.weighs:
        return None
    found = bootstrap(metric.over(*rows), len(rows.y), NORMAL, seed, serial)
    if found is None:
        return None
    if found.low == found.high:
        return metric.faultless(found.model_copy(update={"confidence": confidence}), rows, confidence)
    value = metric.measure(*rows)
    half = (found.high - found.low) / 2 * float(ndtri(0.5 + confidence / 2)) / float(ndtri(0.5 + NORMAL / 2))
    return Interval(low=value - half, high=value + half, confidence=confidence, method=f"normal, {found.method}")


NORMAL = 0.6826894921370859
"""Of the interval that is one standard error wide to both sides."""


def _beyond(metric: Metric, value: float, interval_at: Callable[[float], Interval | None], limit: float) -> float:
    """By how many standard errors a value lies beyond the limit; only the order in which segments are judged."""
    import math

    interval = interval_at(NORMAL)
    if interval is None or not math.isfinite(value):
        return -math.inf
    return metric.gain(limit, value) / max((interval.high - interval.low) / 2, 1e-300)
