"""Fast enough, on the machine that judges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Interval, Verdict, bounded
from specml.kinds import Gate, Stricter
from specml.values import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specml.spec import Spec

FEWEST = 400
"""Calls that are timed at least."""


class Latency(Gate):
    """A percentile of the time that one call takes, of the packaged graph or of the server, on this machine's CPU.

    Of the ``graph``: in the process that judges, with one thread, warm, call after call, not through HTTP, and without
    what batching, queueing or another machine adds. Of the ``server``: one real replica as it is deployed, by HTTP on
    loopback, asked by the Open Inference Protocol on ``connections`` at a time, with batching and queueing, but without
    the network and without what Ray's proxy and other replicas add or take.

    Judged on the upper end of an interval of order statistics, which supposes nothing of how times are distributed
    (Hahn & Meeker 1991, *Statistical Intervals*, section 5.2) but that calls do not depend on each other; those of a
    server that several ask do a little. Times differ from run to run, and so may the verdict of a threshold that is
    close. A server that leaves calls without an answer is refused.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {
        "of": ("graph", "server"),
        "percentile": "larger",
        "rows": "larger",
        "connections": "larger",
    }
    times: ClassVar[bool] = True

    type: Literal["latency"] = "latency"
    max: Duration
    """The upper confidence bound must stay within it."""
    of: Literal["graph", "server"] = "graph"
    """What is called."""
    percentile: Annotated[float, Field(ge=50, le=99.9)] = 99.0
    """Of the calls' times."""
    rows: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Rows of one call."""
    connections: Annotated[int, Field(ge=1, le=64)] = 1
    """How many ask the server at the same time, each call after call."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""

    @property
    @override
    def asks_server(self) -> bool:
        return self.of == "server"

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.of == "graph" and self.connections != 1:
            what = "has no effect on the graph: there is nothing to connect to."
            yield Disagreement(key=("connections",), what=what, hint="Say of: server, or leave it out.")
        if self.of == "server" and self.rows > spec.serving.max_rows:
            what = f"is {self.rows}, but a request may have {spec.serving.max_rows} rows (serving.max_rows)."
            yield Disagreement(key=("rows",), what=what, hint="Ask for fewer.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        name = f"p{self.percentile:g} of a call of {self.rows} {'row' if self.rows == 1 else 'rows'} in ms"
        threshold = f"≤ {self.max * 1000:g} ms"
        times: list[float] = []
        value, interval = math.nan, None
        if evidence.model is not None and len(evidence.y):
            wanted = calls(self.percentile / 100, self.confidence)
            if self.of == "server":
                times, _ = evidence.model.served().timed(self.rows, wanted, self.connections)
            else:
                times = evidence.model.timed(self.rows, wanted)
            if len(times) < wanted:
                reason = f"{wanted - len(times):,} of {wanted:,} calls of the server were left without an answer."
                return Verdict(outcome="refused", reason=reason, n=wanted, threshold=threshold)
            value, interval = quantile([1000 * one for one in times], self.percentile / 100, self.confidence)
        found = bounded(name, value, interval, len(times), maximum=self.max * 1000)
        where = f"{len(times):,} calls {self._where()}"
        return found.model_copy(
            update={"reason": f"{found.reason.removesuffix('.')} ({where}).", "threshold": threshold}
        )

    def _where(self) -> str:
        if self.of == "graph":
            return "in this process, on one thread of this machine's CPU, not through HTTP"
        one_by_one = "one after the other" if self.connections == 1 else f"on {self.connections} connections"
        return f"through HTTP, {one_by_one}, of a server on this machine's CPU"


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
