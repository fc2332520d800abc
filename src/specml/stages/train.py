"""Train one candidate: cross-validated for comparison, then refitted once on all training rows."""

from __future__ import annotations

import io
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from specml.data import Design, Layout
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, folder_atomic, write_atomic
from specml.metrics import TABLE
from specml.plan import Stage
from specml.preprocessing import Preprocessing
from specml.stages import prepare
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import polars as pl

    from specml.kinds import Candidate, Feature, Model
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/train/${key}"
METRICS = "metrics/train/${key}.json"
STOP_SHARE = 0.15
"""Of a fold's training rows, those that tell a candidate when to stop."""
FEWER = "Take fewer search.folds, or more rows."


def declare(spec: Spec) -> Stage:
    """One for each candidate, independent of the others; the test rows are no dependency."""
    return Stage(
        name="train",
        summary="cross-validate and train a candidate",
        each="candidates",
        keys=tuple(spec.candidates),
        params=(
            "candidates.${key}",
            "features",
            "problem.decision.threshold",
            "problem.primary_metric",
            "problem.task",
            "search",
        ),
        deps=(prepare.TRAIN, prepare.LAYOUT),
        outs=(OUT,),
        metrics=(METRICS,),
    )


def work(work: Work) -> None:
    """Training rows → the model as data, its scores on the folds and its out-of-fold predictions."""
    import numpy as np
    import polars as pl
    from threadpoolctl import threadpool_limits

    spec, candidate = work.spec, work.spec.candidates[work.key]
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    train = pl.read_parquet(work.path(prepare.TRAIN))
    # Linear algebra splits its sums by thread; one thread gives the same bits everywhere.
    with threadpool_limits(1, user_api="blas"):
        scores, outcome, learned = _cross_validate(work, candidate, layout, train)
        final = candidate.model_copy(update={name: round(float(np.mean(v))) for name, v in learned.items()})
        work.say("refit on all training rows", done=0.95)
        preprocessing = _fit_preprocessing(spec, candidate, layout, train)
        design = _design(preprocessing, layout, train)
        model = final.fit(design, seed=spec.search.seed, threads=threads())
    with folder_atomic(work.path(OUT)) as folder:
        model.save(folder)
        preprocessing.save(folder / "preprocessing.json")
        (folder / "out_of_fold.npy").write_bytes(_npy(outcome))
        told = {"metric": spec.problem.metric, "folds": scores, "learned": _means(learned)}
        (folder / "cross_validation.json").write_bytes(canonical_json(told))
    size = sum(file.stat().st_size for file in work.path(OUT).iterdir() if file.suffix != ".npy")
    summary = {
        spec.problem.metric: {"mean": float(np.mean(scores)), "std": float(np.std(scores))},
        "bytes": size,
    }
    write_atomic(work.path(METRICS), canonical_json(summary))
    work.say(f"cv {spec.problem.metric} {np.mean(scores):.4f} ± {np.std(scores):.4f}")


def _cross_validate(
    work: Work, candidate: Candidate, layout: Layout, train: pl.DataFrame
) -> tuple[list[float], np.ndarray, dict[str, list[int]]]:
    """Fold scores; out-of-fold scores, NaN for rows that are in no validation fold; what each fold learned."""
    import numpy as np

    spec, metric = work.spec, TABLE[work.spec.problem.metric]
    y = train[layout.target].to_numpy()
    outcome = np.full((len(y),) if layout.n_outputs == 1 else (len(y), layout.n_outputs), np.nan)
    scores: list[float] = []
    learned: dict[str, list[int]] = {}
    every = list(folds(spec, layout, train))
    for number, (inside, outside) in enumerate(every):
        where = f"fold {number + 1} of {len(every)}"
        _refuse_lacking_classes(layout, y[inside], where)
        fit_rows, stop_rows = _stop_rows(candidate, spec, layout, y, inside)
        preprocessing = _fit_preprocessing(spec, candidate, layout, train[fit_rows])
        fit, held = (_design(preprocessing, layout, train[rows]) for rows in (fit_rows, outside))
        stop = None if stop_rows is None else _design(preprocessing, layout, train[stop_rows])
        model = candidate.fit(fit, seed=spec.search.seed, threads=threads(), stop_on=stop)
        outcome[outside] = model.predict(held.X)
        for name, value in model.learned.items():
            learned.setdefault(name, []).append(value)
        decisions = decide(layout, outcome[outside], spec.problem.decision.threshold)
        scores.append(metric.measure(held.y, outcome[outside], decisions, held.weight))
        if not np.isfinite(scores[-1]):
            raise NotEnoughData(f"{metric.name} is not defined on its {len(outside)} rows.", where=where, hint=FEWER)
        work.say(f"{where}: {metric.name} {scores[-1]:.4f}", done=0.9 * (number + 1) / len(every))
    return scores, outcome, learned


def _refuse_lacking_classes(layout: Layout, y: np.ndarray, where: str) -> None:
    """A model can't learn a class that its rows lack."""
    if layout.task == "regression":
        return
    for index, label in enumerate(layout.classes):
        if not (y == index).any():
            raise NotEnoughData(f"class {label!r} is not among its {len(y)} training rows.", where=where, hint=FEWER)


