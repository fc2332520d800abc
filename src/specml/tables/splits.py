"""Which rows are held out, and how cross-validation divides the others: no row is judged by a model that knew it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field

from specml.casting import as_categories
from specml.component import Block, Disagreement
from specml.data import MISSING, Folding, category
from specml.errors import DataCheckFailed, NotEnoughData
from specml.values import Duration, Label

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import polars as pl

    from specml.data import FoldMethod
    from specml.spec import Spec

    Rows = np.ndarray
    """Row indices, int64 [m]."""

COLUMNS = {"time": "__time__", "group": "__group__", "hash": "__hash__"}
"""By method of the folds, the column of the training table by which it divides."""
BLOCK = 1 << 22
"""Rows of which some are drawn by chance at once: 4 million, of which scikit-learn's draw takes 200 MB."""
MOST_DRAWS = 50
"""Draws of groups, of which the one is taken whose classes stand nearest to their shares."""
MOST_WEIGHED = 10_000
"""Groups that are put into folds one after the other, each where the classes need it: of 100,000 it takes a minute, and
of so many chance keeps the classes in proportion."""
STRATA = 5
"""Parts of a number's range that draws of groups keep in proportion."""
KEPT = 10_000
"""Of a digest its remainder by this is kept beside the training rows: enough for folds, too little to tell an id."""
TEST = ("true", "1", "test")
FEWER = "Take fewer search.folds, or more rows."
NEEDS = {
    "time": "it orders the rows",
    "group": "it says what stays together",
    "column": "it says which rows are held out",
    "hash": "its values decide",
}


class Folds(Block):
    """How cross-validation divides the training rows, where it is not as the held-out ones were taken."""

    method: Literal["auto", "random", "stratified", "group", "time", "hash"] = "auto"
    """``auto``: forward in time, by group or by hash where ``data.split.method`` is one of these, with its options;
    else by chance, for classification stratified by class."""
    column: str | None = None
    """``time``, ``group``, ``hash``: the column, as in ``data.split``."""
    embargo: Annotated[Duration, Field(gt=0)] | None = None
    """``time``: as in ``data.split``."""


class Split(Block):
    """Which rows are held out, as a file that no training stage reads. Cross-validation divides the others likewise."""

    method: Literal["auto", "random", "stratified", "group", "time", "column", "hash"] = "auto"
    """``auto``: stratified by class for classification, random for regression; ``group``: what shares a value of
    ``column`` stays on one side, classes in proportion as far as that lets them; ``time``: the latest rows;
    ``column``: the rows that ``column`` marks; ``hash``: a digest of ``column`` decides, so that a row stays on its
    side when others are added."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of rows held out; of ``hash`` the expected one."""
    column: str | None = None
    """What ``group``, ``time``, ``column`` and ``hash`` go by. Rows of one time, group or id stay on one side."""
    values: tuple[Label, ...] = ()
    """``column``: the values that mean held out; unless said true, 1 and ``test``."""
    embargo: Annotated[Duration, Field(gt=0)] | None = None
    """``time``: how long before the first held-out time training ends, as ``30d``; rows between are left out, and
    counted. As long as a label takes to be known, or a feature looks back."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 7
    """``random``, ``stratified``, ``group``: of the draw; ``hash``: part of what is digested."""
    folds: Folds = Folds()


def disagreements(spec: Spec) -> Iterator[Disagreement]:
    """Options of the split without effect, and columns that it can't go by; keys are paths from the root."""
    split, path = spec.data.split, ("data", "split")
    yield from _wrong(spec, split, path)
    folds, auto = split.folds, split.folds.method == "auto"
    for key in ("column", "embargo") if auto else ():
        if getattr(folds, key) is not None:
            what = "has no effect: folds.method is auto, so that the folds are as the split."
            yield Disagreement(key=(*path, "folds", key), what=what)
    if not auto:
        yield from _wrong(spec, folds, (*path, "folds"))
    if split.method == "column" and split.test != Split().test:
        yield Disagreement(key=(*path, "test"), what="has no effect: the column says which rows are held out.")
    if split.method != "column" and split.values:
        yield Disagreement(key=(*path, "values"), what=f"has no effect on a split by {split.method!r}.")
    if split.method in ("time", "column") and folds.method != "hash" and split.seed != Split().seed:
        yield Disagreement(key=(*path, "seed"), what=f"has no effect on a split by {split.method!r}.")


