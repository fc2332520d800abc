"""Models beside those of FLAML, AutoGluon and a plain LightGBM script, at equal CPU seconds.

    python benchmarks/quality.py --data DIR [--seconds 60] [--folds 1] [--sets adult …] [--peer NAME=PYTHON …]
                                 [--keep DIR] [--twice]

DIR holds folders with ``train.csv`` and ``meta.json`` (``task``, ``target``, ``positive``, ``metric``, ``time``,
``drop``). Each set is divided into outer folds (the latest fifth where there is a time); every tool gets the same rows
to learn from, one thread and so many CPU seconds, and is judged by the rest: one table, paired bootstrap intervals of
the difference from specml, the mean rank.

A peer lives in an environment of its own, whose Python is named: ``--peer flaml=PATH --peer autogluon=PATH``, made by
``pip install 'flaml[automl]'`` and ``pip install 'autogluon.tabular[all]'``. Its budget is told in seconds of a clock:
the clock that it sees is that of its own CPU time. specml's CPU seconds are those of the whole ``specml run``, with
DVC, gates, explanations and report.

``--keep DIR`` keeps what each tool answers, and does not ask it again; ``--twice`` runs specml once more, and says
whether it answers the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold

PEERS = Path(__file__).resolve().with_name("quality_peers.py")
REPEATS = 1000
LOWER_IS_BETTER = ("rmse", "log_loss")
FAMILIES: dict[str, tuple[dict[str, Any], float, float]] = {
    "linear": ({"C": 1.0}, 0.1, 0.0),
    "loose": ({"C": 10.0}, 0.15, 0.0),
    "gbm": ({"type": "lightgbm", "subsample": 0.8, "colsample_bytree": 0.8}, 0.15, 0.05),
    "small": ({"type": "lightgbm", "num_leaves": 8, "learning_rate": 0.1, "categories": "sets"}, 0.1, 0.03),
    "smooth": ({"type": "lightgbm", "extra_trees": True, "num_leaves": 64, "early_stopping": 60}, 0.3, 0.12),
    "net": ({"type": "tabular_mlp"}, 1.2, 0.0),
    "forest": ({"type": "extra_trees"}, 0.7, 0.0),
    "cat": ({"type": "catboost", "learning_rate": 0.1}, 0.3, 0.4),
}
"""Options; and about how many CPU seconds a trial takes for each thousand rows, and for each class beyond two."""
AT_LEAST = 0.45
"""The same of a trial, however few the rows are."""
TEXT = 14.0
"""How much dearer a trial is where there are texts."""
PLANNED = 0.7
"""Of the budget; the rest is for reading, explaining, judging and packaging."""
HELD = 0.02
"""What specml may not learn from, since its gates need some rows that no model has seen."""


def planned(meta: dict[str, Any], seconds: int, rows: int, classes: int) -> tuple[dict[str, Any], int]:
    """Candidates and trials of each: by rows and classes, not by the clock, so that every run does the same.

    In the order of ``FAMILIES``, those that still fit into the budget; then as many rounds of all as do.
    """
    candidates: dict[str, Any] = {}
    total = 0.0
    for name, (told, each, class_) in FAMILIES.items():
        cost = max(AT_LEAST, rows / 1000 * (each + class_ * max(0, classes - 2)))
        cost *= TEXT if "texts" in meta else 1.0
        # A network and a forest do not reach beyond what they have seen, as what comes later often does.
        beyond = name in ("net", "forest") and meta["time"]
        lacks = name == "cat" and not importlib.util.find_spec("catboost")
        if beyond or lacks or total + cost > PLANNED * seconds:
            continue
        total += cost
        if meta["task"] == "regression" and "C" in told:
            candidates[name] = {"type": "ridge", "alpha": 1 / told["C"]}
        else:
            candidates[name] = {"type": "logistic_regression", **told}
    return candidates, max(1, min(40, int(PLANNED * seconds / total)))


def spec(meta: dict[str, Any], seconds: int, rows: int, classes: int) -> dict[str, Any]:
    """What a user would write: no setting of any set's own but what the columns are."""
    columns: dict[str, Any] = {name: {"role": "ignore"} for name in meta["drop"]}
    columns |= {name: {"dtype": "text"} for name in meta.get("texts", ())}
    split: dict[str, Any] = {"test": HELD}
    if meta["time"]:
        columns[meta["time"]] = {"role": "time", "dtype": "datetime"}
        split |= {"method": "time", "column": meta["time"]}
    problem = {"task": meta["task"], "target": meta["target"], "feasibility": {"learning_curve": False}}
    problem["primary_metric"] = {"rmse": "root_mean_squared_error"}.get(meta["metric"], meta["metric"])
    if meta["positive"]:
        problem["positive_class"] = meta["positive"]
    candidates, trials = planned(meta, seconds, rows, classes)
    return {
        "spec": 1,
        "name": "quality",
        "problem": problem,
        "data": {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}, "columns": columns, "split": split},
        "candidates": candidates,
        "search": {"trials": trials, "patience": 8} if trials > 1 else {},
        "selection": {"ensemble": "greedy"},
        "gates": {"baseline": {"type": "baseline", "level": "warn"}},
    }


