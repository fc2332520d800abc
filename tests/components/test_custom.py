"""Models of the user's own: what is taken, what is refused, and that a wrong conversion never passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

from specml.candidates.custom import Custom
from specml.errors import StageFailed
from specml.graph import Graph
from tests.components.test_candidates import matrix, saved
from tests.conftest import design, spec_of

if TYPE_CHECKING:
    from specml.data import Design, Task

pytestmark = pytest.mark.slow


def filled(task: Task, n: int = 400, seed: int = 0) -> Design:
    data = design(task, n=n, seed=seed)
    data.X[np.isnan(data.X)] = 0.0
    return data


def graph_of(model: Any, X: np.ndarray) -> np.ndarray:
    graph = Graph("candidate")
    native = model.predict(X)
    value = model.to_onnx(graph, matrix(graph, X.shape[1]))
    graph.output("out", value, "float32", native.reshape(len(X), -1).shape[1])
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {f"x{i}": X[:, i : i + 1] for i in range(X.shape[1])})[0]
    return answer.reshape(native.shape)


@pytest.mark.parametrize("estimator", ["trees:extra", "nets:Net"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_packaged_graph_is_the_estimator(task: Task, estimator: str, tmp_path: Path) -> None:
    candidate, data, held = Custom(estimator=f"tests.models.{estimator}"), filled(task), filled(task, seed=1)
    model: Any = candidate.fit(data, seed=3, threads=1)
    native = np.asarray(model.fitted.answer(held.X)).reshape(400, -1)[:, -model.predict(held.X[:1]).size :]
    assert np.max(np.abs(graph_of(model, held.X).reshape(native.shape) - native)) < 1e-5
    one = saved(model, tmp_path / "one")
    assert one == saved(candidate.fit(data, seed=3, threads=2), tmp_path / "two")
    assert one != saved(candidate.fit(data, seed=4, threads=2), tmp_path / "three")
    assert list(one) == ["model.onnx"]
    again = candidate.load(tmp_path / "one", task)
    assert np.array_equal(again.predict(held.X), model.predict(held.X))
    assert np.array_equal(graph_of(again, held.X), graph_of(model, held.X))


def test_an_estimator_may_tell_its_own_graph() -> None:
    data = filled("regression")
    model: Any = Custom(estimator="tests.models.trees:Means").fit(data, seed=3, threads=1)
    assert len(np.unique(model.predict(data.X))) == 2
    assert np.allclose(graph_of(model, data.X), model.fitted.answer(data.X))


def test_options_reach_the_estimator() -> None:
    candidate = Custom(estimator="tests.models.trees:extra", options={"n_estimators": 3})
    model: Any = candidate.fit(filled("binary"), seed=3, threads=1)
    assert len(model.fitted.answer.__self__.estimators_) == 3


WRONG: dict[str, tuple[Custom, Any, str]] = {
    "a discriminant analysis of two classes": (
        Custom(estimator="tests.models.trees:lda"),
        lambda: filled("binary"),
        "LinearDiscriminantAnalysis and its ONNX graph differ on",
    ),
    "a forest that treats missing values by itself": (
        Custom(estimator="tests.models.trees:forest"),
        lambda: design("multiclass"),
        "RandomForestClassifier and its ONNX graph differ on",
    ),
    "an estimator without a converter": (
        Custom(estimator="tests.models.trees:splines"),
        lambda: filled("binary"),
        "can't be told in ONNX: .*SplineTransformer",
    ),
    "an operator that no bundle holds": (
        Custom(estimator="tests.models.trees:neighbours"),
        lambda: filled("binary"),
        "KNeighborsClassifier can't be told in ONNX: .*Scan",
    ),
    "no estimator": (
        Custom(estimator="tests.models.trees:Bare"),
        lambda: filled("binary"),
        "made a Bare, which has no method fit and no predict_proba",
    ),
    "weights that it does not take": (
        Custom(estimator="tests.models.trees:scaled"),
        lambda: replace(filled("binary"), weight=np.ones(400)),
        "takes no sample_weight",
    ),
    "logits": (
        Custom(estimator="tests.models.nets:Net", options={"logits": True}),
        lambda: filled("binary"),
        "answers beyond 0 and 1",
    ),
    "a graph that fails without a word": (
        Custom(estimator="tests.models.trees:Mute"),
        lambda: filled("binary"),
        "Mute can't be told in ONNX: NotImplementedError",
    ),
    "too many columns": (
        Custom(estimator="tests.models.trees:Pair"),
        lambda: filled("regression"),
        "Pair answers with 2 columns; the problem has 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_answer_otherwise_than_its_estimator_is_refused(case: str) -> None:
    candidate, data, told = WRONG[case]
    with pytest.raises(StageFailed, match=told) as error:
        candidate.fit(data(), seed=3, threads=1)
    assert error.value.where == candidate.estimator
    assert error.value.hint or case == "too many columns"


@pytest.mark.parametrize(
    ("estimator", "plugins", "told"),
    [
        ("tests.models.trees:extra", (), "is no plug-in of this spec"),
        ("tests.models.trees:extra", ("tests.model",), "is no plug-in of this spec"),
        ("os:system", ("tests.models",), "lies in 'os', which is no plug-in"),
        ("tests.models.trees:absent", ("tests.models",), "has no function or class 'absent'"),
        ("tests.models.trees:number", ("tests.models",), "has no function or class 'number'"),
        ("tests.models.gone:make", ("tests.models",), "can't be imported: ModuleNotFoundError"),
    ],
)
def test_only_what_the_plug_ins_hold_is_called(estimator: str, plugins: tuple[str, ...], told: str) -> None:
    spec = spec_of(candidates={"own": {"type": "custom", "estimator": estimator}}, plugins=plugins)
    (found,) = spec.contradictions()
    assert found.key == ("candidates", "own", "estimator")
    assert told in found.what


def test_an_option_that_is_searched_has_a_first_value() -> None:
    own: dict[str, Any] = {"type": "custom", "estimator": "tests.models.trees:extra", "options": {"n_estimators": 5}}
    own["space"] = {"options.max_depth": {"low": 2, "high": 8}, "options.n_estimators": {"low": 2, "high": 8}}
    spec = spec_of(candidates={"own": own}, plugins=("tests.models",), search={"trials": 2})
    assert [found.key for found in spec.contradictions()] == [("candidates", "own", "space", "options.max_depth")]


def test_an_error_in_the_estimator_is_told_as_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    candidate = Custom(estimator="tests.models.trees:extra", options={"n_estimators": -1})
    with pytest.raises(StageFailed, match="ended in a InvalidParameterError; the stage's log") as error:
        candidate.fit(filled("binary"), seed=3, threads=1)
    assert error.value.where == candidate.estimator
    assert "n_estimators" in capsys.readouterr().err


def test_the_plug_ins_own_are_called() -> None:
    own = {"type": "custom", "estimator": "tests.models.trees:extra", "options": {"n_estimators": 5}}
    assert list(spec_of(candidates={"own": own}, plugins=("tests.models",)).contradictions()) == []
