"""A bundle that was altered in any way is refused, by the name of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from specml.bundle import BundleError, Contract, open_bundle, predict, write_bundle
from specml.data import Column
from specml.files import canonical_json, digest
from specml.graph import Graph
from tests.bundles import binary_bundle


def doubled() -> bytes:
    graph = Graph("doubled")
    x = graph.input("x", "float64")
    both = graph.node("Cast", graph.node("Add", x, x), to=TensorProto.FLOAT)
    graph.output("prediction", graph.node("Squeeze", both, graph.constant(np.array([1]))), "float32")
    return graph.to_bytes()


def contract(name: str = "doubled") -> Contract:
    return Contract(name=name, task="regression", target="y", inputs=(Column(name="x", kind="numeric"),), candidate="c")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", contract(), doubled(), {"columns": {}})
    return tmp_path / "bundle"


def test_opens_and_predicts(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert predict(bundle.session(), {"x": np.array([1.5, 2.0])})["prediction"].tolist() == [3.0, 4.0]
    assert bundle.digest == digest(folder / "manifest.json")


def test_same_content_same_digest(folder: Path, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "other", contract(), doubled(), {"columns": {}}) == digest(folder / "manifest.json")
    assert write_bundle(tmp_path / "third", contract("x"), doubled(), {"columns": {}}) != digest(
        folder / "manifest.json"
    )


@pytest.mark.parametrize("name", ["model.onnx", "contract.json", "reference.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["empty", "one byte", "half", "last byte lost", "bit flipped", "gone"])
def test_damage_is_found(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    raw = path.read_bytes()
    middle = len(raw) // 2
    flipped = raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]
    damaged = {
        "empty": b"",
        "one byte": raw[:1],
        "half": raw[:middle],
        "last byte lost": raw[:-1],
        "bit flipped": flipped,
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    if name == "manifest.json" and damage == "last byte lost":
        assert open_bundle(folder).digest != digest(raw)
        return
    with pytest.raises(BundleError):
        open_bundle(folder)


def test_files_swapped_between_bundles_are_found(folder: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", contract("other"), doubled(), {"columns": {}})
    (folder / "contract.json").write_bytes((tmp_path / "other" / "contract.json").read_bytes())
    with pytest.raises(BundleError, match="altered or cut short"):
        open_bundle(folder)


def test_an_added_file_is_found(folder: Path) -> None:
    (folder / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.pkl"):
        open_bundle(folder)


def with_graph(folder: Path, model: onnx.ModelProto) -> None:
    """Put another graph in, with a manifest that vouches for it."""
    raw = model.SerializeToString()
    (folder / "model.onnx").write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["model.onnx"] = {"sha256": digest(raw), "bytes": len(raw)}
    (folder / "manifest.json").write_bytes(canonical_json(manifest))


def test_a_graph_with_a_foreign_operator_is_refused(folder: Path) -> None:
    node = helper.make_node("Loop", ["m", "c"], ["y"])
    graph = helper.make_graph([node], "g", [], [])
    with_graph(folder, helper.make_model(graph))
    with pytest.raises(BundleError, match="Loop"):
        open_bundle(folder)


def outside(**fields: Any) -> TensorProto:
    """A tensor whose data would be read from another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], **fields)
    if not fields:
        tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def one_node(**attributes: Any) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], **attributes)], "g", [], []))


def sparse() -> onnx.SparseTensorProto:
    values, indices = numpy_helper.from_array(np.ones(1)), numpy_helper.from_array(np.zeros(1, np.int64))
    return helper.make_sparse_tensor(values, indices, [3])


def with_(field: str, *values: Any) -> onnx.ModelProto:
    """A small good model with something more in one of its fields."""
    model = onnx.load_model_from_string(doubled())
    holder = model.graph if hasattr(model.graph, field) else model
    getattr(holder, field).extend(values)
    return model


LOOP = helper.make_node("Loop", ["m", "c"], ["y"])
INNER = helper.make_graph([LOOP], "inner", [], [])

REFUSED = {
    "data outside": (lambda: with_("initializer", outside()), "outside"),
    "data said to be outside": (lambda: with_("initializer", outside(data_location=TensorProto.EXTERNAL)), "outside"),
    "attribute outside": (lambda: one_node(value=outside()), "outside"),
    "one of an attribute's outside": (lambda: one_node(values=[TensorProto(), outside()]), "outside"),
    "sparse initializer": (lambda: with_("sparse_initializer", sparse()), "sparse"),
    "sparse attribute": (lambda: one_node(value=sparse()), "sparse"),
    "sparse attributes": (lambda: one_node(values=[sparse()]), "sparse"),
    "graph in a node": (lambda: one_node(body=INNER), "graphs inside"),
    "graphs in a node": (lambda: one_node(bodies=[INNER]), "graphs inside"),
    "a function called as an operator": (
        lambda: with_("functions", helper.make_function("", "Add", ["a", "b"], ["y"], [LOOP], [])),
        "functions",
    ),
    "training": (lambda: with_("training_info", onnx.TrainingInfoProto(algorithm=INNER)), "training"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_hides_from_the_list_of_operators_is_refused(case: str, folder: Path) -> None:
    make, told = REFUSED[case]
    with_graph(folder, make())
    with pytest.raises(BundleError, match=told):
        open_bundle(folder)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle here") as error:
        open_bundle(tmp_path)
    assert "specml run" in error.value.hint


def test_a_wide_graph_is_opened_as_it_is_and_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime import GraphOptimizationLevel

    binary_bundle(tmp_path / "b")
    opened = open_bundle(tmp_path / "b")
    columns = {
        one.name: np.array(["Private", "odd"], dtype=object) if one.kind == "categorical" else np.array([1.0, 30.0])
        for one in opened.contract.inputs
    }
    usual = opened.session()
    monkeypatch.setattr("specml.bundle.WIDE", 3)
    plain = opened.session()
    assert plain.get_session_options().graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL
    assert usual.get_session_options().graph_optimization_level == GraphOptimizationLevel.ORT_ENABLE_ALL
    answers = [predict(one, columns)["probabilities"] for one in (usual, plain)]
    np.testing.assert_allclose(*answers, rtol=1e-6)
