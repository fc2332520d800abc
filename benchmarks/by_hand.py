"""The employment example as a person would write it without specml: the other side of ``benchmarks/run.py``.

    python benchmarks/by_hand.py DATA.parquet OUT.json [time|stratified]

It does the fits of ``conf/spec.yaml``, on the same rows with the same settings, with polars, scikit-learn and LightGBM
directly and all in one process: hold out the latest year (or a quarter of the rows, stratified); draw the learning
curve of quick trees on parts of at most 10,000 rows; cross-validate a logistic regression and boosted trees in two
folds forward in time (or five stratified ones), the trees with early stopping on rows of their own; choose by ROC AUC;
take the threshold of the best balanced accuracy out of fold; refit the chosen settings of both on all training rows;
measure the chosen one on the rows that were held out. It tracks nothing, packages nothing, draws nothing, and judges no
gate.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

NUMERIC = ["SCHL"]
CATEGORIES = ["MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM"]
TREES = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_child_samples": 20,
    "bagging_fraction": 0.9,
    "bagging_freq": 1,
    "feature_fraction": 0.9,
    "lambda_l2": 1.0,
    "seed": 7,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
ROUNDS, PATIENCE, STOP_SHARE = 1000, 30, 0.15
BASELINE = TREES | {"learning_rate": 0.1, "num_leaves": 15, "min_child_samples": 10} | {
    "bagging_fraction": 1.0, "feature_fraction": 1.0,
}  # fmt: skip
MOST, SHARES = 10_000, (1 / 8, 1 / 4, 1 / 2, 1.0)


class Scorecard:
    """Filled and scaled numbers, one-hot categories, logistic regression."""

    def __init__(self, rows: pl.DataFrame) -> None:
        numbers = rows.select(NUMERIC).to_numpy().astype(np.float64)
        self.fill = np.nanmedian(numbers, axis=0)
        self.scale = StandardScaler().fit(self._filled(numbers))
        self.encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(rows.select(CATEGORIES))
        self.model = LogisticRegression(C=1.0, max_iter=1000, random_state=7)
        self.model.fit(self._design(rows), rows["employed"].to_numpy())

    def _filled(self, numbers: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(numbers), self.fill, numbers)

    def _design(self, rows: pl.DataFrame) -> np.ndarray:
        numbers = self.scale.transform(self._filled(rows.select(NUMERIC).to_numpy().astype(np.float64)))
        return np.hstack([numbers, self.encode.transform(rows.select(CATEGORIES))])

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """Probability of being employed [n]."""
        return self.model.predict_proba(self._design(rows))[:, 1]


class Trees:
    """Numbers as they are, categories by their place in the alphabet, LightGBM."""

    def __init__(
        self, rows: pl.DataFrame, stop: pl.DataFrame | None, rounds: int, settings: dict[str, object] = TREES
    ) -> None:
        self.encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(rows.select(CATEGORIES))
        valid = None if stop is None else [lightgbm.Dataset(self._design(stop), stop["employed"].to_numpy())]
        self.model = lightgbm.train(
            settings,
            lightgbm.Dataset(self._design(rows), rows["employed"].to_numpy()),
            num_boost_round=rounds,
            valid_sets=valid,
            callbacks=None if stop is None else [lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        self.rounds = rounds if stop is None else self.model.best_iteration

    def _design(self, rows: pl.DataFrame) -> np.ndarray:
        numbers = rows.select(NUMERIC).to_numpy().astype(np.float32)
        return np.hstack([numbers, self.encode.transform(rows.select(CATEGORIES)).astype(np.float32)])

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """Probability of being employed [n]."""
        return self.model.predict(self._design(rows), num_iteration=self.rounds, num_threads=1)


Folds = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of each fold, the rows to fit on, the rows that tell when to stop, and the rows that score."""


