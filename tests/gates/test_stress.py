"""Inputs at the edge: a sound model answers them all, and broken ones are found out, each for what it does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from specml import bundle
from specml.data import Layout
from specml.errors import StageFailed
from specml.gates.stress import Stress
from specml.stages import package, prepare
from specml.stages.packaged import Asked
from tests.gates.conftest import TASKS, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import polars as pl

    from specml.evidence import Answers, Evidence


@pytest.mark.parametrize("task", TASKS)
def test_a_real_model_is_admitted(real: Callable[[str], Evidence], task: str) -> None:
    verdict = Stress().check(real(task))
    assert verdict.outcome == "holds", verdict
    assert verdict.value == 0
    names = [one.name for one in verdict.slices]
    assert {
        "held-out rows", "the largest number", "an unseen category", "no value", "one request of most rows",
        "one row too many", "a body that is no JSON", "a text in place of a number", "NaN",
    } <= set(names)  # fmt: skip
    most = next(one for one in verdict.slices if one.name == "one request of most rows")
    assert most.n == 10_000


@pytest.fixture
def broken(real: Callable[[str], Evidence], tmp_path: Path) -> Iterator[Evidence]:
    """A real bundle with a graph that makes NaN of an extreme age: x - x of an infinity."""
    evidence = real("binary")
    assert evidence.folder is not None
    assert evidence.rows is not None
    opened = bundle.open_bundle(evidence.folder / package.OUT)
    model = onnx.load_model_from_string(opened.model)
    graph = model.graph
    for node in graph.node:
        for at, name in enumerate(node.output):
            if name == "probabilities":
                node.output[at] = "sound"
        for at, name in enumerate(node.input):
            if name == "probabilities":
                node.input[at] = "sound"
    ten = helper.make_tensor("ten", TensorProto.DOUBLE, [1], [10.0])
    graph.initializer.append(ten)
    graph.node.extend([
        helper.make_node("IsNaN", ["age"], ["age lacks"]),
        helper.make_node("Mul", ["age", "ten"], ["age large"]),
        helper.make_node("Sub", ["age large", "age large"], ["age nought"]),
        helper.make_node("Cast", ["age nought"], ["age nought 32"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["sound", "sound"], ["nought"]),
        helper.make_node("Where", ["age lacks", "nought", "age nought 32"], ["added"]),
        helper.make_node("Add", ["sound", "added"], ["probabilities"]),
    ])  # fmt: skip
    layout = Layout.model_validate_json((evidence.folder / prepare.LAYOUT).read_bytes())
    contract = opened.contract.model_copy(update={"explanation": None})
    bundle.write_bundle(tmp_path / "bundle", contract, model.SerializeToString(), opened.reference)
    again = bundle.open_bundle(tmp_path / "bundle")
    asked = Asked(again, tmp_path / "bundle", layout, evidence.rows, spec_for("binary"))
    yield replace(evidence, model=asked)
    asked.close()


def test_a_graph_that_makes_nan_of_extremes_is_refused(broken: Evidence) -> None:
    verdict = Stress().check(broken)
    assert verdict.outcome == "refused"
    failing = {one.name: one.note for one in verdict.slices if one.outcome == "refused"}
    assert set(failing) == {"the largest number", "the smallest number"}
    assert failing["the largest number"].startswith("the graph answers")
    assert "no finite number" in verdict.reason


class Bent:
    """A real server with a fault of its own: ``bend`` answers in its place, or None."""

    def __init__(self, server: Any, bend: Callable[..., Any]) -> None:
        self.path, self.max_rows, self.max_body = server.path, server.max_rows, server.max_body
        self._server, self._bend = server, bend

    def answer(self, rows: pl.DataFrame, at_once: int = 1000) -> Answers:
        found: Answers = self._server.answer(rows, at_once)
        bent: Answers = self._bend("answer", rows, found) or found
        return bent

    def ask(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        found: tuple[int, bytes] = self._bend("ask", body, None) or self._server.ask(path, body, kind)
        return found


def nan_with_200(what: str, sent: Any, answers: Any) -> Any:
    if what == "answer" and (sent["debt"] > 1e300).any():
        return answers._replace(scores=np.full_like(answers.scores, np.nan))
    return None


def fails_on_deep_bodies(what: str, sent: Any, answers: Any) -> Any:
    return (500, b"") if what == "ask" and b"[[[[" in sent else None


def answers_no_json(what: str, sent: Any, answers: Any) -> Any:
    return (200, b"{}") if what == "ask" and sent == b'{"rows": [' else None


def dies_of_nan(what: str, sent: Any, answers: Any) -> Any:
    if what == "ask" and b"NaN" in sent:
        raise ConnectionResetError
    return None


def other_by_name(what: str, sent: Any, answers: Any) -> Any:
    if what == "ask" and b"never saw" in sent and sent.startswith(b'{"rows"') and json.loads(sent)["rows"][1:]:
        rows = len(json.loads(sent)["rows"])
        told = {"label": "yes", "probability": 0.5, "probabilities": {"no": 0.5, "yes": 0.5}}
        return 200, json.dumps({"predictions": [told] * rows}).encode()
    return None


def beyond_one(what: str, sent: Any, answers: Any) -> Any:
    return answers._replace(scores=answers.scores + 2) if what == "answer" and len(sent) > 5000 else None


@pytest.mark.parametrize(
    ("bend", "case", "note"),
    [
        (nan_with_200, "the largest number", "the server answers"),
        (fails_on_deep_bodies, "a body nested deep", "the status 500 in place of 400 to 499"),
        (answers_no_json, "a body that is no JSON", "the status 200 in place of 400 to 499"),
        (dies_of_nan, "NaN", "with nothing at all"),
        (other_by_name, "an unseen category", "/predict answers otherwise than the graph"),
        (beyond_one, "one request of most rows", "not between 0 and 1"),
    ],
)
def test_a_server_with_a_fault_is_refused(
    real: Callable[[str], Evidence], bend: Callable[..., Any], case: str, note: str
) -> None:
    evidence = real("binary")
    assert evidence.model is not None
    sound = evidence.model

    class Model:
        inputs = sound.inputs
        answer = staticmethod(sound.answer)

        def served(self) -> Bent:
            return Bent(sound.served(), bend)

    model: Any = Model()
    verdict = Stress().check(replace(evidence, model=model))
    assert verdict.outcome == "refused"
    failing = {one.name: one.note for one in verdict.slices if one.outcome == "refused"}
    assert note in failing[case]
    if bend is dies_of_nan:
        assert len(failing) == 1
        assert "held-out rows once more, after all that" not in [one.name for one in verdict.slices]


def test_a_server_that_does_not_come_up_is_refused(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")

    class Model:
        inputs = ()

        def served(self) -> Any:
            raise StageFailed("the bundle's server does not come up.")

    model: Any = Model()
    verdict = Stress().check(replace(evidence, model=model))
    assert (verdict.outcome, verdict.reason) == ("refused", "the bundle's server does not come up.")


def test_columns_that_always_need_a_value_refuse_none(real: Callable[[str], Evidence], tmp_path: Path) -> None:
    """The contract is told otherwise: then NaN is to be refused, and a server that answers it is found out."""
    evidence = real("binary")
    assert evidence.model is not None
    sound = evidence.model
    strict = tuple(one.model_copy(update={"nullable": False}) for one in sound.inputs)

    class Model:
        inputs = strict
        answer = staticmethod(sound.answer)
        served = staticmethod(sound.served)

    model: Any = Model()
    verdict = Stress().check(replace(evidence, model=model))
    failing = {one.name: one.note for one in verdict.slices if one.outcome == "refused"}
    assert set(failing) == {"no value where one is needed"}
    assert "in age with the status 200 in place of 400 to 499" in failing["no value where one is needed"]


def test_what_can_not_be_measured_is_not(real: Callable[[str], Evidence]) -> None:
    assert Stress().check(replace(real("binary"), model=None)).outcome == "not measured"
