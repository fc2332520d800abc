"""Probabilities that come true as often as they say: learned from out-of-fold predictions, in Python and in the graph.

A graph answers in float32, and what is calibrated may differ from Python's by some 1e-7. So nothing here is so steep
that it would make much more of that: see ``STEEPEST``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from specml.piecewise import straight, straight_in

if TYPE_CHECKING:
    import numpy as np

    from specml.graph import Graph

LOWEST, HIGHEST = -16.0, 9.7
"""Log-odds within which a probability is kept (1e-7 to 0.99994): nearer to 1, float32 tells too few of them apart."""
FARTHEST = 30.0
"""The same of a model whose graph has the log-odds themselves, on either side."""
NEVER = 1e-20
"""Of several classes, the probability below which one is as good as 0."""
STEEPEST = 10.0
"""By how much more a calibrated probability may rise than the one that it is made from."""
FEWEST = 1000
"""Rows from which on ``auto`` thinks of an isotonic calibration; on fewer it fits the noise (Niculescu-Mizil & Caruana
2005, *Predicting good probabilities with supervised learning*)."""


class Calibration(ABC):
    """A monotone function of a probability, or of the probabilities of all classes."""

    method: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, p: np.ndarray, y: np.ndarray, weight: np.ndarray | None, *, scored: bool = False) -> Calibration:
        """Learn from probabilities float64 [n] or [n, k], classes int64 [n] and weights.

        ``scored``: whether the graph makes them from log-odds, by one Sigmoid at its end.
        """

    @abstractmethod
    def __call__(self, p: np.ndarray) -> np.ndarray:
        """float64 [n] or [n, k], of the same."""

    @abstractmethod
    def to_onnx(self, graph: Graph, value: str) -> str:
        """The same on a float32 value [n, 1] or [n, k]; returns one of the same shape."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What was learned, as JSON values by the names of its fields."""

    @property
    def affine(self) -> tuple[float, float] | None:
        """``(a, b)`` where it makes ``a x + b`` of log-odds or scores ``x``; None where it does anything else."""
        return None


