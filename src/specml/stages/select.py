"""Choose one of the candidates or a mean of several, and calibrate it.

Of probabilities also from which one it decides; of predictions, how far from them the target lies.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.card import decided, thresholds_by_group
from specml.contradictions import ENSEMBLE
from specml.data import Column, Layout, category
from specml.errors import StageFailed
from specml.files import canonical_json, read_json, write_atomic
from specml.metrics import TABLE, beyond_chance
from specml.plan import Stage
from specml.stages import chosen, prepare, train
from specml.stages.calibrate import calibrate
from specml.stages.cross_validation import decide, folds
from specml.stages.ensemble import ensemble
from specml.stages.explore import describe
from specml.stages.favourable import favourable
from specml.stages.group_thresholds import group_thresholds
from specml.stages.interval import interval
from specml.stages.stacking import Loss, log_loss, pinball, squared_error, stacking
from specml.stages.threshold import threshold

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import polars as pl

    from specml.metrics import Metric
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/select/choice.json"

SCORED = {("log_odds", "tree_shap"), ("log_odds", "linear")}
"""Spaces and methods of explanation of models whose probabilities tell their log-odds to many digits."""

Row = dict[str, Any]
"""A candidate in the leaderboard."""


@dataclass(frozen=True)
class Training:
    """The rows by which every candidate was judged."""

    spec: Spec
    layout: Layout
    table: pl.DataFrame
    """The columns that tell what a row is worth, and in which fold it is."""

    @classmethod
    def read(cls, work: Work, layout: Layout) -> Training:
        """From the stage ``prepare``."""
        import polars as pl

        grouped = work.spec.mitigation.group_thresholds
        columns = {
            layout.target,
            *([grouped.by] if grouped else []),
            layout.weight or layout.target,
            layout.folding.column or layout.target,
        }
        return cls(work.spec, layout, pl.read_parquet(work.path(prepare.TRAIN), columns=sorted(columns)))

    @property
    def y(self) -> np.ndarray:
        """int64 class indices or float64 targets [n]."""
        return self.table[self.layout.target].to_numpy()

    @property
    def weight(self) -> np.ndarray | None:
        """float64 [n]."""
        import numpy as np

        return self.table[self.layout.weight].to_numpy().astype(np.float64) if self.layout.weight else None

    @property
    def metric(self) -> Metric:
        """By which candidates are ranked."""
        return TABLE[self.spec.problem.metric].at(self.layout.quantiles)

    def folds(self) -> list[np.ndarray]:
        """The validation rows of each fold, as the candidates were judged by them."""
        return [outside for _, outside in folds(self.spec, self.layout, self.table)]

    def measure(self, rows: np.ndarray, scores: np.ndarray) -> float:
        """The metric of ``scores`` for the rows of these indices: cross-validation's but for the rounding."""
        import numpy as np

        decisions = decide(self.layout, scores, self.spec.problem.decision.threshold)
        weight = None if self.weight is None else self.weight[rows]
        return self.metric.over(self.y[rows], scores, decisions, weight)(np.arange(len(rows)))

    def loss(self) -> Loss:
        """What stacking makes least."""
        import numpy as np

        weight = np.ones(len(self.y)) if self.weight is None else self.weight
        if self.layout.quantiles:
            return pinball(self.y, weight, self.layout.quantiles)
        return (squared_error if self.layout.task == "regression" else log_loss)(self.y, weight)


def declare(spec: Spec) -> Stage:
    """Sees the folds' results only."""
    return Stage(
        name="select",
        summary="choose the candidate, its calibration and its decision threshold",
        params=(
            "candidates",
            "mitigation.group_thresholds",
            "problem.costs",
            "problem.decision",
            "problem.favourable_class",
            "problem.primary_metric",
            "problem.quantiles",
            "problem.task",
            "search.folds",
            "search.seed",
            "selection",
            # A graph is measured in the form in which it is packaged.
            *(("serving.trees",) if spec.selection.max_size else ()),
        ),
        deps=(
            prepare.TRAIN,
            prepare.LAYOUT,
            *(train.OUT.replace("${key}", name) for name in sorted(spec.candidates)),
        ),
        outs=(OUT,),
    )


