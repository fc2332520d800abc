"""From the spec's features to the matrix that candidates train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from specml.data import Column, Layout
from specml.stages.cross_validation import design, fit_design
from tests.conftest import spec_of, tree

DATA = tree()["data"]
N = 400
GENERATOR = np.random.default_rng(4)
TABLE = pl.DataFrame(
    {
        "income": GENERATOR.uniform(1, 9, N),
        "town": GENERATOR.choice([f"t{i}" for i in range(60)], N),
        "y": GENERATOR.integers(0, 2, N),
    }
)
LAYOUT = Layout(
    task="binary",
    target="y",
    classes=(0, 1),
    features=(Column(name="income", kind="numeric"), Column(name="town", kind="categorical")),
)


def test_a_model_is_trained_on_cross_fitted_values_and_asked_with_fitted_ones() -> None:
    spec = spec_of(features={"defaults": {"categorical": {"encode": "target"}}})
    preprocessing, trained = fit_design(spec, spec.candidates["line"], LAYOUT, TABLE)
    asked = design(preprocessing, LAYOUT, TABLE)
    assert np.array_equal(trained.X[:, 0], asked.X[:, 0])
    assert abs(np.corrcoef(trained.X[:, 1], TABLE["y"])[0, 1]) < 0.2 < np.corrcoef(asked.X[:, 1], TABLE["y"])[0, 1]


def test_monotone_directions_follow_their_columns() -> None:
    told: dict[str, Any] = {"income": {"type": "numeric", "monotone": "decreasing", "indicator": True}}
    derive = {"wealth": {"type": "expression", "expr": "income * 2", "monotone": "increasing"}}
    spec = spec_of(candidates={"gbm": "lightgbm"}, features={"columns": told, "derive": derive})
    _, trained = fit_design(spec, spec.candidates["gbm"], LAYOUT, TABLE)
    assert trained.monotone == (-1, 0, 0, 1)
    plain = spec_of()
    assert fit_design(plain, plain.candidates["line"], LAYOUT, TABLE)[1].monotone == ()


@pytest.mark.parametrize("direction", ["increasing", "decreasing"])
def test_lightgbm_keeps_a_direction_against_the_data(direction: str) -> None:
    told = {"income": {"type": "numeric", "monotone": direction}}
    spec = spec_of(candidates={"gbm": {"type": "lightgbm", "n_estimators": 60}}, features={"columns": told})
    wave = TABLE.with_columns(y=(np.sin(TABLE["income"].to_numpy() * 2) > 0).astype(np.int64))
    preprocessing, trained = fit_design(spec, spec.candidates["gbm"], LAYOUT, wave)
    model = spec.candidates["gbm"].fit(trained, seed=1, threads=1)
    line = pl.DataFrame({"income": np.linspace(0, 10, 200), "town": ["t1"] * 200, "y": [0] * 200})
    steps = np.diff(model.predict(preprocessing.transform(line)))
    assert (steps >= 0).all() if direction == "increasing" else (steps <= 0).all()
    assert (steps != 0).any()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features": {"columns": {"income": {"type": "numeric", "monotone": "increasing"}}}}, "can't be kept by"),
        ({"features": {"columns": {"income": {"type": "numeric", "missing": "constant"}}}}, "is required"),
        ({"features": {"defaults": {"numeric": {"fill_value": 1.0}}}}, "has no effect"),
        ({"features": {"columns": {"income": {"type": "numeric", "clip": {}}}}}, "says no limit"),
        ({"features": {"columns": {"income": {"type": "numeric", "clip": {"min": 2.0, "max": 1.0}}}}}, "not above min"),
        ({"features": {"columns": {"income": {"type": "expression", "expr": "a"}}}}, "derives a feature of its own"),
        ({"features": {"derive": {"d": {"type": "numeric"}}}}, "derives nothing"),
        ({"features": {"derive": {"d": {"type": "expression", "expr": "y + 1"}}}}, "role is target"),
        ({"features": {"exclude": ("income",), "columns": {"income": {"type": "numeric"}}}}, "leave the column out"),
        ({"features": {"columns": {"town": {"type": "categorical", "smooth": 3.0}}}}, "has no effect"),
        ({"features": {"columns": {"at": {"type": "date", "parts": ()}}}}, "nothing is left of the time"),
        ({"features": {"columns": {"at": {"type": "text", "words": None}}}}, "nothing is left of the text"),
        (
            {"features": {"columns": {"at": {"type": "date"}}}, "data": {**DATA, "columns": {"at": {"dtype": "int"}}}},
            "treats datetime columns",
        ),
        ({"data": {**DATA, "columns": {"at": {"dtype": "datetime"}}}}, "a datetime can only be a time"),
    ],
)
def test_what_contradicts_is_told(changes: Any, says: str) -> None:
    told = list(spec_of(**changes).contradictions())
    assert any(says in one.what for one in told), told
