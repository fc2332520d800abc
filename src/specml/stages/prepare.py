"""Give every column its type and role, and hold rows out: the test rows go to a file that no training stage reads."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.casting import as_groups, cast, declared_groups
from specml.data import (
    CATEGORIES_KEPT,
    FIRST,
    LARGEST,
    LAST,
    MISSING,
    NAMES_ROWS,
    Column,
    Folding,
    Layout,
    category,
    looks_back,
    watched,
)
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, read_json, write_atomic
from specml.plan import Stage
from specml.spec import Features
from specml.stages import ingest
from specml.tables import contract, feasibility, history, joins, labels, leakage, repair, splits
from specml.tables.checks import Findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.data import DType
    from specml.spec import Spec
    from specml.stages.work import Work

TRAIN = "artifacts/prepare/train.parquet"
TEST = "artifacts/prepare/test.parquet"
LAYOUT = "artifacts/prepare/layout.json"
QUARANTINE = "artifacts/prepare/quarantine.parquet"
"""Rows that checks have put aside, with the reason; only where the spec has such a check."""
STRENGTHS = "artifacts/prepare/strengths.json"
"""How well each feature alone tells the target: by it a leak is found, and ``explore`` shows the best ones first."""
METRICS = "metrics/prepare.json"

MOST_CLASSES = 100

OUTPUTS = ("label", "prediction", "probabilities")
"""What the packaged model's outputs are called."""


def declare(spec: Spec) -> Stage:
    """Depends on what is declared about the data, not on the model; of the features, on which columns they take."""
    return Stage(
        name="prepare",
        summary=("join the sources; " if spec.data.joins else "") + "types, roles, groups; hold out the test rows",
        params=(
            "data.joins",
            *(("data.undeclared",) if spec.data.joins else ()),
            "data.columns",
            "data.checks",
            "data.labels",
            "data.split",
            "problem.task",
            "problem.target",
            "problem.positive_class",
            "problem.favourable_class",
            "problem.feasibility",
            *(("features",) if spec.features.chooses else ()),
        ),
        deps=(
            *(ingest.OUT.replace("${key}", name) for name in spec.data.sources),
            *(ingest.columns_files(spec).values() if spec.data.joins else ()),
        ),
        outs=(TRAIN, TEST, LAYOUT, STRENGTHS, *((QUARANTINE,) if spec.data.quarantines else ())),
        metrics=(METRICS,),
    )


def work(work: Work) -> None:
    """Table → train and test tables, and the layout that says how to read them."""
    import numpy as np

    spec, findings = work.spec, Findings()
    written, found = _table(work)
    if not spec.data.labels.rules:
        ingest.refuse_missing({spec.problem.target: "problem.target"}, written.columns)
    if written.height == 0:
        raise NotEnoughData("the source has no rows.")
    features = spec.features if "features" in work.stage.params else Features()
    table, repaired, odd = repair.repaired(spec, features, written)
    target, labelled = labels.labelled(spec, table, findings)
    if target is not None:
        written, table = written.with_columns(target), table.with_columns(target)
    table, apart = contract.judged(spec, written, table, findings)
    if apart is not None:
        ingest.write_table(work, QUARANTINE, apart)
    findings.refuse()
    table, set_aside = _typed(spec, features, table)
    table = history.prepared(spec, features, table, set_aside)
    unlabelled = table[spec.problem.target].null_count()
    labels.bounded(spec, unlabelled, table.height, findings)
    table = table.filter(table[spec.problem.target].is_not_null())
    classes = _classes(spec, table[spec.problem.target])
    table = table.with_columns(_target(table[spec.problem.target], classes))
    contract.balanced(spec, table[spec.problem.target], findings)
    _refuse_set_aside(spec, set_aside)
    train_rows, test_rows = splits.hold_out(spec.data.split, table, spec.problem.target, spec.problem.task)
    train, test = table[train_rows], table[test_rows]
    feasibility.refuse_few(spec, train, test, classes)
    layout = _layout(spec, features, train, classes, set_aside)
    strengths = leakage.single_columns(spec, layout, train, findings)
    leakage.across(spec, layout, train, test, findings)
    findings.refuse()
    _write_tables(work, layout, train, test)
    write_atomic(work.path(STRENGTHS), canonical_json(strengths))
    told: dict[str, Any] = {
        "rows": {"train": train.height, "test": test.height, "unlabelled": unlabelled},
        "held_out": splits.words(spec.data.split, spec.problem.task),
        "features": len(layout.features),
        "set_aside": dict(sorted(set_aside.items())),
        "checks": findings.told(),
    }
    if embargoed := table.height - train.height - test.height:
        told["rows"]["embargoed"] = embargoed
    told |= {
        key: facts
        for key, facts in (("joins", found), ("labels", labelled), ("repaired", repaired), ("odd", odd))
        if facts
    }
    if apart is not None:
        told["rows"]["quarantined"] = apart.height
    if classes:
        counts = np.bincount(train[layout.target].to_numpy(), minlength=len(classes))
        told["train_rows_by_class"] = {str(label): int(n) for label, n in zip(classes, counts, strict=True)}
    write_atomic(work.path(METRICS), canonical_json(told))
    for note in (*_notes(told), *labels.notes(spec.data.labels, labelled), *findings.warnings()):
        work.say(note, note=True)
    aside = f", {len(set_aside)} columns set aside" if set_aside else ""
    work.say(f"train {train.height:,} · test {test.height:,} rows, {len(layout.features)} features{aside}")


