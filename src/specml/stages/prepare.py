"""Give every column its type and role, and hold rows out: the test rows go to a file that no training stage reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import batches
from specml.casting import as_groups, cast
from specml.data import LARGEST, MISSING, category
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, read_json, scratch, write_atomic
from specml.plan import Stage
from specml.spec import Features
from specml.stages import ingest
from specml.tables import contract, feasibility, forecast, history, joins, labels, leakage, repair, splits, strength
from specml.tables import layout as layouts
from specml.tables.checks import Findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.batches import Batches
    from specml.data import DType, Layout, Pixels
    from specml.spec import Data, Spec
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
            "problem.quantiles",
            "problem.favourable_class",
            "problem.feasibility",
            "problem.forecast",
            *(("features",) if spec.features.chooses else ()),
            *(("data.sources",) if _of_images(spec) else ()),
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
    with scratch(work.path(TRAIN)) as folder:
        told, notes = _prepared(work, folder)
    write_atomic(work.path(METRICS), canonical_json(told))
    for note in notes:
        work.say(note, note=True)
    rows, aside = told["rows"], told["set_aside"]
    said = f"train {rows['train']:,} · test {rows['test']:,} rows, {told['features']} features"
    work.say(f"{said}, {len(aside)} columns set aside" if aside else said)


def _prepared(work: Work, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Metrics, and what a person should know; ``folder``: where batches of large tables are kept."""
    spec, findings = work.spec, Findings()
    target, split = spec.problem.target, spec.data.split
    features = spec.features if "features" in work.stage.params else Features()
    written, found = _table(work, features, folder)
    rows = written.height
    if not spec.data.labels.rules:
        ingest.refuse_missing({target: "problem.target"}, written.schema.names())
    if spec.problem.forecast:
        ingest.refuse_missing(dict.fromkeys(spec.problem.forecast.named, "problem.forecast"), written.schema.names())
    if rows == 0:
        raise NotEnoughData("the source has no rows.")
    repaired = repair.Repair(spec, features, written)
    contract.counted(spec, rows, findings)
    table, apart, labelled = _checked(work, written, repaired, findings)
    findings.refuse()
    table, set_aside, unlabelled = _typed(spec, features, table)
    if history.needed(features):
        table = table.map(lambda batch: history.prepared(spec, features, batch, set_aside))
    labels.bounded(spec, unlabelled, table.height, findings)
    table, classes = _coded(spec, table, set_aside)
    _refuse_set_aside(spec, set_aside)
    by = spec.problem.forecast.by if spec.problem.forecast else ()
    narrow = table.narrow(list(dict.fromkeys([target, *_divides(spec), *by, *spec.with_role("protected")])))
    contract.balanced(spec, narrow[target], findings)
    past_rows, test_rows = splits.hold_out(split, narrow, target, spec.problem.learns)
    train_rows = past_rows[forecast.begun(spec, narrow[past_rows])]
    if not table.single:  # rows come in the order in which they are stored
        train_rows.sort()
    known, held = narrow[train_rows], narrow[test_rows]
    feasibility.refuse_few(spec, known, held, classes)
    train, test = table.taken(train_rows), table.taken(test_rows)
    table.forget()
    layouts.refuse_idle_patterns(features, [*train.schema.names(), *set_aside])
    layout = layouts.layout(
        spec, features, layouts.seen(spec, features, train), classes, set_aside, pixels=_pixels(work)
    )
    looked_at = train.all() if train.single else train.sampled(strength.ROWS)
    if layout.history and layout.history.steps:
        layout = _scaled(spec, layout, narrow[past_rows])
    strengths = leakage.single_columns(spec, layout, looked_at, findings)
    leakage.across(spec, layout, train, test.sampled(strength.ROWS), findings)
    findings.refuse()
    _write_tables(work, layout, train, test, known)
    write_atomic(work.path(STRENGTHS), canonical_json(strengths))
    counts = {
        "train": known.height,
        "test": held.height,
        "unlabelled": unlabelled,
        "quarantined": apart,
        "embargoed": narrow.height - len(past_rows) - held.height or None,
        "first_season": len(past_rows) - known.height or None,
    }
    facts = {"joins": found, "labels": labelled, "repaired": repaired.done, "odd": repaired.odd}
    facts["train_rows_by_class"] = _by_class(classes, known[target])
    told = _metrics(spec, layout, set_aside, counts, facts) | {"checks": findings.told()}
    return told, [*_notes(told), *labels.notes(spec.data.labels, labelled), *findings.warnings()]


def _metrics(
    spec: Spec, layout: Layout, set_aside: dict[str, str], counts: dict[str, int | None], facts: dict[str, Any]
) -> dict[str, Any]:
    """What DVC is told of the data; without ``counts`` that are None, and ``facts`` that hold nothing."""
    return {
        "rows": {name: n for name, n in counts.items() if n is not None},
        "held_out": splits.words(spec.data.split, spec.problem.learns),
        "features": len(layout.features),
        "set_aside": dict(sorted(set_aside.items())),
        **{key: one for key, one in facts.items() if one},
    }