@dataclass(frozen=True)
class Sigmoid(Calibration):
    """Platt's scaling of the log-odds.

    Platt 1999, *Probabilistic outputs for support vector machines*, with his targets (N+ + 1) / (N+ + 2) and
    1 / (N- + 2) in place of 1 and 0, so that few rows do not make it sure.
    """

    method: ClassVar[str] = "sigmoid"
    slope: float
    offset: float
    lowest: float = -FARTHEST
    highest: float = FARTHEST
    """Log-odds within which it is a line."""

    @override
    @classmethod
    def fit(cls, p: np.ndarray, y: np.ndarray, weight: np.ndarray | None, *, scored: bool = False) -> Sigmoid:
        import numpy as np
        from scipy.optimize import minimize

        lowest, highest = (-FARTHEST, FARTHEST) if scored else (LOWEST, HIGHEST)
        x, w = _log_odds(p), np.ones(len(y)) if weight is None else weight
        if not scored and (x.min() < lowest or x.max() > highest):
            # A forest is sure of some rows; n rows prove no certainty, and log-odds of any size would decide the slope.
            lowest, highest = -np.log(len(y) + 1), min(np.log(len(y) + 1), highest)
        x = np.clip(x, lowest, highest)
        positive, negative = w[y == 1].sum(), w[y == 0].sum()
        target = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

        def loss(ab: np.ndarray) -> tuple[float, np.ndarray]:
            score = ab[0] * x + ab[1]
            wrong = w * (_expit(score) - target)
            total = float(w @ (np.logaddexp(0.0, score) - target * score))
            return total / w.sum(), np.array([wrong @ x, wrong.sum()]) / w.sum()

        slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        found = cls(float(slope), float(offset), float(lowest), float(highest))
        while not scored and found.highest > 0 and found._steepness() > STEEPEST:
            found = replace(found, highest=found.highest - 0.1)
        return found

    def _steepness(self) -> float:
        """By how much the calibrated probability rises at ``highest``, for what the probability does."""
        p, told = (float(_expit(one)) for one in (self.highest, self.slope * self.highest + self.offset))
        return abs(self.slope) * told * (1 - told) / (p * (1 - p))

    @override
    def __call__(self, p: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(_expit(self.slope * np.clip(_log_odds(p), self.lowest, self.highest) + self.offset))

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np

        if score := graph.before(value, "Sigmoid"):
            odds = graph.node("Cast", score, to=11)
        else:
            p = graph.node("Cast", value, to=11)
            odds = graph.node("Log", graph.node("Div", p, graph.node("Sub", graph.constant(np.array(1.0)), p)))
        ends = (graph.constant(np.array(end)) for end in (self.lowest, self.highest))
        line = graph.node("Mul", graph.node("Clip", odds, *ends), graph.constant(np.array(self.slope)))
        line = graph.node("Add", line, graph.constant(np.array(self.offset)))
        return graph.node("Cast", graph.node("Sigmoid", line), to=1)

    @override
    def state(self) -> dict[str, Any]:
        return asdict(self)

    @property
    @override
    def affine(self) -> tuple[float, float]:
        return self.slope, self.offset


@dataclass(frozen=True)
class Isotonic(Calibration):
    """The nearest rising function.

    Zadrozny & Elkan 2002, *Transforming classifier scores into accurate multiclass probability estimates*, as
    scikit-learn's ``IsotonicRegression``: straight between the ends of its steps, level beyond the outermost. It stays
    1 / (n + 2) away from 0 and 1, for n rows prove no certainty; and a step that is steeper than ``STEEPEST`` is drawn
    out to the right, for the graph could not always be on the same side of it.
    """

    method: ClassVar[str] = "isotonic"
    x: tuple[float, ...]
    """Where its straight pieces end, rising."""
    y: tuple[float, ...]

    @override
    @classmethod
    def fit(cls, p: np.ndarray, y: np.ndarray, weight: np.ndarray | None, *, scored: bool = False) -> Isotonic:
        from sklearn.isotonic import IsotonicRegression

        sure = 1 / (len(y) + 2)
        found = IsotonicRegression(y_min=sure, y_max=1 - sure, out_of_bounds="clip").fit(p, y, sample_weight=weight)
        return cls(*_no_steeper(found.X_thresholds_.tolist(), found.y_thresholds_.tolist()))

    @override
    def __call__(self, p: np.ndarray) -> np.ndarray:
        return straight(self.x, self.y, p)

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        return graph.node("Cast", straight_in(graph, self.x, self.y, graph.node("Cast", value, to=11)), to=1)

    @override
    def state(self) -> dict[str, Any]:
        return {"x": list(self.x), "y": list(self.y)}


@dataclass(frozen=True)
class Temperature(Calibration):
    """The scores of all classes divided by one number before the softmax: no class overtakes another.

    Guo, Pleiss, Sun & Weinberger 2017, *On calibration of modern neural networks*.
    """

    method: ClassVar[str] = "temperature"
    temperature: float
    never: float = NEVER
    """No class is less probable than this to it."""

    @override
    @classmethod
    def fit(cls, p: np.ndarray, y: np.ndarray, weight: np.ndarray | None, *, scored: bool = False) -> Temperature:
        import numpy as np
        from scipy.optimize import minimize_scalar

        # Of a forest's zeros, as ``Sigmoid``: n rows prove no certainty.
        never = NEVER if p.min() > NEVER else 1 / (len(y) + 2)
        scores = np.log(np.maximum(p, never))
        own = scores[np.arange(len(y)), y]

        def loss(log_temperature: float) -> float:
            shrunk = scores / np.exp(log_temperature)
            return float(
                np.average(np.logaddexp.reduce(shrunk, axis=1) - own / np.exp(log_temperature), weights=weight)
            )

        found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-8})
        return cls(float(np.exp(found.x)), never)

    @override
    def __call__(self, p: np.ndarray) -> np.ndarray:
        import numpy as np

        powers = np.maximum(p, self.never) ** (1 / self.temperature)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np

        p = graph.node("Max", graph.node("Cast", value, to=11), graph.constant(np.array(self.never)))
        scores = graph.node("Div", graph.node("Log", p), graph.constant(np.array(self.temperature)))
        return graph.node("Cast", graph.node("Softmax", scores, axis=1), to=1)

    @override
    def state(self) -> dict[str, Any]:
        return asdict(self)

    @property
    @override
    def affine(self) -> tuple[float, float]:
        return 1 / self.temperature, 0.0


METHODS: dict[str, type[Calibration]] = {one.method: one for one in (Sigmoid, Isotonic, Temperature)}
BINARY, MULTICLASS = ("sigmoid", "isotonic"), ("temperature",)
"""The methods for each task."""


def restore(told: dict[str, Any]) -> Calibration:
    """What ``Calibration.state`` was taken from, with its ``method``."""
    state = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    del state["method"]
    return METHODS[told["method"]](**state)


def _no_steeper(x: list[float], y: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The highest function below the straight pieces through ``(x, y)`` that rises by ``STEEPEST`` at most."""
    found = [(x[0], y[0])]
    for a, b, low, high in zip(x, x[1:], y, y[1:], strict=False):
        reached = found[-1][1]
        slope = (high - low) / (b - a)
        if slope < STEEPEST:
            caught = a + (low - reached) / (STEEPEST - slope)
            if a < caught < b:
                found.append((caught, low + slope * (caught - a)))
        found.append((b, min(high, reached + STEEPEST * (b - a))))
    return tuple(one for one, _ in found), tuple(one for _, one in found)


def _log_odds(p: np.ndarray) -> np.ndarray:
    from scipy.special import logit

    return logit(p)  # type: ignore[no-any-return]


def _expit(score: Any) -> Any:
    from scipy.special import expit

    return expit(score)