def _write_tables(work: Work, layout: Layout, train: pl.DataFrame, test: pl.DataFrame) -> None:
    spec = work.spec
    kept = [c.name for c in layout.features] + [*layout.protected, *([layout.weight] if layout.weight else [])]
    kept = [*dict.fromkeys([*kept, spec.problem.target])]
    trained_on = [name for name in kept if spec.column(name).use != "audit_only"]
    ingest.write_table(work, TRAIN, _divided(spec, train, trained_on, layout.folding))
    ingest.write_table(work, TEST, test.select(kept))
    write_atomic(work.path(LAYOUT), canonical_json(layout.model_dump(mode="json")))


def _notes(told: dict[str, Any]) -> Iterator[str]:
    """What a person should know of the data, from the metrics."""
    if n := told["rows"]["unlabelled"]:
        yield f"{n:,} rows without a label are left out"
    if n := told["rows"].get("embargoed"):
        yield f"{n:,} rows within the embargo are left out"
    for key in ("repaired", "odd"):
        yield from (f"{name}: {what}" for name, what in sorted(told.get(key, {}).items()))
    yield from (f"{name} set aside: {reason}" for name, reason in told["set_aside"].items())


def _table(work: Work) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """The rows of all sources as one table, and what the joins found."""
    import polars as pl

    data = work.spec.data
    read = {Path(dep).stem: pl.read_parquet(work.path(dep)) for dep in work.stage.deps if dep.endswith(".parquet")}
    if not data.joins:
        return next(iter(read.values())), {}
    table, told = joins.joined(read, data.joins)
    files = [Path(dep) for dep in work.stage.deps if dep.endswith(".json")]
    dropped = {
        joins.named(data.joins, file.stem, name)
        for file in files
        for names in read_json(work.path(str(file)))["dropped"].values()
        for name in names
    }
    wanted = {name: f"data.columns.{name}" for name in data.columns if name not in dropped}
    ingest.refuse_missing(wanted, table.columns)
    if data.undeclared == "drop":  # keys that were only there for the join
        table = table.select(name for name in table.columns if name in {*data.columns, work.spec.problem.target})
    for right, found in told.items():
        matched = f"{found['matched']:,} of {found['rows']:,} rows match one of its {found['right_rows']:,}"
        work.say(f"{right} joined: {matched}", note=True)
    return table, told


