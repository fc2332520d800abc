"""Give every column its type and role, and hold rows out: the test rows go to a file that no training stage reads."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from specml.data import MISSING, Column, Layout
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, write_atomic
from specml.plan import Stage
from specml.stages import ingest

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.spec import Spec
    from specml.stages.work import Work

TRAIN = "artifacts/prepare/train.parquet"
TEST = "artifacts/prepare/test.parquet"
LAYOUT = "artifacts/prepare/layout.json"
METRICS = "metrics/prepare.json"
CATEGORIES_KEPT = 1000
"""Categories that the contract lists for a column; beyond, the list stops being of use to a reader."""


OUTPUTS = ("label", "prediction", "probabilities")
"""What the packaged model's outputs are called."""


def declare(spec: Spec) -> Stage:
    """Depends on what is declared about the data, not on the model."""
    return Stage(
        name="prepare",
        summary="types, roles, groups; hold out the test rows",
        params=(
            "data.columns",
            "data.split",
            "problem.task",
            "problem.target",
            "problem.positive_class",
            "problem.feasibility",
        ),
        deps=tuple(ingest.OUT.replace("${key}", name) for name in spec.data.sources),
        outs=(TRAIN, TEST, LAYOUT),
        metrics=(METRICS,),
    )


def work(work: Work) -> None:
    """Table → train and test tables, and the layout that says how to read them."""
    import numpy as np
    import polars as pl

    spec = work.spec
    table = pl.read_parquet(work.path(work.stage.deps[0]))
    _check_declared(spec, table)
    table, unlabelled = _labelled(spec, table)
    table, set_aside = _typed(spec, table)
    table, classes = _target(spec, table)
    table = _protected(spec, table)
    train_rows, test_rows = split(spec, table)
    train, test = table[train_rows], table[test_rows]
    _feasible(spec, train, test, classes)
    layout = _layout(spec, train, classes, set_aside)
    kept = [*(c.name for c in layout.features), *layout.protected, *([layout.weight] if layout.weight else [])]
    kept = [*dict.fromkeys([*kept, spec.problem.target])]
    ingest.write_table(work, TRAIN, train.select(kept))
    ingest.write_table(work, TEST, test.select(kept))
    write_atomic(work.path(LAYOUT), canonical_json(layout.model_dump(mode="json")))
    told: dict[str, Any] = {
        "rows": {"train": train.height, "test": test.height, "unlabelled": unlabelled},
        "features": len(layout.features),
        "set_aside": dict(sorted(set_aside.items())),
    }
    if classes:
        counts = np.bincount(train[layout.target].to_numpy(), minlength=len(classes))
        told["train_rows_by_class"] = {str(label): int(n) for label, n in zip(classes, counts, strict=True)}
    write_atomic(work.path(METRICS), canonical_json(told))
    for name, reason in sorted(set_aside.items()):
        work.say(f"{name} set aside: {reason}")
    work.say(f"train {train.height:,} · test {test.height:,} rows, {len(layout.features)} features; test rows held out")


def _check_declared(spec: Spec, table: pl.DataFrame) -> None:
    wanted = [spec.problem.target, *spec.data.columns]
    if spec.data.split.column:
        wanted.append(spec.data.split.column)
    for name in wanted:
        if name not in table.columns:
            close = get_close_matches(name, table.columns, 1)
            raise DataCheckFailed(
                f"the data has no column {name!r}.",
                hint=f"Did you mean {close[0]!r}?" if close else f"It has: {', '.join(table.columns)}.",
                where=f"data.columns.{name}" if name in spec.data.columns else "problem.target",
            )
    if table.height == 0:
        raise NotEnoughData("the source has no rows.")


