"""Prediction intervals: how far from a prediction the target lies, learned from out-of-fold predictions.

Split-conformal arithmetic (Vovk, Gammerman & Shafer 2005, *Algorithmic Learning in a Random World*; Lei et al. 2018,
*Distribution-free predictive inference for regression*): a quantile of how wrong models were on rows that they had not
seen, with one more row counted as wrong without end. Those models are the folds'; what answers is their refit on all
rows. So this is the "CV" of Barber et al. 2021 (*Predictive inference with the jackknife+*), not their CV+, which would
have to answer by every fold's model: where the refit answers much like they do, the coverage is that asked for, and no
theorem promises it for any model and any rows. What it is on held-out rows is measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from specml.errors import NotEnoughData
from specml.piecewise import straight, straight_in

if TYPE_CHECKING:
    import numpy as np

    from specml.graph import Graph

Method = Literal["absolute", "signed", "normalised", "quantile"]
METHODS: tuple[Method, ...] = ("absolute", "signed", "normalised")
"""Those of predictions; of quantiles there is one of its own."""

BINS = 10
"""Most parts of the predictions' range whose errors are compared."""
PER_BIN = 50
"""Rows that each of them has at least: a mean of so many errors is known to about a tenth."""
STEEPEST = 10.0
"""By how much more the width may rise than the prediction: the graph's float32 predictions differ in the last bit."""
LEAST = 0.05
"""Share of the mean error below which no part's error counts: a few rows that were met exactly prove no certainty."""