def by_specml(folder: Path, meta: dict[str, Any], seconds: int) -> None:
    """Run a project in ``folder`` and ask its bundle."""
    target = pl.read_csv(folder / "rows.csv", columns=[meta["target"]], infer_schema_length=None)
    classes = 2 if meta["task"] == "regression" else target.n_unique()
    (folder / "spec.yaml").write_text(json.dumps(spec(meta, seconds, len(target), classes)))
    environment = {**os.environ, "SPECML_THREADS": "1"}
    for command in (
        ["run", "--no-deploy", "--quiet"],
        ["predict", "asked.csv", "--bundle", "artifacts/bundle", "-o", "told.parquet"],
    ):
        subprocess.run([sys.executable, "-m", "specml", *command], cwd=folder, env=environment, check=True)


def by_script(folder: Path, meta: dict[str, Any]) -> None:
    """LightGBM as it comes, on columns as they are: what is no number is a category."""
    import lightgbm

    train, test = (
        pl.read_csv(folder / "rows.csv", infer_schema_length=None),
        pl.read_csv(folder / "asked.csv", infer_schema_length=None),
    )
    names = [name for name in test.columns if name not in (*meta["drop"], meta["time"])]
    columns = []
    categories = []
    for place, name in enumerate(names):
        if train[name].dtype == pl.String:
            known = {value: code for code, value in enumerate(train[name].unique().sort().to_list())}
            columns.append(
                [frame[name].replace_strict(known, default=None, return_dtype=pl.Float64) for frame in (train, test)]
            )
            categories.append(place)
        else:
            columns.append([frame[name].cast(pl.Float64) for frame in (train, test)])
    X, asked = (np.column_stack([pair[side].to_numpy() for pair in columns]) for side in (0, 1))
    options = {"n_jobs": 1, "random_state": 7, "verbose": -1}
    y = train[meta["target"]].to_numpy()
    if meta["task"] == "regression":
        model = lightgbm.LGBMRegressor(**options).fit(X, y, categorical_feature=categories)
        told = model.predict(asked)
    else:
        classes, codes = np.unique(y.astype(str), return_inverse=True)
        model = lightgbm.LGBMClassifier(**options).fit(X, codes, categorical_feature=categories)
        told = model.predict_proba(asked)
        assert list(model.classes_) == list(range(len(classes)))
    np.save(folder / "told.npy", told)


def answers(folder: Path, meta: dict[str, Any], classes: list[str]) -> np.ndarray:
    """Predictions [n], or the probability of each class [n, k], as a tool left them."""
    if (folder / "told.npy").exists():
        return np.asarray(np.load(folder / "told.npy"))
    told = pl.read_parquet(folder / "told.parquet")
    if meta["task"] == "regression":
        return told["predicted"].to_numpy()
    return np.column_stack([told[f"probability_{name}"].to_numpy() for name in classes])


def score(meta: dict[str, Any], classes: list[str], y: np.ndarray, told: np.ndarray) -> float:
    """The set's metric."""
    if meta["metric"] == "rmse":
        return float(np.sqrt(mean_squared_error(y, told)))
    if meta["metric"] == "log_loss":
        return float(
            log_loss(y, np.clip(told, 1e-7, 1) / np.clip(told, 1e-7, 1).sum(axis=1, keepdims=True), labels=classes)
        )
    return float(roc_auc_score(y == meta["positive"], told[:, classes.index(meta["positive"])]))


