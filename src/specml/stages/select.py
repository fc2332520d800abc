"""Choose the candidate with the best cross-validated score, and the probability from which it decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.data import Layout
from specml.files import canonical_json, read_json, write_atomic
from specml.metrics import TABLE
from specml.plan import Stage
from specml.stages import prepare, train

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/select/choice.json"


def declare(spec: Spec) -> Stage:
    """Sees the folds' results only."""
    return Stage(
        name="select",
        summary="choose the candidate and its decision threshold",
        params=("problem.decision.threshold", "problem.primary_metric", "problem.task"),
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
    import polars as pl

    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    columns = [layout.target, *([layout.weight] if layout.weight else [])]
    rows = pl.read_parquet(work.path(prepare.TRAIN), columns=columns)
    y = rows[layout.target].to_numpy()
    weight = rows[layout.weight].to_numpy().astype(np.float64) if layout.weight else None
    metric = TABLE[work.spec.problem.metric]
    folders = {folder.rsplit("/", 1)[1]: folder for folder in work.stage.deps[2:]}
    board = [_entry(name, read_json(work.path(f"{folder}/cross_validation.json"))) for name, folder in folders.items()]
    board.sort(key=lambda row: (-row["mean"] if metric.larger_is_better else row["mean"], row["candidate"]))
    chosen = board[0]["candidate"]
    outcome = np.load(work.path(f"{folders[chosen]}/out_of_fold.npy"), allow_pickle=False)
    threshold = _threshold(work.spec, y, outcome, weight) if layout.task == "binary" else None
    choice = {
        "candidate": chosen,
        "metric": metric.name,
        "threshold": threshold,
        "leaderboard": board,
        "prior": _prior(layout, y, weight),
    }
    write_atomic(work.path(OUT), canonical_json(choice))
    work.say(f"{chosen} is ahead: {metric.name} {board[0]['mean']:.4f}")


def _entry(name: str, result: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    scores = result["folds"]
    return {
        "candidate": name,
        "mean": float(np.mean(scores)),
        "std": float(np.std(scores)),
        "folds": scores,
        "learned": result["learned"],
        "options": result.get("options", {}),
        "trials": len(result.get("trials", ())) or 1,
    }


def _threshold(spec: Spec, y: np.ndarray, outcome: np.ndarray, weight: np.ndarray | None) -> float:
    """The declared threshold; ``auto``: where Youden's J, and so the balanced accuracy, is largest out of fold.

    Rounded to float32, which the graph compares in.
    """
    import numpy as np

    declared = spec.problem.decision.threshold
    if declared != "auto":
        return float(np.float32(declared))
    from sklearn.metrics import roc_curve

    known = np.isfinite(outcome)
    false_positive, true_positive, cuts = roc_curve(
        y[known], outcome[known], sample_weight=None if weight is None else weight[known]
    )
    best = float(cuts[int(np.argmax(true_positive - false_positive))])
    return float(np.float32(min(max(best, 0.001), 0.999)))


def _prior(layout: Layout, y: np.ndarray, weight: np.ndarray | None) -> list[float]:
    """What the naive model answers for every row: [P(positive)], class frequencies, or [mean]."""
    import numpy as np

    if layout.task == "regression":
        return [float(np.average(y, weights=weight))]
    counts = np.bincount(y, weights=weight, minlength=len(layout.classes))
    shares = counts / counts.sum()
    return [float(shares[1])] if layout.task == "binary" else [float(share) for share in shares]
