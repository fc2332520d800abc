"""Trees as plain tensor operators: every row ends in the leaf that ONNX's operator for trees gives it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specml.bundle import audit, open_bundle
from specml.graph import Graph
from specml.kinds import Candidate
from specml.serving.session import CPU, CUDA, Session, gpu_visible
from specml.serving.tensorised import tensorised
from specml.spec import Serving
from specml.stages import package, select
from specml.tensors import BLOCK, SHALLOW
from specml.trees import Ensemble
from tests.bundles import trained_bundle
from tests.conftest import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from specml.graph import Trees

COLUMNS = 3
THRESHOLDS = [-math.inf, -1.0, -1e-45, 0.0, 1e-45, 0.1, 0.5, 2.0, 3.4e38, math.inf]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38]
VALUES = np.array([*SPECIAL, *range(-2, 9), 0.3, 0.7, 1.5, 2.5, -0.5], dtype=np.float32)
with np.errstate(over="ignore"):
    BESIDE = [np.nextafter(np.array(THRESHOLDS, np.float32), np.float32(side)) for side in (-np.inf, np.inf)]
VALUES = np.concatenate([VALUES, np.array(THRESHOLDS, np.float32), *BESIDE, np.nextafter(VALUES, np.float32(9))])

ANY = frozenset({"FLOAT", "DOUBLE", "INT32", "INT64", "BOOL"})
KERNELS = {
    "Gather": ANY,
    "GatherElements": ANY,
    "Cast": ANY,
    "Where": ANY,
    "Concat": ANY,
    "Reshape": ANY,
    "IsNaN": {"FLOAT", "DOUBLE"},
    "Greater": {"FLOAT", "DOUBLE", "INT32", "INT64"},
    "Add": {"FLOAT", "DOUBLE", "INT32", "INT64"},
    "Floor": {"FLOAT", "DOUBLE"},
    "Clip": {"FLOAT", "DOUBLE", "INT64"},
    "Min": {"FLOAT", "DOUBLE", "INT32", "INT64"},
    "Max": {"FLOAT", "DOUBLE", "INT32", "INT64"},
    "Or": {"BOOL"},
    "Gemm": {"FLOAT", "DOUBLE"},
    "ArgMax": {"FLOAT", "DOUBLE"},
    "MatMul": {"FLOAT", "DOUBLE"},
    "ReduceSum": {"FLOAT", "DOUBLE", "INT32", "INT64"},
}
"""What CUDA has of the operators of ``graph.OPSET``, by the type of the first input: docs/OperatorKernels.md of
onnxruntime."""


def grown(random: np.random.Generator, depths: list[int], *, sets: bool) -> Ensemble:
    """Trees of these depths, each of which tells the number of its leaf in a score of its own."""
    ensemble = Ensemble(len(depths))
    for tree, depth in enumerate(depths):
        # One path goes all the way down.
        waiting, count, leaves = [(0, 0, True)], 1, 0
        while waiting:
            node, level, on = waiting.pop(random.integers(len(waiting)))
            if level == depth or not (on or random.random() < 0.45):
                leaves += 1
                ensemble.add_leaf(tree, node, {tree: float(leaves)})
                continue
            below, feature, left_on = (count, count + 1), int(random.integers(COLUMNS)), random.random() < 0.5
            waiting += [(count, level + 1, on and left_on), (count + 1, level + 1, on and not left_on)]
            count += 2
            if sets and random.random() < 0.5:
                left = random.random(random.integers(1, 8)) < 0.5
                ensemble.add_set(tree, node, feature=feature, left=left, below=below)
            else:
                limit = float(np.float32(random.choice(THRESHOLDS)))
                ensemble.add_split(
                    tree, node, feature=feature, limit=limit, below=below, missing_left=int(random.integers(2))
                )
    return ensemble


def session(ensemble: Ensemble, form: Trees) -> onnxruntime.InferenceSession:
    graph = Graph("trees", form)
    graph.output("out", ensemble.to_onnx(graph, graph.input("x", "float32", COLUMNS)), "float32", ensemble.width)
    raw = graph.to_bytes()
    audit(raw, where="here")
    return onnxruntime.InferenceSession(raw, providers=[CPU])


def both(ensemble: Ensemble, X: np.ndarray) -> list[np.ndarray]:
    forms: list[Trees] = ["operator", "tensors"]
    return [session(ensemble, form).run(None, {"x": X})[0] for form in forms]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 7), min_size=1, max_size=6), st.booleans())
@example(1, [0], False)
@example(2, [SHALLOW, SHALLOW + 1], True)
@settings(max_examples=30, deadline=None)
def test_every_row_ends_in_the_same_leaf_of_every_tree(seed: int, depths: list[int], sets: bool) -> None:
    """Of numbers that are missing, infinite, denormal, beside and on the thresholds, and codes of unknown ones."""
    random = np.random.default_rng(seed)
    ensemble = grown(random, depths, sets=sets)
    X = random.choice(VALUES, (400, COLUMNS))
    one, two = both(ensemble, X)
    assert one.tolist() == two.tolist()


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 7), min_size=1, max_size=6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_replica_makes_tensors_of_the_operator_that_was_packaged(seed: int, depths: list[int], sets: bool) -> None:
    random = np.random.default_rng(seed)
    graph = Graph("trees", "operator")
    ensemble = grown(random, depths, sets=sets)
    graph.output("out", ensemble.to_onnx(graph, graph.input("x", "float32", COLUMNS)), "float32", ensemble.width)
    raw, X = graph.to_bytes(), random.choice(VALUES, (400, COLUMNS))
    made = tensorised(raw)
    assert made is not None
    audit(made, where="here")
    assert "TreeEnsembleRegressor" not in {node.op_type for node in onnx.load_model_from_string(made).graph.node}
    one, two = (onnxruntime.InferenceSession(each, providers=[CPU]).run(None, {"x": X})[0] for each in (raw, made))
    assert one.tolist() == two.tolist()


def test_trees_of_another_make_stay_as_they_are() -> None:
    graph = Graph("trees", "operator")
    ensemble = grown(np.random.default_rng(1), [3], sets=False)
    graph.output("out", ensemble.to_onnx(graph, graph.input("x", "float32", COLUMNS)), "float32", ensemble.width)
    model = onnx.load_model_from_string(graph.to_bytes())
    (trees,) = (node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor")
    for attribute in trees.attribute:
        if attribute.name == "nodes_modes":
            attribute.strings[0] = b"BRANCH_LT"
    assert tensorised(model.SerializeToString()) is None
    model.graph.node.remove(trees)
    assert tensorised(model.SerializeToString()) is None


def test_a_deep_tree_beside_shallow_ones_with_and_without_sets() -> None:
    random = np.random.default_rng(3)
    X = random.choice(VALUES, (400, COLUMNS))
    for sets in (False, True):
        one, two = both(grown(random, [40, 1, 12, 0, 3], sets=sets), X)
        assert one.tolist() == two.tolist()
        assert len(np.unique(two[:, 0])) > 2


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("width", [1, 3])
def test_leaves_are_summed_to_the_last_bit(rows: int, width: int) -> None:
    """More trees than a block, each adding to one score, or each to all; in float32 many a tenth makes no whole."""
    trees = BLOCK + 40
    X = np.zeros((rows, COLUMNS), dtype=np.float32)
    for together in (False, True):
        ensemble = Ensemble(width)
        for tree in range(trees):
            ensemble.add_split(tree, 0, feature=0, limit=0.0, below=(1, 2), missing_left=0)
            targets = range(width) if together else [tree % width]
            ensemble.add_leaf(tree, 1, dict.fromkeys(targets, 0.1))
            ensemble.add_leaf(tree, 2, dict.fromkeys(targets, -0.1))
        (told,) = session(ensemble, "tensors").run(None, {"x": X})
        counts = [trees if together else len(range(place, trees, width)) for place in range(width)]
        assert told.tolist() == [[float(np.float32(0.1 * count)) for count in counts]] * rows


def test_cuda_has_a_kernel_for_every_operator_and_type() -> None:
    random = np.random.default_rng(5)
    several = Ensemble(2)
    several.add_leaf(0, 0, {0: 1.0, 1: 2.0})
    for ensemble in (grown(random, [6, 2, 9], sets=True), grown(random, [4, 2], sets=False), several):
        graph = Graph("trees", "tensors")
        value = ensemble.to_onnx(graph, graph.input("x", "float32", COLUMNS))
        graph.output("out", value, "float32", ensemble.width)
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph.to_bytes()), strict_mode=True)
        types = {one.name: one.type.tensor_type.elem_type for one in [*model.graph.input, *model.graph.value_info]}
        types |= {one.name: one.data_type for one in model.graph.initializer}
        for node in model.graph.node[:-1]:
            assert not node.domain
            taken = types[node.input[1 if node.op_type == "Where" else 0]]
            assert onnx.TensorProto.DataType.Name(taken) in KERNELS[node.op_type], node.op_type


def test_the_operator_is_packaged_unless_the_spec_says_otherwise() -> None:
    forms = [Serving.model_validate({"trees": trees, "replicas": {"gpus": gpus}}).tree_form
             for trees in ("auto", "operator", "tensors") for gpus in (0, 0.5)]  # fmt: skip
    assert forms == ["operator"] * 4 + ["tensors"] * 2


def test_the_form_is_part_of_what_is_packaged_and_of_what_is_measured() -> None:
    plain, spec = spec_of(), spec_of(serving={"trees": "tensors"}, selection={"max_size": 100_000})
    assert "trees as tensor operators" in package.declare(spec).summary
    assert "tensor" not in package.declare(plain).summary
    assert "serving.trees" in package.declare(plain).params
    assert ["serving.trees" in select.declare(one).params for one in (plain, spec)] == [False, True]


def test_the_manifest_tells_the_form(tmp_path: Path) -> None:
    for form in ("operator", "tensors"):
        candidate: Any = Candidate.table["random_forest"](n_estimators=5)  # type: ignore[call-arg]
        trained = trained_bundle(tmp_path / form, candidate, "binary", trees=form)  # type: ignore[arg-type]
        assert json.loads((tmp_path / form / "manifest.json").read_bytes())["trees"] == form
        told = Session(open_bundle(tmp_path / form), gpu=False).run(trained.rows())["probabilities"][:, 1]
        assert np.allclose(told, trained.model.predict(trained.seen()), atol=1e-6)
        operators = {node.op_type for node in onnx.load(tmp_path / form / "model.onnx").graph.node}
        assert ("TreeEnsembleRegressor" in operators) == (form == "operator")


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_visible(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("sets", [False, True])
def test_on_a_gpu_nothing_of_the_trees_is_left_to_the_cpu(sets: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    ensemble = grown(random, [2, 5, 9, 3], sets=sets)
    X = random.choice(VALUES, (400, COLUMNS))
    graph = Graph("trees", "tensors")
    graph.output("out", ensemble.to_onnx(graph, graph.input("x", "float32", COLUMNS)), "float32", ensemble.width)
    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    there = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=[CUDA, CPU])
    (told,) = there.run(None, {"x": X})
    events = json.loads((tmp_path / there.end_profiling()).read_bytes())
    ran = {event["args"].get("provider") for event in events if event["cat"] == "Node"} - {None}
    assert ran == {CUDA}
    assert told.tolist() == session(ensemble, "operator").run(None, {"x": X})[0].tolist()