def _wrong(spec: Spec, split: Split | Folds, path: tuple[str, ...]) -> Iterator[Disagreement]:
    method, key = split.method, (*path, "column")
    if method == "stratified" and spec.problem.learns == "regression":
        yield Disagreement(key=(*path, "method"), what="is stratified, but a regression target has no classes.")
    if method != "time" and split.embargo is not None:
        yield Disagreement(key=(*path, "embargo"), what=f"has no effect on a split by {method!r}.")
    if method not in NEEDS:
        if split.column is not None:
            yield Disagreement(key=key, what=f"has no effect on a split by {method!r}.")
        return
    if split.column is None:
        yield Disagreement(key=key, what=f"is required: {NEEDS[method]} of a {method} split.")
        return
    role, declared = spec.column(split.column).role, f"data.columns.{split.column}.role"
    if spec.data.undeclared == "drop" and role != "target" and split.column not in spec.data.columns:
        what, hint = f"names {split.column!r}, which undeclared: drop forgets.", f"Declare {declared}: id"
        yield Disagreement(key=key, what=what, hint=hint)
    elif method == "time" and role != "time":
        yield Disagreement(
            key=key, what=f"names {split.column!r}, whose role is {role}.", hint=f"Declare {declared}: time"
        )
    elif spec.column(split.column).use:
        what = f"names {split.column!r}, which is kept for gates only: the training rows may not tell it."
        yield Disagreement(key=key, what=what)
    elif role in ("target", "ignore") or (method == "column" and role == "feature"):
        yield Disagreement(
            key=key, what=f"names {split.column!r}, whose role is {role}.", hint=f"Declare {declared}: id"
        )


def hold_out(split: Split, table: pl.DataFrame, target: str, task: str) -> tuple[Rows, Rows]:
    """Row indices [train], [test]; in neither are those that the embargo leaves out.

    Both ascend; of a split by time the first is in the order of time.

    Raises:
        DataCheckFailed: a value by which rows are divided is missing, or no time.
        NotEnoughData: a side would be empty, or lack a class.
    """
    import numpy as np

    method = _resolved(split.method, task)
    y = table[target].to_numpy()
    if method not in NEEDS:
        train, test = _by_chance(y, split.test, split.seed, stratified=method == "stratified")
        return np.sort(train), np.sort(test)
    assert split.column is not None
    values = table[split.column]
    refuse_missing(values)
    if method == "column":
        return _marked(values, split.values)
    if method == "hash":
        return _sides(digests(values, split.seed)[0] < np.uint64(int(split.test * 2**64)))
    if method == "group":
        return _by_group(codes(values), y, split.test, split.seed)
    return _by_time(values, split.test, split.embargo)


def words(split: Split, task: str) -> str:
    """Which rows are held out, for people."""
    name = split.column
    ends = f"; training ends {split.embargo} before them" if split.embargo else ""
    return {
        "random": "by chance",
        "stratified": "by chance, the same share of each class",
        "group": f"by chance, no {name} on both sides",
        "time": f"the latest by {name}{ends}",
        "column": f"as {name} says",
        "hash": f"by a digest of {name}",
    }[_resolved(split.method, task)]


def folding(split: Split, task: str) -> Folding:
    """How the training rows are to be divided; the column of their table that it names ``fold_column`` makes."""
    folds = split if split.folds.method == "auto" else split.folds
    by_chance = split.folds.method == "auto" and split.method in ("random", "column")
    method = _resolved("auto" if by_chance else folds.method, task)
    if method not in NEEDS:
        return Folding(method=cast("FoldMethod", method))
    microseconds = round(folds.embargo * 1e6) if folds.embargo else 0
    return Folding(method=cast("FoldMethod", method), column=COLUMNS[method], embargo=microseconds)