def _typed(spec: Spec, features: Features, table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """Columns in their declared or inferred types; what is set aside, and why: kept only if looked back at."""
    import polars as pl

    set_aside: dict[str, str] = {}
    looked_back_at = history.needed(features)
    columns = []
    for values in table.get_columns():
        name, declared = values.name, spec.column(values.name)
        if declared.role == "ignore":
            continue
        if not name:
            set_aside["(unnamed)"] = "it has no name"
            continue
        typed = _column_typed(spec, values, features.dtype(name))
        missing = int((typed == MISSING).sum()) if typed.dtype == pl.String else typed.null_count()
        if missing and not declared.nullable:
            what = f"{missing} of {len(values)} values are missing, but nullable is false."
            raise DataCheckFailed(what, where=f"data.columns.{name}.nullable")
        reason = unfit = _unfit(typed, missing, times=features.takes_times(name)) if declared.role == "feature" else ""
        if name in spec.data.labels.read and declared.role == "feature":
            reason = "a rule under data.labels reads it"
        if declared.known_after:
            reason = f"it is known only after the {declared.known_after}"
        if reason:
            set_aside[name] = reason
        if not reason or (name in looked_back_at and not unfit):
            columns.append(typed)
    return pl.DataFrame(columns), set_aside


def _column_typed(spec: Spec, values: pl.Series, wanted: DType | None) -> pl.Series:
    """One column, by its role; ``wanted``: the dtype that its feature needs."""
    import polars as pl

    declared = spec.column(values.name)
    if declared.role == "protected":
        return as_groups(cast(values, declared.dtype) if declared.dtype else values, declared)
    if declared.role == "time" and declared.dtype is None and values.dtype == pl.String:
        return cast(values, "datetime")
    if declared.role == "target" and declared.dtype != "category" and values.dtype == pl.String:
        return values if declared.dtype is None else cast(values, declared.dtype)
    typed = cast(values, declared.dtype or wanted)
    if declared.role == "target" and typed.dtype == pl.String:
        return typed.replace({MISSING: None})
    if declared.role == "weight":
        _refuse_bad_weights(typed)
    return typed


def _refuse_bad_weights(values: pl.Series) -> None:
    where = f"data.columns.{values.name}.role: weight"
    if not values.dtype.is_numeric():
        raise DataCheckFailed(f"the weights are {values.dtype} values, not numbers.", where=where)
    bad = values.null_count() + int((values < 0).sum())
    if bad:
        raise DataCheckFailed(f"{bad} of {len(values)} weights are missing, not finite or negative.", where=where)
    if not values.sum() > 0:
        raise DataCheckFailed("every weight is 0.", where=where)


def _unfit(values: pl.Series, missing: int, *, times: bool) -> str:
    """Why a column can't be a feature; empty when it can."""
    import polars as pl

    if missing == len(values):
        return "every value is missing"
    if times and values.dtype in (pl.Date, pl.Datetime):
        return ""
    if values.dtype in (pl.Date, pl.Datetime):
        return f"it holds {values.dtype} values; say features.columns.{values.name}: date, or its role: time or ignore"
    if values.dtype.is_temporal():
        return f"it holds {values.dtype} values; declare its role: time or ignore"
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean)):
        return f"it holds {values.dtype} values"
    return ""


def _classes(spec: Spec, values: pl.Series) -> tuple[Any, ...]:
    """The labels in the order of the model's outputs; none for a regression."""
    import polars as pl

    problem, where = spec.problem, f"problem.target: {spec.problem.target}"
    if len(values) == 0:
        raise NotEnoughData(f"no row has a value of {problem.target!r}.", where="problem.target")
    if problem.task == "regression":
        _refuse_bad_numbers(values, where)
        return ()
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum)):
        raise DataCheckFailed(f"holds {values.dtype} values, which are no labels.", where=where)
    classes = _labels(values).unique().sort().to_list()
    if len(classes) < 2:
        raise NotEnoughData(f"{problem.target!r} has one value only.", where="problem.target")
    if problem.task == "binary":
        classes = _binary(spec, classes)
    elif len(classes) == 2:
        raise DataCheckFailed(f"{problem.target!r} has two values.", hint="Use task: binary.", where="problem.task")
    elif len(classes) > MOST_CLASSES:
        raise DataCheckFailed(f"has {len(classes)} different values; is this a regression?", where="problem.target")
    wanted = problem.favourable_class
    if wanted is not None and wanted not in classes:
        known = ", ".join(map(repr, classes))
        raise DataCheckFailed(f"is {wanted!r}, but the classes are {known}.", where="problem.favourable_class")
    return tuple(classes)


