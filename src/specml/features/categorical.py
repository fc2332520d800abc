"""Categories: one column each, or one code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.data import MISSING
from specml.kinds import Feature, FittedFeature, Preference

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.data import Column
    from specml.graph import Graph


class Categorical(Feature):
    """Encode text; a missing value is a category like any other when it was seen in training."""

    treats: ClassVar[tuple[str, ...]] = ("categorical",)

    type: Literal["categorical"] = "categorical"
    encode: Literal["auto", "onehot", "ordinal"] = "auto"
    """``onehot``: a 0/1 column for each category, all 0 for one never seen; ``ordinal``: its place in the
    alphabet, -1 for one never seen. ``auto``: ordinal for trees and networks, onehot for linear models."""
    max_categories: Annotated[int, Field(ge=2, le=10_000)] = 100
    """The commonest this many are kept; the others count as never seen."""

    @override
    def fit(self, column: Column, values: pl.Series, prefers: Preference) -> FittedCategorical:
        counts: dict[str, int] = dict(values.alias("category").value_counts().iter_rows())
        commonest = sorted(counts, key=lambda category: (-counts[category], category))[: self.max_categories]
        encode = prefers.encode if self.encode == "auto" else self.encode
        return FittedCategorical(column.name, tuple(sorted(commonest)), encode)

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedCategorical:
        return FittedCategorical(state["name"], tuple(state["categories"]), state["encode"])


@dataclass(frozen=True)
class FittedCategorical(FittedFeature):
    """The categories in alphabetical order, and how they are told to the model."""

    name: str
    categories: tuple[str, ...]
    encode: Literal["onehot", "ordinal"]

    @property
    @override
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.encode == "ordinal":
            return (self.name,)
        return tuple(f"{self.name}={'missing' if one == MISSING else one}" for one in self.categories)

    @property
    @override
    def cardinality(self) -> int:
        return len(self.categories) if self.encode == "ordinal" else 0

    @override
    def transform(self, values: pl.Series) -> np.ndarray:
        import numpy as np
        import polars as pl

        known = pl.Enum(self.categories)  # its physical values are the places of the categories
        codes = values.cast(known, strict=False).to_physical()
        if self.encode == "ordinal":
            return codes.cast(pl.Float32).fill_null(-1.0).to_numpy().reshape(-1, 1)
        out = np.zeros((len(values), len(self.categories)), dtype=np.float32)
        seen = codes.is_not_null()
        out[np.flatnonzero(seen), codes.drop_nulls()] = 1.0
        return out

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np
        from onnx import TensorProto

        codes = graph.node(
            "LabelEncoder",
            value,
            domain="ai.onnx.ml",
            keys_strings=list(self.categories),
            values_int64s=list(range(len(self.categories))),
            default_int64=-1,
        )
        if self.encode == "onehot":
            codes = graph.node("Equal", codes, graph.constant(np.arange(len(self.categories), dtype=np.int64)))
        return graph.node("Cast", codes, to=TensorProto.FLOAT)

    @override
    def state(self) -> dict[str, Any]:
        return {"name": self.name, "categories": list(self.categories), "encode": self.encode}
