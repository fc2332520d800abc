"""Probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.curves import Bin, reliability, top_label
from specml.evidence import Evidence, Interval, Verdict, bounded
from specml.kinds import Gate

if TYPE_CHECKING:
    from specml.spec import Spec

PER_BIN = 200
"""Rows that a bin has at least: below, chance moves its share by more than gates usually allow."""


class Calibration(Gate):
    """The expected calibration error: how far, on average, shares of outcomes lie from the probabilities given.

    Binary: of the positive class; multiclass: of the decided class (Guo et al. 2017, *On Calibration of Modern
    Neural Networks*). Over bins of equally many rows, less what chance alone adds to it (Kumar, Liang & Ma 2019,
    *Verified Uncertainty Calibration*, section 4), and judged on the upper end of its interval. The error within
    a bin is not seen: more bins see more of it, and widen the interval.
    """

    type: Literal["calibration"] = "calibration"
    max: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The upper confidence bound must stay within it."""
    bins: Annotated[int, Field(ge=2, le=100)] = 10
    """At most; of equally many rows, 200 and more. Equal probabilities share a bin."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""
    min_rows: Annotated[int, Field(ge=200)] = 1000
    """Fewer holdout rows are not measured: they make too few bins to see an error that changes its sign."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.learns == "regression":
            yield Disagreement(key=("type",), what="needs probabilities, which a regression problem has none of.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        n = len(evidence.y)
        name = "expected calibration error"
        if n < self.min_rows:
            reason = f"{n:,} rows are fewer than {self.min_rows:,}: chance would be most of the {name}."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=f"≤ {self.max:g}")
        error, interval = expected_error(
            reliability(*top_label(evidence), evidence.weight, bins=self.bins, fewest=PER_BIN), self.confidence
        )
        return bounded(name, error, interval, n, maximum=self.max)


def expected_error(bins: Sequence[Bin], confidence: float) -> tuple[float, Interval]:
    """The expected calibration error over ``bins``, and its interval.

    A bin's gap between share and probability is close to normal, with the binomial's variance (one hit and one
    miss added, so that it is never 0). The mean of its absolute value is that of a folded normal, larger than the
    gap; the difference is taken off. The interval takes the folded normals' variances
    (Leone, Nelson & Nottingham 1961, *Technometrics* 3:543-550).
    """
    import numpy as np
    from scipy.stats import norm

    n, score, share = (np.array(column) for column in zip(*bins, strict=True))
    parts = n / n.sum()
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
