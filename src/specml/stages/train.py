"""Train one candidate: cross-validated for comparison, then refitted once on all training rows."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

from specml.data import Design, Layout
from specml.errors import DataCheckFailed
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


def declare(spec: Spec) -> Stage:
    """One for each candidate, independent of the others; the test rows are no dependency."""
    return Stage(
        name="train",
        summary="cross-validate and train a candidate",
        each="candidates",
        keys=tuple(spec.candidates),
        params=(
            "candidates.${key}",
            "data.split.method",
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
    started = time.perf_counter()
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
        "seconds": round(time.perf_counter() - started, 2),
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
    shape = (len(y),) if layout.n_outputs == 1 else (len(y), layout.n_outputs)
    outcome = np.full(shape, np.nan)
    scores: list[float] = []
    learned: dict[str, list[int]] = {}
    for number, (inside, outside) in enumerate(folds(spec, y)):
        preprocessing = _fit_preprocessing(spec, candidate, layout, train[inside])
        fit, held = (_design(preprocessing, layout, train[rows]) for rows in (inside, outside))
        model = candidate.fit(fit, seed=spec.search.seed, threads=threads(), stop_on=held)
        outcome[outside] = model.predict(held.X)
        for name, value in model.learned.items():
            learned.setdefault(name, []).append(value)
        decisions = decide(layout, outcome[outside], spec.problem.decision.threshold)
        scores.append(metric.measure(held.y, outcome[outside], decisions, held.weight))
        done = 0.9 * (number + 1) / spec.search.folds
        work.say(f"fold {number + 1} of {spec.search.folds}: {metric.name} {scores[-1]:.4f}", done=done)
    return scores, outcome, learned


def folds(spec: Spec, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row indices (train, validation) of each fold."""
    from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit

    n, seed = spec.search.folds, spec.search.seed
    if spec.data.split.method == "time":
        yield from TimeSeriesSplit(n).split(y)
    elif spec.problem.task == "regression":
        yield from KFold(n, shuffle=True, random_state=seed).split(y)
    else:
        yield from StratifiedKFold(n, shuffle=True, random_state=seed).split(y, y)


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
        DataCheckFailed: a column's own feature treats another kind of column.
    """
    default = spec.features.defaults
    by_kind: dict[str, Any] = {
        "numeric": default.numeric,
        "boolean": default.boolean,
        "categorical": default.categorical,
    }
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
