"""Fast enough, on the machine that judges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.evidence import Evidence, Interval, Verdict, bounded
from specml.kinds import Gate
from specml.values import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST = 400
"""Calls that are timed at least."""


class Latency(Gate):
    """A percentile of the time that the packaged graph takes for one call, with one thread on this machine's CPU.

    Measured in the process that judges, warm, call after call: not through HTTP, and without what batching,
    queueing or another machine adds. Judged on the upper end of an interval of order statistics, which supposes
    nothing of how times are distributed (Hahn & Meeker 1991, *Statistical Intervals*, section 5.2) but that calls
    do not depend on each other. Times differ from run to run, and so may the verdict of a threshold that is close.
    """

    times: ClassVar[bool] = True

    type: Literal["latency"] = "latency"
    max: Duration
    """The upper confidence bound must stay within it."""
    percentile: Annotated[float, Field(ge=50, le=99.9)] = 99.0
    """Of the calls' times."""
    rows: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Rows of one call."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""

    @override
    def check(self, evidence: Evidence) -> Verdict:
        name = f"p{self.percentile:g} of a call of {self.rows} {'row' if self.rows == 1 else 'rows'} in ms"
        times: list[float] = []
        value, interval = math.nan, None
        if evidence.model is not None and len(evidence.y):
            wanted = calls(self.percentile / 100, self.confidence)
            times = [1000 * one for one in evidence.model.timed(self.rows, wanted)]
            value, interval = quantile(times, self.percentile / 100, self.confidence)
        found = bounded(name, value, interval, len(times), maximum=self.max * 1000)
        where = f"{len(times):,} calls in this process, on one thread of this machine's CPU, not through HTTP"
        changed = {"reason": f"{found.reason.removesuffix('.')} ({where}).", "threshold": f"{found.threshold} ms"}
        return found.model_copy(update=changed)


def calls(share: float, confidence: float) -> int:
    """How many calls the upper bound of a quantile needs, three times over."""
    return max(FEWEST, math.ceil(3 * math.log((1 - confidence) / 2) / math.log(share)))


def quantile(times: Sequence[float], share: float, confidence: float) -> tuple[float, Interval]:
    """The quantile of ``times`` at ``share``, and its interval: two of the times, by the binomial of their ranks.

    ``times`` are as many as ``calls`` says, or more.
    """
    from scipy.stats import binom

    ordered, n = sorted(times), len(times)
    outside = (1 - confidence) / 2
    low = int(binom.ppf(outside, n, share))
    high = int(binom.ppf(1 - outside, n, share)) + 1
    found = Interval(
        low=ordered[max(low, 1) - 1],
        high=ordered[high - 1],
        confidence=confidence,
        method="order statistics",
    )
    return ordered[min(n, math.ceil(share * n)) - 1], found
