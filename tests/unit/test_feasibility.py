"""Enough rows, of every kind; and what a learning curve concludes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from specml.data import Folding, Layout
from specml.errors import DataCheckFailed, NotEnoughData
from specml.stages import feasibility
from specml.stages.feasibility import Curve, _defined, _order, _outlook, gain_of_twice
from specml.stages.work import Work, narrowed
from tests.conftest import column, spec_of
from tests.unit.test_prepare import PROBLEM, data, prepared, rows


def asked(**options: Any) -> dict[str, Any]:
    return {"problem": {**PROBLEM, "feasibility": options}}


GROUPS = {"columns": {"g": {"role": "protected", "groups": {"few": ("f",), "many": ("m",), "none": ("n",)}}}}


def test_a_small_group_of_held_out_rows_is_told_by_its_declared_name(tmp_path: Path) -> None:
    table = {**rows(), "g": ["f" if i % 9 == 0 else "m" for i in range(200)]}
    with pytest.raises(NotEnoughData, match=r"2 of 3 groups of 'g' .* 20 held-out rows \(few: \d+, none: 0\)") as error:
        prepared(tmp_path, table, data=data(**GROUPS), **asked(min_rows_per_group=20))
    assert error.value.where == "problem.feasibility.min_rows_per_group"
    undeclared = data(columns={"g": {"role": "protected"}})
    with pytest.raises(NotEnoughData, match=r"1 of 2 groups .* 20 held-out rows; the smallest has \d+\.\n"):
        prepared(tmp_path, table, data=undeclared, **asked(min_rows_per_group=20))
    prepared(tmp_path, table, data=undeclared, **asked(min_rows_per_group=2))


def test_a_short_history_is_told(tmp_path: Path) -> None:
    day = [f"2026-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(200)]
    times = {"columns": {"day": {"role": "time"}}, "split": {"method": "time", "column": "day"}}
    with pytest.raises(NotEnoughData, match="span 170d of 365d needed"):
        prepared(tmp_path, {**rows(), "day": day}, data=data(**times), **asked(min_history="365d"))
    prepared(tmp_path, {**rows(), "day": day}, data=data(**times), **asked(min_history="100d"))
    with pytest.raises(DataCheckFailed, match="how long they last is unknown"):
        prepared(tmp_path, {**rows(), "day": list(range(200))}, data=data(**times), **asked(min_history="9d"))


def test_what_could_not_be_judged_is_refused() -> None:
    spec = spec_of(**asked(min_history="9d", min_rows_per_group=5))
    assert [one.key[-1] for one in spec.contradictions()] == ["min_history", "min_rows_per_group"]


def curve_of(c: float, b: float, noise: float = 0.0) -> Curve:
    sizes = np.tile([100, 200, 400, 800], (5, 1))
    generator = np.random.default_rng(0)
    each = generator.normal(scale=noise, size=(5, 4)) + 0.8 - b * sizes**-c
    return Curve(sizes, each, np.full(5, 0.5), 0.25)


@pytest.mark.parametrize("c", [0.25, 0.5, 1.0])
def test_a_power_law_is_found_again(c: float) -> None:
    change, low, high = gain_of_twice(curve_of(c, 2.0), 1000)
    true = 2.0 * (1000**-c - 2000**-c)
    assert change == pytest.approx(true, rel=1e-6)
    assert (low, high) == pytest.approx((true, true), rel=1e-6)


def test_the_interval_of_a_gain_is_wide_where_the_folds_disagree() -> None:
    change, low, high = gain_of_twice(curve_of(0.5, 1.0, noise=0.02), 1000)
    assert low < change < high
    assert low < 1.0 * (1000**-0.5 - 2000**-0.5) < high


@pytest.mark.parametrize(
    ("change", "better", "says"),
    [
        ((0.01, 0.005, 0.015), 1, r"^twice the rows would bring about \+0\.01 roc_auc"),
        ((-0.01, -0.015, -0.005), -1, "^twice the rows would bring"),
        ((0.0001, -0.001, 0.002), 1, "^more rows would hardly help"),
        ((0.0005, 0.0004, 0.0006), 1, "^more rows would hardly help"),
        ((-0.02, -0.03, -0.01), 1, "^more rows would hardly help"),
        ((0.001, -0.1, 0.1), 1, "^whether more rows would help can't be told"),
        ((0.01, -0.01, 0.03), 1, "^whether more rows would help can't be told"),
    ],
)
def test_what_is_said_of_more_rows(change: Any, better: int, says: str) -> None:
    assert re.search(says, _outlook("roc_auc", *change, worth=0.003, better=better))


def told(folder: Path, table: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], pl.DataFrame]:
    prepared(folder, table, **changes)
    spec = spec_of(**changes)
    stage = feasibility.declare(spec)
    feasibility.work(Work(stage, folder, narrowed(spec, stage), lambda *_, **__: None))
    return json.loads((folder / feasibility.METRICS).read_text()), pl.read_csv(folder / feasibility.CURVE)


def test_a_curve_rises_where_there_is_something_to_learn_and_is_the_same_each_time(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    x, z = generator.normal(size=(2, 1200))
    y = (x * z + generator.normal(scale=0.3, size=1200) > 0).astype(int)
    table = {"x": x.tolist(), "z": z.tolist(), "y": y.tolist()}
    metrics, points = told(tmp_path, table)
    assert points["rows"].to_list() == [96, 192, 384, 768]
    assert points["roc_auc"][-1] > points["roc_auc"][0] + 0.01
    assert (points["low"] <= points["roc_auc"]).all()
    assert points["high"].max() <= 1.0  # type: ignore[operator]
    assert metrics["without_columns"]["roc_auc"] == 0.5
    assert metrics["twice_the_rows"]["roc_auc"] > 0
    again = told(tmp_path, table)
    assert again[0] == metrics
    assert again[1].equals(points)


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    table = {"x": generator.normal(size=600).tolist(), "y": generator.integers(0, 2, 600).tolist()}
    metrics, _ = told(tmp_path, table)
    assert "not shown to be better than 0.5, which needs no column" in metrics["outlook"]


def test_a_regression_has_a_curve_too(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=600)
    changes: Any = {"problem": {"task": "regression", "target": "y"}, "candidates": {"line": {"type": "ridge"}}}
    metrics, points = told(tmp_path, {"x": x.tolist(), "y": (np.sin(3 * x) * 5).tolist()}, **changes)
    assert points["root_mean_squared_error"].is_sorted(descending=True)
    assert metrics["baseline"]["root_mean_squared_error"] < metrics["without_columns"]["root_mean_squared_error"]


def test_columns_that_few_rows_know_disturb_nothing(tmp_path: Path) -> None:
    """In the smaller parts of the rows they have no value at all."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=800)
    known = [i % 90 == 0 for i in range(800)]
    table = {
        "x": x.tolist(),
        "rare": [float(i) if one else None for i, one in enumerate(known)],
        "kind": [f"k{i % 3}" if one else None for i, one in enumerate(known)],
        "flag": [bool(i % 2) if one else None for i, one in enumerate(known)],
        "y": (x + generator.normal(size=800) > 0).astype(int).tolist(),
    }
    metrics, points = told(tmp_path, table)
    assert points.height == 4
    assert metrics["baseline"]["roc_auc"] > 0.6


