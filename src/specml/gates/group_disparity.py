"""How far apart the outcomes of protected groups are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.casting import declared_groups
from specml.component import Disagreement
from specml.data import MISSING
from specml.disparity import (
    FEWEST_MEANS,
    MEASURES,
    WORST_OF,
    By,
    Part,
    Policy,
    apart,
    apart_from_all,
    columns,
    each,
    grouped,
    members,
    parts,
    rounds,
    unfit,
)
from specml.evidence import ROWS_TOLD, Evidence, Interval, Outcome, Slice, Verdict
from specml.kinds import Gate

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

NAMED = 6
"""Groups that a reason names."""
RANK: dict[Outcome, int] = {"refused": 0, "not measured": 1, "holds": 2}


class GroupDisparity(Gate):
    """What each protected group gets stays close to what the group that is best off gets.

    Judged on the confidence bound of the smallest ratio, or of the largest difference.

    Three verdicts. *Holds*: the bound meets the threshold for every group. *Refused*: for some group the whole
    interval lies beyond it. *Not measured*: the rows can't tell, because a group has fewer than
    ``min_group_size`` of them or its interval straddles the threshold; ``policy`` decides what that means.
    A missing value is a group of its own. The gate assesses a disparity; it does not certify that there is none.

    A ratio is the lower by the higher, so that it is at most 1; a difference is absolute. Definitions are those of
    fairlearn's ``MetricFrame``, but for a rate over no rows, which it calls 0 and this gate not measured.

    References: Newcombe (1998), *Statistics in Medicine* 17:873-890, method 10 (difference of two Wilson
    intervals); Donner & Zou (2012), *Statistical Methods in Medical Research* 21:347-359 (MOVER, ratio);
    Efron & Tibshirani (1993), *An Introduction to the Bootstrap*, ch. 13 (calibration gaps and errors: each group's
    rows are drawn by themselves; of a forecast blocks of neighbours in time). Bonferroni over the groups compared.
    Hardt, Price & Srebro (2016), *Equality of Opportunity in Supervised Learning* (equalized odds). 29 CFR 1607.4(D)
    for the ratio of selection rates and 0.8.
    """

    type: Literal["group_disparity"] = "group_disparity"
    metric: Literal[
        "selection_rate_ratio",
        "selection_rate_difference",
        "true_positive_rate_ratio",
        "true_positive_rate_difference",
        "false_positive_rate_ratio",
        "false_positive_rate_difference",
        "false_negative_rate_ratio",
        "false_negative_rate_difference",
        "positive_predictive_value_ratio",
        "positive_predictive_value_difference",
        "equalized_odds_ratio",
        "equalized_odds_difference",
        "calibration_gap_difference",
        "mean_absolute_error_ratio",
        "mean_absolute_error_difference",
        "mean_error_difference",
    ]
    """Rates are of the favourable class: how often it is decided, among all rows, among those whose true
    outcome it is, and among those whose true outcome it is not; a false negative is denied it though it is true; the
    positive predictive value is how often it is true where it was decided. ``equalized_odds``: the worse of true and
    false positive rates. A row that is not decided counts among them, as one
    that did not get it: a model that abstains more often for a group shows here. ``calibration_gap``: the mean
    probability of the favourable class less its share, so that one group's outcomes may be overstated and another's
    understated. Regressions: the mean absolute error, and the mean of prediction less target, in the target's unit."""
    by: Annotated[tuple[By, ...], Field(min_length=1)]
    """Protected columns, each judged by itself; ``[sex, race]`` among them judges the combinations that occur."""
    compare: Literal["groups", "overall"] = "groups"
    """``groups``: each beside the one that is best off (with the highest rate; the lowest one where it is an error, or
    false negatives). ``overall``: each beside all rows, itself among them."""
    reference: dict[str, str] = {}
    """Groups to compare the others with instead, by column: ``{sex: male}``. A combination of columns is compared with
    that of their references where each has one."""
    min: Annotated[float, Field(gt=0, le=1)] | None = None
    """Ratios: the lower bound must reach it."""
    max: Annotated[float, Field(ge=0)] | None = None
    """Differences: the upper bound must stay within it."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided intervals, over all groups of a column together."""
    min_group_size: Annotated[int, Field(ge=1)] = 100
    """Fewer rows (of those that the rate is over) than this are not measured; nor is a mean of fewer than 10."""
    policy: Policy = "block"
    """What ``not measured`` does: refuse the release, or let it pass with the fact told."""
    group_policy: dict[str, Policy] = {}
    """Another policy for single groups, by ``column=group``; of combinations by ``column=group, column=group``."""

    @property
    def relative(self) -> bool:
        """It judges a ratio."""
        return self.metric.endswith("_ratio")

    @property
    def measures(self) -> tuple[str, ...]:
        """Whose worst one is judged."""
        name = self.metric.rpartition("_")[0]
        return WORST_OF.get(name, (name,))

    @model_validator(mode="after")
    def _bound(self) -> Self:
        bound, other = ("min", "max") if self.relative else ("max", "min")
        if getattr(self, bound) is None or getattr(self, other) is not None:
            kind = "ratio" if bound == "min" else "difference"
            raise PydanticCustomError(
                "bound", "needs {bound}, and only that: it judges a {kind}.", {"bound": bound, "kind": kind}
            )
        if self.max is not None and self.max >= 1 and MEASURES[self.measures[0]].of != "predictions":
            raise PydanticCustomError("bound", "needs a max below 1: shares are never further apart.")
        return self

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        yield from self._unfit(spec)
        yield from unfit(spec, self.by)
        for column, name in self.reference.items():
            known = _known(spec, column)
            if column not in columns(self.by):
                yield Disagreement(key=("reference", column), what=f"names {column!r}, which is not in `by`.")
            elif known and name not in known:
                what = f"names {name!r}, which is no group of {column!r}."
                yield Disagreement(key=("reference", column), what=what, hint=f"Known: {', '.join(known)}.")
        if self.reference and self.compare == "overall":
            what = "has no effect: groups are compared with all rows."
            yield Disagreement(key=("reference",), what=what, hint="Leave it out, or compare: overall.")
        for group in self.group_policy:
            yield from self._misnamed(spec, group)

    def _unfit(self, spec: Spec) -> Iterable[Disagreement]:
        """What is measured of another task."""
        regression, of = spec.problem.learns == "regression", MEASURES[self.measures[0]].of
        if regression and of != "predictions":
            hint = "Of regressions: mean_absolute_error_ratio, mean_absolute_error_difference, mean_error_difference."
            yield Disagreement(key=("type",), what=f"needs {of}, which a regression problem has none of.", hint=hint)
        if not regression and of == "predictions":
            what = "is an error of predicted numbers, which a problem of classes has none of."
            yield Disagreement(key=("metric",), what=what, hint="Compare a rate, such as selection_rate_ratio.")
        if spec.problem.task == "multiclass" and spec.problem.favourable_class is None:
            hint = "Set problem.favourable_class."
            yield Disagreement(key=("type",), what="needs to know which of several classes a person wants.", hint=hint)

    def _misnamed(self, spec: Spec, group: str) -> Iterable[Disagreement]:
        """A policy for a group that can't be."""
        wrong: list[Disagreement] = []
        for one in sorted(self.by, key=lambda one: -len(columns([one]))):
            pattern = ", ".join(f"{re.escape(column)}=(.*)" for column in columns([one]))
            named = re.fullmatch(pattern, group, re.DOTALL)
            if named is None:
                continue
            each_one = zip(columns([one]), named.groups(), strict=True)
            unknown = [(column, name) for column, name in each_one if name not in (_known(spec, column) or (name,))]
            if not unknown:
                return
            column, name = unknown[0]
            what = f"names {name!r}, which is no group of {column!r}."
            hint = f"Known: {', '.join(_known(spec, column))}."
            wrong.append(Disagreement(key=("group_policy", group), what=what, hint=hint))
        what = "names no group of a column in `by`; write column=group."
        yield wrong[0] if wrong else Disagreement(key=("group_policy", group), what=what)

    @override
    def check(self, evidence: Evidence) -> Verdict:
        bound = f"≥ {self.min:g}" if self.min is not None else f"≤ {self.max:g}"
        n, absent = len(evidence.y), MEASURES[self.measures[0]].of == "decisions" and evidence.decisions is None
        judged = [] if absent or not n else [one for by in self.by for one in self._compare(by, evidence)]
        if not judged:
            return Verdict(outcome="not measured", reason="no group was measured.", n=n, threshold=bound)
        judged += self._missed(evidence)
        outcome = min((one.slice.outcome for one in judged), key=RANK.__getitem__)
        worst = self._worst([one for one in judged if outcome != "refused" or one.slice.outcome == outcome])
        behind = self._worst([one for one in judged if one.slice.outcome == outcome])
        unmeasured = [one.slice.name for one in judged if one.slice.outcome == "not measured"]
        return Verdict(
            outcome=outcome,
            reason=self._reason(outcome, [one.slice for one in judged], worst.slice),
            value=worst.slice.value,
            interval=worst.slice.interval,
            n=n,
            threshold=bound,
            slices=tuple(one.slice for one in judged),
            rows=tuple(behind.rows[:ROWS_TOLD].tolist()),
            blocking=any(self.group_policy.get(name, self.policy) == "block" for name in unmeasured),
        )

    def _missed(self, evidence: Evidence) -> list[Judged]:
        """Groups of ``group_policy`` that no row is of: misspelt, perhaps."""
        import numpy as np

        if not self.group_policy:
            return []
        there = {name for by in self.by for name in grouped(evidence, by)[1]}
        missed = [
            Slice(name=name, n=0, outcome="not measured", note="0 rows; group_policy names it")
            for name in self.group_policy
            if name not in there
        ]
        return [Judged(one, np.empty(0, dtype=np.int64)) for one in missed]

    def _worst(self, judged: list[Judged]) -> Judged:
        """The one that is furthest apart; one that was not measured at all only where there is no other."""

        def away(one: Judged) -> float:
            value = one.slice.value
            return float("inf") if value is None else value if self.relative else -value

        return min(judged, key=away)

    def _reason(self, outcome: Outcome, slices: list[Slice], worst: Slice) -> str:
        if outcome == "holds":
            met = f"for all {len(slices)} groups; the furthest apart is" if len(slices) > 1 else "by"
            return f"{self.metric}: the bound is met {met} {worst.name}" + (f" ({worst.note})." if worst.note else ".")
        concerned = [one for one in slices if one.outcome == outcome]
        names = ", ".join(f"{s.name} ({s.note})" if s.note else s.name for s in concerned[:NAMED])
        more = f", and {len(concerned) - NAMED} more groups" if len(concerned) > NAMED else ""
        return f"{self.metric}: {outcome} for {names}{more}."

    def _compare(self, by: By, evidence: Evidence) -> list[Judged]:
        """Each group beside the one that it is compared with, by the measure on which it is worst off."""
        code, names = grouped(evidence, by)
        chosen = self._reference(by, names)
        found: dict[str, list[Judged]] = {name: [] for name in names}
        for measure in self.measures:
            for one in self._judged(measure, evidence, code, names, chosen):
                found[one.slice.name].append(one)
        return [min(several, key=self._order) for several in found.values() if several]

    def _order(self, one: Judged) -> tuple[int, float]:
        value = one.slice.value
        return RANK[one.slice.outcome], float("inf") if value is None else value if self.relative else -value

    def _reference(self, by: By, names: list[str]) -> str | None:
        """The declared group that others are compared with; None: the one that is best off."""
        named = columns([by])
        if not all(column in self.reference for column in named):
            return None
        return ", ".join(f"{column}={self.reference[column]}" for column in named)

    def _judged(
        self, measure: str, evidence: Evidence, code: np.ndarray, names: list[str], chosen: str | None
    ) -> list[Judged]:
        """Each group on one measure."""
        told = MEASURES[measure]
        sizes = parts(measure, evidence, code, len(names))
        fewest = self.min_group_size if told.share else max(self.min_group_size, FEWEST_MEANS)
        enough = [one for one, part in enumerate(sizes) if part.n >= fewest and math.isfinite(part.mean)]
        rows = members(code, len(names), each(measure, evidence)[1])

        def unmeasured(one: int, note: str = "") -> Judged:
            few = f"{sizes[one].n:.0f} rows, fewer than {fewest}"
            note = note or (few if sizes[one].n < fewest else f"its {told.words} is no number")
            return Judged(Slice(name=names[one], n=round(sizes[one].n), outcome="not measured", note=note), rows[one])

        wanting = self._wanting(names, sizes, enough, chosen)
        if wanting or not enough:
            return [unmeasured(one, wanting if one in enough or len(names) < 2 else "") for one in range(len(names))]
        overall = self.compare == "overall"
        comparisons = (len(enough) if overall else max(1, len(enough) - 1)) * len(self.measures)
        confidence = 1 - (1 - self.confidence) / comparisons
        drawn = () if told.share else tuple(enough)
        if overall and drawn:  # the rest of a group are all others, of few rows or not
            drawn = tuple(one for one, part in enumerate(sizes) if part.n > 0)
        measured = sizes
        if drawn:
            measured = parts(measure, evidence, code, len(names), drawn=drawn, rounds=rounds(confidence))
        best = (min if told.least else max)(enough, key=lambda one: measured[one].mean)
        other = names.index(chosen) if chosen is not None else best
        found = []
        for one, part in enumerate(measured):
            if one not in enough:
                found.append(unmeasured(one))
            elif overall:
                rest = _together([each for number, each in enumerate(measured) if number != one])
                mean = _together([part, rest]).mean
                away = apart_from_all(part, rest, relative=self.relative, confidence=confidence)
                found.append(Judged(self._slice(measure, names[one], part, away, (mean, "all rows")), rows[one]))
            elif one != other:
                away = apart(part, measured[other], relative=self.relative, confidence=confidence)
                beside = (
                    measured[other].mean,
                    names[other].partition("=")[2] if "," not in names[other] else names[other],
                )
                found.append(Judged(self._slice(measure, names[one], part, away, beside), rows[one]))
        return found

    def _wanting(self, names: list[str], sizes: list[Part], enough: list[int], chosen: str | None) -> str:
        """Why no group can be compared, large or small."""
        if len(names) < 2:
            return "the only group"
        if chosen is None or chosen in [names[one] for one in enough]:
            return ""
        n = sizes[names.index(chosen)].n if chosen in names else 0
        return f"{chosen}, beside which it is to stand, has {n:.0f} rows, which are too few"

    def _slice(
        self, measure: str, name: str, part: Part, away: tuple[float, Interval] | None, beside: tuple[float, str]
    ) -> Slice:
        mean, other = beside
        told = f"{MEASURES[measure].words} " if len(self.measures) > 1 else ""
        if away is None:
            return Slice(
                name=name, n=round(part.n), outcome="not measured", note=f"{told}{mean:.3g} here and of {other}"
            )
        value, interval = away
        if self.min is not None:
            holds, refused = interval.low >= self.min, interval.high < self.min
        else:
            assert self.max is not None
            holds, refused = interval.high <= self.max, interval.low > self.max
        outcome: Outcome = "holds" if holds else "refused" if refused else "not measured"
        ends = f"{interval.low:.3g} to {interval.high:.3g}"
        note = f"{told}{part.mean:.3g} beside {mean:.3g} of {other}: {value:.3g}, {ends}"
        return Slice(name=name, n=round(part.n), value=value, interval=interval, outcome=outcome, note=note)


class Judged(NamedTuple):
    """A group as it was judged, and its held-out rows."""

    slice: Slice
    rows: np.ndarray


def _together(parts: list[Part]) -> Part:
    """Several groups as one; ``n`` is what a share of all is known by."""
    import numpy as np

    total = sum(part.total for part in parts)
    if not total:
        return Part(float("nan"), 0.0, 0.0)
    squares = sum(part.total**2 / part.n for part in parts if part.n)
    drawn = [part.drawn for part in parts if part.drawn is not None]
    return Part(
        sum(part.total * part.mean for part in parts if part.n) / total,
        total**2 / squares,
        total,
        np.sum(drawn, axis=0) if drawn else None,
    )


def _known(spec: Spec, column: str) -> tuple[str, ...]:
    """The names that a group of a protected column can have; none where each value is a group."""
    declared = declared_groups(spec.column(column))
    return (*declared, "other", MISSING) if declared else ()
