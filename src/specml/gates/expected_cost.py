"""What a row costs on the holdout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import Evidence, Interval, Verdict, bounded, effective, wilson
from specml.kinds import Gate
from specml.metrics import bootstrap
from specml.resamples import mean_over

if TYPE_CHECKING:
    from specml.spec import Spec


class ExpectedCost(Gate):
    """The mean cost of a row, by ``problem.costs``: its confidence bound stays within a limit.

    Judged on the upper end of a bootstrap interval (Efron & Tibshirani 1993, *An Introduction to the Bootstrap*,
    ch. 13). A few dear errors make it wide; more held-out rows make it narrow. Where none was made, as many of the
    dearest as Wilson's interval leaves room for are taken for what may come.
    """

    type: Literal["expected_cost"] = "expected_cost"
    max: Annotated[float, Field(allow_inf_nan=False)]
    """The upper confidence bound must stay within it; of one row, in the currency of the costs."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Fewer holdout rows whose cost is known are not measured: the bootstrap is too coarse below. Weighted rows count
    as Kish's effective number of them."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.costs is None:
            hint = "Say problem.costs: {false_negative: 5200, false_positive: 410, currency: EUR}"
            yield Disagreement(key=("type",), what="needs to know what decisions cost.", hint=hint)

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        n, value, interval, costs = len(evidence.y), float("nan"), None, evidence.costs
        known = np.zeros(n, dtype=bool) if costs is None else np.isfinite(costs)
        weight = None if evidence.weight is None else evidence.weight[known]
        counted = effective(weight, int(known.sum()))
        if costs is not None and round(counted) >= self.min_rows:
            mean = mean_over(costs, evidence.weight)
            value = mean(np.arange(n))
            interval = bootstrap(mean, n, self.confidence, evidence.seed)
            interval = interval and self._without_errors(interval, evidence, value, counted)
        return bounded("expected cost", value, interval, n if interval else round(counted), maximum=self.max)

    def _without_errors(self, found: Interval, evidence: Evidence, value: float, n: float) -> Interval:
        """``found``, but where no row was decided wrong: no resample then holds what an error costs.

        As many as Wilson's interval of none leaves room for are then taken for the dearest.
        """
        import numpy as np

        wrong = evidence.decisions is None or bool(
            ((evidence.decisions != evidence.y) & (evidence.decisions >= 0)).any()
        )
        if wrong or evidence.price is None:
            return found
        dearest = float(evidence.price(np.array([0, 1]), np.array([1, 0])).max())
        high = value + max(0.0, dearest - value) * wilson(0, n, self.confidence).high
        return found.model_copy(update={"high": max(found.high, high), "method": f"{found.method}, wilson"})
