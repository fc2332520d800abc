"""Each feature is the same function in Python and in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest

from specml.data import MISSING
from specml.features.boolean import Boolean
from specml.features.categorical import Categorical, FittedCategorical
from specml.features.numeric import Numeric
from specml.graph import Graph
from specml.kinds import Feature, FittedFeature, Preference
from tests.conftest import column

TREES = Preference(missing="native", scale="none", encode="ordinal")
LINEAR = Preference(missing="median", scale="standard", encode="onehot")
ADVERSARIAL = np.array(
    [np.nan, 0.0, -0.0, 1.0, 0.1, 1e-45, -1e300, 1e300, 3.4e38, 3.5e38, 16777217.0, 1.7e9 + 0.5, np.inf, -np.inf]
)


def in_graph(fitted: FittedFeature, values: np.ndarray, dtype: Any) -> np.ndarray:
    graph = Graph("feature")
    graph.output("out", fitted.to_onnx(graph, graph.input("x_in", dtype)), "float32", len(fitted.names))
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], {"x_in": values.reshape(-1, 1)})[0])


@pytest.mark.parametrize("prefers", [TREES, LINEAR])
@pytest.mark.parametrize(
    "feature", [Numeric(), Numeric(missing="mean", scale="none"), Numeric(scale="standard"), Boolean()]
)
def test_numbers_are_equal_in_the_graph(feature: Feature, prefers: Preference) -> None:
    generator = np.random.default_rng(1)
    training = np.concatenate([generator.normal(40, 12, 200), [np.nan] * 5])
    fitted = feature.fit(column("x"), training, prefers)
    values = np.concatenate([ADVERSARIAL, training])
    assert np.array_equal(fitted.transform(values), in_graph(fitted, values, "float64"), equal_nan=True)
    again = type(feature).restore(fitted.state())
    assert np.array_equal(again.transform(values), fitted.transform(values), equal_nan=True)


@pytest.mark.parametrize("encode", ["onehot", "ordinal"])
def test_categories_are_equal_in_the_graph(encode: Any) -> None:
    training = pl.Series("count", ["b", "a", "a", MISSING, "ä", "", "b "])
    fitted = Categorical(encode=encode).fit(column("x", "categorical"), training, LINEAR)
    values = pl.Series(["a", "b", "never seen", MISSING, "ä", "", "b ", "A", "a\u0308", "𝒜", "a" * 10_000])
    out = fitted.transform(values)
    assert np.array_equal(out, in_graph(fitted, values.to_numpy(), "string"))
    never = out[2]
    assert (never == (0 if encode == "onehot" else -1)).all()
    assert np.array_equal(Categorical.restore(fitted.state()).transform(values), out)


def test_linear_models_get_centred_numbers_and_no_gaps() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan])
    out = Numeric().fit(column("x"), values, LINEAR).transform(values)
    assert np.isfinite(out).all()
    assert out.mean() == pytest.approx(0, abs=1e-6)
    assert out.std() == pytest.approx(1, abs=1e-6)


def test_trees_keep_the_gap() -> None:
    values = np.array([1.0, np.nan])
    assert np.isnan(Numeric().fit(column("x"), values, TREES).transform(values)[1, 0])


def test_constant_and_empty_columns_survive() -> None:
    for values in (np.full(5, 7.0), np.full(5, np.nan)):
        out = Numeric().fit(column("x"), values, LINEAR).transform(np.array([7.0, np.nan, 8.0]))
        assert np.isfinite(out).all()


def test_rare_categories_count_as_never_seen() -> None:
    values = pl.Series(["a"] * 5 + ["b"] * 4 + ["c"])
    fitted = Categorical(encode="onehot", max_categories=2).fit(column("x", "categorical"), values, LINEAR)
    assert fitted.names == ("x=a", "x=b")
    assert fitted.transform(pl.Series(["c"])).sum() == 0


@pytest.mark.parametrize("encode", ["onehot", "ordinal"])
@pytest.mark.parametrize("categories", [1, 300, 70_000])
def test_encoding_is_what_a_dictionary_gives(encode: Any, categories: int) -> None:
    known = tuple(sorted(f"{i:x}é" for i in range(categories)))[:10_000]
    values = pl.Series([*known[:3], "?", *known[-2:], "", known[len(known) // 2]])
    out = FittedCategorical("x", known, encode).transform(values)
    place = {one: index for index, one in enumerate(known)}
    codes = np.array([[place.get(one, -1)] for one in values.to_list()])
    assert np.array_equal(out, codes if encode == "ordinal" else codes == np.arange(len(known)))
    assert FittedCategorical("x", (), encode).transform(values).shape == (len(values), 1 if encode == "ordinal" else 0)
