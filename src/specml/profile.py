"""whylogs behind one door: a table's profile as mergeable sketches.

whylogs 1.6.4 cannot track strings with NumPy 2 (it looks for ``np.unicode_``) and knows no polars; its sketches
work, so the columns are handed to them directly. Sketches are random: a profile feeds no digest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from specml.data import MISSING
from specml.errors import SpecmlError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

RANK_K = 4096
"""Size of the KLL sketch: a rank is within 0.1 % of the rows with 99 % confidence (Karnin, Lang & Liberty 2016)."""
ITEMS_LOG2 = 12
"""Up to 3,072 different texts of a column are counted exactly, the frequent ones of more with a bounded error."""


def profile(table: pl.DataFrame) -> bytes:
    """The profile of all columns, as whylogs serialises it: counts, distribution, cardinality, frequent items."""
    os.environ["WHYLOGS_NO_ANALYTICS"] = "1"
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

    now = datetime.now(UTC)
    columns = {values.name: _column(values) for values in table.get_columns()}
    view = DatasetProfileView(columns=columns, dataset_timestamp=now, creation_timestamp=now)
    return bytes(view.serialize())


@dataclass(frozen=True)
class Profile:
    """A profile read back."""

    view: Any
    """whylogs' ``DatasetProfileView``."""

    @classmethod
    def read(cls, raw: bytes) -> Profile:
        """What ``profile`` wrote.

        Raises:
            SpecmlError: it is no profile.
        """
        os.environ["WHYLOGS_NO_ANALYTICS"] = "1"
        from whylogs.core.view.dataset_profile_view import DatasetProfileView

        try:
            return cls(DatasetProfileView.deserialize(raw))
        except Exception as error:  # protobuf and whylogs have no common base for what a bad message raises
            raise SpecmlError(f"is no whylogs profile: {error}") from None

    def merge(self, other: Profile) -> Profile:
        """The profile of the rows of both."""
        return Profile(self.view.merge(other.view))

    def write(self) -> bytes:
        """As ``read`` takes it."""
        return bytes(self.view.serialize())

    def names(self) -> tuple[str, ...]:
        """The columns, sorted."""
        return tuple(sorted(self.view.get_columns()))

    def rows(self, name: str) -> int:
        """Rows of a column, the missing ones included."""
        return int(self._metric(name, "counts").n.value)

    def missing(self, name: str) -> int:
        """Rows without a value."""
        return int(self._metric(name, "counts").null.value)

    def up_to(self, name: str, edges: list[float]) -> np.ndarray:
        """How many values of a numeric column are at most each edge: float64 [len(edges)], from its KLL sketch."""
        import numpy as np

        sketch = self._metric(name, "distribution").kll.value
        if sketch.is_empty() or not edges:
            return np.zeros(len(edges))
        # The sketch tells the share strictly below a point.
        points = np.nextafter(np.asarray(edges, dtype=np.float64), np.inf)
        shares = np.array(sketch.get_cdf(points.tolist())[:-1], dtype=np.float64)
        return shares * int(sketch.get_n())

    def counts(self, name: str) -> dict[str, float]:
        """How often the frequent texts of a column occur."""
        items = self._metric(name, "frequent_items").strings
        return {str(item.value): float(item.est) for item in items}

    def _metric(self, name: str, metric: str) -> Any:
        return self.view.get_column(name).get_metric(metric)


def _column(values: pl.Series) -> Any:
    import polars as pl
    from whylogs.core.column_profile import ColumnProfile
    from whylogs.core.datatypes import AnyType, TypeMapper
    from whylogs.core.metrics import MetricConfig, StandardMetric
    from whylogs.core.preprocessing import PreprocessedColumn
    from whylogs.core.resolvers import Resolver
    from whylogs.core.schema import ColumnSchema

    text = values.dtype == pl.String
    wanted = [StandardMetric.counts, StandardMetric.types, StandardMetric.cardinality]
    wanted.append(StandardMetric.frequent_items if text else StandardMetric.distribution)

    # Longer texts would be cut, and no longer be the categories that they are.
    longest = max(map(len, values.drop_nulls().to_list()), default=1) if text else 1
    config = MetricConfig(kll_k_large=RANK_K, fi_lg_max_k=ITEMS_LOG2, max_frequent_item_size=longest)

    class Metrics(Resolver):  # type: ignore[misc]
        def resolve(self, name: str, why_type: Any, column_schema: Any) -> dict[str, Any]:
            return {metric.name: metric.zero(column_schema.cfg) for metric in wanted}

    class AnyColumn(TypeMapper):  # type: ignore[misc]
        def __call__(self, dtype: Any) -> Any:
            return AnyType()

    rows = PreprocessedColumn()
    known = values.filter(values != MISSING).drop_nulls() if text else values.drop_nulls()
    rows.len = len(values)
    rows.null_count = len(values) - len(known)
    if text:
        rows.list.strings = known.to_list()
    elif values.dtype.is_integer():
        rows.numpy.ints = known.to_numpy()
    else:
        # whylogs sums squares; beyond this they overflow.
        rows.numpy.floats = known.cast(pl.Float64).clip(-1e100, 1e100).to_numpy()
    schema = ColumnSchema(dtype=object, cfg=config, resolver=Metrics(), type_mapper=AnyColumn())
    column = ColumnProfile(values.name, schema, 1024)
    column._process_extracted_column(rows)
    return column.view()