def _labelled(spec: Spec, table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Rows with a label; how many had none."""
    import polars as pl

    target = table[spec.problem.target]
    known = target.is_not_null()
    if target.dtype.is_float():
        known = known & target.is_finite()
    kept = table.filter(known)
    if kept.height == 0:
        raise NotEnoughData(f"no row has a value of {spec.problem.target!r}.", where="problem.target")
    return kept.with_columns(pl.col(spec.problem.target)), table.height - kept.height


def _typed(spec: Spec, table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """Columns in their declared or inferred types; what is set aside, and why."""
    set_aside: dict[str, str] = {}
    columns = []
    for values in table.get_columns():
        name = values.name
        declared = spec.column(name)
        if declared.role == "ignore":
            continue
        if not name:
            set_aside["(unnamed)"] = "it has no name"
            continue
        if not declared.nullable and values.null_count():
            raise DataCheckFailed(
                f"{values.null_count()} of {len(values)} values are missing, but nullable is false.",
                where=f"data.columns.{name}.nullable",
            )
        if name == spec.problem.target or declared.role == "id":
            columns.append(values)
            continue
        typed = _cast(name, values, declared.dtype)
        if declared.role == "feature" and typed.null_count() == len(typed):
            set_aside[name] = "every value is missing"
        elif declared.role == "feature" and typed.dtype.is_temporal():
            set_aside[name] = f"it holds {typed.dtype} values; declare its role: time or ignore"
        elif declared.role == "feature" and typed.dtype.is_nested():
            set_aside[name] = f"it holds {typed.dtype} values"
        else:
            columns.append(typed)
    import polars as pl

    return pl.DataFrame(columns), set_aside


def _cast(name: str, values: pl.Series, dtype: str | None) -> pl.Series:
    """``values`` as Boolean, Float64, Int64, String (categories) or a temporal type."""
    import polars as pl

    if dtype == "category" or (dtype is None and _is_text(values.dtype)):
        return _text(values)
    targets = {"float": pl.Float64, "int": pl.Int64, "bool": pl.Boolean, "datetime": pl.Datetime}
    if dtype is None:
        out = values.cast(pl.Float64) if values.dtype.is_decimal() else values
    elif dtype == "datetime" and values.dtype == pl.String:
        out = values.str.to_datetime(strict=False)
    elif dtype == "bool" and values.dtype == pl.String:
        lower = values.str.to_lowercase()
        known = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
        out = lower.replace_strict(known, default=None, return_dtype=pl.Boolean)
    else:
        out = values.cast(targets[dtype], strict=False)
    lost = out.null_count() - values.null_count()
    if lost:
        raise DataCheckFailed(
            f"{lost} of {len(values)} values can't be read as {dtype}.",
            hint="Declare another dtype, or list the texts that mean missing in the source.",
            where=f"data.columns.{name}.dtype",
        )
    if out.dtype.is_float():
        out = out.cast(pl.Float64)
        out = pl.select(pl.when(out.is_finite()).then(out)).to_series().alias(name)
    return out


def _is_text(dtype: pl.DataType) -> bool:
    import polars as pl

    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _text(values: pl.Series) -> pl.Series:
    """Categories as text: whole numbers without a decimal point, a missing value as ``MISSING``."""
    import polars as pl

    if values.dtype.is_float():
        whole = values.drop_nulls()
        if (whole == whole.round()).all():
            values = values.cast(pl.Int64)
    return values.cast(pl.String).fill_null(MISSING)


def _target(spec: Spec, table: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Any, ...]]:
    """The target as class indices (classification) or float64; the classes in the order of the outputs."""
    import polars as pl

    problem = spec.problem
    values = table[problem.target]
    if problem.task == "regression":
        if not values.dtype.is_numeric():
            raise DataCheckFailed(
                f"holds {values.dtype} values, not numbers.", where=f"problem.target: {problem.target}"
            )
        return table.with_columns(values.cast(pl.Float64)), ()
    if values.dtype.is_float() and (values == values.round()).all():
        values = values.cast(pl.Int64)
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    classes = values.unique().sort().to_list()
    if problem.task == "binary":
        classes = _binary(spec, classes)
    elif len(classes) > max(100, 2):
        raise DataCheckFailed(f"has {len(classes)} different values; is this a regression?", where="problem.target")
    if len(classes) < 2:
        raise NotEnoughData(f"{problem.target!r} has one value only: {classes[0]!r}.", where="problem.target")
    index = values.replace_strict(classes, list(range(len(classes))), return_dtype=pl.Int64)
    return table.with_columns(index.alias(problem.target)), tuple(classes)


def _binary(spec: Spec, classes: list[Any]) -> list[Any]:
    """[negative, positive]."""
    positive = spec.problem.positive_class
    if len(classes) != 2:
        raise DataCheckFailed(
            f"{spec.problem.target!r} has {len(classes)} values ({', '.join(map(repr, classes[:5]))}), not two.",
            hint="Use task: multiclass or regression." if len(classes) > 2 else "",
            where="problem.target",
        )
    if positive is None:
        if classes in ([0, 1], [False, True]):
            return classes
        raise DataCheckFailed(
            f"{spec.problem.target!r} has the values {classes[0]!r} and {classes[1]!r}; which one is positive?",
            hint=f"Add problem.positive_class: {classes[1]!r}",
            where="problem.positive_class",
        )
    matching = [
        label for label in classes if label == positive and isinstance(label, bool) == isinstance(positive, bool)
    ]
    if not matching:
        raise DataCheckFailed(
            f"is {positive!r}, but {spec.problem.target!r} has the values {classes[0]!r} and {classes[1]!r}.",
            where="problem.positive_class",
        )
    return [label for label in classes if label != matching[0]] + matching


def _protected(spec: Spec, table: pl.DataFrame) -> pl.DataFrame:
    """Protected columns as named groups."""
    import numpy as np
    import polars as pl

    for name in spec.with_role("protected"):
        declared = spec.column(name)
        values = table[name]
        if declared.bands:
            if not values.dtype.is_numeric():
                raise DataCheckFailed(f"holds {values.dtype} values, not numbers.", where=f"data.columns.{name}.bands")
            edges = declared.bands
            between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
            names = [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]
            places = np.searchsorted(
                np.array(edges), values.cast(pl.Float64).fill_null(float("nan")).to_numpy(), side="right"
            )
            missing = values.is_null().to_list()
            groups = [MISSING if gone else names[p] for p, gone in zip(places.tolist(), missing, strict=True)]
            values = pl.Series(name, groups, dtype=pl.String)
        elif declared.groups:
            texts = _text(values)
            named = {
                str(_text(pl.Series([v]))[0]): group for group, members in declared.groups.items() for v in members
            }
            known = {**named, MISSING: MISSING}
            values = texts.replace_strict(known, default="other", return_dtype=pl.String)
        else:
            values = _text(values)
        table = table.with_columns(values.alias(name))
    return table


def split(spec: Spec, table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Row indices [train], [test], both ascending."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    declared, n = spec.data.split, table.height
    method = declared.method
    if method == "auto":
        method = "random" if spec.problem.task == "regression" else "stratified"
    if method == "time":
        assert declared.column is not None
        return _by_time(table[declared.column], declared.test, declared.column)
    stratify = None
    if method == "stratified":
        stratify = table[spec.problem.target].to_numpy()
        rarest = int(np.bincount(stratify).min())
        if rarest < 2:
            raise NotEnoughData(
                "the rarest class has one row: it can't be on both sides of the split.", where="data.split"
            )
    try:
        train, test = train_test_split(
            np.arange(n), test_size=declared.test, random_state=declared.seed, stratify=stratify
        )
    except ValueError as error:
        raise NotEnoughData(f"{n} rows can't be split: {error}", where="data.split") from None
    return np.sort(train), np.sort(test)


def _by_time(times: pl.Series, share: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The latest rows are held out: at least ``share`` of them, rows of one time together."""
    import numpy as np

    if times.null_count():
        raise DataCheckFailed(f"{times.null_count()} rows have no time.", where=f"data.columns.{name}")
    cut = times.sort()[int(np.floor(len(times) * (1 - share)))]
    late = (times >= cut).to_numpy()
    if late.all():
        raise NotEnoughData(f"every row would be held out: they all stand at or after {cut}.", where="data.split.test")
    order = np.argsort(times.rank("dense").to_numpy(), kind="stable")
    # Train rows stay in the order of time, which forward folds rely on.
    return order[~late[order]], np.flatnonzero(late)


def _feasible(spec: Spec, train: pl.DataFrame, test: pl.DataFrame, classes: tuple[Any, ...]) -> None:
    import numpy as np

    wanted = spec.problem.feasibility
    if train.height < wanted.min_rows:
        raise NotEnoughData(
            f"{train.height} training rows, {wanted.min_rows} are needed.", where="problem.feasibility.min_rows"
        )
    if classes:
        counts = np.bincount(train[spec.problem.target].to_numpy(), minlength=len(classes))
        rarest = int(counts.argmin())
        if counts[rarest] < wanted.min_rows_per_class:
            raise NotEnoughData(
                f"class {classes[rarest]!r} has {counts[rarest]} training rows of {wanted.min_rows_per_class} needed.",
                where="problem.feasibility.min_rows_per_class",
            )
    if test.height == 0:
        raise NotEnoughData("no row is held out.", where="data.split.test")


def _layout(spec: Spec, train: pl.DataFrame, classes: tuple[Any, ...], set_aside: dict[str, str]) -> Layout:
    features = []
    for name in train.columns:
        if spec.column(name).role != "feature" or name == spec.problem.target:
            continue
        if train[name].null_count() == train.height or train[name].n_unique() == 1:
            set_aside[name] = "it has one value only in the training rows"
            continue
        features.append(_column(name, train[name], nullable=spec.column(name).nullable))
    for column in features:
        if column.name in OUTPUTS or re.fullmatch(r"_[cv]\d+", column.name):
            raise DataCheckFailed(
                f"a feature can't be called {column.name!r}, which the model's graph needs as a name of its own.",
                hint=f"Rename it in the data, or declare data.columns.{column.name}.role: ignore",
            )
    if not features:
        raise DataCheckFailed("no feature is left.", hint="Check the roles under data.columns.")
    weights = spec.with_role("weight")
    return Layout(
        task=spec.problem.task,
        target=spec.problem.target,
        classes=classes,
        features=tuple(features),
        protected=spec.with_role("protected"),
        weight=weights[0] if weights else None,
    )


def _column(name: str, values: pl.Series, *, nullable: bool) -> Column:
    import polars as pl

    if values.dtype == pl.String:
        counts = values.filter(values != MISSING).value_counts(sort=True).head(CATEGORIES_KEPT)
        return Column(
            name=name, kind="categorical", nullable=nullable, categories=tuple(sorted(counts[name].to_list()))
        )
    numbers = values.cast(pl.Float64)
    return Column(
        name=name,
        kind="boolean" if values.dtype == pl.Boolean else "numeric",
        integral=values.dtype.is_integer(),
        nullable=nullable,
        minimum=_number(numbers.min()),
        maximum=_number(numbers.max()),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
