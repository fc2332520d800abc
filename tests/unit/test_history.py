"""Lags and rolling windows: equal in Python and in the graph, told of earlier rows only, from the spec to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from specml.data import MISSING, looks_back, past
from specml.errors import DataCheckFailed
from specml.features.expression import Expression
from specml.features.lag import Lag
from specml.features.rolling import Rolling
from specml.graph import Graph
from specml.kinds import Feature
from specml.signals.data_drift import _repeated
from specml.stages import prepare
from tests.conftest import spec_of
from tests.unit.test_features import ADVERSARIAL
from tests.unit.test_prepare import data, prepared

STATS: list[Any] = ["mean", "sum", "min", "max", "std", "count"]


def in_graph(feature: Feature, window: np.ndarray) -> np.ndarray:
    graph = Graph("feature")
    values = {name: graph.input(name, "float64") for name in feature.reads()}
    graph.output("out", feature.derive_in(graph, values), "float64", 1)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    feeds = {name: column.reshape(-1, 1) for name, column in zip(values, window.T, strict=True)}
    return np.asarray(session.run(None, feeds)[0]).ravel()


def agrees(feature: Feature, window: np.ndarray) -> np.ndarray:
    out = feature.derive(dict(zip(feature.reads(), window.T, strict=True)))
    assert np.array_equal(out, in_graph(feature, window), equal_nan=True)
    assert not np.isinf(out).any()
    return out


@pytest.mark.parametrize("stat", STATS)
@pytest.mark.parametrize("width", [2, 3, 7, 8, 28, 365])
def test_windows_are_equal_in_the_graph(stat: Any, width: int) -> None:
    generator = np.random.default_rng(width)
    odd = generator.choice(ADVERSARIAL, (60, width))
    usual = generator.normal(40, 12, (60, width)).round(1)
    usual[generator.random(usual.shape) < 0.2] = np.nan
    agrees(Rolling(of="x", window=width, stat=stat), np.concatenate([odd, usual, np.full((1, width), np.nan)]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_window_is_equal_in_the_graph(draw: st.DataObject) -> None:
    width = draw.draw(st.integers(2, 9))
    rows = draw.draw(st.lists(st.lists(st.floats(), min_size=width, max_size=width), min_size=1, max_size=9))
    agrees(Rolling(of="x", window=width, stat=draw.draw(st.sampled_from(STATS))), np.array(rows))


def test_a_lag_is_equal_in_the_graph() -> None:
    out = agrees(Lag(of="x", lag=3), ADVERSARIAL.reshape(-1, 1))
    assert np.isnan(out).sum() == 3  # what is infinite is missing


@pytest.mark.parametrize("stat", STATS)
def test_what_a_window_means(stat: Any) -> None:
    """As polars has it, of the values that are known."""
    generator = np.random.default_rng(0)
    series = pl.Series(np.where(generator.random(200) < 0.6, generator.normal(size=200), np.nan)).fill_nan(None)
    late = series.shift(2)
    if stat == "count":
        expected = late.is_not_null().cast(pl.Float64).rolling_sum(5, min_samples=1)
    else:
        expected = getattr(late, f"rolling_{stat}")(5, min_samples=1)
    window = np.column_stack([series.shift(back) for back in range(2, 7)])
    out = agrees(Rolling(of="x", window=5, lag=2, stat=stat), window)
    np.testing.assert_allclose(out, expected.fill_null(np.nan).to_numpy(), atol=1e-12)


def table(n: int = 240) -> dict[str, Any]:
    return {
        "at": [f"2024-01-01T{i // 24:02}:{i // 2 % 12:02}:00" for i in range(n)],
        "shop": ["ab"[i % 2] for i in range(n)],
        "x": [float(i % 17) for i in range(n)],
        "rain": [["no", "yes", None][i % 3] for i in range(n)],
        "after": [float(i * i % 31) for i in range(n)],
        "y": [float((i * 7) % 40) for i in range(n)],
    }


SPLIT = {"method": "time", "column": "at"}
COLUMNS = {"at": {"role": "time"}, "after": {"known_after": "event"}}
DERIVE = {
    "last": {"type": "lag", "of": "y"},
    "lately": {"type": "rolling", "of": "after", "window": 3, "lag": 2},
    "wetter": {"type": "expression", "expr": 'column("rain@-1") == "yes" and at - column("at@-1") < 3600'},
}


def changes(split: Any = SPLIT, columns: Any = COLUMNS, derive: Any = DERIVE, by: Any = ("shop",), **more: Any) -> Any:
    return {
        "problem": {"task": "regression", "target": "y"},
        "candidates": {"line": {"type": "ridge"}},
        "data": data(split=split, columns=columns, **more),
        "features": {"derive": derive, "history": {"by": by}},
    }


def test_past_values_stand_beside_the_rows_of_both_sides(tmp_path: Path) -> None:
    train, test, layout = prepared(tmp_path, table(), **changes())
    wanted = ["after@-2", "after@-3", "after@-4", "at@-1", "rain@-1", "y@-1"]
    assert [one.name for one in layout.features if looks_back(one.name)] == wanted
    assert layout.history is not None
    assert layout.history.model_dump() == {
        "rows": 4, "columns": ("after", "at", "rain", "y"), "time": "at", "by": ("shop",)
    }  # fmt: skip
    both = pl.concat([train, test], how="diagonal").sort("at", "shop")
    assert "after" not in both.columns, "what is known only later is looked back at, never taken"
    rows = table()
    for place in range(both.height):  # each row of a shop is two rows after the one before
        assert both["y@-1"][place] == (rows["y"][place - 2] if place >= 2 else None)
        assert both["after@-4"][place] == (rows["after"][place - 8] if place >= 8 else None)
        assert both["rain@-1"][place] == (rows["rain"][place - 2] or MISSING if place >= 2 else MISSING)


def test_ids_that_tell_groups_apart_stay_as_they_are_written(tmp_path: Path) -> None:
    codes = {**table(), "shop": [["01", "1"][i % 2] for i in range(240)]}
    columns = {**COLUMNS, "shop": {"role": "id"}}
    train, _, _ = prepared(tmp_path, codes, **changes(columns=columns))
    lettered, _, _ = prepared(tmp_path, table(), **changes(columns=columns))
    assert train["y@-1"].equals(lettered["y@-1"])


def test_rows_without_a_label_are_history_without_a_target(tmp_path: Path) -> None:
    rows = table()
    rows["y"][100] = None
    train, test, _ = prepared(tmp_path, rows, **changes())
    both = pl.concat([train, test], how="diagonal").sort("at", "shop")
    assert both.height == 239
    assert both["y@-1"][101] is None
    assert both["after@-2"][103] == rows["after"][100]


def test_a_label_is_looked_back_at_as_it_is_written(tmp_path: Path) -> None:
    rows = {**table(), "y": ["no" if i % 5 else "yes" for i in range(240)]}
    spec = {
        **changes(derive={"again": {"type": "expression", "expr": 'column("y@-1") == "yes"'}}),
        "problem": {"task": "binary", "target": "y", "positive_class": "yes"},
        "candidates": {"line": {"type": "logistic_regression"}},
    }
    train, _, layout = prepared(tmp_path, rows, **spec)
    (before,) = [one for one in layout.features if one.name == "y@-1"]
    assert (before.kind, before.categories) == ("categorical", ("no", "yes"))
    assert train.filter(pl.col("y@-1") == "yes").height == pytest.approx(train.height / 5, abs=2)


def test_what_was_is_no_leak_however_well_it_tells_what_comes(tmp_path: Path) -> None:
    slow = {**table(), "y": [float(i) for i in range(240)], "x": [float(i % 3) for i in range(240)]}
    derive = {"lately": {"type": "rolling", "of": "y", "window": 3}}
    prepared(tmp_path, slow, **changes(derive=derive))  # y is y@-1 + y@-2 - y@-3, too
    told = json.loads((tmp_path / prepare.METRICS).read_bytes())["checks"]["data.checks.leakage"]
    assert (told["outcome"], "y@-1" in told["reason"]) == ("holds", False)
    rise = {"rise": [float(i * i % 7) for i in range(240)]}
    steps = {"y": [float(sum(rise["rise"][i % 2 : i + 1 : 2])) for i in range(240)]}
    with pytest.raises(DataCheckFailed, match="rise and y@-1 add up to y in every row") as refusal:
        prepared(tmp_path, {**slow, **rise, **steps}, **changes(derive=derive))
    assert "data.columns.rise.known_after: event" in str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "key", "says"),
    [
        ({"split": {}}, "features.derive.last", "data.split.method is 'auto'"),
        ({"split": {**SPLIT, "folds": {"method": "random"}}}, "data.split.folds.method", "a fold's rows"),
        ({"by": ("at",)}, "features.history.by.0", "whose role is time"),
        ({"by": ("y",)}, "features.history.by.0", "whose role is target"),
        ({"by": ("shop", "shop")}, "features.history.by.1", "twice"),
        ({"derive": {}}, "features.history.by", "no feature looks back"),
        ({"derive": {"f": {"type": "lag", "of": "at2"}}, "columns": {**COLUMNS, "at2": {"role": "id"}}},
         "features.derive.f", "whose role is id"),
        ({"derive": {"f": {"type": "expression", "expr": 'column("x@-400")'}}}, "features.derive.f", "400 rows back"),
        ({"derive": {"f": {"type": "expression", "expr": "y + x"}}, "by": ()}, "features.derive.f", "role is target"),
        ({"derive": {"f": {"type": "rolling", "of": "x", "window": 300, "lag": 100}}}, "features.derive.f.window",
         "399 rows back"),
        ({"undeclared": "drop"}, "features.history.by.0", "undeclared: drop forgets"),
        ({"labels": {"time": "at", "delay": "3d", "at": "2024-02-01"}}, "features.derive.last", "may not be known"),
    ],
)  # fmt: skip
def test_what_cannot_look_back(changed: Any, key: str, says: str) -> None:
    found = [(".".join(map(str, one.key)), one.what) for one in spec_of(**changes(**changed)).contradictions()]
    assert [(place, says in what) for place, what in found if place == key] == [(key, True)], found


@pytest.mark.parametrize(
    ("feature", "options"), [(Lag, {"lag": 0}), (Lag, {"lag": 367}), (Rolling, {"window": 1}), (Rolling, {})]
)
def test_steps_are_bounded(feature: Any, options: Any) -> None:
    with pytest.raises(ValidationError):
        feature(of="x", **options)


@pytest.mark.parametrize(
    ("change", "changed", "says"),
    [
        ({}, {"derive": {"f": {"type": "lag", "of": "z"}}}, "past values of 'z', which is no column"),
        ({}, {"derive": {"f": {"type": "lag", "of": "rain"}}}, "as numeric or boolean; it is categorical"),
        ({}, {"derive": {"f": {"type": "lag", "of": "x", "lag": 200}}}, "no training row has so many rows before it"),
        ({}, {"by": ("shops",)}, "no column 'shops'"),
        ({"y@-1": [1.0] * 240}, {}, "can't be called 'y@-1'"),
        ({"x@-1": list(range(240))}, {}, "can't be called 'x@-1'"),
        ({"history": list(range(240))}, {}, "can't be called 'history'"),
        ({"shop": [None, *("ab"[i % 2] for i in range(1, 240))]}, {}, "1 rows have no shop, by which the rows before"),
        ({"at": [None, *table()["at"][1:]]}, {}, "1 rows have no at, by which the rows before"),
    ],
)
def test_data_that_tells_no_history(tmp_path: Path, change: Any, changed: Any, says: str) -> None:
    with pytest.raises(DataCheckFailed, match=says.replace("(", "[(]")):
        prepared(tmp_path, {**table(), **change}, **changes(**changed))


def test_what_repeats_is_not_watched() -> None:
    names = ["x", past("x", 1), past("x", 2), past("y", 7), past("y", 8), "a@-b"]
    assert _repeated(names) == {past("x", 2), past("y", 8)}


def test_a_formula_may_look_back() -> None:
    assert Expression(expr='x - column("x@-1")').reads().keys() == {"x", "x@-1"}
