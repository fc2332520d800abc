"""Better than knowing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.evidence import Evidence, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import PINBALL, TABLE, bootstrap

if TYPE_CHECKING:
    import numpy as np

SCORE = {"binary": "log_loss", "multiclass": "log_loss", "regression": "root_mean_squared_error"}


class Baseline(Gate):
    """The model beats the prior (class frequencies, mean or quantiles of the training rows) on the same holdout rows.

    Judged by log loss, root mean squared error or pinball loss, which the prior minimises among constants, on the
    paired bootstrap interval of the difference. A forecast must beat the seasonal naive one, by its mean absolute
    error; errors of neighbours in time go together, and are drawn so.
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
        usual = PINBALL if evidence.quantiles else SCORE[evidence.task]
        metric = TABLE["mean_absolute_error" if evidence.serial else usual].at(evidence.quantiles)
        y, scores, decisions, weight = evidence.at(slice(None))
        value = metric.gain(
            metric.measure(y, scores, decisions, weight), metric.measure(y, evidence.prior, None, weight)
        )
        n, interval = len(y), None
        if n >= self.min_rows:
            model, prior = metric.over(y, scores, decisions, weight), metric.over(y, evidence.prior, None, weight)

            def improvement(rows: np.ndarray) -> float:
                return metric.gain(model(rows), prior(rows))

            interval = bootstrap(improvement, n, self.confidence, evidence.seed, evidence.serial)
        name = f"improvement in {metric.name} over the {'seasonal naive forecast' if evidence.serial else 'prior'}"
        return bounded(name, value, interval, n, minimum=self.min, strict=True)