def compared(
    meta: dict[str, Any], classes: list[str], y: np.ndarray, ours: np.ndarray, theirs: np.ndarray
) -> tuple[float, float]:
    """95 % interval of how much better ours is, over resampled rows."""
    draw = np.random.default_rng(7)
    sign = -1 if meta["metric"] in LOWER_IS_BETTER else 1
    found = []
    for _ in range(REPEATS):
        rows = draw.integers(0, len(y), len(y))
        found.append(sign * (score(meta, classes, y[rows], ours[rows]) - score(meta, classes, y[rows], theirs[rows])))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def outer(meta: dict[str, Any], rows: pl.DataFrame, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) row numbers of each outer fold."""
    if meta["time"]:
        order = rows[meta["time"]].arg_sort().to_numpy()
        return [(order[: int(0.8 * len(order))], order[int(0.8 * len(order)) :])]
    y = rows[meta["target"]].to_numpy()
    kind = KFold if meta["task"] == "regression" else StratifiedKFold
    return list(kind(5, shuffle=True, random_state=7).split(y, y))[:folds]


def spent(work: Any) -> float:
    """CPU seconds of the children that ``work`` starts and waits for."""
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measured(
    tool: str, python: str, train: pl.DataFrame, test: pl.DataFrame, meta: dict[str, Any], options: Any
) -> tuple[np.ndarray, float]:
    """What a tool answers, and the CPU seconds that it took."""
    classes = [] if meta["task"] == "regression" else sorted(train[meta["target"]].cast(pl.String).unique().to_list())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        train.write_csv(folder / "rows.csv")
        test.drop(meta["target"]).write_csv(folder / "asked.csv")
        (folder / "meta.json").write_text(json.dumps(meta))
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if tool == "specml":
            took = spent(lambda: by_specml(folder, meta, options.seconds))
        else:
            plain = [str(Path(__file__).resolve()), "--script", made]
            command = [python, *(plain if tool == "plain" else [str(PEERS), tool, made, str(options.seconds)])]
            told = {"env": {**os.environ, **one}, "capture_output": not options.loud}
            # In the folder: AutoGluon writes its models, with rows in them, to wherever it is.
            took = spent(lambda: subprocess.run(command, cwd=folder, check=True, **told))
        return answers(folder, meta, classes), took


def kept(file: Path | None, measure: Callable[[], tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
    """What ``measure`` finds, or found when it was kept in ``file``."""
    if file is None:
        return measure()
    if not file.exists():
        told, took = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, told=told, took=took)
    with np.load(file) as found:
        return found["told"], float(found["took"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folds", type=int, default=1, choices=range(1, 6))
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="what the tools answer, for another time")
    parser.add_argument("--twice", action="store_true", help="run specml again, and compare")
    parser.add_argument("--loud", action="store_true", help="show what the tools print")
    parser.add_argument("--script", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script:
        by_script(options.script, json.loads((options.script / "meta.json").read_text()))
        return
    tools = {"specml": sys.executable, "plain": sys.executable} | {
        name: str(Path(python).absolute()) for name, _, python in (one.partition("=") for one in options.peer)
    }
    ranks: dict[str, list[float]] = {tool: [] for tool in tools}
    print(f"{'set':14} {'fold':>4} {'metric':9} {'tool':10} {'score':>9} {'CPU s':>7}  specml is better by (95 %)")
    for file in sorted(options.data.glob("*/meta.json")):
        meta = json.loads(file.read_text())
        if options.sets and meta["name"] not in options.sets:
            continue
        rows = pl.read_csv(file.with_name("train.csv"), infer_schema_length=None)
        if meta["name"] == "sms_spam":
            meta["texts"] = ["text"]
        for fold, (train, test) in enumerate(outer(meta, rows, options.folds)):
            y = rows[meta["target"]][test].to_numpy()
            classes = (
                [] if meta["task"] == "regression" else sorted(rows[meta["target"]].cast(pl.String).unique().to_list())
            )
            told = {}
            for tool, python in tools.items():
                measure = partial(measured, tool, python, rows[train], rows[test], meta, options)
                name = f"{meta['name']}-{fold}-{tool}-{options.seconds}.npz"
                told[tool], took = kept(options.keep / name if options.keep else None, measure)
                found = score(meta, classes, y, told[tool])
                low, high = compared(meta, classes, y, told["specml"], told[tool]) if tool != "specml" else (0.0, 0.0)
                beside = f"{low:+.4f} to {high:+.4f}" if tool != "specml" else ""
                print(
                    f"{meta['name']:14} {fold:>4} {meta['metric']:9} {tool:10} {found:9.4f} {took:7.1f}  {beside}",
                    flush=True,
                )
                if tool == "specml" and options.twice:
                    same = np.array_equal(measure()[0], told[tool])
                    print(f"{'':30} another run answers {'the same' if same else 'OTHERWISE'}", flush=True)
            sign = 1 if meta["metric"] in LOWER_IS_BETTER else -1
            order = np.argsort(np.argsort([sign * score(meta, classes, y, told[tool]) for tool in tools])) + 1
            for tool, rank in zip(tools, order, strict=True):
                ranks[tool].append(float(rank))
    print("mean rank: " + ", ".join(f"{tool} {np.mean(found):.2f}" for tool, found in ranks.items()))


if __name__ == "__main__":
    main()
