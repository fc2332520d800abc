"""Messages as rows: one each, or one for each window of time that is known to be over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.errors import DataCheckFailed, NotEnoughData

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell

WINDOW, COUNT = "window", "count"
"""Columns of a table of windows: when each begins, and how many messages it has."""


def windows(
    messages: pl.DataFrame, times: pl.Series, every: float, lateness: float, *, by: tuple[str, ...], tell: Tell
) -> pl.DataFrame:
    """A row for each tumbling window and each combination of ``by``: mean, least and largest of numbers, last of texts.

    The watermark is the latest time that any message has borne, less ``lateness``. A window is over once the watermark
    has reached its end: a message that comes after that is late and left out, and so are the windows that are not over
    at the end. Both are told.

    Args:
        messages: in the order in which they came.
        times: of each, int64 microseconds since 1970 in UTC.
        every: length of a window in seconds; windows begin at multiples of it.
        lateness: how much later than others a message may come, in seconds.
        by: columns for whose values windows are made separately.
        tell: is given how many messages were left out.

    References:
        Akidau et al., The Dataflow Model, VLDB 2015, section 2: tumbling windows and watermarks.

    Raises:
        DataCheckFailed: there is no such column as one of ``by``, or it is called as one of ours.
        NotEnoughData: no window is over.
    """
    import polars as pl

    if unknown := [name for name in by if name not in messages.columns]:
        hint = f"It has: {', '.join(messages.columns)}."
        raise DataCheckFailed(f"the messages hold no {unknown[0]!r}.", hint=hint, where="by")
    numbers = [name for name in messages.columns if name not in by and messages.schema[name].is_numeric()]
    ours = {
        WINDOW,
        COUNT,
        "__time__",
        "__late__",
        *(f"{name}_{of}" for name in numbers for of in ("mean", "min", "max")),
    }
    if twins := [name for name in messages.columns if name in ours]:
        hint = "A row of a window has a column of that name: call the field otherwise."
        raise DataCheckFailed(f"the messages hold a field called {twins[0]!r}.", hint=hint, where="every")
    length, slack = round(every * 1e6), round(lateness * 1e6)
    table = messages.with_columns(times.alias("__time__"))
    begin = (pl.col("__time__") // length) * length
    before = (pl.col("__time__") - slack).cum_max().shift(1)  # the watermark when it came
    table = table.with_columns(begin.alias(WINDOW), (begin + length <= before).fill_null(value=False).alias("__late__"))
    late = int(table["__late__"].sum())
    watermark = int(times.max()) - slack  # type: ignore[arg-type]
    kept = table.filter(~pl.col("__late__"))
    over = kept.filter(pl.col(WINDOW) + length <= watermark)
    if late:
        tell("late messages left out", late)
    if waiting := kept.height - over.height:
        tell("messages of windows that are not over left out", waiting)
    if not over.height:
        raise NotEnoughData(f"no window of {every:g} s is over among {messages.height:,} messages.", where="every")
    told = [name for name in messages.columns if name not in by]
    return (
        over.sort("__time__", maintain_order=True)
        .group_by([WINDOW, *by], maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias(COUNT),
            *(pl.col(name).mean().alias(f"{name}_mean") for name in numbers),
            *(pl.col(name).min().alias(f"{name}_min") for name in numbers),
            *(pl.col(name).max().alias(f"{name}_max") for name in numbers),
            *(pl.col(name).drop_nulls().last() for name in told if name not in numbers),
        )
        .sort([WINDOW, *by], nulls_last=True)
        .with_columns(pl.from_epoch(WINDOW, time_unit="us"))
    )
