"""Better than knowing nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from specml.evidence import Evidence, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import TABLE, bootstrap

SCORE = {"binary": "log_loss", "multiclass": "log_loss", "regression": "root_mean_squared_error"}


class Baseline(Gate):
    """The model beats the prior (class frequencies, or the mean, of the training rows) on the same holdout rows.

    Judged by log loss or root mean squared error, which the prior minimises among constants, on the paired
    bootstrap interval of the difference.
    """

    type: Literal["baseline"] = "baseline"
    min: float = 0.0
    """The lower bound of the improvement must exceed it; in the metric's unit."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 30
    """Fewer holdout rows are not measured: a bootstrap of so few says nothing."""

    @override
    def check(self, evidence: Evidence) -> Verdict:
        metric = TABLE[SCORE[evidence.task]]

        def improvement(rows: Any) -> float:
            y, scores, decisions, weight = evidence.at(rows)
            prior = metric.measure(y, evidence.prior[rows], None, weight)
            return metric.gain(metric.measure(y, scores, decisions, weight), prior)

        n = len(evidence.y)
        interval = bootstrap(improvement, n, self.confidence, evidence.seed) if n >= self.min_rows else None
        name = f"improvement in {metric.name} over the prior"
        return bounded(name, improvement(slice(None)), interval, n, minimum=self.min, strict=True)
