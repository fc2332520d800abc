"""Categories: one column each, one code, or what the target was on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.data import MISSING
from specml.errors import NotEnoughData
from specml.kinds import Feature, FittedFeature, Training
from specml.tables import splits

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import polars as pl

    from specml.data import Column
    from specml.graph import Graph
    from specml.spec import Spec

    Rows = tuple[tuple[float, ...], ...]

FOLDS = 5


class Categorical(Feature):
    """Encode text; a missing value is a category like any other when it was seen in training."""

    treats: ClassVar[tuple[str, ...]] = ("categorical",)

    type: Literal["categorical"] = "categorical"
    encode: Literal["auto", "onehot", "ordinal", "target"] = "auto"
    """``onehot``: a 0/1 column for each category, all 0 for one never seen; ``ordinal``: its place in the
    alphabet, -1 for one never seen; ``target``: the mean of the target (of each class, of several) in its training
    rows, drawn towards the mean of all rows. A training row is told that of other folds, divided as ``data.split``
    says: never of its own group, and of times only of earlier ones. ``auto``: ordinal for trees and networks, onehot
    for linear models."""
    max_categories: Annotated[int, Field(ge=2, le=10_000)] = 100
    """The commonest this many are kept; the others count as never seen."""
    min_frequency: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Training rows, or share of them, below which a category is rare and counts as never seen; with ``onehot``,
    what was never seen then has a column of its own, ``other``."""
    smooth: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """``target``: how many rows the mean of all counts against a category's own; ``auto``: the more, the more the
    target varies within the category and the less between them (empirical Bayes)."""

    @override
    def fit(self, column: Column, values: pl.Series, training: Training) -> FittedFeature:
        encode = training.prefers.encode if self.encode == "auto" else self.encode
        categories = self._kept(values)
        if encode == "target":
            return self._fit_target(column.name, categories, values, training)
        other = encode == "onehot" and self.min_frequency is not None
        return FittedCategorical(column.name, categories, encode, other)

    def _kept(self, values: pl.Series) -> tuple[str, ...]:
        counts: dict[str, int] = dict(values.alias("category").value_counts().iter_rows())
        least = self.min_frequency or 0
        least = least * len(values) if isinstance(least, float) else least
        common = sorted(counts, key=lambda category: (-counts[category], category))[: self.max_categories]
        return tuple(sorted([one for one in common if counts[one] >= least] or common[:1]))

    def _fit_target(
        self, name: str, categories: tuple[str, ...], values: pl.Series, training: Training
    ) -> FittedTarget:
        import numpy as np

        codes = _codes(categories, values)
        table = self._means(codes, len(categories), _targets(training))
        if training.prefers.scale == "standard":
            mean, spread = _scale(table[codes])
            table = (table - mean) / spread
        return FittedTarget(name, categories, tuple(map(tuple, np.asarray(table).tolist())))

    def _means(self, codes: np.ndarray, categories: int, targets: np.ndarray) -> np.ndarray:
        """float64 [categories + 1, columns]: what stands for each category, and last for what was never seen."""
        import numpy as np
        from sklearn.preprocessing import TargetEncoder

        columns = []
        for target in targets.T:
            encoder = TargetEncoder(
                categories=[np.arange(categories)], target_type="continuous", smooth=self.smooth
            ).fit(codes.reshape(-1, 1), target)
            columns.append([*encoder.encodings_[0], encoder.target_mean_])
        return np.array(columns).T

    @override
    def training_values(self, fitted: FittedFeature, values: pl.Series, training: Training) -> np.ndarray:
        """Each row by rows of other folds: none of its group, of times only earlier ones.

        One without such rows, as the first in time, is told what a category that was never seen is.
        """
        import numpy as np

        if not isinstance(fitted, FittedTarget):
            return fitted.transform(values)
        codes, targets, categories = _codes(fitted.categories, values), _targets(training), len(fitted.categories)
        plain = self._means(codes, categories, targets)
        crossed = np.repeat(plain[-1:], len(codes), axis=0)
        for inside, outside in _folds(training):
            crossed[outside] = self._means(codes[inside], categories, targets[inside])[codes[outside]]
        if training.prefers.scale == "standard":
            # On the scale of what new rows get.
            mean, spread = _scale(plain[codes])
            crossed = (crossed - mean) / spread
        return np.asarray(crossed, dtype=np.float32)

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.smooth != "auto" and self.encode != "target":
            yield Disagreement(key=("smooth",), what="has no effect.", hint="It goes with encode: target.")

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedFeature:
        name, categories = state["name"], tuple(state["categories"])
        if "table" in state:
            return FittedTarget(name, categories, tuple(tuple(map(float, row)) for row in state["table"]))
        return FittedCategorical(name, categories, state["encode"], state.get("other", False))