def fold_column(split: Split, table: pl.DataFrame, folding: Folding) -> pl.Series:
    """By what the rows of ``table`` are divided: numbers that say which belong together, or came before, but no id.

    Times are counted, or, with an embargo, given in microseconds; of a digest there is only its remainder.
    """
    import numpy as np
    import polars as pl

    folds = split if split.folds.method == "auto" else split.folds
    assert folding.column is not None
    assert folds.column is not None
    values = table[folds.column]
    refuse_missing(values)
    if folding.method == "hash":
        made = pl.Series(digests(values, split.seed)[1] % np.uint64(KEPT)).cast(pl.Int64)
    elif folding.method == "group":
        made = pl.Series(codes(values))
    else:
        made = _microseconds(values) if folding.embargo else values.rank("dense")
    return made.alias(folding.column)


def folds(folding: Folding, key: np.ndarray | None, y: np.ndarray, n: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Row indices (train, validation) of each fold; ``key``: what ``fold_column`` has made, None where by chance.

    Raises:
        NotEnoughData: there are fewer rows, groups or times than the folds need.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    classes = y.dtype.kind != "f"
    try:
        if key is None:
            kind = StratifiedKFold if classes and folding.method == "stratified" else KFold
            yield from kind(n, shuffle=True, random_state=seed).split(y, y)
        elif folding.method == "group":
            few = len(np.unique(key)) <= MOST_WEIGHED
            by_group = StratifiedGroupKFold if classes and few else GroupKFold
            yield from _none_empty(by_group(n, shuffle=True, random_state=seed).split(y, y, key), n)
        elif folding.method == "hash":
            yield from _none_empty(_by_remainder(key, n), n)
        else:
            yield from forward(key, n, folding.embargo)
    except ValueError as error:
        raise NotEnoughData(f"{len(y)} rows can't form {n} folds: {error}", where="search.folds", hint=FEWER) from None


def divide(folding: Folding, key: np.ndarray | None, y: np.ndarray, share: float, seed: int) -> tuple[Rows, Rows]:
    """Part of the training rows as they are divided into folds: about 1 - ``share`` and ``share`` of them.

    Of times the latest rows are the second part; a time may then be on both sides, unless there is an embargo.

    Raises:
        ValueError: there are too few rows.
    """
    import numpy as np

    if key is None:
        return _by_chance(y, share, seed, stratified=folding.method == "stratified" and y.dtype.kind != "f")
    if folding.method == "group":
        return _by_group(key, y, share, seed)
    if folding.method == "hash":
        return _sides(key // (KEPT // 100) < round(100 * share))
    order = np.argsort(key, kind="stable")
    cut = int(len(order) * (1 - share))
    before, after = order[:cut], order[cut:]
    return (before[key[before] <= key[after[0]] - folding.embargo] if folding.embargo else before), after


def _resolved(method: str, task: str) -> str:
    return method if method != "auto" else "random" if task == "regression" else "stratified"


def refuse_missing(values: pl.Series) -> None:
    """Make sure that a column by which rows are divided or ordered is known of every row.

    Raises:
        DataCheckFailed: of some it is not.
    """
    import polars as pl

    texts = values.dtype in (pl.String, pl.Categorical)
    missing = values.null_count() + (int((values == MISSING).sum()) if texts else 0)
    if missing:
        what = "no time" if values.dtype.is_temporal() else f"no {values.name}, by which they are divided"
        raise DataCheckFailed(f"{missing} rows have {what}.", where=f"data.columns.{values.name}")


def _by_chance(y: np.ndarray, share: float, seed: int, *, stratified: bool) -> tuple[Rows, Rows]:
    """By scikit-learn's draw; of many rows ``BLOCK`` after ``BLOCK``, so that it takes no more memory than for one."""
    import numpy as np

    if stratified and int(np.bincount(y).min()) < 2:
        raise NotEnoughData("the rarest class has one row: it can't be on both sides of the split.", where="data.split")
    if len(y) <= BLOCK:
        return _drawn(y, share, seed, stratified=stratified)
    held = np.zeros(len(y), dtype=bool)
    for number, start in enumerate(range(0, len(y), BLOCK)):
        block = y[start : start + BLOCK]
        held[start + _drawn(block, share, (seed + number) % 2**32, stratified=stratified)[1]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _drawn(y: np.ndarray, share: float, seed: int, *, stratified: bool) -> tuple[Rows, Rows]:
    import numpy as np
    from sklearn.model_selection import train_test_split

    if stratified and (rare := (counts := np.bincount(y))[y] < 2).any():  # in this block
        y = np.where(rare, counts.argmax(), y)
    try:
        train, test = train_test_split(
            np.arange(len(y)), test_size=share, random_state=seed, stratify=y if stratified else None
        )
    except ValueError as error:
        raise NotEnoughData(f"{len(y)} rows can't be split: {error}", where="data.split") from None
    return train, test


def codes(values: pl.Series) -> np.ndarray:
    """int64 [n]: of each row the first one with its value, counted from 0 on."""
    import numpy as np
    import polars as pl

    frame = values.to_frame("value").with_row_index()
    return frame.select(pl.col("index").min().over("value"))["index"].to_numpy().astype(np.int64)


def _by_group(groups: np.ndarray, y: np.ndarray, share: float, seed: int) -> tuple[Rows, Rows]:
    """Of some draws by scikit-learn's GroupShuffleSplit that with the classes, and the rows, nearest to ``share``."""
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit

    names, groups = np.unique(groups, return_inverse=True)
    strata = _strata(y)
    counts = np.zeros((len(names), int(strata.max()) + 1))
    np.add.at(counts, (groups, strata), 1)
    every = np.arange(len(names))
    draws = GroupShuffleSplit(MOST_DRAWS, test_size=share, random_state=seed)
    try:
        drawn = [test for _, test in draws.split(every, groups=every)]
    except ValueError as error:
        raise NotEnoughData(f"{len(names)} groups can't be split: {error}", where="data.split") from None
    total = counts.sum(axis=0)

    def off(test: np.ndarray) -> float:
        taken = counts[test].sum(axis=0)
        return float(np.abs(taken / total - share).mean() + abs(taken.sum() / total.sum() - share))

    chosen = np.isin(groups, min(drawn, key=off))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _strata(y: np.ndarray) -> np.ndarray:
    """Classes from 0 on, or the part of its range in which a number lies."""
    import numpy as np

    if y.dtype.kind == "f":
        y = np.searchsorted(np.quantile(y, np.linspace(0, 1, STRATA + 1)[1:-1]), y)
    return np.unique(y, return_inverse=True)[1]


def _marked(values: pl.Series, given: tuple[Label, ...]) -> tuple[Rows, Rows]:
    import numpy as np

    wanted = [category(one) for one in given] or list(TEST)
    test = as_categories(values).is_in(wanted).to_numpy()
    if test.all() or not test.any():
        side = "every row is" if test.all() else "no row is"
        what = f"{side} held out: {values.name!r} says so of {int(test.sum()):,} of {len(test):,} rows."
        raise NotEnoughData(what, where="data.split.values", hint=f"Held out is what is {' or '.join(wanted)}.")
    return np.flatnonzero(~test), np.flatnonzero(test)


def digests(values: pl.Series, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent uint64 [n] of each value: the first 16 bytes, big-endian, of the SHA-256 of ``seed:value``.

    The value is the text by which ``data.category`` calls it: nothing but it and the seed matters, on any machine.
    """
    import numpy as np
    import polars as pl

    frame = as_categories(values).to_frame("text")
    texts = frame["text"].unique()
    found = b"".join(hashlib.sha256(f"{seed}:{one}".encode()).digest()[:16] for one in texts.to_list())
    halves = np.frombuffer(found, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    known = pl.DataFrame({"text": texts, "first": halves[:, 0], "second": halves[:, 1]})
    frame = frame.join(known, on="text", how="left", maintain_order="left")
    return frame["first"].to_numpy(), frame["second"].to_numpy()


def _sides(test: np.ndarray) -> tuple[Rows, Rows]:
    import numpy as np

    if test.all() or not test.any():
        what = f"the digests of {len(test):,} rows put them all on one side."
        raise NotEnoughData(what, where="data.split", hint="Are there enough different ids?")
    return np.flatnonzero(~test), np.flatnonzero(test)


def _by_remainder(kept: np.ndarray, n: int) -> Iterator[tuple[Rows, Rows]]:
    import numpy as np

    for number in range(n):
        yield np.flatnonzero(kept % n != number), np.flatnonzero(kept % n == number)


def _none_empty(every: Iterator[tuple[Rows, Rows]], n: int) -> Iterator[tuple[Rows, Rows]]:
    for inside, outside in every:
        if len(inside) == 0 or len(outside) == 0:
            raise NotEnoughData(f"one of {n} folds would be empty.", where="search.folds", hint=FEWER)
        yield inside, outside


def _microseconds(times: pl.Series) -> pl.Series:
    """Int64, of dates and times."""
    import polars as pl

    if times.dtype not in (pl.Date, pl.Datetime):
        what = f"{times.name!r} holds {times.dtype} values, of which an embargo says nothing: it needs times."
        raise DataCheckFailed(
            what, where="data.split.embargo", hint=f"Declare data.columns.{times.name}.dtype: datetime"
        )
    return times.cast(pl.Datetime("us", getattr(times.dtype, "time_zone", None))).to_physical()


def _by_time(times: pl.Series, share: float, embargo: Duration | None) -> tuple[Rows, Rows]:
    """The latest rows are held out: at least ``share`` of them, rows of one time together."""
    import numpy as np

    cut = times.sort()[int(np.floor(len(times) * (1 - share)))]
    late = (times >= cut).to_numpy()
    if late.all():
        raise NotEnoughData(f"every row would be held out: they all stand at or after {cut}.", where="data.split.test")
    order = np.argsort(times.rank("dense").to_numpy(), kind="stable")
    # Train rows stay in the order of time.
    train, test = order[~late[order]], np.flatnonzero(late)
    if embargo:
        passed = _microseconds(times).to_numpy()
        train = train[passed[train] <= passed[test].min() - round(embargo * 1e6)]
        if len(train) == 0:
            raise NotEnoughData(f"no row is {embargo} older than the held-out ones.", where="data.split.embargo")
    return train, test


def forward(times: np.ndarray, n: int, embargo: int = 0) -> Iterator[tuple[Rows, Rows]]:
    """Train on what came before, validate on what came next; a time is never on both sides.

    Up to ``n`` folds of about equal size, fewer when there are fewer times. ``embargo``: in the unit of ``times``,
    what lies between the last time of a fold's training rows and the first that they are judged by.
    """
    import numpy as np

    order = np.argsort(times, kind="stable")
    times = times[order]
    changes = np.flatnonzero(np.diff(times)) + 1
    if len(changes) == 0:
        raise NotEnoughData("all training rows are of one time: nothing comes next.", where="data.split.column")
    wanted = [len(times) * (i + 1) / (n + 1) for i in range(n)]
    cuts = sorted({int(changes[np.abs(changes - one).argmin()]) for one in wanted})
    for start, end in zip(cuts, [*cuts[1:], len(times)], strict=True):
        before = int(np.searchsorted(times, times[start] - embargo, side="right")) if embargo else start
        if before == 0:
            what = "no training row is old enough for the first fold: the embargo reaches back to the first time."
            raise NotEnoughData(what, where="data.split.embargo", hint="Take fewer search.folds, or a shorter embargo.")
        yield order[:before], order[start:end]
