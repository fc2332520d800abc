"""Numbers: missing values and scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from specml.kinds import Feature, FittedFeature, Preference

if TYPE_CHECKING:
    import numpy as np

    from specml.data import Column
    from specml.graph import Graph


class Numeric(Feature):
    """Fill missing values and scale, in float64; the result is float32."""

    treats: ClassVar[tuple[str, ...]] = ("numeric",)

    type: Literal["numeric"] = "numeric"
    missing: Literal["auto", "native", "median", "mean"] = "auto"
    """``native`` leaves NaN to the model (trees, networks); ``auto``: native for those, median for
    linear models."""
    scale: Literal["auto", "none", "standard"] = "auto"
    """``standard``: zero mean, unit variance. ``auto``: none for trees, standard for others."""

    @override
    def fit(self, column: Column, values: np.ndarray, prefers: Preference) -> FittedNumeric:
        import numpy as np

        missing = prefers.missing if self.missing == "auto" else self.missing
        scale = prefers.scale if self.scale == "auto" else self.scale
        # Sums of larger numbers overflow; what is scaled ends within LIMIT anyway.
        known = np.clip(values[np.isfinite(values)], -1e100, 1e100)
        fill = None
        if missing != "native":
            fill = 0.0 if len(known) == 0 else float(np.median(known) if missing == "median" else np.mean(known))
        filled = known if fill is None else np.append(known, np.full(len(values) - len(known), fill))
        offset, factor = 0.0, 1.0
        if scale == "standard" and len(filled):
            offset = float(np.mean(filled))
            spread = float(np.std(filled))
            factor = 1.0 / spread if spread > 0 else 1.0
        return FittedNumeric((column.name,), fill, offset, factor)

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedNumeric:
        return FittedNumeric((state["name"],), state["fill"], state["offset"], state["factor"])


@dataclass(frozen=True)
class FittedNumeric(FittedFeature):
    """``(x or fill - offset) * factor``; a scaled value is kept within ±1e6, so that no input overflows a model."""

    names: tuple[str, ...]
    fill: float | None
    offset: float
    factor: float

    LIMIT: ClassVar[float] = 1e6

    @property
    def scaled(self) -> bool:
        """Whether the arithmetic does anything."""
        return (self.offset, self.factor) != (0.0, 1.0)

    @override
    def transform(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        out = values if self.fill is None else np.where(np.isnan(values), self.fill, values)
        if self.scaled:
            out = np.clip((out - self.offset) * self.factor, -self.LIMIT, self.LIMIT)
        with np.errstate(over="ignore"):
            return out.astype(np.float32).reshape(-1, 1)

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np
        from onnx import TensorProto

        def number(x: float) -> str:
            return graph.constant(np.array(x, dtype=np.float64))

        if self.fill is not None:
            value = graph.node("Where", graph.node("IsNaN", value), number(self.fill), value)
        if self.scaled:
            value = graph.node("Mul", graph.node("Sub", value, number(self.offset)), number(self.factor))
            value = graph.node("Clip", value, number(-self.LIMIT), number(self.LIMIT))
        return graph.node("Cast", value, to=TensorProto.FLOAT)

    @override
    def state(self) -> dict[str, Any]:
        return {"name": self.names[0], "fill": self.fill, "offset": self.offset, "factor": self.factor}