@dataclass(frozen=True)
class Conformal:
    """How far an interval reaches below and above a prediction.

    ``absolute``: as far on either side, whatever is predicted. ``signed``: as far as errors go on each side.
    ``normalised``: in proportion to how wrong predictions of that size are (Papadopoulos et al. 2002, *Inductive
    confidence machines for regression*), between whose means the errors are taken as straight lines. ``quantile``: from
    the least to the largest of several quantiles, and as far beyond either, or within, as it takes (Romano, Patterson &
    Candès 2019, *Conformalized quantile regression*).
    """

    method: Method
    coverage: float
    """Share of the rows whose target the interval is to hold."""
    below: float
    above: float
    """Distances, in the unit of the target; of ``normalised`` as multiples of the usual error."""
    x: tuple[float, ...] = ()
    """``normalised``: predictions, rising, and the usual error ``y`` of each."""
    y: tuple[float, ...] = ()
    middle: int = 0
    """``quantile``: which of them is the prediction."""

    @classmethod
    def fit(
        cls,
        method: Method,
        coverage: float,
        prediction: np.ndarray,
        y: np.ndarray,
        *,
        weight: np.ndarray | None = None,
        usual: np.ndarray | None = None,
        middle: int = 0,
    ) -> Conformal:
        """Learn from out-of-fold predictions float64 [n] of targets float64 [n], each of which counts ``weight``.

        ``quantile``: from quantiles [n, q], the one at ``middle`` being the prediction.
        ``usual``: ``normalised``: the usual error of each prediction as other rows have it; of these rows if None.

        Raises:
            NotEnoughData: no number of errors can be left out of so few rows.
        """
        import numpy as np

        if method == "quantile":
            reach = _quantile(np.maximum(prediction[:, 0] - y, y - prediction[:, -1]), weight, coverage)
            return cls(method, coverage, reach, reach, middle=middle)
        error = y - prediction
        if method == "signed":
            # An end never lies beyond the prediction itself.
            low, high = (max(0.0, _quantile(one, weight, (1 + coverage) / 2)) for one in (-error, error))
            return cls(method, coverage, low, high)
        if method == "absolute":
            reach = _quantile(np.abs(error), weight, coverage)
            return cls(method, coverage, reach, reach)
        points = usual_error(prediction, np.abs(error))
        usual = straight(*points, prediction) if usual is None else usual
        reach = _quantile(np.abs(error) / usual, weight, coverage)
        return cls(method, coverage, reach, reach, *points)

    def __call__(self, prediction: np.ndarray) -> np.ndarray:
        """float64 [n, 2]: the lower and the upper end, of predictions float64 [n], or of quantiles [n, q]."""
        import numpy as np

        if self.method == "quantile":
            low, middle, high = prediction[:, 0], prediction[:, self.middle], prediction[:, -1]
            return np.stack([np.minimum(low - self.below, middle), np.maximum(high + self.above, middle)], axis=1)
        usual = straight(self.x, self.y, prediction) if self.x else 1.0
        return np.stack([prediction - self.below * usual, prediction + self.above * usual], axis=1)

    def to_onnx(self, graph: Graph, value: str) -> tuple[str, str]:
        """The same on a float32 value [n, 1] or [n, q]; returns two values [n, 1]."""
        import numpy as np

        value = graph.node("Cast", value, to=11)
        below, above = (graph.constant(np.array(one)) for one in (self.below, self.above))
        if self.method == "quantile":
            places = (graph.constant(np.array([one])) for one in (0, self.middle, -1))
            low, middle, high = (graph.node("Gather", value, one, axis=1) for one in places)
            low = graph.node("Min", graph.node("Sub", low, below), middle)
            high = graph.node("Max", graph.node("Add", high, above), middle)
            return graph.node("Cast", low, to=1), graph.node("Cast", high, to=1)
        if self.x:
            usual = straight_in(graph, self.x, self.y, value)
            below, above = (graph.node("Mul", usual, one) for one in (below, above))
        ends = graph.node("Sub", value, below), graph.node("Add", value, above)
        return graph.node("Cast", ends[0], to=1), graph.node("Cast", ends[1], to=1)

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON values by the names of its fields."""
        return asdict(self)


def restore(state: dict[str, Any]) -> Conformal:
    """What ``Conformal.state`` was taken from."""
    told: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in state.items()}
    return Conformal(**told)


def usual_error(prediction: np.ndarray, error: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean predictions, rising, of parts of about as many rows each, and the mean ``error`` [n] there.

    Equal predictions are never parted.
    """
    import numpy as np

    order = np.argsort(prediction, kind="stable")
    ordered, errors = prediction[order], error[order]
    wanted = max(PER_BIN, -(-len(order) // BINS))
    least = max(LEAST * float(errors.mean()), 1e-30)
    x: list[float] = []
    found: list[float] = []
    start = 0
    while start < len(order):
        end = int(np.searchsorted(ordered, ordered[min(start + wanted, len(order)) - 1], side="right"))
        end = len(order) if len(order) - end < PER_BIN else end
        at, mean = float(ordered[start:end].mean()), max(least, float(errors[start:end].mean()))
        if not x or abs(mean - found[-1]) < STEEPEST * (at - x[-1]):
            x.append(at)
            found.append(mean)
        start = end
    return tuple(x), tuple(found)


def _quantile(scores: np.ndarray, weight: np.ndarray | None, level: float) -> float:
    """The least score that ``level`` of the rows, and of one more that counts as much as they do on average, reach.

    With equal weights the ⌈(n + 1) level⌉-th smallest of n (Lei et al. 2018, section 2.2).
    """
    import numpy as np

    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(np.ones(len(order)) if weight is None else weight[order])
    total = reached[-1] * (1 + 1 / len(order))
    place = int(np.searchsorted(reached, level * total * (1 - 1e-12)))
    if place == len(order):
        what = f"{len(order):,} out-of-fold rows are too few for an interval that holds a share of {level:g}."
        raise NotEnoughData(what, where="selection.prediction_interval.coverage", hint="Ask for less, or bring rows.")
    return float(scores[order[place]])


def score(ends: np.ndarray, y: np.ndarray, coverage: float) -> np.ndarray:
    """float64 [n]: the width of each interval [n, 2], and 2 / (1 - coverage) times what it misses its target by.

    The interval score, least on average for the true quantiles (Gneiting & Raftery 2007, *Strictly proper scoring
    rules*, section 6.2).
    """
    import numpy as np

    low, high = ends.T
    missed = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return np.asarray(high - low + 2 / (1 - coverage) * missed)
