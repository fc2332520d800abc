"""Probabilities mean what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.curves import Bin, reliability, top_label
from specml.disparity import By, Policy, grouped, members, unfit
from specml.evidence import ROWS_TOLD, Evidence, Interval, Outcome, Slice, Verdict, bounded, effective
from specml.kinds import Gate

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

NAME = "expected calibration error"
NAMED = 6
"""Groups that a reason names."""
PER_BIN = 200
"""Rows that a bin has at least: below, chance moves its share by more than gates usually allow."""


class Calibration(Gate):
    """The expected calibration error: how far, on average, shares of outcomes lie from the probabilities given.

    Binary: of the positive class; multiclass: of the decided class (Guo et al. 2017, *On Calibration of Modern
    Neural Networks*). Over bins of equally many rows, less what chance alone adds to it (Kumar, Liang & Ma 2019,
    *Verified Uncertainty Calibration*, section 4), and judged on the upper end of its interval. The error within
    a bin is not seen: more bins see more of it, and widen the interval.

    Probabilities that are right over all rows may be wrong for each of two groups. ``by`` names the columns whose
    groups are judged, too, with Bonferroni's correction for how many of a column there are: a group holds where the
    upper end of its interval stays within ``max``, is refused where the whole interval lies beyond, and is not
    measured in between or on fewer than ``min_rows``; ``policy`` decides what that means.
    """

    type: Literal["calibration"] = "calibration"
    max: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The upper confidence bound must stay within it."""
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    """At most; of equally many rows, 200 and more. Equal probabilities share a bin."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""
    min_rows: Annotated[int, Field(ge=200)] = 1000
    """Fewer holdout rows, in all or of a group, are not measured: they make too few bins to see an error that changes
    its sign."""
    by: tuple[By, ...] = ()
    """Protected columns, each of whose groups is judged beside all rows; ``[sex, race]`` among them: combinations."""
    policy: Policy = "block"
    """What a group that is not measured does: refuse the release, or let it pass with the fact told."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.learns == "regression":
            yield Disagreement(key=("type",), what="needs probabilities, which a regression problem has none of.")
        yield from unfit(spec, self.by)

    @override
    def check(self, evidence: Evidence) -> Verdict:
        n = round(effective(evidence.weight, len(evidence.y)))
        if n < self.min_rows:
            reason = f"{n:,} rows are fewer than {self.min_rows:,}: chance would be most of the {NAME}."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=f"≤ {self.max:g}")
        scores, hits = top_label(evidence)
        n = len(evidence.y)
        error, interval = self._error(scores, hits, evidence.weight, self.confidence)
        verdict = bounded(NAME, error, interval, n, maximum=self.max)
        found = [one for by in self.by for one in self._groups(by, evidence, scores, hits)]
        slices = tuple(told for told, _ in found)
        amiss = [one for one in found if one[0].outcome != "holds"]
        if not amiss or verdict.outcome != "holds":
            return verdict.model_copy(update={"slices": slices})
        outcome: Outcome = "refused" if any(told.outcome == "refused" for told, _ in amiss) else "not measured"
        concerned = [one for one in amiss if one[0].outcome == outcome]
        worst, rows = max(concerned, key=lambda one: -1.0 if one[0].value is None else one[0].value)
        told = ", ".join(f"{one.name} ({one.note})" for one, _ in concerned[:NAMED])
        told += f", and {len(concerned) - NAMED} more groups" if len(concerned) > NAMED else ""
        changed: dict[str, Any] = {
            "outcome": outcome,
            "reason": f"{NAME}: {outcome} for {told}.",
            "slices": slices,
            "rows": tuple(rows[:ROWS_TOLD].tolist()),
            "blocking": self.policy == "block",
        }
        if outcome == "refused":
            changed |= {"value": worst.value, "interval": worst.interval}
        return verdict.model_copy(update=changed)

    def _error(
        self, scores: np.ndarray, hits: np.ndarray, weight: np.ndarray | None, confidence: float
    ) -> tuple[float, Interval]:
        return expected_error(reliability(scores, hits, weight, bins=self.bins, fewest=PER_BIN), confidence)

    def _groups(
        self, by: By, evidence: Evidence, scores: np.ndarray, hits: np.ndarray
    ) -> Iterable[tuple[Slice, np.ndarray]]:
        """Each group and its rows."""
        code, names = grouped(evidence, by)
        confidence = 1 - (1 - self.confidence) / max(1, len(names))
        for name, rows in zip(names, members(code, len(names)), strict=True):
            weight = None if evidence.weight is None else evidence.weight[rows]
            if (counted := round(effective(weight, len(rows)))) < self.min_rows:
                note = f"{counted:,} rows, fewer than {self.min_rows:,}"
                yield Slice(name=name, n=len(rows), outcome="not measured", note=note), rows
                continue
            error, interval = self._error(scores[rows], hits[rows], weight, confidence)
            if not math.isfinite(error):
                yield Slice(name=name, n=len(rows), outcome="not measured", note="a probability is no number"), rows
                continue
            low, high = interval.low, interval.high
            outcome: Outcome = "holds" if high <= self.max else "refused" if low > self.max else "not measured"
            note = f"{error:.3g}, {low:.3g} to {high:.3g}"
            yield Slice(name=name, n=len(rows), value=error, interval=interval, outcome=outcome, note=note), rows


def expected_error(bins: Sequence[Bin], confidence: float) -> tuple[float, Interval]:
    """The expected calibration error over ``bins``, and its interval.

    A bin's gap between share and probability is close to normal, with the binomial's variance (one hit and one
    miss added, so that it is never 0). The mean of its absolute value is that of a folded normal, larger than the
    gap; the difference is taken off. The interval takes the folded normals' variances
    (Leone, Nelson & Nottingham 1961, *Technometrics* 3:543-550).
    """
    import numpy as np
    from scipy.stats import norm

    n, score, share, weight = (np.array(column) for column in zip(*bins, strict=True))
    parts = weight / weight.sum()
    gap = np.abs(share - score)
    smooth = (share * n + 1) / (n + 2)
    spread = np.sqrt(smooth * (1 - smooth) / n)
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-((gap / spread) ** 2) / 2) + gap * (1 - 2 * norm.cdf(-gap / spread))
    error = max(0.0, float(parts @ (2 * gap - folded)))
    deviation = float(np.sqrt(parts**2 @ (gap**2 + spread**2 - folded**2)))
    half = float(norm.ppf(0.5 + confidence / 2)) * deviation
    return error, Interval(
        low=max(0.0, error - half), high=min(1.0, error + half), confidence=confidence, method="folded normal"
    )