def _scaled(spec: Spec, layout: Layout, past: pl.DataFrame) -> Layout:
    """``layout`` of a forecast with the error by which others are scaled."""
    asked, told = spec.problem.forecast, layout.history
    assert asked is not None
    assert told is not None
    return layout.model_copy(update={"seasonal_error": forecast.seasonal_error(past, layout.target, asked, told.time)})


def _pixels(work: Work) -> Pixels | None:
    """How the source makes columns of images, where the stage asks for it."""
    return _of_images(work.spec) if "data.sources" in work.stage.params else None


def _of_images(spec: Spec) -> Pixels | None:
    """How the source makes columns of images, and a request may too; joined ones may be called otherwise."""
    (first, *others) = spec.data.sources.values()
    return None if others or spec.data.joins else first.pixels


def _checked(
    work: Work, written: Batches, repaired: repair.Repair, findings: Findings
) -> tuple[Batches, int | None, dict[str, Any]]:
    """The rows that go on, repaired and labelled; how many were put aside, and what was found about labels."""
    spec, age, aside = work.spec, contract.Age(work.spec), list[Any]()
    told: dict[str, Any] = {}
    seen = 0

    def check(batch: pl.DataFrame) -> pl.DataFrame:
        nonlocal seen, told
        table = repaired(batch)
        target, found = labels.labelled(spec, table, findings)
        told = labels.together(told, found)
        if target is not None:
            batch, table = batch.with_columns(target), table.with_columns(target)
        age.add(table)
        table, apart = contract.judged(spec, batch, table, findings, seen + 1)
        seen += batch.height
        if apart is not None:
            aside.append(apart)
        return table

    table = written.map(check)
    age.judge(findings)
    if not aside:
        return table, None, told
    apart = batches.kept(aside, written.folder)
    batches.write(work.path(QUARANTINE), apart)
    return table, apart.height, told


def _coded(spec: Spec, table: Batches, set_aside: dict[str, str]) -> tuple[Batches, tuple[Any, ...]]:
    """The rows that have a label, as its index or number, without the columns that are set aside; and the classes."""
    target = spec.problem.target
    regression = spec.problem.learns == "regression"
    classes = _classes(spec, table.narrow([target])[target].drop_nulls() if regression else table.unique(target))
    kept = [name for name in table.schema.names() if name not in set_aside]

    def coded(batch: pl.DataFrame) -> pl.DataFrame:
        labelled = batch.select(kept).filter(batch[target].is_not_null())
        return labelled.with_columns(_target(labelled[target], classes))

    made = table.map(coded)
    table.forget()
    return made, classes


def _divides(spec: Spec) -> list[str]:
    """The columns by which rows are held out or divided into folds."""
    split = spec.data.split
    return [name for name in (split.column, split.folds.column) if name is not None]


def _by_class(classes: tuple[Any, ...], y: pl.Series) -> dict[str, int]:
    """How many rows have each label; nothing for a regression."""
    import numpy as np

    if not classes:
        return {}
    counts = np.bincount(y.to_numpy(), minlength=len(classes))
    return {str(label): int(n) for label, n in zip(classes, counts, strict=True)}


def _write_tables(work: Work, layout: Layout, train: Batches, test: Batches, known: pl.DataFrame) -> None:
    spec = work.spec
    kept = [c.name for c in layout.features] + [*layout.protected, *([layout.weight] if layout.weight else [])]
    told = layout.history if layout.history and layout.history.steps else None
    kept = [*dict.fromkeys([*kept, spec.problem.target])]
    trained_on = [name for name in kept if spec.column(name).use != "audit_only"]
    fold = None if layout.folding.column is None else splits.fold_column(spec.data.split, known, layout.folding)
    batches.write(work.path(TRAIN), train.only(trained_on).with_column(fold))
    # When a held-out row is, and of which series: a forecast is judged in the order of time.
    shown = [*dict.fromkeys([*kept, told.time, *told.by])] if told else kept
    batches.write(work.path(TEST), test.only(shown))
    write_atomic(work.path(LAYOUT), canonical_json(layout.model_dump(mode="json")))


def _notes(told: dict[str, Any]) -> Iterator[str]:
    """What a person should know of the data, from the metrics."""
    if n := told["rows"]["unlabelled"]:
        yield f"{n:,} rows without a label are left out"
    if n := told["rows"].get("embargoed"):
        yield f"{n:,} rows within the embargo are left out"
    if n := told["rows"].get("first_season"):
        yield f"{n:,} rows of a series' first season train nothing: they are history"
    for key in ("repaired", "odd"):
        yield from (f"{name}: {what}" for name, what in sorted(told.get(key, {}).items()))
    yield from (f"{name} set aside: {reason}" for name, reason in told["set_aside"].items())


