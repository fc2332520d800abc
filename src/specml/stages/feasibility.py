"""A baseline and its learning curve, before any search: what there is to learn, and whether more rows would help.

Bounded by rows and rounds, not by the clock, so that the same rows have the same outcome; on a small machine it takes
seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml import quantiles
from specml.candidates.lightgbm import LightGBM
from specml.data import Layout
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, write_atomic
from specml.metrics import TABLE
from specml.plan import Plot, Stage
from specml.stages import prepare
from specml.stages.cross_validation import decide, design, fit_design, folds, treatment

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.spec import Spec
    from specml.stages.work import Work

METRICS = "metrics/feasibility.json"
CURVE = "plots/learning_curve.csv"
BASELINE = LightGBM(
    n_estimators=60, early_stopping=0, learning_rate=0.1, num_leaves=15, min_child_samples=10,
    subsample=1.0, colsample_bytree=1.0,
)  # fmt: skip
"""Trees, which go on learning from more rows where there is more to learn; a linear model soon stops."""
MANY = BASELINE.model_copy(update={"n_estimators": 30, "learning_rate": 0.2})
"""The same in half the rounds, where each class has trees of its own."""
FOLDS = 5
"""Most folds that are looked at."""
ROWS = 10_000
"""Most rows of a fold that train it; as many judge it at most."""
CELLS = 2_000_000
"""Most values among them, as the baseline sees them: of wide tables, of texts and for many classes, each of which has
trees of its own, fewer rows are taken."""
GLANCE = 500
"""Rows from which the width is estimated."""
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
FEWEST = 40
"""Rows below which a point of the curve says nothing."""
EXPONENTS = tuple(step / 20 for step in range(4, 21))
"""Learning curves of most problems fall like a power of the rows with an exponent of 0.2 to 1 (Viering & Loog, "The
Shape of Learning Curves: A Review", 2023)."""
HARDLY = 0.02
"""Twice the rows hardly help where they bring less than this part of what the baseline gains from the columns, or lacks
to a perfect score, whichever is less."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Curve:
    """What the baseline scores on k folds, trained on s parts of their rows.

    ``rows`` [k, s] and ``scores`` [k, s]; ``prior`` [k]: without columns; ``ratio``: of rows that judge to rows that
    train, on average.
    """

    rows: np.ndarray
    scores: np.ndarray
    prior: np.ndarray
    ratio: float


def declare(spec: Spec) -> Stage:
    """Looks at the training rows only."""
    return Stage(
        name="feasibility",
        summary="a quick baseline, and whether more rows would help",
        params=(
            "features",
            "plugins",
            "problem.decision.threshold",
            "problem.primary_metric",
            "problem.quantiles",
            "problem.task",
            "search.folds",
            "search.seed",
        ),
        deps=(prepare.TRAIN, prepare.LAYOUT),
        metrics=(METRICS,),
        plots=(Plot(CURVE, "simple", "rows", spec.problem.metric, "A baseline trained on fewer and more rows"),),
    )


def work(work: Work) -> None:
    """Training rows → the baseline's curve, and a sentence about more rows."""
    import polars as pl
    from threadpoolctl import threadpool_limits

    spec = work.spec
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    train = pl.read_parquet(work.path(prepare.TRAIN))
    try:
        with threadpool_limits(1, user_api="blas"):
            found = curve(spec, layout, train)
        points, told = _points(found, spec.problem.metric), _told(found, spec.problem.metric, train.height)
    except NotEnoughData as error:
        points, told = [], {"outlook": f"no learning curve: {error.what}"}
    names = ("rows", spec.problem.metric, "low", "high")
    table = pl.DataFrame(points, schema=dict.fromkeys(names, pl.Float64), orient="row").cast({"rows": pl.Int64})
    write_atomic(work.path(CURVE), table.write_csv())
    write_atomic(work.path(METRICS), canonical_json(told))
    work.say(told["outlook"])


def curve(spec: Spec, layout: Layout, train: pl.DataFrame) -> Curve:
    """The baseline's scores on up to ``FOLDS`` of the folds, trained on ``SHARES`` of their training rows.

    Raises:
        NotEnoughData: there are too few rows for two points of a curve.
    """
    import numpy as np

    treatment(spec, layout)  # what can't be done with any rows is told before it is tried with few
    most = max(FEWEST, min(ROWS, CELLS // (layout.n_outputs * _width(spec, layout, train))))
    y = train[layout.target].to_numpy()
    rows, scores, prior, ratios = [], [], [], []
    for inside, outside in list(folds(spec, layout, train))[-FOLDS:]:
        order = _order(layout, train, inside, spec.search.seed)[:most]
        judges = np.random.default_rng(spec.search.seed).permutation(outside)[:most]
        held = train[np.sort(judges)]
        sizes = [int(len(order) * share) for share in SHARES]
        rows.append(sizes)
        scores.append([_score(spec, layout, train[np.sort(order[:size])], held) for size in sizes])
        prior.append(_measured(spec, layout, held, _constant(layout, y[inside], held.height)))
        ratios.append(len(judges) / len(order))
    found = _defined(Curve(np.array(rows), np.array(scores), np.array(prior), float(np.mean(ratios))))
    if found is None:
        what = f"too few rows in {len(scores)} folds of {train.height:,} training rows."
        raise NotEnoughData(what, where="search.folds")
    return found


def _defined(found: Curve) -> Curve | None:
    """The folds and points that have a score: of few folds an interval is wide, of few points a curve is a guess."""
    import numpy as np

    known = np.isfinite(found.scores)
    for folds_wanted, points in ((4, 4), (4, 3), (3, 4), (3, 3), (2, 4), (2, 3), (3, 2), (2, 2)):
        kept = known[:, -points:].all(axis=1)
        if kept.sum() >= folds_wanted:
            return Curve(found.rows[kept, -points:], found.scores[kept, -points:], found.prior[kept], found.ratio)
    return None


def _width(spec: Spec, layout: Layout, train: pl.DataFrame) -> int:
    """About how many columns the baseline's design has."""
    try:
        seen = fit_design(spec, BASELINE, layout, train.sample(min(GLANCE, train.height), seed=0))[1]
    except (DataCheckFailed, NotEnoughData):  # what a column's treatment needs may not be there in a part of the rows
        return len(layout.features)
    return max(1, len(seen.X[0]))


def _order(layout: Layout, train: pl.DataFrame, inside: np.ndarray, seed: int) -> np.ndarray:
    """The rows of a fold in the order in which a smaller table would have them.

    The latest first where folds go by time, whole groups first where they go by group or digest, else by chance.
    """
    import numpy as np

    if layout.folding.column is None:
        return np.asarray(np.random.default_rng(seed).permutation(inside))
    key = train[layout.folding.column].to_numpy()[inside]
    if layout.folding.method == "time":
        return np.asarray(inside[np.argsort(key, kind="stable")[::-1]])
    names, groups = np.unique(key, return_inverse=True)
    places = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(inside[np.argsort(places[groups], kind="stable")])


def _score(spec: Spec, layout: Layout, rows: pl.DataFrame, held: pl.DataFrame) -> float:
    """The metric of the baseline trained on ``rows``; NaN where these are too few."""
    import numpy as np

    classes = len(layout.classes)
    if rows.height < FEWEST or (classes and rows[layout.target].n_unique() < classes):
        return float("nan")
    try:
        preprocessing, fit = fit_design(spec, BASELINE, layout, rows)
    except (DataCheckFailed, NotEnoughData):  # what a column's treatment needs may not be there in a part of the rows
        return float("nan")
    if fit.X.shape[1] == 0:
        return float("nan")
    baseline = BASELINE if layout.n_outputs == 1 else MANY
    model = quantiles.fit(baseline, fit, layout.quantiles, seed=spec.search.seed, threads=1)
    return _measured(spec, layout, held, np.asarray(model.predict(design(preprocessing, layout, held).X)))


def _measured(spec: Spec, layout: Layout, held: pl.DataFrame, outcome: np.ndarray) -> float:
    weight = held[layout.weight].to_numpy().astype(float) if layout.weight else None
    decisions = decide(layout, outcome, spec.problem.decision.threshold)
    metric = TABLE[spec.problem.metric].at(layout.quantiles)
    return metric.measure(held[layout.target].to_numpy(), outcome, decisions, weight)


def _constant(layout: Layout, y: np.ndarray, n: int) -> np.ndarray:
    """What is predicted without any column: the mean or quantiles, or each class as often as it comes."""
    import numpy as np

    if layout.task == "multiclass":
        return np.tile(np.bincount(y, minlength=len(layout.classes)) / len(y), (n, 1))
    return np.tile(np.quantile(y, layout.quantiles), (n, 1)) if layout.quantiles else np.full(n, float(y.mean()))


def _points(found: Curve, metric: str) -> list[tuple[float, float, float, float]]:
    """Rows, score and the bounds of its interval."""
    points = []
    for rows, scores in zip(found.rows.T, found.scores.T, strict=True):
        score, low, high = _possible(metric, *_interval(scores, found.ratio))
        points.append((float(rows.mean()), round(score, 6), round(low, 6), round(high, 6)))
    return points


def _possible(metric: str, score: float, low: float, high: float) -> tuple[float, float, float]:
    """Of an interval what the metric can be."""
    least = -math.inf if metric == "r2" else 0.0
    return score, max(low, least), min(high, 1.0) if TABLE[metric].larger_is_better else high


def _interval(values: np.ndarray, ratio: float) -> tuple[float, float, float]:
    """Mean over the folds and its interval, by Student's t with the variance of overlapping training rows corrected.

    Nadeau & Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003).
    """
    import numpy as np
    from scipy.special import stdtrit

    mean, k = float(values.mean()), len(values)
    half = float(stdtrit(k - 1, (1 + CONFIDENCE) / 2) * np.sqrt((1 / k + ratio) * values.var(ddof=1)))
    return mean, mean - half, mean + half


def gain_of_twice(found: Curve, n: int) -> tuple[float, float, float]:
    """By how much the score would rise from ``n`` to 2 ``n`` training rows, with its interval; negative is a fall.

    Scores are taken to follow a + b · rows^-c: c from their mean over the folds, a and b from each fold.
    """
    import numpy as np

    mean, middle = found.scores.mean(axis=0), found.rows.mean(axis=0)
    c = min(EXPONENTS, key=lambda one: _fitted(middle, mean, one)[1]) if len(mean) > 2 else 0.5
    slopes = np.array([_fitted(rows, scores, c)[0] for rows, scores in zip(found.rows, found.scores, strict=True)])
    return _interval(slopes * ((2 * n) ** -c - n**-c), found.ratio)


def _fitted(rows: np.ndarray, scores: np.ndarray, c: float) -> tuple[float, float]:
    """The slope b and the squared distance of the least squares with exponent ``c``."""
    import numpy as np

    X = np.column_stack([np.ones(len(rows)), rows**-c])
    solution = np.linalg.lstsq(X, scores, rcond=None)[0]
    return float(solution[1]), float(((X @ solution - scores) ** 2).sum())


def _told(found: Curve, metric: str, n: int) -> dict[str, Any]:
    """The curve's conclusions as JSON values."""
    import numpy as np

    better = 1 if TABLE[metric].larger_is_better else -1
    score, low, high = _possible(metric, *_interval(found.scores[:, -1], found.ratio))
    prior = float(found.prior.mean()) if np.isfinite(found.prior).all() else None
    change = gain_of_twice(found, n)
    lacks = 1 - score if better > 0 else score
    worth = HARDLY * max(0.0, lacks if prior is None else min(lacks, better * (score - prior)))
    worst = low if better > 0 else high
    nothing = prior is not None and better * (worst - prior) <= 0
    words = _outlook(metric, *change, worth=worth, better=better)
    if nothing:
        words = f"not shown to be better than {prior:.4g}, which needs no column; {words}"
    return {
        "baseline": {metric: score, "low": low, "high": high},
        "without_columns": {metric: prior},
        "twice_the_rows": {metric: change[0], "low": change[1], "high": change[2]},
        "outlook": f"baseline {metric} {score:.4f} ({low:.4f} to {high:.4f}); {words}",
    }


def _outlook(metric: str, change: float, low: float, high: float, *, worth: float, better: int) -> str:
    """What twice the rows would bring, in a sentence; ``worth``: the least change that counts."""
    least, most = (low, high) if better > 0 else (-high, -low)
    about = f"{change:+.2g} {metric} ({low:+.2g} to {high:+.2g})"
    if least > 0 and better * change >= worth:
        return f"twice the rows would bring about {about}"
    if better * change < worth and most < max(5 * worth, 1e-12):
        return f"more rows would hardly help: twice as many would bring about {about}"
    return f"whether more rows would help can't be told from these: twice as many would bring {about}"
