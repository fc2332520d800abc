"""Models bound to fixed memory, by the code that does it on CUDA: padded batches have the answers of plain calls."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from specml.bundle import open_bundle, predict
from specml.kinds import Candidate
from specml.serving.bound import STAGED, Bound, Layout, Value
from specml.serving.cut import MOST_JOINED, cut
from specml.serving.device import CPU, NotOpened
from specml.serving.drawn import drawn
from specml.serving.memory import ALIGNED, Cpu
from specml.serving.session import Session
from tests.bundles import binary_bundle, regression_bundle, trained_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.bundle import Bundle

BUCKETS = (1, 2, 8, 16)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    binary_bundle(folder / "categories")
    regression_bundle(folder / "numbers")
    forest: Any = Candidate.table["random_forest"](n_estimators=3)  # type: ignore[call-arg]
    for form in ("operator", "tensors"):
        trained_bundle(folder / form, forest, "multiclass", trees=form)  # type: ignore[arg-type]
    return {path.name: open_bundle(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def sessions(bundles: dict[str, Bundle]) -> Iterator[dict[str, Session]]:
    made = {
        name: Session(bundle, gpu=False, max_batch_size=16, buckets=BUCKETS[:-1]) for name, bundle in bundles.items()
    }
    yield made
    for session in made.values():
        session.close()


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, array in other.items():
        assert (one[name].dtype, one[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(one[name], array)


def part(columns: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in columns.items()}


@pytest.mark.parametrize("name", ["categories", "numbers", "operator", "tensors"])
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5), start=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_padding_changes_no_answer_whatever_ran_before(
    sessions: dict[str, Session], bundles: dict[str, Bundle], name: str, sizes: list[int], start: int
) -> None:
    """To the last bit; sizes above the largest bucket are run in parts."""
    session, plain, rows = sessions[name], bundles[name].session(), drawn(bundles[name].contract, 400)
    for size in sizes:
        asked = part(rows, start, start + size)
        same(session.run(asked), predict(plain, asked))
        start += size


@given(parts=st.lists(st.integers(1, 6), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) <= 16))
@settings(max_examples=15, deadline=None)
def test_requests_gathered_into_one_batch_keep_their_order(
    sessions: dict[str, Session], bundles: dict[str, Bundle], parts: list[int]
) -> None:
    session, rows = sessions["categories"], drawn(bundles["categories"].contract, 16)
    ends = np.cumsum([0, *parts])
    assert session.bound is not None
    staged = session.bound.stage([part(rows, start, stop) for start, stop in pairwise(ends)])
    same(session.bound.run(staged), predict(bundles["categories"].session(), part(rows, 0, sum(parts))))


def test_the_next_batch_is_written_before_the_one_before_has_run(
    sessions: dict[str, Session], bundles: dict[str, Bundle]
) -> None:
    session, rows = sessions["tensors"], drawn(bundles["tensors"].contract, 48)
    assert session.bound is not None
    staged = [session.bound.stage([part(rows, start, start + 5 + start // 5)]) for start in (0, 10)]
    plain = bundles["tensors"].session()
    for start, one in zip((0, 10), staged, strict=True):
        same(session.bound.run(one), predict(plain, part(rows, start, start + 5 + start // 5)))


def test_a_batch_that_can_not_be_written_takes_no_memory_with_it(
    sessions: dict[str, Session], bundles: dict[str, Bundle]
) -> None:
    session, rows = sessions["numbers"], drawn(bundles["numbers"].contract, 4)
    for _ in range(2 * STAGED):
        with pytest.raises(ValueError, match="could not convert"):
            session.run({"area": np.array(["no number"], dtype=object)})
    assert session.run(rows)["prediction"].shape == (4,)


def test_threads_do_not_get_each_others_answers(sessions: dict[str, Session], bundles: dict[str, Bundle]) -> None:
    session, contract = sessions["categories"], bundles["categories"].contract
    plain, rows, wrong = bundles["categories"].session(), drawn(contract, 300), []

    def ask(number: int) -> None:
        for size in range(1, 17):
            asked = part(rows, number * 50, number * 50 + size)
            found = session.run(asked)["probabilities"]
            wrong.extend([size] * (not np.array_equal(found, predict(plain, asked)["probabilities"])))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_buckets_are_those_of_the_spec_and_the_largest_batch(bundles: dict[str, Bundle]) -> None:
    one, two = bundles["numbers"], Session(bundles["numbers"], gpu=False, max_batch_size=100)
    assert two.buckets == ()
    three = Session(one, gpu=False, max_batch_size=100, buckets=(8,))
    assert three.buckets == (8, 100)
    two.close()
    three.close()


# The cut


def operators(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node] if graph else []


def test_what_is_text_stays_on_the_cpu_and_all_numbers_go_to_the_device(bundles: dict[str, Bundle]) -> None:
    found = cut(bundles["categories"].model)
    assert found is not None
    assert operators(found.before.graph) == ["LabelEncoder"]
    assert operators(found.after.graph) == ["LabelEncoder", "Identity"]
    assert "LabelEncoder" not in operators(found.within.graph)
    assert found.outputs == ("probabilities", "label")
    assert {"age", "hours", "member"} < set(found.within.inputs)
    assert "workclass" not in found.within.inputs
    numbers = cut(bundles["numbers"].model)
    assert numbers is not None
    assert (numbers.before.graph, numbers.after.graph) == (b"", b"")


def test_trees_are_for_a_device_as_tensors_only(bundles: dict[str, Bundle]) -> None:
    operator, tensors = cut(bundles["operator"].model), cut(bundles["tensors"].model)
    assert operator is not None
    assert tensors is not None
    assert "TreeEnsembleRegressor" in operators(operator.before.graph) + operators(operator.after.graph)
    assert len(operators(tensors.within.graph)) > 20
    assert "LabelEncoder" in operators(tensors.before.graph)


def test_a_device_without_float64_gets_none(bundles: dict[str, Bundle]) -> None:
    found = cut(bundles["categories"].model, doubles=False)
    assert found is not None
    assert found.within.inputs
    for name in found.within.inputs:
        told = onnx.load_model_from_string(found.within.graph).graph.input
        assert next(one for one in told if one.name == name).type.tensor_type.elem_type != TensorProto.DOUBLE


def graph_of(nodes: list[Any], inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, kind, ["rows", 1]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(made, opset_imports=versions, ir_version=10).SerializeToString())


def test_many_values_are_joined_a_few_at_a_time() -> None:
    names = [f"x{place}" for place in range(MOST_JOINED * MOST_JOINED + 5)]
    raw = graph_of(
        [helper.make_node("Concat", names, ["y"], axis=1)],
        dict.fromkeys(names, TensorProto.DOUBLE),
        {"y": TensorProto.DOUBLE},
    )
    found = cut(raw)
    assert found is not None
    nodes = onnx.load_model_from_string(found.within.graph).graph.node
    assert max(len(node.input) for node in nodes) == MOST_JOINED
    rows = {name: np.arange(3.0) + 10 * place for place, name in enumerate(names)}
    bound = Bound(found, Cpu(), [(CPU, {})], (4,), {name: np.resize(array, 9) for name, array in rows.items()})
    joined = bound.run(bound.stage([rows]))["y"]
    np.testing.assert_array_equal(joined, np.stack(list(rows.values()), axis=1))


def test_a_graph_of_texts_alone_is_not_cut() -> None:
    lookup = helper.make_node(
        "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_int64s=[1], default_int64=0
    )
    assert cut(graph_of([lookup], {"x": TensorProto.STRING}, {"y": TensorProto.INT64})) is None


def test_an_output_without_rows_is_not_bound() -> None:
    total = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    found = cut(graph_of([total], {"x": TensorProto.DOUBLE}, {"y": TensorProto.DOUBLE}))
    assert found is not None
    with pytest.raises(NotOpened, match="y has no rows"):
        Bound(found, Cpu(), [(CPU, {})], (4,), {"x": np.arange(9.0)})


@given(
    values=st.lists(
        st.tuples(st.sampled_from(["<f8", "<f4", "<i8", "?"]), st.lists(st.integers(1, 5), max_size=2)), min_size=1
    ),
    rows=st.integers(1, 300),
)
def test_values_lie_aligned_and_apart(values: list[tuple[str, list[int]]], rows: int) -> None:
    layout = Layout(
        [Value(f"v{place}", np.dtype(kind), tuple(tail)) for place, (kind, tail) in enumerate(values)], rows
    )
    raw = np.zeros(layout.size, dtype=np.uint8)
    for place, view in enumerate(layout.views(raw)):
        assert layout.starts[place] % ALIGNED == 0
        assert view.shape == (rows, *values[place][1])
        assert not view.any()
        view[:] = 1


def test_drawn_rows_are_those_of_the_contract(bundles: dict[str, Bundle]) -> None:
    rows = drawn(bundles["categories"].contract, 200)
    assert set(rows["workclass"]) == {"1", "Private", "State-gov", "__missing__"}
    assert np.nanmin(rows["hours"]) < 5
    assert np.nanmax(rows["hours"]) > 95
    assert np.isnan(rows["hours"]).any()
    assert not np.isnan(rows["age"]).any()
    assert (rows["age"] == np.round(rows["age"])).all()
