"""A formula over columns is the same in Python and in the graph, and is never run as code."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from specml.data import MISSING, Column
from specml.features.categorical import Categorical
from specml.features.expression import Expression
from specml.features.numeric import Numeric
from specml.graph import Graph
from specml.kinds import Preference, Training
from specml.preprocessing import Preprocessing

PLAIN = Training(Preference("native", "none", "ordinal"), np.zeros(0), "binary")
ODD = [np.nan, 0.0, -0.0, 1.0, -1.0, 3.5, -7.25, 1e-300, 1e300, -1e300]
ROWS = list(itertools.product(ODD, ODD))
COLUMNS = {
    "a": np.array([row[0] for row in ROWS]),
    "b": np.array([row[1] for row in ROWS]),
    "use of it": pl.Series(["car", "Car", "", MISSING, "ä"] * 20),
}
FORMULAS = [
    "a / maximum(b, 1)",
    "a + b - -b * +a",
    "a / b",
    "a % b",
    "a ** 2 + b ** 0.5",
    "log1p(abs(a)) + log(b) + exp(minimum(a, 3)) + sqrt(b)",
    "where(isnan(a), b, a)",
    "where(a < b <= 3 or not (a == b and b != 1), sign(a), floor(b))",
    "clip(a, -2, b) + maximum(a, b, 0) - minimum(a, b, 2, 1)",
    "(a > b) + (a >= b) * 2",
    'where(column("use of it") == "car", a, 0) + (column("use of it") != "ä")',
    '("" == column("use of it")) + a * 0',
]


def in_graph(one: Expression) -> np.ndarray:
    graph = Graph("expression")
    values = {
        name: graph.input(name, "string" if kinds == ("categorical",) else "float64")
        for name, kinds in one.reads().items()
    }
    graph.output("out", one.derive_in(graph, values), "float64", 1)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    feeds = {name: np.asarray(COLUMNS[name]).reshape(-1, 1) for name in values}
    feeds = {name: array.astype(object) if array.dtype.kind != "f" else array for name, array in feeds.items()}
    return np.asarray(session.run(["out"], feeds)[0]).ravel()


def agrees(expr: str) -> np.ndarray:
    one = Expression(expr=expr)
    out = one.derive({name: COLUMNS[name] for name in one.reads()})
    assert out.shape == (100,)
    assert not np.isinf(out).any()
    assert np.allclose(out, in_graph(one), rtol=1e-12, atol=0, equal_nan=True)
    return out


@pytest.mark.parametrize("expr", FORMULAS)
def test_a_formula_is_equal_in_the_graph(expr: str) -> None:
    agrees(expr)


NUMBERS = st.sampled_from(["a", "b", "0", "1", "2.5", "1e-9"])
TREES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["abs", "floor", "sign", "-", "sqrt"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner).map(lambda t: f"maximum({t[0]}, {t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"where({t[0]} <= {t[1]}, {t[1]}, {t[2]})"),
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(TREES)
def test_any_formula_is_equal_in_the_graph(expr: str) -> None:
    agrees(f"{expr} + 0 * where(isnan(a), 0, 1) + 0 * sign(b)")


def test_what_a_formula_means() -> None:
    values: dict[str, Any] = {"a": np.array([6.0, -7.5, np.nan]), "b": np.array([3.0, 0.0, 1.0])}

    def told(expr: str) -> list[float]:
        one = Expression(expr=expr)
        return [float(x) for x in one.derive({name: values[name] for name in one.reads()})]

    assert told("a / maximum(b, 1)")[:2] == [2.0, -7.5]
    assert told("a % 4")[:2] == [2.0, 0.5]  # as Python's, it has the sign of what divides
    assert told("1 < b <= 3") == [1.0, 0.0, 0.0]
    assert np.isnan(told("a / b")[1:]).all()  # not finite, or of a missing value
    assert told("where(isnan(a), -1, a)") == [6.0, -7.5, -1.0]


@pytest.mark.parametrize(
    ("expr", "why"),
    [
        ('__import__("os").system("true")', "no formula may"),
        ("a.real", "no formula may"),
        ("[x for x in a]", "no formula may"),
        ("a if b else 1", "no formula may"),
        ("lambda: a", "no formula may"),
        ("eval(a)", "no formula may"),
        ("clip(a, low=1, high=2)", "no formula may"),
        ("maximum(*a)", "no formula may"),
        ("column(a)", "no formula may"),
        ("a // b", "no formula may"),
        ("a @ b", "no formula may"),
        ("a in b", "only <, <=, >"),
        ("1 + 2", "names no column"),
        ("a + " * 40 + "a", "nested deeper"),
        ("-" * 900 + "a", "nested deeper"),
        ("(" * 400 + "a" + ")" * 400, "no formula"),
        ("a % (" * 20 + "a" + ")" * 20, "more than 200 parts"),
        ("a +", "no formula"),
        ("a\x00", "no formula"),
        ("1e999 * a", "not finite"),
        ("9" * 400 + " * a", "not finite"),
        ("not a", "number for a truth"),
        ("where(a, 1, 2)", "number for a truth"),
        ("a == True", "write 1 or 0"),
        ('a + "x"', "text for a number"),
        ('a < "x"', "compares a text"),
        ('"x" == "y"', "compares a text"),
        ("log(a, b)", "gives log 2 arguments"),
        ("floor(log(a) / log(10))", "floor or % of log, whose last digit"),
        ("exp(a) % 1", "floor or % of exp"),
        ("where(a ** 2 + log1p(b) == 1, 1, 0)", "a comparison of [*][*] and log"),
        ("sign(exp(a) - 1)", "the sign of exp"),
        ("maximum(a)", "2 or more"),
    ],
)
def test_what_is_no_formula(expr: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Expression(expr=expr)


def test_a_derived_feature_is_treated_and_stored(tmp_path: Any) -> None:
    table = pl.DataFrame({"loan": [100.0, 200.0, None, 50.0], "income": [10.0, 0.0, 5.0, 25.0], "sex": ["f", "m"] * 2})
    columns = (
        Column(name="loan", kind="numeric", nullable=True),
        Column(name="income", kind="numeric"),
        Column(name="sex", kind="categorical"),
    )
    derived: Any = {"ratio": Expression(expr="loan / income", missing="constant", fill_value=-1.0)}
    treatment: Any = {"loan": Numeric(), "sex": Categorical(), **derived}
    made = Preprocessing.fit(table, columns, treatment, PLAIN)
    out = made.transform(table)
    assert out[:, 2].tolist() == [10.0, -1.0, -1.0, 2.0]  # income is read, but is no feature itself
    made.save(tmp_path / "made.json")
    assert np.array_equal(Preprocessing.load(tmp_path / "made.json").transform(table), out, equal_nan=True)
    graph = Graph("design")
    graph.output("design", Preprocessing.load(tmp_path / "made.json").to_onnx(graph), "float32", 3)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["loan", "income", "sex"]
    feeds = {
        "loan": np.array([[100.0], [200.0], [np.nan], [50.0]]),
        "income": table["income"].to_numpy().reshape(-1, 1),
        "sex": table["sex"].to_numpy().reshape(-1, 1).astype(object),
    }
    assert np.array_equal(session.run(None, feeds)[0], out, equal_nan=True)