def forward(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, Folds]:
    """The latest year is held out; each fold trains on what came before a year."""
    train = table.filter(pl.col("year") < table["year"].max()).sort("year", maintain_order=True)
    years, folds = train["year"].to_numpy(), []
    for year in np.unique(years)[1:]:
        inside = np.flatnonzero(years < year)
        cut = int(len(inside) * (1 - STOP_SHARE))
        folds.append((inside[:cut], inside[cut:], np.flatnonzero(years == year)))
    return train, table.filter(pl.col("year") == table["year"].max()), folds


def stratified(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, Folds]:
    """A quarter is held out, and the rest split in five."""
    y = table["employed"].to_numpy()
    kept, held = train_test_split(np.arange(len(y)), test_size=0.25, random_state=7, stratify=y)
    train, y = table[np.sort(kept)], y[np.sort(kept)]
    folds = []
    for inside, outside in StratifiedKFold(5, shuffle=True, random_state=7).split(y, y):
        fit, stop = train_test_split(inside, test_size=STOP_SHARE, random_state=7, stratify=y[inside])
        folds.append((fit, stop, outside))
    return train, table[np.sort(held)], folds


def learning_curve(train: pl.DataFrame, folds: Folds, split: str) -> list[float]:
    """What quick trees score on parts of the folds' training rows, mean over the folds."""
    scores = []
    for fit, stop, outside in folds:
        inside = np.sort(np.concatenate([fit, stop]))
        latest = inside[np.argsort(train["year"].to_numpy()[inside], kind="stable")[::-1]]
        order = (latest if split == "time" else np.random.default_rng(7).permutation(inside))[:MOST]
        held = train[np.sort(np.random.default_rng(7).permutation(outside)[:MOST])]
        parts = [train[np.sort(order[: int(len(order) * share)])] for share in SHARES]
        answers = [Trees(part, None, 60, BASELINE).predict(held) for part in parts]
        scores.append([float(roc_auc_score(held["employed"].to_numpy(), one)) for one in answers])
    return [float(mean) for mean in np.mean(scores, axis=0)]


def main(data: Path, out: Path, split: str = "time") -> None:
    """Fit, choose, refit, measure."""
    table = pl.read_parquet(data).with_columns(pl.col(CATEGORIES).cast(pl.String).fill_null("missing"))
    train, test, folds = (forward if split == "time" else stratified)(table)
    y, curve = train["employed"].to_numpy(), learning_curve(train, folds, split)
    scores: dict[str, list[float]] = {"scorecard": [], "gbm": []}
    outcome = {name: np.full(train.height, np.nan) for name in scores}
    rounds = []
    for fit, stop, outside in folds:
        trees = Trees(train[fit], train[stop], ROUNDS)
        rounds.append(trees.rounds)
        inside = np.sort(np.concatenate([fit, stop]))
        for name, model in (("scorecard", Scorecard(train[inside])), ("gbm", trees)):
            outcome[name][outside] = model.predict(train[outside])
            scores[name].append(float(roc_auc_score(y[outside], outcome[name][outside])))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    chosen = max(means, key=lambda name: means[name])
    known = np.isfinite(outcome[chosen])
    false_positive, true_positive, cuts = roc_curve(y[known], outcome[chosen][known])
    threshold = float(cuts[int(np.argmax(true_positive - false_positive))])
    models = {"scorecard": Scorecard(train), "gbm": Trees(train, None, round(float(np.mean(rounds))))}
    answer, actual = models[chosen].predict(test), test["employed"].to_numpy()
    decided = answer >= threshold
    told = {
        "learning_curve": curve,
        "cross_validation": scores,
        "chosen": chosen,
        "rounds": rounds,
        "threshold": threshold,
        "holdout": {
            "roc_auc": float(roc_auc_score(actual, answer)),
            "log_loss": float(log_loss(actual, answer)),
            "accuracy": float(accuracy_score(actual, decided)),
            "balanced_accuracy": float(balanced_accuracy_score(actual, decided)),
        },
    }
    out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
