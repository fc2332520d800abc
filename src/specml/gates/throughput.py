"""Enough rows a second, of the server itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Interval, Verdict, bounded
from specml.kinds import Gate, Stricter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specml.spec import Spec

RUNS = 8
"""Runs that are timed, after one to warm up."""
CALLS = 48
"""Calls of a run at least."""
EACH = 4
"""Calls of each connection in a run at least."""


class Throughput(Gate):
    """How many rows a second the server answers to several who ask at the same time, on this machine's CPU.

    One real replica as it is deployed, by HTTP on loopback, with its batching: not what several replicas, a network or
    another machine make of it. Who asks runs on the same machine and takes a part of it. Judged on the lower end of
    Student's interval of the mean over short runs (Student 1908, *Biometrika* 6:1-25); runs that follow each other are
    taken for independent. Figures differ from run to run, and so may the verdict of a threshold that is close. A server
    that leaves calls without an answer is refused.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {"rows": "smaller"}
    asks_server: ClassVar[bool] = True
    times: ClassVar[bool] = True

    type: Literal["throughput"] = "throughput"
    min: Annotated[float, Field(gt=0)]
    """Rows a second; the lower confidence bound must reach it."""
    connections: Annotated[int, Field(ge=1, le=64)] = 8
    """How many ask at the same time, each call after call."""
    rows: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Rows of one call."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.rows > spec.serving.max_rows:
            what = f"is {self.rows}, but a request may have {spec.serving.max_rows} rows (serving.max_rows)."
            yield Disagreement(key=("rows",), what=what, hint="Ask for fewer.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        speeds: list[float] = []
        value, interval = math.nan, None
        calls = max(CALLS, EACH * self.connections)
        if evidence.model is not None and len(evidence.y):
            server = evidence.model.served()
            for _ in range(1 + RUNS):
                each, seconds = server.timed(self.rows, calls, self.connections)
                if lost := calls - len(each):
                    reason = f"{lost:,} of {calls:,} calls of the server were left without an answer."
                    return Verdict(outcome="refused", reason=reason, n=calls, threshold=f"≥ {self.min:g}")
                speeds.append(self.rows * calls / seconds)
            value, interval = mean(speeds[1:], self.confidence)
        found = bounded("rows a second", value, interval, calls * len(speeds[1:]), minimum=self.min)
        asked = f"{RUNS} runs, {self.connections} {'connection' if self.connections == 1 else 'connections'}"
        where = f"{asked}, {self.rows} {'row' if self.rows == 1 else 'rows'} a call, on this machine's CPU"
        return found.model_copy(update={"reason": f"{found.reason.removesuffix('.')} ({where})."})


def mean(values: Sequence[float], confidence: float) -> tuple[float, Interval]:
    """The mean of two or more ``values``, and Student's interval of it."""
    import numpy as np
    from scipy.stats import t

    found, n = float(np.mean(values)), len(values)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(values, ddof=1)) / n**0.5
    return found, Interval(low=found - half, high=found + half, confidence=confidence, method=f"Student ({n} runs)")
