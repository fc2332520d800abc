"""The elastic nets of the linear families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.candidates.logistic_regression import LogisticRegression
from specml.candidates.ridge import Ridge
from tests.components.test_candidates import saved
from tests.conftest import design

if TYPE_CHECKING:
    from pathlib import Path

    from specml.data import Design, Task

TASKS = ["binary", "multiclass", "regression"]


def filled(task: Task) -> Design:
    data = design(task)
    return replace(data, X=np.nan_to_num(data.X))


def fit(data: Design, strength: float, **options: Any) -> Any:
    """``strength`` of the penalty, as ``alpha``."""
    if data.task == "regression":
        return Ridge(alpha=strength, **options).fit(data, seed=3, threads=1)
    return LogisticRegression(C=1 / strength, **options).fit(data, seed=3, threads=1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weighed", [False, True])
def test_an_elastic_net_with_little_l1_is_the_ridge(task: Task, weighed: bool) -> None:
    data = filled(task)
    if weighed:
        data = replace(data, weight=np.random.default_rng(1).uniform(0.2, 4.0, len(data.y)))
    plain, net = fit(data, 30.0), fit(data, 30.0, l1_ratio=1e-7)
    assert np.allclose(net.predict(data.X), plain.predict(data.X), atol=2e-3)


@pytest.mark.parametrize("task", TASKS)
def test_it_leaves_columns_out_and_is_the_same_again(task: Task, tmp_path: Path) -> None:
    data = filled(task)
    strength = 60.0 if task == "regression" else 12.0
    net, plain = fit(data, strength, l1_ratio=1.0), fit(data, strength)
    left_out = (net.coef == 0).all(axis=0)
    assert left_out[3:].any()
    assert not left_out[0]
    assert not (plain.coef == 0).any()
    assert saved(net, tmp_path / "one") == saved(fit(data, strength, l1_ratio=1.0), tmp_path / "two")
