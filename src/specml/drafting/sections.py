"""What the sections of a draft say, from the problem and the columns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml.drafting.columns import holds_together, orders_rows
from specml.drafting.written import Remark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from specml.drafting.columns import Facts, Guess
    from specml.drafting.problem import Guessed
    from specml.drafting.written import Keys

    Remarks = dict[Keys, Remark]

MEASURED = 100
"""Held-out rows that a metric gate needs."""
CALIBRATED = 1000
"""Held-out rows that the gate ``calibration`` needs."""
SHARES = (0.2, 0.25, 0.3, 0.4)
MOST_GROUPS = 20
"""Groups of a protected column beyond which a comparison of all says little."""
PER_CLASS = 20
"""Training rows of each class that a split by time must leave, as ``problem.feasibility`` asks."""


def time_column(columns: Sequence[Facts], target: Facts, task: str) -> str | None:
    """The one column that orders the rows; None where there is none, or several are as likely."""
    found = [one for one in columns if orders_rows(one)]
    if len(found) != 1:
        return None
    return found[0].name if _tells_both_sides(found[0], target, task) else None


def person_column(guesses: Sequence[Guess], columns: Mapping[str, Facts]) -> str | None:
    """The column of ids of people who have several rows, most of them; None where there is none."""
    found = [
        columns[one.name]
        for one in guesses
        if one.role == "id" and one.declared.get("personal") and holds_together(columns[one.name])
    ]
    return min(found, key=lambda one: one.distinct).name if found else None


def _tells_both_sides(time: Facts, target: Facts, task: str) -> bool:
    """Whether the earlier rows hold enough of each class, and the later ones more than one."""
    import polars as pl

    if task == "regression":
        return True
    table = pl.DataFrame({"time": time.values, "label": target.values}).drop_nulls("label").sort("time")
    cut = table["time"][int(table.height * (1 - SHARES[0]))]
    early, late = table.filter(pl.col("time") < cut), table.filter(pl.col("time") >= cut)
    counts = early["label"].value_counts()
    classes = target.distinct
    return len(counts) == classes and int(counts["count"].min() or 0) >= PER_CLASS and late["label"].n_unique() > 1  # type: ignore[arg-type]


def test_share(rows: int) -> float:
    """The least share of the rows that a metric gate can be measured on."""
    return next((share for share in SHARES if rows * share >= MEASURED), SHARES[-1])


def problem(guessed: Guessed, target: str, *, groups: bool) -> tuple[dict[str, Any], Remarks]:
    """The section ``problem``; ``groups``: whether outcomes of people are compared."""
    told: dict[str, Any] = {"task": guessed.task, "goal": f"Predict {target}", "target": target}
    remarks: Remarks = {("problem", "goal"): Remark("what is it for?")}
    if guessed.doubt:
        remarks["problem", "task"] = Remark(guessed.doubt)
    if guessed.task == "binary":
        if guessed.why:
            told["positive_class"] = guessed.positive
            remarks["problem", "positive_class"] = Remark(f"{guessed.why}; its probability is predicted")
        if groups:
            told["favourable_class"] = guessed.favourable
            remarks["problem", "favourable_class"] = Remark("the outcome that the person wants")
        told["decision"] = {"threshold": "auto"}
    return told, remarks


def split(time: str | None, person: str | None, guessed: Guessed) -> tuple[dict[str, Any], Remarks]:
    """``data.split``."""
    share, here = test_share(guessed.rows), ("data", "split")
    if time is not None:
        told = {"method": "time", "column": time, "test": share}
        return told, {here: Remark("the latest rows judge; is this when a row is known?")}
    if person is not None:
        return {"method": "group", "column": person, "test": share}, {here: Remark("nobody stands on both sides")}
    if guessed.task == "regression":
        return {"method": "random", "test": share}, {}
    return {"method": "stratified", "test": share}, {}


def gates(guessed: Guessed, compared: Sequence[tuple[Guess, Facts]]) -> tuple[dict[str, Any], Remarks]:
    """Gates that a model better than its baseline passes, and what is worth a warning."""
    held_out = guessed.rows * test_share(guessed.rows)
    told: dict[str, Any] = {"baseline": {"type": "baseline"}, "parity": {"type": "parity"}}
    remarks: Remarks = {
        ("gates", "baseline"): Remark("better than the class frequencies, or the mean, alone", review=False),
        ("gates", "parity"): Remark("the packaged model answers as the trained one", review=False),
    }
    name, gate, floor = _floor(guessed)
    told[name] = {"type": "metric", **gate} | ({} if held_out >= MEASURED else {"level": "warn"})
    remarks["gates", name] = Remark(f"what is good enough? {floor}")
    if guessed.task != "regression" and held_out >= CALIBRATED:
        told["calibration"] = {"type": "calibration", "max": 0.05, "level": "warn"}
    by = [column.name for column, facts in compared if "bands" in column.declared or facts.distinct <= MOST_GROUPS]
    if guessed.task == "binary" and by:
        options = {"metric": "selection_rate_ratio", "by": by, "min": 0.8, "level": "warn"}
        told["disparity"] = {"type": "group_disparity", **options}
        remarks["gates", "disparity"] = Remark("which rate, how close, and does it stop a release?")
    return told, remarks


def _floor(guessed: Guessed) -> tuple[str, dict[str, Any], str]:
    """A name, the metric with its bound, and what the bound is."""
    if guessed.task == "regression":
        return "r2", {"metric": "r2", "min": 0.0}, "0 is the mean"
    if guessed.task == "binary":
        return "auc", {"metric": "roc_auc", "min": 0.5}, "0.5 is chance"
    shares = [n / guessed.rows for _, n in guessed.counts]
    entropy = -sum(share * math.log(share) for share in shares)
    bound = math.ceil(entropy * 1000) / 1000
    return "loss", {"metric": "log_loss", "max": bound}, f"{bound:g} is what the class frequencies score"


def candidates(task: str) -> Mapping[str, Any]:
    """A model that can be read, beside boosted trees."""
    linear = {"linear": {"type": "ridge"}} if task == "regression" else {"scorecard": {"type": "logistic_regression"}}
    return {**linear, "gbm": {"type": "lightgbm"}}