def _refuse_bad_numbers(values: pl.Series, where: str) -> None:
    """The target of a regression."""
    import polars as pl

    if not values.dtype.is_numeric():
        raise DataCheckFailed(f"holds {values.dtype} values, not numbers.", where=where)
    beyond = int((values.cast(pl.Float64).abs() > LARGEST).sum())
    if beyond:
        raise DataCheckFailed(f"{beyond} values are beyond ±{LARGEST:g}: the model answers in float32.", where=where)


def _labels(values: pl.Series) -> pl.Series:
    """Labels as text, whole numbers or booleans; other numbers as they are."""
    import polars as pl

    if values.dtype in (pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    if values.dtype.is_float() and (values == values.round()).all():
        return values.cast(pl.Int64)
    return values


def _target(values: pl.Series, classes: tuple[Any, ...]) -> pl.Series:
    """Class indices, or float64."""
    import polars as pl

    if not classes:
        return values.cast(pl.Float64)
    return _labels(values).replace_strict(list(classes), list(range(len(classes))), return_dtype=pl.Int64)


def _binary(spec: Spec, classes: list[Any]) -> list[Any]:
    """[negative, positive]."""
    positive = spec.problem.positive_class
    if len(classes) != 2:
        raise DataCheckFailed(
            f"{spec.problem.target!r} has {len(classes)} values, not two.",
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
    matching = [one for one in classes if one == positive and isinstance(one, bool) == isinstance(positive, bool)]
    matching = matching or [one for one in classes if isinstance(one, str) and one == category(positive)]
    if not matching:
        raise DataCheckFailed(
            f"is {positive!r}, but {spec.problem.target!r} has the values {classes[0]!r} and {classes[1]!r}.",
            where="problem.positive_class",
        )
    return [label for label in classes if label != matching[0]] + matching


def _divided(spec: Spec, train: pl.DataFrame, kept: list[str], folding: Folding) -> pl.DataFrame:
    """The training table; where folds go by a column, with one that says what belongs together or came before."""
    if folding.column is None:
        return train.select(kept)
    return train.select(kept).with_columns(splits.fold_column(spec.data.split, train, folding))


def _refuse_set_aside(spec: Spec, set_aside: dict[str, str]) -> None:
    split = spec.data.split
    for name, where in ((split.column, "data.split.column"), (split.folds.column, "data.split.folds.column")):
        if name in set_aside:
            raise DataCheckFailed(f"{name!r} is set aside: {set_aside[name]}.", where=where)


def _layout(
    spec: Spec, chosen: Features, train: pl.DataFrame, classes: tuple[Any, ...], set_aside: dict[str, str]
) -> Layout:
    features, read = [], chosen.read
    _refuse_idle_patterns(chosen, [*train.columns, *set_aside])
    for name in train.columns:
        if not _may_be_feature(spec, chosen, name):
            continue
        if not chosen.takes(name) and name not in read:
            set_aside[name] = "features.include and exclude leave it out"
            continue
        if train[name].null_count() == train.height or train[name].n_unique() == 1:
            empty = looks_back(name) and train[name].null_count() == train.height
            told = (
                "no training row has so many rows before it" if empty else "it has one value only in the training rows"
            )
            set_aside[name] = told
            continue
        distinct = train[name].n_unique()
        dtype = spec.column(name).dtype or chosen.dtype(name)
        if _is_text(train[name]) and dtype is None and distinct > NAMES_ROWS * train.height:
            set_aside[name] = (
                f"{distinct:,} of its {train.height:,} texts are distinct; an id? Declare its role or dtype, as text"
            )
            continue
        features.append(_column(name, train[name], dtype, nullable=spec.column(name).nullable))
    for column in features:
        odd = re.fullmatch(r"_[cv]\d+", column.name) or (looks_back(column.name) and column.name not in read)
        if column.name in (*OUTPUTS, *splits.COLUMNS.values()) or odd:
            raise DataCheckFailed(
                f"a feature can't be called {column.name!r}, which the model's graph needs as a name of its own.",
                hint=f"Rename it in the data, or declare data.columns.{column.name}.role: ignore",
            )
    if not features:
        raise DataCheckFailed("no feature is left.", hint="Check the roles under data.columns.")
    _refuse_underivable(chosen, {column.name: column.kind for column in features}, set_aside)
    weights = spec.with_role("weight")
    return Layout(
        task=spec.problem.task,
        target=spec.problem.target,
        classes=classes,
        features=tuple(features),
        protected=spec.with_role("protected"),
        groups={name: declared_groups(spec.column(name)) for name in spec.with_role("protected")},
        folding=splits.folding(spec.data.split, spec.problem.task),
        weight=weights[0] if weights else None,
        history=history.past_rows(spec, chosen),
    )


def _refuse_idle_patterns(features: Features, names: list[str]) -> None:
    """A pattern that fits no column is misspelt, or left from what has gone."""
    for key, pattern in features.idle(names):
        close = get_close_matches(pattern, names, 1)
        hint = f"Did you mean {close[0]!r}?" if close else ""
        raise DataCheckFailed(f"{pattern!r} fits no column of the data.", where=f"features.{key}", hint=hint)


def _refuse_underivable(features: Features, kinds: dict[str, str], set_aside: dict[str, str]) -> None:
    """What derives must find the columns that it reads, of kinds that it can read."""
    for derived, feature in features.derive.items():
        where = f"features.derive.{derived}"
        if derived in kinds:
            raise DataCheckFailed("is the name of a column: a derived feature needs one of its own.", where=where)
        for name, allowed in feature.reads().items():
            if name not in kinds:
                why = f", which was set aside: {set_aside[name]}" if name in set_aside else ", which is no column"
                close = get_close_matches(name, kinds, 1)
                hint = f"Did you mean {close[0]!r}?" if close else ""
                raise DataCheckFailed(f"reads {name!r}{why}.", where=where, hint=hint)
            if kinds[name] not in allowed:
                what = f"reads {name!r} as {' or '.join(allowed)}; it is {kinds[name]}."
                of, _ = looks_back(name) or (name, 0)
                raise DataCheckFailed(what, where=where, hint=f"Declare data.columns.{of}.dtype, or mend the formula.")


def _may_be_feature(spec: Spec, chosen: Features, name: str) -> bool:
    """Whether its role lets a model see a column; one that orders the rows only where a feature asks for it."""
    role = spec.column(name).role
    if role == "time":
        return chosen.dtype(name) == "datetime" or name in chosen.read
    return role == "feature" and name != spec.problem.target


def _is_text(values: pl.Series) -> bool:
    import polars as pl

    return values.dtype == pl.String


def _column(name: str, values: pl.Series, dtype: DType | None, *, nullable: bool) -> Column:
    import polars as pl

    if dtype == "text":
        return Column(name=name, kind="text", nullable=nullable)
    if values.dtype.is_temporal():
        times = watched(values, Column(name=name, kind="datetime"))
        ends = {"minimum": _number(times.clip(FIRST, LAST).min()), "maximum": _number(times.clip(FIRST, LAST).max())}
        return Column(name=name, kind="datetime", nullable=nullable, **ends)
    if values.dtype == pl.String:
        counts = values.filter(values != MISSING).alias("value").value_counts(sort=True).head(CATEGORIES_KEPT)
        return Column(
            name=name, kind="categorical", nullable=nullable, categories=tuple(sorted(counts["value"].to_list()))
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
