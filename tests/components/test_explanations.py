"""Every candidate's answers are explained: contributions of the columns add up to what its graph answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import specml.spec  # noqa: F401 - fills the tables
from specml.bundle import open_bundle, predict
from specml.explain import explainer
from tests.bundles import Trained, trained_bundle
from tests.components.test_candidates import BLIND, CASES, SEEING, made

if TYPE_CHECKING:
    from pathlib import Path

    from specml.data import Task


def trained(name: str, task: Task, folder: Path) -> Trained:
    picture = {"image": {"height": 1, "width": 1, "channels": 7}} if name in SEEING else {}
    return trained_bundle(folder, made(name, **picture), task)


def told_by_the_graph(one: Trained, rows: dict[str, np.ndarray]) -> np.ndarray:
    """What contributions have to add up to, [n, k], from the answers alone; scores only up to a constant a row."""
    answer, contract = predict(one.bundle.session(), rows), one.bundle.contract
    if contract.task == "regression":
        return answer["prediction"][:, None].astype(np.float64)
    p = answer["probabilities"].astype(np.float64)
    if contract.explained.space == "log_odds":
        return np.log(p[:, 1:] / p[:, :1])
    if contract.explained.space == "score":
        return np.log(p) - np.log(p).mean(axis=1, keepdims=True)
    return p[:, 1:] if contract.task == "binary" else p


@pytest.mark.parametrize(("name", "task"), CASES)
def test_contributions_add_up_to_the_answer(name: str, task: Task, tmp_path: Path) -> None:
    one = trained(name, task, tmp_path / "bundle")
    rows = one.rows()
    found = explainer(one.bundle)(rows)
    assert found.contributions.shape == (40, 3 if task == "multiclass" else 1, 4)
    total = found.total
    if one.bundle.contract.explained.space == "score":
        total = total - total.mean(axis=1, keepdims=True)
    assert np.abs(total - told_by_the_graph(one, rows)).max() < 1e-3
    # What the target hangs on moves the answer.
    assert np.abs(found.contributions[:, :, 0]).mean() > 1e-2 or name in BLIND


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_same_bundle_explains_the_same(name: str, task: Task, tmp_path: Path) -> None:
    import torch

    one, again = trained(name, task, tmp_path / "one"), trained(name, task, tmp_path / "two")
    assert one.bundle.digest == again.bundle.digest
    rows = one.rows(6)
    torch.manual_seed(1)
    first = explainer(one.bundle)(rows)
    torch.manual_seed(2)
    second = explainer(open_bundle(tmp_path / "two"))(rows)
    assert first.contributions.tobytes() == second.contributions.tobytes()
    alone = [explainer(one.bundle)({key: values[i : i + 1] for key, values in rows.items()}) for i in range(6)]
    assert np.array_equal(np.concatenate([found.contributions for found in alone]), first.contributions)
