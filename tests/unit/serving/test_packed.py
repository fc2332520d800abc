"""A graph that takes its numbers as one block gives what it gives for each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from specml.bundle import open_bundle, predict
from specml.kinds import Candidate
from specml.serving.drawn import drawn
from specml.serving.packed import BLOCK, packed
from specml.serving.request import blocked
from specml.serving.session import Session
from tests.bundles import binary_bundle, regression_bundle, trained_bundle

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["a", "b", "c", "d"]


def graph(*nodes: Any) -> bytes:
    """Of four columns; gives ``y``."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1]) for name in NAMES]
    text = helper.make_tensor_value_info("text", TensorProto.STRING, [None, 1])
    output = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, None])
    told = helper.make_graph(list(nodes), "g", [text, *inputs], [output])
    return bytes(
        helper.make_model(told, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )


def run(model: bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}
    return np.asarray(session.run(["y"], {name: array for name, array in feeds.items() if name in taken})[0])


@settings(deadline=None, max_examples=30)
@given(
    joined=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6),
    apart=st.sampled_from(NAMES),
    order=st.permutations(NAMES),
)
def test_columns_together_and_apart(joined: list[str], apart: str, order: list[str]) -> None:
    model = graph(
        helper.make_node("Concat", joined, ["j"], axis=1),
        helper.make_node("Sqrt", [apart], ["s"]),
        helper.make_node("Concat", ["j", "s", apart], ["y"], axis=-1),
    )
    X = np.random.default_rng(3).random((5, 4))
    columns = {name: X[:, [place]] for place, name in enumerate(NAMES)}
    block = np.concatenate([columns[name] for name in order], axis=1)
    texts = np.full((5, 1), "x", dtype=object)
    wanted = run(model, {**columns, "text": texts})
    found = run(packed(model, order), {BLOCK: block, "text": texts})
    np.testing.assert_array_equal(found, wanted)


def test_a_column_that_is_an_output_stays_one() -> None:
    model = onnx.load_model_from_string(graph(helper.make_node("Sqrt", ["b"], ["y"])))
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.DOUBLE, [None, 1]))
    session = onnxruntime.InferenceSession(packed(bytes(model.SerializeToString()), NAMES))
    X = np.arange(12.0).reshape(3, 4)
    (found,) = session.run(["a"], {BLOCK: X, "text": np.full((3, 1), "x", dtype=object)})
    np.testing.assert_array_equal(found, X[:, [0]])


def test_all_in_order_are_taken_as_they_are() -> None:
    changed = onnx.load_model_from_string(packed(graph(helper.make_node("Concat", NAMES, ["y"], axis=1)), NAMES))
    assert [node.op_type for node in changed.graph.node] == ["Identity"]
    assert [one.name for one in changed.graph.input] == [BLOCK, "text"]


@pytest.mark.parametrize("kind", ["categories", "numbers", "forest"])
def test_a_session_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("specml.serving.session.FEW", 1)
    if kind == "forest":
        forest: Any = Candidate.table["random_forest"](n_estimators=3)  # type: ignore[call-arg]
        trained_bundle(tmp_path / "bundle", forest, "multiclass")
    else:
        (binary_bundle if kind == "categories" else regression_bundle)(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    session = Session(bundle, gpu=False)
    assert session.packed == blocked(bundle.contract)
    rows = drawn(bundle.contract, 20)
    wanted = predict(bundle.session(), rows)
    others = {name: array for name, array in rows.items() if name not in session.packed}
    block = np.stack([rows[name].reshape(-1) for name in session.packed], axis=1)
    for found in (session.run(rows), session.run({BLOCK: block, **others})):
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    session.close()


def test_without_what_changes_graphs_each_column_goes_in_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specml.serving.session.FEW", 1)
    monkeypatch.setattr("specml.serving.session.find_spec", lambda _: None)
    binary_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    session = Session(bundle, gpu=False)
    assert session.packed == ()
    rows = drawn(bundle.contract, 3)
    np.testing.assert_array_equal(session.run(rows)["probabilities"], predict(bundle.session(), rows)["probabilities"])
    session.close()
