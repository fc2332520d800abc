"""What a row costs on the holdout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import bootstrap
from specml.resamples import mean_over

if TYPE_CHECKING:
    from specml.spec import Spec


class ExpectedCost(Gate):
    """The mean cost of a row, by ``problem.costs``: its confidence bound stays within a limit.

    Judged on the upper end of a bootstrap interval (Efron & Tibshirani 1993, *An Introduction to the Bootstrap*,
    ch. 13). A few dear errors make it wide; more held-out rows make it narrow.
    """

    type: Literal["expected_cost"] = "expected_cost"
    max: Annotated[float, Field(allow_inf_nan=False)]
    """The upper confidence bound must stay within it; of one row, in the currency of the costs."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Fewer holdout rows are not measured: the bootstrap is too coarse below."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.costs is None:
            hint = "Say problem.costs: {false_negative: 5200, false_positive: 410, currency: EUR}"
            yield Disagreement(key=("type",), what="needs to know what decisions cost.", hint=hint)

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        n, value, interval = len(evidence.y), float("nan"), None
        if evidence.costs is not None and n >= self.min_rows:
            mean = mean_over(evidence.costs, evidence.weight)
            value = mean(np.arange(n))
            interval = bootstrap(mean, n, self.confidence, evidence.seed)
        return bounded("expected cost", value, interval, n, maximum=self.max)
