"""specml's disparity between groups beside fairlearn's, on a model that ``specml run`` trains.

    python benchmarks/disparity.py --data DIR [--keep DIR]

DIR holds ``adult/train.csv`` (UCI Adult, with a header). A quick model of boosted trees is trained without ``sex`` and
``race``, which are protected, and judged on a quarter of the rows by the gates ``group_disparity``, ``calibration``
(by group) and ``proxy``. Its answers to the same held-out rows, by ``specml predict``, are given to fairlearn's
``MetricFrame``; printed are verdicts, both numbers side by side, and the largest difference of any group's.
``--keep DIR`` keeps the project.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import fairlearn.metrics as fairlearn
import numpy as np
import pandas as pd
import polars as pl
from sklearn.metrics import precision_score

BY: tuple[str | list[str], ...] = ("sex", "race", ["sex", "race"])
RATES: dict[str, Callable[..., float]] = {
    "selection_rate": fairlearn.selection_rate,
    "true_positive_rate": fairlearn.true_positive_rate,
    "false_positive_rate": fairlearn.false_positive_rate,
    "false_negative_rate": fairlearn.false_negative_rate,
    "positive_predictive_value": precision_score,
}
VERDICTS = ("disparate_impact", "calibrated", "told_by_score", "told_by_features")
"""Gates whose verdict is printed whole."""
LEAST = 1
"""Rows of a group from which on it is measured in this comparison; the gates whose verdicts are printed have 100."""


def spec() -> str:
    """The project: every number that is compared is a gate's, which is told and stops nothing."""
    told = {"level": "warn", "policy": "warn"}
    gates: dict[str, Any] = {
        "disparate_impact": {"type": "group_disparity", "metric": "selection_rate_ratio", "min": 0.8, "by": BY, **told},
        "calibrated": {"type": "calibration", "max": 0.05, "by": BY[:2], **told},
        "told_by_score": {"type": "proxy", "of": "score", "max": 0.7, "by": BY[:2], **told},
        "told_by_features": {"type": "proxy", "of": "features", "max": 0.7, "by": BY[:2], **told},
    }
    for rate in RATES:
        for number, compare in enumerate(("groups", "overall")):
            for kind, bound in (("ratio", {"min": 0.8}), ("difference", {"max": 0.1})):
                gates[f"{rate}_{kind}_{number}"] = {
                    "type": "group_disparity", "metric": f"{rate}_{kind}", "by": BY, "compare": compare,
                    "min_group_size": LEAST, **bound, **told,
                }  # fmt: skip
    return json.dumps({
        "name": "adult",
        "problem": {"task": "binary", "target": "income", "positive_class": ">50K"},
        "data": {
            "sources": {"rows": {"type": "csv", "path": "rows.csv"}},
            "columns": {"sex": {"role": "protected"}, "race": {"role": "protected"}},
            "split": {"method": "stratified", "test": 0.25},
        },
        "candidates": {"gbm": {"type": "lightgbm", "learning_rate": 0.1}},
        "search": {"folds": 3},
        "gates": gates,
    })  # fmt: skip


def trained(folder: Path, data: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """What the gates said, and the held-out rows with what the bundle answers."""
    pl.read_csv(data / "adult/train.csv", infer_schema_length=None).write_csv(folder / "rows.csv")
    (folder / "spec.yaml").write_text(spec())
    run = [sys.executable, "-m", "specml"]
    subprocess.run([*run, "run", "--no-deploy", "--quiet"], cwd=folder, check=True)
    asked = ["predict", "artifacts/prepare/test.parquet", "--bundle", "artifacts/bundle", "--output", "said.parquet"]
    subprocess.run([*run, *asked, "--quiet"], cwd=folder, check=True)
    verdicts = json.loads((folder / "artifacts/validate/verdicts.json").read_text())
    return verdicts["gates"], pl.read_parquet(folder / "said.parquet")


def theirs(rows: pl.DataFrame, rate: str, by: str | list[str]) -> Any:
    """The numbers of one rate by fairlearn."""
    metric = RATES[rate]
    if metric is precision_score:  # of a group of which nobody is selected it is undefined, and not 0
        metric = partial(precision_score, zero_division=np.nan)
    columns = pd.DataFrame({one: rows[one].to_numpy() for one in ([by] if isinstance(by, str) else by)})
    said = (rows["predicted"] == ">50K").to_numpy().astype(int)
    return fairlearn.MetricFrame(
        metrics={rate: metric}, y_true=rows["income"].to_numpy(), y_pred=said, sensitive_features=columns
    )


def compared(gate: dict[str, Any], rows: pl.DataFrame, name: str) -> tuple[float, list[str]]:
    """Of every group of one gate the largest difference between both numbers; and by ``by`` the worst of each."""
    rate, kind, number = name.rsplit("_", 2)
    method = "to_overall" if number == "1" else "between_groups"
    largest, lines = 0.0, []
    for by in BY:
        columns = [by] if isinstance(by, str) else by
        frame = theirs(rows, rate, by)
        told = {}
        for key, value in frame.by_group[rate].items():
            values = key if isinstance(key, tuple) else (key,)
            told[", ".join(f"{column}={one}" for column, one in zip(columns, values, strict=True))] = value
        ours = {one["name"]: one["value"] for one in gate["slices"] if one["name"] in told and one["value"] is not None}
        # Beside whom fairlearn's group stands: all rows, or whoever is best off among those that have a number here.
        small = {one["name"] for one in gate["slices"] if one["value"] is None}
        kept = [value for group, value in told.items() if group not in small and np.isfinite(value)]
        other = frame.overall[rate] if number == "1" else (min if "negative_rate" in rate else max)(kept)
        for group, value in ours.items():
            low, high = sorted((told[group], other))
            wanted = high - low if kind == "difference" else low / high
            largest = max(largest, abs(value - wanted))
        worst = (min if kind == "ratio" else max)(ours.values())
        whole = not small & set(told)
        aggregate = float(getattr(frame, kind)(method=method)[rate]) if whole else float("nan")
        if whole:
            largest = max(largest, abs(worst - aggregate))
        where = f"{rate} {kind}, {'to overall' if number == '1' else 'between groups'}, by {' and '.join(columns)}"
        beside = f"{aggregate:.15f}" if whole else "(of a group there are no such rows)"
        lines.append(f"{where:75} {worst:.15f}  {beside}")
    return largest, lines


def main() -> None:
    """Train, judge, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an empty folder for the project")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        gates, rows = trained(folder, options.data)
    for name in VERDICTS:
        print(f"{name}: {gates[name]['outcome']} · {gates[name]['reason']}")
        for one in gates[name]["slices"]:
            print(f"  {one['name']:42} {one['n']:6,}  {one['outcome']:13} {one['note']}")
    print(f"\n{'':75} {'specml':17}  fairlearn {metadata.version('fairlearn')}")
    largest = 0.0
    for name, gate in gates.items():
        if name.rpartition("_")[2] in ("0", "1"):
            difference, lines = compared(gate, rows, name)
            largest = max(largest, difference)
            print("\n".join(lines))
    print(f"\nlargest difference of any group's number, on {rows.height:,} rows: {largest:.3g}")


if __name__ == "__main__":
    main()
