"""Whether there are enough rows: of all, of each class, of each group, over enough time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.casting import declared_groups
from specml.data import MISSING
from specml.errors import DataCheckFailed, NotEnoughData
from specml.values import Duration

if TYPE_CHECKING:
    import polars as pl

    from specml.spec import Spec

WHERE = "problem.feasibility"


def refuse_few(spec: Spec, train: pl.DataFrame, test: pl.DataFrame, classes: tuple[Any, ...]) -> None:
    """Make sure that ``problem.feasibility`` is met; ``train`` and ``test`` hold every column that was read.

    Raises:
        NotEnoughData: it is not.
        DataCheckFailed: a history is asked of what is no time.
    """
    import numpy as np

    wanted = spec.problem.feasibility
    if train.height < wanted.min_rows:
        raise NotEnoughData(f"{train.height} training rows, {wanted.min_rows} are needed.", where=f"{WHERE}.min_rows")
    if classes:
        counts = np.bincount(train[spec.problem.target].to_numpy(), minlength=len(classes))
        rarest = int(counts.argmin())
        if counts[rarest] < wanted.min_rows_per_class:
            raise NotEnoughData(
                f"class {classes[rarest]!r} has {counts[rarest]} training rows of {wanted.min_rows_per_class} needed.",
                where=f"{WHERE}.min_rows_per_class",
            )
    if test.height == 0:
        raise NotEnoughData("no row is held out.", where="data.split.test")
    if wanted.min_rows_per_group is not None:
        for name in spec.with_role("protected"):
            _refuse_small_groups(test[name], declared_groups(spec.column(name)), wanted.min_rows_per_group)
    if wanted.min_history is not None:
        assert spec.data.split.column is not None
        _refuse_short(train[spec.data.split.column], wanted.min_history)


def _refuse_small_groups(values: pl.Series, declared: tuple[str, ...], least: int) -> None:
    """A group's name is told where the spec has it; else it is a value of the data."""
    counts = dict(values.alias("value").value_counts().iter_rows())
    found = {name: counts.get(name, 0) for name in declared} or {k: n for k, n in counts.items() if k != MISSING}
    small = {name: n for name, n in found.items() if n < least}
    if small:
        named = f" ({', '.join(f'{name}: {n}' for name, n in small.items())})" if declared else ""
        what = (
            f"{len(small)} of {len(found)} groups of {values.name!r} have fewer than {least} held-out rows{named}; "
            f"the smallest has {min(small.values())}."
        )
        hint = "Join them by data.columns.NAME.groups or bands, or hold more rows out."
        raise NotEnoughData(what, where=f"{WHERE}.min_rows_per_group", hint=hint.replace("NAME", values.name))


def _refuse_short(times: pl.Series, least: Duration) -> None:
    if not times.dtype.is_temporal():
        hint = f"Declare data.columns.{times.name}.dtype: datetime"
        what = f"{times.name!r} holds {times.dtype} values: how long they last is unknown."
        raise DataCheckFailed(what, where=f"{WHERE}.min_history", hint=hint)
    span: Any = times.max() - times.min()  # type: ignore[operator]
    if span.total_seconds() < least:
        days = Duration(span.days * 86400.0)
        raise NotEnoughData(f"the training rows span {days} of {least} needed.", where=f"{WHERE}.min_history")
