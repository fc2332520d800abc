"""Train one candidate: its settings searched by cross-validation, the best refitted once on all training rows."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from specml import durations, quantiles, transformed
from specml.data import Layout
from specml.files import canonical_json, folder_atomic, read_json, write_atomic
from specml.plan import Stage
from specml.preprocessing import Preprocessing
from specml.space import with_settings
from specml.stages import prepare, screen, workers
from specml.stages.cross_validation import fit_design, weighed
from specml.stages.journal import npy
from specml.stages.search import search
from specml.stages.work import threads

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from specml.data import Design
    from specml.kinds import Candidate, Model
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/train/${key}"
METRICS = "metrics/train/${key}.json"

ANSWERED = 1000
"""Rows by which a candidate's speed is measured."""


def declare(spec: Spec) -> Stage:
    """One for each candidate, independent of the others; the test rows are no dependency."""
    return Stage(
        name="train",
        summary="cross-validate and train a candidate",
        each="candidates",
        keys=tuple(spec.candidates),
        params=("candidates.${key}", *screen.PARAMS, "train"),
        deps=(*screen.judged_from(spec), *((screen.OUT,) if spec.search.screen else ())),
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
    transformed.check(candidate, train[layout.target].to_numpy(), f"candidates.{work.key}")
    if _shared(spec, candidate):
        workers.check(spec.search, spec.train.workers)
    # Linear algebra splits its sums by thread; one thread gives the same bits everywhere.
    with threadpool_limits(1, user_api="blas"):
        found = search(work, candidate, layout, train, screen.trials(work))
        best = found.best
        final = with_settings(candidate, best.settings).model_copy(update=best.judged.learned)
        shared = f", shared by {spec.train.workers} workers" if _shared(spec, final) else ""
        work.say(f"refit on all training rows{shared}", done=0.95)
        preprocessing, design = fit_design(spec, candidate, layout, train)
        model = _refitted(spec, final, weighed(spec, train, design), layout.quantiles)
    scores, metric = best.judged.folds, spec.problem.metric
    told: dict[str, Any] = {"metric": metric, "folds": scores, "learned": best.judged.learned}
    if found.trials:
        told |= {"options": best.settings, "trials": [trial.told() for trial in found.trials]}
        told["search"] = {"planned": found.planned, "pruned": found.pruned, "ended_by": found.ended_by}
    with folder_atomic(work.path(OUT)) as folder:
        model.save(folder)
        preprocessing.save(folder / "preprocessing.json")
        (folder / "out_of_fold.npy").write_bytes(npy(best.judged.out_of_fold))
        (folder / "cross_validation.json").write_bytes(canonical_json(told))
    spread = {"mean": float(np.mean(scores)), "std": float(np.std(scores))}
    summary: dict[str, Any] = {metric: spread, "bytes": size(work.path(OUT))}
    if found.trials:
        summary["trials"] = {"made": len(found.trials), "pruned": found.pruned, "planned": found.planned}
        summary["max_cpu_seconds_reached"] = found.ended_by == "max_cpu_seconds"
    write_atomic(work.path(METRICS), canonical_json(summary))
    durations.remember(work.folder, {f"{durations.ANSWER}{work.key}": _seconds_a_row(model, design.X[:ANSWERED])})
    ended = f", ended by search.{found.ended_by}" if found.ended_by != "trials" else ""
    made = f", the best of {len(found.trials)} trials{ended}" if found.trials else ""
    work.say(f"cv {metric} {np.mean(scores):.4f} ± {np.std(scores):.4f}{made}")


def _seconds_a_row(model: Model, X: np.ndarray) -> float:
    begun = time.process_time()
    model.predict(X)
    return (time.process_time() - begun) / len(X)


def _shared(spec: Spec, candidate: Candidate) -> bool:
    """Whether several workers share the refit."""
    return candidate.shares and spec.train.workers > 1


def _refitted(spec: Spec, candidate: Candidate, rows: Design, levels: tuple[float, ...]) -> Model:
    """The candidate, trained on all training rows."""

    def together(candidate: Candidate, rows: Design, levels: tuple[float, ...], *, seed: int, **_: Any) -> Model:
        # Nothing is watched in a refit, and threads are the workers' own.
        shared = partial(workers.fit, candidate, seed=seed, workers=spec.train.workers, search=spec.search)
        return quantiles.each(levels, rows, shared)

    fit = together if _shared(spec, candidate) else quantiles.fit
    return transformed.fit(candidate, rows, levels, seed=spec.search.seed, threads=threads(), fit=fit)


def size(folder: Path) -> int:
    """Bytes of a trained candidate; its out-of-fold predictions are no part of it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".npy")


def load_model(work: Work, layout: Layout, candidate: Candidate, folder: str) -> tuple[Preprocessing, Model]:
    """The trained model of a candidate, from the files of its stage."""
    path = work.path(folder)
    found = with_settings(candidate, read_json(path / "cross_validation.json").get("options", {}))
    return Preprocessing.load(path / "preprocessing.json"), transformed.load(found, path, layout.task, layout.quantiles)
