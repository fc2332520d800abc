"""Columns treated alike are treated at once: fewer operators, the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from specml.fused import fused

if TYPE_CHECKING:
    from collections.abc import Callable

VALUES = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, -3.25, 0.1, 7.0, 1e300, 2.5])


class Made:
    """A model in the making, with no thought of fewer operators."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[str] = []

    def input(self) -> str:
        self.inputs.append(f"x{len(self.inputs)}")
        return self.inputs[-1]

    def number(self, *values: float) -> str:
        array = np.array(values if len(values) > 1 else values[0], dtype=np.float64)
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            [*self.nodes, *(helper.make_node("Identity", [name], [f"y{place}"]) for place, name in enumerate(outputs))],
            "made",
            [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows", 1]) for name in self.inputs],
            [
                helper.make_tensor_value_info(f"y{place}", TensorProto.DOUBLE, ["rows", None])
                for place in range(len(outputs))
            ],
            initializer=self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def clipped(made: Made, x: str, low: float, high: float) -> str:
    return made.node("Clip", x, made.number(low), made.number(high))


def filled(made: Made, x: str, low: float, high: float) -> str:
    return made.node("Where", made.node("IsNaN", x), made.number(low), x)


def scaled(made: Made, x: str, low: float, high: float) -> str:
    return made.node("Mul", made.node("Sub", x, made.number(low)), made.number(high))


def flagged(made: Made, x: str, low: float, high: float) -> str:
    missing = made.node("Cast", made.node("IsNaN", x), to=TensorProto.DOUBLE)
    return made.node("Concat", filled(made, x, low, high), missing, axis=1)


def coded(made: Made, x: str, low: float, high: float) -> str:
    return made.node("Cast", made.node("Equal", x, made.number(low, high, 7.0)), to=TensorProto.DOUBLE)


def kept(made: Made, x: str, low: float, high: float) -> str:
    return x


STEPS: list[Callable[[Made, str, float, float], str]] = [clipped, filled, scaled, flagged, coded, kept]
LOW, HIGH = (st.integers(*ends).map(lambda number: number / 16) for ends in ((-64, 64), (64, 128)))
"""onnxruntime takes a constant for 0 that is 0 in float32."""
COLUMN = st.tuples(st.lists(st.sampled_from(STEPS[:3]), max_size=3), st.sampled_from(STEPS), LOW, HIGH)


def answers(model: onnx.ModelProto, rows: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {one.name: rows[:, place : place + 1] for place, one in enumerate(session.get_inputs())}
    return list(session.run(None, feeds))


@given(columns=st.lists(COLUMN, min_size=2, max_size=7), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_value_stays_what_it_was(columns: list[Any], seed: int) -> None:
    """Missing, infinite and denormal ones, with numbers that columns share and such of their own."""
    made = Made()
    parts = []
    for steps, last, low, high in columns:
        x = made.input()
        for step in (*steps, last):
            x = step(made, x, low, high)
        parts.append(x)
    model = made.model(made.node("Concat", *parts, axis=1), parts[0])
    rows = np.random.default_rng(seed).choice(VALUES, (40, len(columns)))
    for one, two in zip(answers(model, rows), answers(fused(model), rows), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_is_alike_is_done_once() -> None:
    made = Made()
    parts = [scaled(made, filled(made, made.input(), place, 1.0), place, 2.0) for place in range(20)]
    model = fused(made.model(made.node("Concat", *parts, axis=1)))
    assert [node.op_type for node in model.graph.node] == ["Concat", "IsNaN", "Where", "Sub", "Mul", "Identity"]


def test_columns_of_two_sorts_keep_their_order() -> None:
    made = Made()
    parts = [(scaled, filled)[place % 2](made, made.input(), place, 2.0) for place in range(20)]
    model = made.model(made.node("Concat", *parts, axis=1))
    done = [node.op_type for node in fused(model).graph.node]
    assert len(done) < 12
    rows = np.random.default_rng(3).choice(VALUES, (40, 20))
    np.testing.assert_array_equal(answers(model, rows)[0], answers(fused(model), rows)[0])


@pytest.mark.parametrize("op", ["TopK", "Concat"])
def test_what_is_not_alike_stays_as_it_is(op: str) -> None:
    made = Made()
    x, y = made.input(), made.input()
    joined = made.node("Concat", x, made.node("Neg", y), axis=1 if op == "TopK" else 0)
    model = made.model(joined)
    assert [node.op_type for node in fused(model).graph.node] == ["Neg", "Concat", "Identity"]


def test_the_same_model_becomes_the_same_bytes() -> None:
    made = Made()
    model = made.model(made.node("Concat", *[clipped(made, made.input(), 0, place) for place in range(5)], axis=1))
    assert fused(model).SerializeToString(deterministic=True) == fused(model).SerializeToString(deterministic=True)
