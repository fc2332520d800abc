"""whylogs behind one door: a table's profile as mergeable sketches.

whylogs 1.6.4 cannot track strings with NumPy 2 (it looks for ``np.unicode_``) and knows no polars; its sketches
work, so the columns are handed to them directly. Sketches are random: a profile feeds no digest.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from specml.data import MISSING

if TYPE_CHECKING:
    import polars as pl


def profile(table: pl.DataFrame) -> bytes:
    """The profile of all columns, as whylogs serialises it: counts, distribution, cardinality, frequent items."""
    os.environ["WHYLOGS_NO_ANALYTICS"] = "1"
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

    now = datetime.now(UTC)
    columns = {values.name: _column(values) for values in table.get_columns()}
    view = DatasetProfileView(columns=columns, dataset_timestamp=now, creation_timestamp=now)
    return bytes(view.serialize())


def _column(values: pl.Series) -> Any:
    import polars as pl
    from whylogs.core.column_profile import ColumnProfile
    from whylogs.core.datatypes import AnyType, TypeMapper
    from whylogs.core.metrics import StandardMetric
    from whylogs.core.preprocessing import PreprocessedColumn
    from whylogs.core.resolvers import Resolver
    from whylogs.core.schema import ColumnSchema

    text = values.dtype == pl.String
    wanted = [StandardMetric.counts, StandardMetric.types, StandardMetric.cardinality]
    wanted.append(StandardMetric.frequent_items if text else StandardMetric.distribution)

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
    column = ColumnProfile(values.name, ColumnSchema(dtype=object, resolver=Metrics(), type_mapper=AnyColumn()), 1024)
    column._process_extracted_column(rows)
    return column.view()