def work(work: Work) -> None:
    """Fold scores → leaderboard, choice, threshold, and the prior that the baseline gate compares with."""
    import numpy as np

    spec = work.spec
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    training = Training.read(work, layout)
    metric = training.metric
    folders = {name: work.path(train.OUT.replace("${key}", name)) for name in sorted(spec.candidates)}
    board = [_entry(name, read_json(folder / "cross_validation.json"), folder) for name, folder in folders.items()]
    predictions = {name: np.load(folder / "out_of_fold.npy", allow_pickle=False) for name, folder in folders.items()}
    if spec.selection.ensemble != "none":
        board += _ensemble(work, training, predictions)
        sizes = {row["candidate"]: row["bytes"] for row in board}
        for row in board:
            if members := row.get("members"):
                row["bytes"] = sum(sizes[name] for name in members)
    board.sort(key=lambda row: (-row["mean"] if metric.larger_is_better else row["mean"], row["candidate"]))
    fitting = _within_size(work, layout, board)
    row, reason = taken(fitting, metric, spec)
    if spec.selection.ensemble != "none" and all("members" not in one for one in board):
        reason += "; no mean of several is better than one alone"
    if larger := len(board) - len(fitting):
        reason += f"; {larger} larger than selection.max_size left out"
    members = row.get("members", {row["candidate"]: 1.0})
    outcome: Any = sum(predictions[name] * share for name, share in sorted(members.items()))
    outcome, calibration = calibrated(work, training, {**row, "members": members}, outcome)
    choice: dict[str, Any] = {
        "candidate": row["candidate"],
        "members": members,
        "reason": reason,
        "metric": metric.name,
        "calibration": calibration,
        **_decision(training, outcome),
        "prediction_interval": _interval(work, training, outcome),
        "leaderboard": board,
        "prior": _prior(layout, training.y, training.weight),
    }
    write_atomic(work.path(OUT), canonical_json(choice))
    for words in _told(layout, choice):
        work.say(words, note=True)
    work.say(f"{row['candidate']} is taken: {metric.name} {row['mean']:.4f}, {reason}")


def _decision(training: Training, outcome: np.ndarray) -> dict[str, Any]:
    """From which probability on, and where not, the positive class is decided; nothing of that but for two classes.

    Raises:
        StageFailed: the abstain band does not hold the threshold, or no thresholds by group meet their ratio.
    """
    import numpy as np

    if training.layout.task != "binary":
        return {"threshold": None, "decision": {}, "group_thresholds": None, "abstain_band": None}
    problem = training.spec.problem
    cut, found = threshold(problem, training.y, outcome, training.weight)
    if not problem.decision.within(cut):
        raise _outside(cut, decided(found))
    band = problem.decision.abstain_band
    return {
        "threshold": cut,
        "decision": found,
        "group_thresholds": _grouped(training, outcome, cut),
        "abstain_band": None if band is None else [float(np.float32(end)) for end in band],
    }


def _told(layout: Layout, choice: dict[str, Any]) -> Iterator[str]:
    """What a person should know of the decision."""
    if choice["threshold"] is not None and choice["decision"]["by"] != "declared":
        yield f"{layout.classes[1]} is decided from {choice['threshold']:.4g} on, {decided(choice['decision'])}"
    if choice["group_thresholds"]:
        caution = "different treatment, which law may forbid: see docs/decisions.md"
        yield f"thresholds by {thresholds_by_group(choice['group_thresholds'])}; {caution}"


def _grouped(training: Training, outcome: np.ndarray, cut: float) -> dict[str, Any] | None:
    """The thresholds by group, with the column that the graph must then be given; None where none are asked for."""
    asked = training.spec.mitigation.group_thresholds
    if asked is None:
        return None
    values, judged = training.table[asked.by], (training.y, outcome, training.weight)
    found = group_thresholds(
        asked,
        training.spec.problem,
        *judged,
        groups=values.to_numpy(),
        favourable=favourable(training.spec, training.layout),
        threshold=cut,
    )
    described = describe(values)
    known = sorted(described["shares"])
    _refuse_unaskable(asked.by, known)
    one = Column(name=asked.by, kind="categorical", nullable=described["missing"] > 0, categories=tuple(known))
    return {**found, "input": one.model_dump(mode="json"), "described": described}