def _targets(training: Training) -> np.ndarray:
    """float64 [n, columns]: the number, whether it is the positive class, or for each of several whether it is that."""
    import numpy as np

    if training.task != "multiclass":
        return training.y.reshape(-1, 1).astype(np.float64)
    return np.asarray(training.y.reshape(-1, 1) == np.arange(training.n_classes), dtype=np.float64)


def _scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; 1 for one that does not vary."""
    import numpy as np

    spread = rows.std(axis=0)
    return rows.mean(axis=0), np.where(spread > 0, spread, 1.0)


def _folds(training: Training) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows (that encode, that are encoded), in up to ``FOLDS`` folds; none where they can't be divided."""
    import numpy as np

    most = FOLDS
    if training.key is None and training.task != "regression":
        most = max(2, min(most, int(np.bincount(training.y, minlength=training.n_classes).min())))
    for n in range(most, 1, -1):
        try:
            return list(splits.folds(training.folding, training.key, training.y, n, training.seed))
        except NotEnoughData:
            continue
    return []


def _codes(categories: tuple[str, ...], values: pl.Series) -> np.ndarray:
    """int64 [n]: the place of each value among ``categories``, -1 for another."""
    import numpy as np
    import polars as pl

    # An enum's physical values are the places of its categories.
    codes = values.cast(pl.Enum(categories), strict=False).to_physical()
    return codes.cast(pl.Int64).fill_null(-1).to_numpy().astype(np.int64, copy=False)


def _codes_in(graph: Graph, categories: tuple[str, ...], value: str, never: int = -1) -> str:
    """The same in the graph, int64 [n, 1]; ``never`` stands for another value."""
    return graph.node(
        "LabelEncoder",
        value,
        domain="ai.onnx.ml",
        keys_strings=list(categories),
        values_int64s=list(range(len(categories))),
        default_int64=never,
    )


@dataclass(frozen=True)
class FittedCategorical(FittedFeature):
    """The categories in alphabetical order, and how they are told to the model."""

    name: str
    categories: tuple[str, ...]
    encode: Literal["onehot", "ordinal"]
    other: bool = False
    """Whether a last column tells of what is none of them."""

    @property
    @override
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.encode == "ordinal":
            return (self.name,)
        told = tuple(f"{self.name}={'missing' if one == MISSING else one}" for one in self.categories)
        return (*told, f"{self.name}: other") if self.other else told

    @property
    @override
    def cardinality(self) -> int:
        return len(self.categories) if self.encode == "ordinal" else 0

    @override
    def transform(self, values: pl.Series) -> np.ndarray:
        import numpy as np

        codes = _codes(self.categories, values)
        if self.encode == "ordinal":
            return codes.astype(np.float32).reshape(-1, 1)
        out = np.zeros((len(codes), len(self.names)), dtype=np.float32)
        seen = np.arange(len(codes)) if self.other else np.flatnonzero(codes >= 0)
        out[seen, codes[seen]] = 1.0  # -1 is the last column: other
        return out

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np
        from onnx import TensorProto

        codes = _codes_in(graph, self.categories, value, len(self.categories) if self.other else -1)
        if self.encode == "onehot":
            codes = graph.node("Equal", codes, graph.constant(np.arange(len(self.names), dtype=np.int64)))
        return graph.node("Cast", codes, to=TensorProto.FLOAT)

    @override
    def state(self) -> dict[str, Any]:
        told = {"name": self.name, "categories": list(self.categories), "encode": self.encode}
        return {**told, "other": True} if self.other else told


@dataclass(frozen=True)
class FittedTarget(FittedFeature):
    """What stands for each category: [columns] of each, and last of what was never seen."""

    name: str
    categories: tuple[str, ...]
    table: Rows

    @property
    @override
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        if len(self.table[0]) == 1:
            return (f"{self.name}: target",)
        return tuple(f"{self.name}: class {place}" for place in range(len(self.table[0])))

    @override
    def transform(self, values: pl.Series) -> np.ndarray:
        import numpy as np

        return np.asarray(np.array(self.table, dtype=np.float32)[_codes(self.categories, values)])

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np

        codes = _codes_in(graph, self.categories, value, len(self.categories))
        codes = graph.node("Squeeze", codes, graph.constant(np.array([1])))
        return graph.node("Gather", graph.constant(np.array(self.table, dtype=np.float32)), codes, axis=0)

    @override
    def state(self) -> dict[str, Any]:
        return {"name": self.name, "categories": list(self.categories), "table": [list(row) for row in self.table]}
