"""Stacking: the weights of least loss, against closed forms and a brute search."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from specml.metrics import TABLE
from specml.stages.stacking import log_loss, pinball, squared_error, stacking

LEVELS = (0.1, 0.5, 0.9)


def problem(task: str, n: int = 400, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A target, and three candidates that know different parts of it; ``noise`` knows nothing."""
    generator = np.random.default_rng(seed)
    left, right = generator.normal(size=n), generator.normal(size=n)
    if task == "regression":
        y = left + right + generator.normal(scale=0.3, size=n)
        return y, {"a": left, "b": right, "noise": generator.normal(size=n)}
    if task == "quantiles":
        y = left + generator.normal(size=n)
        told = {"a": left[:, None] + np.array([-1.3, 0, 1.3]), "b": np.tile(np.quantile(y, LEVELS), (n, 1))}
        return y, told
    y = (left + right + generator.normal(scale=0.5, size=n) > 0).astype(np.int64)
    found = {"a": 1 / (1 + np.exp(-2 * left)), "b": 1 / (1 + np.exp(-2 * right)), "noise": generator.random(n)}
    if task == "multiclass":
        return y, {name: np.stack([1 - p, p * 0.9, p * 0.1], axis=1) for name, p in found.items()}
    return y, found


def loss_of(task: str, y: np.ndarray, weight: np.ndarray) -> Any:
    if task == "quantiles":
        return pinball(y, weight, LEVELS)
    return (squared_error if task == "regression" else log_loss)(y, weight)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "quantiles"])
def test_no_weights_on_a_grid_have_less_loss(task: str) -> None:
    y, predictions = problem(task)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y))
    loss, folds = loss_of(task, y, weight), np.array_split(np.arange(len(y)), 4)
    found = stacking(predictions, folds, loss, lambda rows, mean: float(loss(rows, mean)[0].mean()), most=3)
    assert sum(found.weights.values()) == pytest.approx(1)
    assert len(found.folds) == 4
    names, every = sorted(predictions), np.arange(len(y))

    def value(weights: Any) -> float:
        return float(loss(every, sum(predictions[n] * w for n, w in zip(names, weights, strict=True)))[0].mean())

    grid = [w for w in product(np.linspace(0, 1, 21), repeat=len(names)) if abs(sum(w) - 1) < 1e-9]
    taken = value([found.weights.get(name, 0.0) for name in names])
    assert taken <= min(map(value, grid)) * 1.0005


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_slopes_are_those_of_the_loss(task: str) -> None:
    y, predictions = problem(task, 5)
    loss, start = loss_of(task, y, np.arange(1.0, 6.0)), predictions["a"]
    shape, rows = start.shape, np.arange(5)
    wrong = check_grad(
        lambda flat: loss(rows, flat.reshape(shape))[0].sum(),
        lambda flat: loss(rows, flat.reshape(shape))[1].ravel(),
        start.ravel(),
    )
    assert wrong < 1e-4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_few_members_stay_and_the_same_come_again(seed: int, most: int) -> None:
    y, predictions = problem("binary", 120, seed)
    loss, folds = log_loss(y, np.ones(len(y))), np.array_split(np.arange(len(y)), 3)
    metric = TABLE["log_loss"]

    def measure(rows: np.ndarray, mean: np.ndarray) -> float:
        return metric.measure(y[rows], mean, None)

    one, two = (
        stacking(dict(order), folds, loss, measure, most=most)
        for order in (predictions.items(), reversed(predictions.items()))
    )
    assert one == two
    assert 1 <= len(one.weights) <= most
    assert min(one.weights.values()) >= 0.01


def test_a_candidate_that_knows_all_is_taken_alone() -> None:
    y, predictions = problem("regression")
    folds = np.array_split(np.arange(len(y)), 4)
    found = stacking({**predictions, "oracle": y}, folds, squared_error(y, np.ones(len(y))), lambda *_: 0.0, most=4)
    assert found.weights == {"oracle": 1.0}