def test_a_treatment_that_can_not_be_is_told_as_such(tmp_path: Path) -> None:
    prepared(tmp_path, rows())
    spec = spec_of(features={"columns": {"nope": {"type": "numeric"}}})
    stage = feasibility.declare(spec)
    with pytest.raises(DataCheckFailed, match="there is no such feature"):
        feasibility.work(Work(stage, tmp_path, narrowed(spec, stage), lambda *_, **__: None))


def test_too_few_rows_for_a_curve_stop_nothing(tmp_path: Path) -> None:
    metrics, points = told(tmp_path, rows(60), **asked(min_rows=40))
    assert metrics["outlook"].startswith("no learning curve: too few rows")
    assert points.height == 0


def test_folds_and_points_without_a_score_are_left_out() -> None:
    found = curve_of(0.5, 1.0)
    found.scores[0] = np.nan  # as of the first of folds that go forward in time
    found.scores[1, :1] = np.nan
    kept = _defined(found)
    assert kept is not None
    assert kept.scores.shape == (4, 3)
    found.scores[1:4, :1], found.scores[1, 1] = np.nan, np.nan
    kept = _defined(found)
    assert kept is not None
    assert kept.scores.shape == (3, 3)
    found.scores[:, -1] = np.nan
    assert _defined(found) is None


def test_a_smaller_table_has_whole_groups_or_the_latest_rows() -> None:
    key = np.random.default_rng(4).integers(0, 9, 100)
    train = pl.DataFrame({"__group__": key, "__time__": key})
    inside = np.arange(10, 100)
    groups = Layout(
        task="binary", target="y", features=(column("x"),), folding=Folding(method="group", column="__group__")
    )
    order = _order(groups, train, inside, 7)
    assert sorted(order) == list(inside)
    assert (np.diff(key[order]) != 0).sum() == len(set(key[inside])) - 1
    times = groups.model_copy(update={"folding": Folding(method="time", column="__time__")})
    assert (np.diff(key[_order(times, train, inside, 7)]) <= 0).all()


def test_it_can_be_left_out() -> None:
    from specml.compile import compile_plan

    stages = {stage.name: stage for stage in compile_plan(spec_of(**asked(learning_curve=False))).stages}
    assert "feasibility" not in stages
    assert feasibility.METRICS not in stages["train"].deps
    every = {stage.name: stage for stage in compile_plan(spec_of()).stages}
    assert feasibility.METRICS in every["train"].deps
