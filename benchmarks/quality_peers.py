"""What ``quality.py`` runs in the environment of a peer: ``python quality_peers.py flaml|autogluon FOLDER SECONDS``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

time.time = time.monotonic = time.perf_counter = time.process_time  # the budget counts CPU seconds

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402


def flaml(train: pd.DataFrame, asked: pd.DataFrame, meta: dict, seconds: float) -> np.ndarray:
    """FLAML as it comes."""
    from flaml import AutoML

    automl = AutoML()
    regression = meta["task"] == "regression"
    automl.fit(
        train.drop(columns=meta["target"]),
        train[meta["target"]],
        task="regression" if regression else "classification",
        metric=meta["metric"],
        time_budget=seconds,
        n_jobs=1,
        seed=7,
        verbose=0,
        **({"split_type": "time"} if meta["time"] else {}),
    )
    if regression:
        return np.asarray(automl.predict(asked))
    order = [list(map(str, automl.classes_)).index(name) for name in sorted(train[meta["target"]].astype(str).unique())]
    return np.asarray(automl.predict_proba(asked))[:, order]


def autogluon(train: pd.DataFrame, asked: pd.DataFrame, meta: dict, seconds: float) -> np.ndarray:
    """AutoGluon's preset ``medium_quality``."""
    from autogluon.tabular import TabularPredictor

    metric = {"rmse": "root_mean_squared_error"}.get(meta["metric"], meta["metric"])
    predictor = TabularPredictor(meta["target"], eval_metric=metric, problem_type=meta["task"], verbosity=0)
    predictor.fit(train, presets="medium_quality", time_limit=seconds, num_cpus=1, num_gpus=0)
    if meta["task"] == "regression":
        return np.asarray(predictor.predict(asked))
    told = predictor.predict_proba(asked)
    return np.asarray(told[sorted(told.columns, key=str)])


def main() -> None:
    """Learn from rows.csv, answer asked.csv."""
    tool, where, seconds = sys.argv[1:]
    folder = Path(where)
    meta = json.loads((folder / "meta.json").read_text())
    train, asked = pd.read_csv(folder / "rows.csv"), pd.read_csv(folder / "asked.csv")
    gone = [name for name in (*meta["drop"], meta["time"]) if name in asked.columns]
    if meta["time"]:
        train = train.sort_values(meta["time"])
    told = {"flaml": flaml, "autogluon": autogluon}[tool](
        train.drop(columns=gone), asked.drop(columns=gone), meta, float(seconds)
    )
    np.save(folder / "told.npy", told)


if __name__ == "__main__":
    main()