def _table(work: Work, features: Features, folder: Path) -> tuple[Batches, dict[str, dict[str, int]]]:
    """The rows of all sources as one table, and what the joins found."""
    import polars as pl

    data = work.spec.data
    paths = {Path(dep).stem: work.path(dep) for dep in work.stage.deps if dep.endswith(".parquet")}
    if not data.joins:
        (path,) = paths.values()
        whole = _compares_rows(data) or bool(history.needed(features))
        return batches.read(path, folder, whole=whole), {}
    table, told = joins.joined({name: pl.read_parquet(path) for name, path in paths.items()}, data.joins)
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
    return batches.of(table, folder), told


def _compares_rows(data: Data) -> bool:
    """Whether a check needs all rows at once."""
    unique = any(column.checks and column.checks.unique for column in data.columns.values())
    return bool(unique or data.checks.duplicates or data.checks.conflicting_labels)


def _typed(spec: Spec, features: Features, table: Batches) -> tuple[Batches, dict[str, str], int]:
    """Columns in their declared or inferred types; what is set aside, and why; and how many rows have no label.

    What is set aside is kept only if it is looked back at.
    """
    import polars as pl

    names = [name for name in table.schema.names() if spec.column(name).role != "ignore"]
    missing: Counter[str] = Counter()

    def typed(batch: pl.DataFrame) -> pl.DataFrame:
        columns = [_column_typed(spec, batch[name], features.dtype(name)) for name in names if name]
        missing.update({one.name: _missing(one) for one in columns})
        return pl.DataFrame(columns)

    rows, before = table.height, table
    table = before.map(typed)
    before.forget()
    set_aside, kept = {"(unnamed)": "it has no name"} if "" in names else {}, []
    for name, dtype in table.schema.items():
        declared, lacks = spec.column(name), missing[name]
        if lacks and not declared.nullable:
            what = f"{lacks} of {rows} values are missing, but nullable is false."
            raise DataCheckFailed(what, where=f"data.columns.{name}.nullable")
        unfit = "every value is missing" if lacks == rows else _unfit(name, dtype, times=features.takes_times(name))
        unfit = unfit if declared.role == "feature" else ""
        if reason := _unknown(spec, name) or unfit:
            set_aside[name] = reason
        if not reason or (name in history.needed(features) and not unfit):
            kept.append(name)
    for name in spec.with_role("weight"):
        if name in table.schema and not sum(batch[name].sum() for batch in table) > 0:
            raise DataCheckFailed("every weight is 0.", where=f"data.columns.{name}.role: weight")
    return table.only(kept), set_aside, missing[spec.problem.target]


def _unknown(spec: Spec, name: str) -> str:
    """Why a column is not known when its row is predicted; empty where it is."""
    declared = spec.column(name)
    if declared.known_after:
        return f"it is known only after the {declared.known_after}"
    if declared.role == "feature" and name not in spec.data.labels.read:
        return forecast.unknown(spec, name)
    return "a rule under data.labels reads it" if declared.role == "feature" else ""


def _missing(values: pl.Series) -> int:
    import polars as pl

    unnamed = int((values == MISSING).sum()) if values.dtype == pl.String else 0
    return unnamed + values.null_count()


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


def _unfit(name: str, dtype: pl.DataType, *, times: bool) -> str:
    """Why a column of that type can't be a feature; empty when it can."""
    import polars as pl

    if times and dtype in (pl.Date, pl.Datetime):
        return ""
    if dtype in (pl.Date, pl.Datetime):
        return f"it holds {dtype} values; say features.columns.{name}: date, or its role: time or ignore"
    if dtype.is_temporal():
        return f"it holds {dtype} values; declare its role: time or ignore"
    if not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean)):
        return f"it holds {dtype} values"
    return ""


def _classes(spec: Spec, values: pl.Series) -> tuple[Any, ...]:
    """The labels in the order of the model's outputs; none for a regression."""
    import polars as pl

    problem, where = spec.problem, f"problem.target: {spec.problem.target}"
    if len(values) == 0:
        raise NotEnoughData(f"no row has a value of {problem.target!r}.", where="problem.target")
    if problem.learns == "regression":
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
    read = values if isinstance(classes[0], float) else _labels(values)
    return read.replace_strict(list(classes), list(range(len(classes))), return_dtype=pl.Int64)


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


def _refuse_set_aside(spec: Spec, set_aside: dict[str, str]) -> None:
    split = spec.data.split
    for name, where in ((split.column, "data.split.column"), (split.folds.column, "data.split.folds.column")):
        if name in set_aside:
            raise DataCheckFailed(f"{name!r} is set aside: {set_aside[name]}.", where=where)