def _refuse_unaskable(column: str, names: list[str]) -> None:
    """A request's number 0 or 0.0 is called ``0``: a group of another name would never be asked for."""
    for name in names:
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(name)) and category(number) != name:
                what = f"names {column!r}, whose groups are written as no number of a request is called, as {name}."
                hint = "Write them in the data as whole numbers or as words."
                raise StageFailed(what, where="mitigation.group_thresholds.by", hint=hint)


def _outside(cut: float, how: str) -> StageFailed:
    what = f"does not hold the threshold, which is {cut:.4g}: {how}."
    hint = "Say a band around it, a threshold of your own, or leave the band out."
    return StageFailed(what, where="problem.decision.abstain_band", hint=hint)


def calibrated(
    work: Work, training: Training, row: Row, outcome: np.ndarray
) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Out-of-fold predictions as they are calibrated, and what is told of that; None where it is not asked for."""
    import numpy as np

    wanted = work.spec.selection.calibration
    if wanted == "none":
        return outcome, None
    explained = chosen.load(work, training.layout, row).explained()
    # A network answers in float32 in Python, too: its probabilities tell no more of its log-odds than the graph's.
    scored = explained is not None and (explained[1].space, explained[1].method) in SCORED
    weight, outside = training.weight, training.folds()
    calibration, told = calibrate(wanted, outcome, training.y, weight, outside, scored=scored)
    losses, method = told.get("log_loss", {}), told["method"] or "none"
    work.say(f"calibration: {method}" + "".join(f", log loss {name} {loss:.4f}" for name, loss in losses.items()))
    if calibration is None:
        return outcome, told
    known = np.isfinite(outcome).reshape(len(outcome), -1).all(axis=1)
    found = np.full_like(outcome, np.nan)
    found[known] = calibration(outcome[known])
    return found, told


def _interval(work: Work, training: Training, outcome: np.ndarray) -> dict[str, Any] | None:
    """What is told of the interval around out-of-fold predictions, with its ``state``; None where none is asked for."""
    wanted = work.spec.selection.prediction_interval
    if wanted is None:
        return None
    forward = training.layout.folding.method == "time"
    told = interval(
        wanted,
        outcome,
        training.y,
        training.weight,
        training.folds(),
        forward=forward,
        quantiles=training.layout.quantiles,
    )
    words = f"prediction interval: {told['method']}"
    if seen := told.get("folds"):
        words += f", holds {seen['coverage']:.1%} of {seen['rows']:,} rows of folds that did not fit it"
        words += f", on average {seen['width']:.4g} wide"
    work.say(words, note=True)
    return told


def taken(board: list[Row], metric: Metric, spec: Spec) -> tuple[Row, str]:
    """The row of the leaderboard, best first, that ``selection.rule`` takes, and why in words.

    One standard error (Breiman, Friedman, Olshen & Stone 1984, *Classification and regression trees*, §3.4.3): scores
    nearer to the best than its own standard error over the folds can't be told from it.
    """
    best, rule = board[0], spec.selection.rule
    if len(board) == 1:
        return best, "the only one"
    if rule == "best":
        mixed = next((row for row in board if "members" in row), best)
        if mixed is not best and _as_good(mixed, best, metric):
            name = best["candidate"]
            return (
                mixed,
                f"asked for, and no candidate alone is clearly better: the best, {name}, has {best['mean']:.4f}",
            )
        return best, f"the best mean over the folds of {len(board)}"
    error = best["standard_error"]
    close = [row for row in board if metric.gain(row["mean"], best["mean"]) >= -error]
    prefer = spec.selection.prefer

    def order(row: Row) -> tuple[int, int, int]:
        name = row["candidate"]
        place = prefer.index(name) if name in prefer else len(prefer)
        return place, _complexity(spec, name), board.index(row)

    found = min(close, key=order)
    told = f"one standard error ({error:.2g})"
    if found is best:
        return best, f"the best mean over the folds, and nothing to be taken before it is within {told}"
    how = "preferred" if found["candidate"] in prefer else "simpler"
    return found, f"{how}, and within {told} of the best, {best['candidate']} ({best['mean']:.4f})"


def _as_good(mixed: Row, best: Row, metric: Metric) -> bool:
    """Whether a mean of candidates is behind the best one by no more than one standard error of their differences.

    Who asks for a mean wants its steadiness, and its score is that of worse weights than its own: see ``ensemble``.
    """
    import numpy as np

    behind = np.array([metric.gain(one, other) for other, one in zip(mixed["folds"], best["folds"], strict=True)])
    return not beyond_chance(behind)


def _complexity(spec: Spec, name: str) -> int:
    """Its place from the simplest on; an ensemble stands behind all of its members."""
    return 100 if name == ENSEMBLE and name not in spec.candidates else spec.candidates[name].complexity


def _within_size(work: Work, layout: Layout, board: list[Row]) -> list[Row]:
    """The rows whose graph is no larger than ``selection.max_size``; each row is told its size.

    Raises:
        StageFailed: there is none.
    """
    most = work.spec.selection.max_size
    if most is None:
        return board
    form = work.spec.serving.tree_form
    for row in board:
        row["graph_bytes"] = chosen.load(work, layout, row).graph_bytes(layout.n_outputs, form)
    found = [row for row in board if row["graph_bytes"] <= most]
    if not found:
        least = min(row["graph_bytes"] for row in board)
        hint = "Allow more, or name a candidate whose models are smaller."
        what = f"no candidate's graph has {most:,} bytes or fewer; the smallest has {least:,}."
        raise StageFailed(what, where="selection.max_size", hint=hint)
    for row in board:
        if row["graph_bytes"] > most:
            work.say(f"{row['candidate']}: {row['graph_bytes']:,} bytes are more than selection.max_size")
    return found


def _entry(name: str, result: dict[str, Any], folder: Any) -> Row:
    return {
        "candidate": name,
        **spread(result["folds"]),
        "learned": result["learned"],
        "options": result.get("options", {}),
        "trials": len(result.get("trials", ())) or 1,
        "bytes": train.size(folder),
    }


def spread(scores: list[float]) -> dict[str, Any]:
    """Of the folds' scores the mean, the spread (divided by n), and the mean's standard error (by n - 1)."""
    import numpy as np

    error = float(np.std(scores, ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else 0.0
    return {"mean": float(np.mean(scores)), "std": float(np.std(scores)), "standard_error": error, "folds": scores}


def _ensemble(work: Work, training: Training, predictions: Mapping[str, np.ndarray]) -> list[Row]:
    """The mean's row; none where it keeps one candidate alone, or there is one fold only."""
    import numpy as np
    import sklearn

    outside, metric = training.folds(), training.metric
    if len(outside) < 2:
        return []
    known = {name: one for name, one in predictions.items() if all(np.isfinite(one[held]).all() for held in outside)}
    most = work.spec.selection.max_members
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        if work.spec.selection.ensemble == "stacking":
            found = stacking(known, outside, training.loss(), training.measure, most=most)
        else:
            found = ensemble(known, outside, training.measure, larger_is_better=metric.larger_is_better, most=most)
    if len(found.weights) == 1:
        return []
    row = {"candidate": ENSEMBLE, **spread(list(found.folds)), "learned": {}, "options": {}, "trials": 1}
    return [{**row, "members": found.weights, "bytes": 0}]


def _prior(layout: Layout, y: np.ndarray, weight: np.ndarray | None) -> list[float]:
    """What the naive model answers for every row: [P(positive)], class frequencies, [mean] or quantiles."""
    import numpy as np

    if layout.quantiles:
        kept = np.ones(len(y)) if weight is None else weight
        return [float(np.quantile(y, one, weights=kept, method="inverted_cdf")) for one in layout.quantiles]
    if layout.task == "regression":
        return [float(np.average(y, weights=weight))]
    counts = np.bincount(y, weights=weight, minlength=len(layout.classes))
    shares = counts / counts.sum()
    return [float(shares[1])] if layout.task == "binary" else [float(share) for share in shares]
