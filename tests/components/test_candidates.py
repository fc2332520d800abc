"""What every candidate owes: tested for each member of the kind, also for those added later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

import specml.spec  # noqa: F401 - fills the tables
from specml.graph import Graph
from specml.kinds import Candidate, Model
from tests.conftest import design

if TYPE_CHECKING:
    from specml.data import Task

CASES = [(name, task) for name, kind in sorted(Candidate.table.items()) for task in kind.tasks]  # type: ignore[attr-defined]
NEEDED: dict[str, dict[str, Any]] = {"custom": {"estimator": "tests.models.nets:Net"}}
"""Options that have no default."""


def rows(task: Task, candidate: Any, seed: int = 0) -> Any:
    one = design(task, seed=seed)
    if candidate.prefers.missing != "native":
        one.X[np.isnan(one.X)] = 0.0
    return one


def fit(name: str, task: Task, threads: int = 1) -> tuple[Any, Model, Any]:
    candidate: Any = Candidate.table[name](**NEEDED.get(name, {}))
    data = rows(task, candidate)
    return candidate, candidate.fit(data, seed=3, threads=threads, stop_on=rows(task, candidate, seed=1)), data


def saved(model: Model, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    model.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("name", "task"), CASES)
def test_same_seed_same_bytes_for_any_number_of_threads(name: str, task: Task, tmp_path: Path) -> None:
    one, two = fit(name, task)[1], fit(name, task, threads=2)[1]
    assert saved(one, tmp_path / "one") == saved(two, tmp_path / "two")


@pytest.mark.parametrize(("name", "task"), CASES)
def test_saved_and_loaded_predicts_the_same(name: str, task: Task, tmp_path: Path) -> None:
    candidate, model, data = fit(name, task)
    saved(model, tmp_path / "model")
    again = candidate.load(tmp_path / "model", task)
    assert np.array_equal(model.predict(data.X), again.predict(data.X))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_graph_decides_as_the_library_does(name: str, task: Task) -> None:
    candidate, model, data = fit(name, task)
    X = np.vstack([data.X, adversarial(data.X, nan=candidate.prefers.missing == "native")])
    graph = Graph("candidate")
    native = model.predict(X)
    graph.output("out", model.to_onnx(graph, matrix(graph, X.shape[1])), "float32", native.reshape(len(X), -1).shape[1])
    feeds = {f"x{i}": X[:, i : i + 1] for i in range(X.shape[1])}
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    answer = session.run(None, feeds)[0].reshape(native.shape)
    scale = np.maximum(1.0, np.abs(native))
    assert np.max(np.abs(answer - native) / scale) < 1e-5


@pytest.mark.parametrize(("name", "task"), CASES)
def test_it_beats_the_prior(name: str, task: Task) -> None:
    _, model, data = fit(name, task)
    scores = model.predict(data.X)
    if task == "regression":
        assert np.mean((scores - data.y) ** 2) < np.var(data.y)
    else:
        decisions = scores >= 0.5 if task == "binary" else scores.argmax(axis=1)
        assert np.mean(decisions == data.y) > np.bincount(data.y).max() / len(data.y)


def adversarial(X: np.ndarray, *, nan: bool) -> np.ndarray:
    """Rows of zeros, huge values, values seen in training (ties with thresholds), and missing ones."""
    d = X.shape[1]
    special = [0.0, -0.0, 1e6, -1e6, 0.5, 1e-30, *([np.nan, np.inf, -np.inf, 3e38] if nan else [])]
    block = np.array([[value] * d for value in special], dtype=np.float32)
    ties = np.nextafter(np.nan_to_num(X[:50]), np.float32(np.inf))
    return np.vstack([block, ties, np.nextafter(np.nan_to_num(X[:50]), np.float32(-np.inf))])


def matrix(graph: Graph, d: int) -> str:
    return graph.node("Concat", *[graph.input(f"x{i}", "float32") for i in range(d)], axis=1)
