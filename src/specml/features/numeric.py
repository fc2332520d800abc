"""Numbers: outliers, missing values and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Block, Disagreement
from specml.kinds import Feature, FittedFeature, Training

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from specml.data import Column
    from specml.graph import Graph
    from specml.spec import Spec

    Knots = tuple[tuple[float, float, float], ...]
    """(value, share of the training rows below it, share up to it), the values ascending."""

QUANTILES = 100
"""Knots of ``scale: quantile``: hundredths, as far as they differ."""


class Limits(Block):
    """Values beyond are set to the limit; missing ones stay missing."""

    min: float | None = None
    max: float | None = None
    quantiles: tuple[Annotated[float, Field(ge=0, lt=0.5)], Annotated[float, Field(gt=0.5, le=1)]] | None = None
    """Limits learned in training instead, as ``[0.01, 0.99]`` (winsorizing)."""


class Numeric(Feature):
    """Limit outliers, fill missing values and scale, in float64; the result is float32."""

    treats: ClassVar[tuple[str, ...]] = ("numeric",)

    type: Literal["numeric"] = "numeric"
    clip: Limits | None = None
    """Limits of the values, applied before all else."""
    missing: Literal["auto", "native", "median", "mean", "constant"] = "auto"
    """``native`` leaves NaN to the model (trees, networks); ``auto``: native for those, median for
    linear models; ``constant``: ``fill_value``."""
    fill_value: float | None = None
    """What stands for a missing value (``missing: constant``)."""
    indicator: bool = False
    """Adds a column that is 1 where the value is missing, else 0."""
    scale: Literal["auto", "none", "standard", "robust", "quantile"] = "auto"
    """``standard``: zero mean, unit variance; ``robust``: zero median, unit interquartile range; ``quantile``: the
    share of training rows below, 0 to 1. ``auto``: none for trees, standard for others."""
    monotone: Literal["increasing", "decreasing"] | None = None
    """Direction in which alone the score of the positive class, or the prediction, may move with the value."""

    @override
    def fit(self, column: Column, values: np.ndarray, training: Training) -> FittedNumeric:
        import numpy as np

        prefers = training.prefers
        missing = prefers.missing if self.missing == "auto" else self.missing
        scale = prefers.scale if self.scale == "auto" else self.scale
        # Sums of larger numbers overflow; what is scaled ends within LIMIT anyway.
        known = np.clip(values[np.isfinite(values)], -1e100, 1e100)
        limits = self._limits(known)
        if limits:
            known = np.clip(known, *limits)
        fill = self._fill(missing, known)
        filled = known if fill is None else np.append(known, np.full(len(values) - len(known), fill))
        offset, factor = _moments(scale, filled)
        return FittedNumeric(
            (column.name, f"{column.name} is missing") if self.indicator else (column.name,),
            fill,
            offset,
            factor,
            limits,
            _knots(filled) if scale == "quantile" and len(filled) else (),
            {"increasing": 1, "decreasing": -1, None: 0}[self.monotone],
        )

    def _limits(self, known: np.ndarray) -> tuple[float, float] | None:
        import numpy as np

        if self.clip is None:
            return None
        if self.clip.quantiles is not None:
            return _limits(*(np.quantile(known, self.clip.quantiles).tolist() if len(known) else (None, None)))
        return _limits(self.clip.min, self.clip.max)

    def _fill(self, missing: str, known: np.ndarray) -> float | None:
        import numpy as np

        if missing == "native":
            return None
        if missing == "constant":
            return self.fill_value
        if len(known) == 0:
            return 0.0
        return float(np.median(known) if missing == "median" else np.mean(known))

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if (self.missing == "constant") != (self.fill_value is not None):
            what = "is required: missing is constant." if self.missing == "constant" else "has no effect."
            yield Disagreement(key=("fill_value",), what=what, hint="It goes with missing: constant.")
        if self.clip is not None:
            low, high = self.clip.min, self.clip.max
            if self.clip.quantiles is not None and (low, high) != (None, None):
                yield Disagreement(key=("clip", "quantiles"), what="can't stand beside min or max.")
            elif (low, high, self.clip.quantiles) == (None, None, None):
                yield Disagreement(key=("clip",), what="says no limit.", hint="Say min, max or quantiles.")
            elif low is not None and high is not None and low >= high:
                yield Disagreement(key=("clip", "max"), what=f"is {high:g}, not above min: {low:g}.")
        if self.monotone is not None:
            yield from self._direction(spec)

    def _direction(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.task == "multiclass":
            what = "says a direction, but of several classes none is the one whose score rises."
            yield Disagreement(key=("monotone",), what=what)
        if spec.problem.quantiles:
            yield Disagreement(key=("monotone",), what="can't be kept by quantiles, whose leaves are found anew.")
            return
        for name, candidate in spec.candidates.items():
            if not candidate.keeps_monotone:
                what = f"can't be kept by the candidate {name!r} ({candidate.type})."  # type: ignore[attr-defined]
                yield Disagreement(
                    key=("monotone",), what=what, hint="Leave one of the two out; boosted trees keep it."
                )

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedNumeric:
        name = state["name"]
        return FittedNumeric(
            (name, f"{name} is missing") if state.get("indicator") else (name,),
            state["fill"],
            state["offset"],
            state["factor"],
            _limits(*state["limits"]) if "limits" in state else None,
            tuple((float(v), float(a), float(b)) for v, a, b in state.get("knots", ())),
            state.get("monotone", 0),
        )


def _limits(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _moments(scale: str, filled: np.ndarray) -> tuple[float, float]:
    """What is subtracted, and what the rest is multiplied by."""
    import numpy as np

    if scale not in ("standard", "robust") or len(filled) == 0:
        return 0.0, 1.0
    if scale == "standard":
        offset, spread = float(np.mean(filled)), float(np.std(filled))
    else:
        low, offset, high = np.quantile(filled, (0.25, 0.5, 0.75)).tolist()
        spread = high - low
    return offset, 1.0 / spread if spread > 0 else 1.0


def _knots(filled: np.ndarray) -> Knots:
    """Hundredths of ``filled``; a value that several of them share has a knot with the first and the last share."""
    import numpy as np

    shares = np.linspace(0, 1, QUANTILES)
    values = np.maximum.accumulate(np.quantile(filled, shares))
    unique, first = np.unique(values, return_index=True)
    last = np.append(first[1:], QUANTILES) - 1
    return tuple(zip(unique.tolist(), shares[first].tolist(), shares[last].tolist(), strict=True))


@dataclass(frozen=True)
class FittedNumeric(FittedFeature):
    """``(x or fill - offset) * factor``; a scaled value is kept within ±1e6, so that no input overflows a model.

    With ``limits``, x is within them; with ``knots``, the share of training rows below x stands for it.
    """

    names: tuple[str, ...]
    fill: float | None
    offset: float
    factor: float
    limits: tuple[float, float] | None = None
    knots: Knots = ()
    direction: int = 0

    LIMIT: ClassVar[float] = 1e6

    @property
    def scaled(self) -> bool:
        """Whether the arithmetic does anything."""
        return (self.offset, self.factor) != (0.0, 1.0)

    @property
    @override
    def monotone(self) -> int:
        return self.direction

    @override
    def transform(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        out = np.clip(values, *self.limits) if self.limits else values
        out = out if self.fill is None else np.where(np.isnan(out), self.fill, out)
        if self.knots:
            out = self._share(out)
        elif self.scaled:
            with np.errstate(over="ignore"):  # what is beyond float64 is beyond LIMIT
                out = np.clip((out - self.offset) * self.factor, -self.LIMIT, self.LIMIT)
        columns = [out, np.isnan(values)] if len(self.names) == 2 else [out]
        with np.errstate(over="ignore"):
            return np.stack(columns, axis=1).astype(np.float32)

    def _share(self, values: np.ndarray) -> np.ndarray:
        """As scikit-learn's ``QuantileTransformer``: between knots by a line, on one by the middle of its shares."""
        import numpy as np

        values = np.clip(values, self.knots[0][0], self.knots[-1][0])
        knots = np.array([one[0] for one in self.knots])
        place = np.searchsorted(knots, values, side="right")
        place[np.isnan(values)] = 0
        here, on, start, slope = (table[place] for table in self._tables())
        return np.where(values == here, on, start + (values - here) * slope)

    def _tables(self) -> tuple[np.ndarray, ...]:
        """By how many knots a value has reached: the last one, its share, and start and slope of the line after it.

        No knot is reached by NaN alone, and any line leads from NaN to NaN.
        """
        import numpy as np

        value, below, up_to = np.array(self.knots).T
        on = (below + up_to) / 2
        # Below the first knot and above the last one there is nothing: sklearn's 0 and 1.
        on[0], on[-1] = (0.0, 1.0) if len(on) > 1 else (0.5, 0.5)
        slope = np.append((below[1:] - up_to[:-1]) / np.diff(value), 0.0)
        return tuple(np.append(table[:1], table) for table in (value, on, up_to, slope))

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np
        from onnx import TensorProto

        def number(x: float) -> str:
            return graph.constant(np.array(x, dtype=np.float64))

        raw = value
        if self.limits:
            value = graph.node("Clip", value, number(self.limits[0]), number(self.limits[1]))
        if self.fill is not None:
            value = graph.node("Where", graph.node("IsNaN", value), number(self.fill), value)
        if self.knots:
            value = self._share_in(graph, value)
        elif self.scaled:
            value = graph.node("Mul", graph.node("Sub", value, number(self.offset)), number(self.factor))
            value = graph.node("Clip", value, number(-self.LIMIT), number(self.LIMIT))
        value = graph.node("Cast", value, to=TensorProto.FLOAT)
        if len(self.names) == 2:
            missing = graph.node("Cast", graph.node("IsNaN", raw), to=TensorProto.FLOAT)
            value = graph.node("Concat", value, missing, axis=1)
        return value

    def _share_in(self, graph: Graph, value: str) -> str:
        import numpy as np
        from onnx import TensorProto

        knots = np.array([one[0] for one in self.knots])
        value = graph.node("Clip", value, graph.constant(knots[0]), graph.constant(knots[-1]))
        reached = graph.node("Cast", graph.node("GreaterOrEqual", value, graph.constant(knots)), to=TensorProto.INT64)
        place = graph.node("ReduceSum", reached, graph.constant(np.array([1])), keepdims=1)
        here, on, start, slope = (graph.node("Gather", graph.constant(one), place) for one in self._tables())
        line = graph.node("Add", start, graph.node("Mul", graph.node("Sub", value, here), slope))
        return graph.node("Where", graph.node("Equal", value, here), on, line)

    @override
    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "name": self.names[0],
            "fill": self.fill,
            "offset": self.offset,
            "factor": self.factor,
        }
        if self.limits:
            told["limits"] = [one if math.isfinite(one) else None for one in self.limits]
        if self.knots:
            told["knots"] = [list(one) for one in self.knots]
        if len(self.names) == 2:
            told["indicator"] = True
        if self.direction:
            told["monotone"] = self.direction
        return told
