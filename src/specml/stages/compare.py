"""What the mitigation did to each protected group: the model that was chosen, without it and with it, out of fold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.card import RATES, lowest, number
from specml.data import Layout
from specml.decision import decided
from specml.disparity import Rate, group_rate, ratio
from specml.evidence import Evidence, wilson
from specml.files import canonical_json, read_json, write_atomic
from specml.metrics import TABLE, bootstrap
from specml.plan import Stage
from specml.space import with_settings
from specml.stages import prepare, train
from specml.stages.cross_validation import cross_validate
from specml.stages.favourable import favourable
from specml.stages.select import OUT as CHOICE
from specml.stages.select import Training, calibrated
from specml.stages.threshold import threshold
from specml.stages.work import threads

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/compare/groups.json"
CONFIDENCE = 0.95
FEWEST = 100
"""Rows of a group from which on its metric has an interval, and its rate is compared with another's."""


def declare(spec: Spec) -> Stage:
    """Part of the plan only where a mitigation is asked for; it sees the folds alone, as ``select`` does."""
    return Stage(
        name="compare",
        summary="what the mitigation did to each protected group, out of fold",
        params=(
            "candidates",
            *(("features", "plugins") if spec.mitigation.reweighing else ()),  # then the candidates are fitted again
            "mitigation",
            "problem.costs",
            "problem.decision",
            "problem.favourable_class",
            "problem.primary_metric",
            "problem.quantiles",
            "problem.task",
            "search.folds",
            "search.seed",
            "selection.calibration",
        ),
        deps=(
            prepare.TRAIN,
            prepare.LAYOUT,
            CHOICE,
            *(train.OUT.replace("${key}", name) for name in sorted(spec.candidates)),
        ),
        outs=(OUT,),
    )


def work(work: Work) -> None:
    """The chosen candidates out of fold, with the mitigation and without it → both sides by group.

    Where training rows are weighed, they are cross-validated again on the same folds without the weights.

    Each side is calibrated, and its threshold found, by its own out-of-fold predictions: as ``select`` would have.
    """
    import numpy as np
    import polars as pl
    from threadpoolctl import threadpool_limits

    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    rows = pl.read_parquet(work.path(prepare.TRAIN))
    choice, training = read_json(work.path(CHOICE)), Training.read(work, layout)
    members = sorted(choice["members"].items())
    trained = {name: work.path(train.OUT.replace("${key}", name)) for name, _ in members}
    after = {name: np.load(folder / "out_of_fold.npy", allow_pickle=False) for name, folder in trained.items()}
    options = {row["candidate"]: row["options"] for row in choice["leaderboard"]}
    before = dict(after)
    with threadpool_limits(1, user_api="blas"):
        for name, _ in members if work.spec.mitigation.reweighing else ():
            candidate = with_settings(work.spec.candidates[name], options[name])
            judged = cross_validate(
                work.spec, candidate, layout, rows, threads=threads(), say=work.say, mitigated=False
            )
            before[name] = judged.out_of_fold
    found = {
        "without": _side(work, training, rows, before, members, grouped=None),
        "with": _side(work, training, rows, after, members, grouped=choice["group_thresholds"]),
    }
    told = {"metric": work.spec.problem.metric, "rows": found["with"]["n"], "confidence": CONFIDENCE, **found}
    write_atomic(work.path(OUT), canonical_json(told))
    for words in lowest(told):
        work.say(words, note=True)
    value, other = (found[side]["metric"]["value"] for side in ("with", "without"))
    work.say(f"{work.spec.problem.metric} out of fold {number(other)} without the mitigation, {number(value)} with it")


def _measured(evidence: Evidence, mask: np.ndarray) -> dict[str, Any]:
    """The metric and the rates of some rows."""
    import numpy as np

    rows = np.flatnonzero(mask)
    rates = {name: _told(group_rate(name, evidence, mask)) for name in RATES}
    return {"n": len(rows), "metric": _metric(evidence, rows), **rates}


def _metric(evidence: Evidence, rows: np.ndarray) -> dict[str, Any]:
    import numpy as np

    metric, part = TABLE[evidence.metric], evidence.at(rows)
    value = metric.measure(*part)
    if not np.isfinite(value):
        return {"value": None, "interval": None}
    interval = bootstrap(metric.over(*part), len(rows), CONFIDENCE, evidence.seed) if len(rows) >= FEWEST else None
    return {"value": value, "interval": interval.model_dump(mode="json") if interval else None}


def _told(rate: Rate) -> dict[str, Any]:
    if not rate.n:
        return {"value": None, "n": 0, "interval": None}
    interval = wilson(rate.hits, rate.n, CONFIDENCE).model_dump(mode="json")
    return {"value": rate.value, "n": round(rate.n), "interval": interval}


def _side(
    work: Work,
    training: Training,
    rows: pl.DataFrame,
    predictions: dict[str, np.ndarray],
    members: list[tuple[str, float]],
    *,
    grouped: dict[str, Any] | None,
) -> dict[str, Any]:
    """The mean of the members, calibrated and decided (by the thresholds ``grouped``), overall and by group."""
    import numpy as np

    layout, spec = training.layout, work.spec
    outcome: Any = sum(predictions[name] * share for name, share in members)
    row = {"candidate": members[0][0], "members": dict(members)}
    outcome, _ = calibrated(work, training, row, outcome)
    known = np.isfinite(outcome).reshape(len(outcome), -1).all(axis=1)
    cut, decisions = None, outcome.argmax(axis=1) if outcome.ndim == 2 else None
    if decisions is None:
        cut, _ = threshold(spec.problem, training.y, outcome, training.weight)
        groups = rows[grouped["column"]].to_numpy() if grouped else None
        by_group = grouped["thresholds"] if grouped else {}
        decisions = decided(outcome, cut, spec.problem.decision.abstain_band, groups, by_group)
    weight = None if training.weight is None else training.weight[known]
    scores = outcome[known]
    evidence = Evidence(
        task=layout.task,
        y=training.y[known],
        scores=scores,
        decisions=decisions[known],
        native=scores,
        prior=scores,
        weight=weight,
        favourable=favourable(spec, layout),
        metric=spec.problem.metric,
        seed=spec.search.seed,
    )
    told: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for column in (name for name in layout.protected if name in rows.columns):
        values = rows[column].to_numpy()[known]
        by = {name: values == name for name in sorted(set(values.tolist()))}
        told |= {f"{column}={name}": _measured(evidence, mask) for name, mask in by.items()}
        ratios[column] = {
            name: _lowest([rate for mask in by.values() if (rate := group_rate(name, evidence, mask)).n >= FEWEST])
            for name in ("selection_rate", "true_positive_rate")
        }
    every = _measured(evidence, np.ones(len(scores), dtype=bool))
    return {**every, "threshold": cut, "groups": told, "ratios": ratios}


def _lowest(rates: list[Rate]) -> dict[str, Any]:
    """The lowest rate by the highest."""
    if len(rates) < 2:
        return {"value": None, "interval": None}
    low, high = min(rates, key=lambda one: one.value), max(rates, key=lambda one: one.value)
    value, interval = ratio(low, high, CONFIDENCE)
    return {"value": value, "interval": interval.model_dump(mode="json") if interval else None}