def _stop_rows(
    candidate: Candidate, spec: Spec, layout: Layout, y: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows to fit on and, for a candidate that stops early, rows that tell it when: never the fold that scores it."""
    from sklearn.model_selection import train_test_split

    if not candidate.stops_early:
        return inside, None
    if layout.time:
        cut = int(len(inside) * (1 - STOP_SHARE))
        fit, stop = inside[:cut], inside[cut:]
    else:
        stratify = y[inside] if layout.task != "regression" else None
        try:
            fit, stop = train_test_split(inside, test_size=STOP_SHARE, random_state=spec.search.seed, stratify=stratify)
        except ValueError as error:
            raise NotEnoughData(f"too few rows to stop early: {error}", where="search.folds", hint=FEWER) from None
    _refuse_lacking_classes(layout, y[fit], "early stopping")
    return fit, stop


def folds(spec: Spec, layout: Layout, train: pl.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row indices (train, validation) of each fold.

    Raises:
        NotEnoughData: there are fewer rows, or fewer times, than the folds need.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    n, seed, y = spec.search.folds, spec.search.seed, train[layout.target].to_numpy()
    if layout.time:
        yield from _forward(train[layout.time].to_numpy(), n)
        return
    kind = KFold if layout.task == "regression" else StratifiedKFold
    try:
        yield from kind(n, shuffle=True, random_state=seed).split(y, y)
    except ValueError as error:
        raise NotEnoughData(f"{len(y)} rows can't form {n} folds: {error}", where="search.folds", hint=FEWER) from None


def _forward(times: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train on what came before, validate on what came next; a time is never on both sides.

    ``times`` ascend. Up to ``n`` folds of about equal size, fewer when there are fewer times.
    """
    import numpy as np

    changes = np.flatnonzero(np.diff(times)) + 1
    if len(changes) == 0:
        raise NotEnoughData("all training rows are of one time: nothing comes next.", where="data.split.column")
    wanted = [len(times) * (i + 1) / (n + 1) for i in range(n)]
    cuts = sorted({int(changes[np.abs(changes - one).argmin()]) for one in wanted})
    for start, end in zip(cuts, [*cuts[1:], len(times)], strict=True):
        yield np.arange(start), np.arange(start, end)


def decide(layout: Layout, scores: np.ndarray, threshold: float | str) -> np.ndarray | None:
    """Class indices from probabilities; ``auto`` is not yet chosen here, and 0.5 stands in for it."""
    import numpy as np

    if layout.task == "regression":
        return None
    if layout.task == "multiclass":
        return np.asarray(scores.argmax(axis=1))
    cut = 0.5 if isinstance(threshold, str) else threshold
    return (scores >= cut).astype(np.int64)


def treatment(spec: Spec, layout: Layout) -> Mapping[str, Feature]:
    """The feature component of each column: its own, or the default of its kind.

    Raises:
        DataCheckFailed: a feature is named for a column that is none, or that it can't treat.
    """
    default = spec.features.defaults
    by_kind: dict[str, Any] = {
        "numeric": default.numeric,
        "boolean": default.boolean,
        "categorical": default.categorical,
    }
    names = [column.name for column in layout.features]
    for name in spec.features.columns:
        if name not in names:
            close = get_close_matches(name, names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            raise DataCheckFailed("there is no such feature.", where=f"features.columns.{name}", hint=hint)
    chosen = {c.name: spec.features.columns.get(c.name, by_kind[c.kind]) for c in layout.features}
    for column in layout.features:
        feature = chosen[column.name]
        if column.kind not in feature.treats:
            raise DataCheckFailed(
                f"treats {' and '.join(feature.treats)} columns; {column.name!r} is {column.kind}.",
                where=f"features.columns.{column.name}",
                hint=f"Declare data.columns.{column.name}.dtype, or take another feature.",
            )
    return chosen


def load_model(work: Work, layout: Layout, candidate: Candidate, folder: str) -> tuple[Preprocessing, Model]:
    """The trained model of a candidate, from the files of its stage."""
    path = work.path(folder)
    return Preprocessing.load(path / "preprocessing.json"), candidate.load(path, layout.task)


def _fit_preprocessing(spec: Spec, candidate: Candidate, layout: Layout, rows: pl.DataFrame) -> Preprocessing:
    return Preprocessing.fit(rows, layout.features, treatment(spec, layout), candidate.prefers)


def _design(preprocessing: Preprocessing, layout: Layout, table: pl.DataFrame) -> Design:
    import numpy as np

    weight = table[layout.weight].to_numpy().astype(np.float64) if layout.weight else None
    y = table[layout.target].to_numpy()
    return Design(preprocessing.transform(table), y, weight, layout.task, max(2, len(layout.classes)))


def _npy(array: np.ndarray) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _means(learned: dict[str, list[int]]) -> dict[str, int]:
    import numpy as np

    return {name: round(float(np.mean(values))) for name, values in sorted(learned.items())}
