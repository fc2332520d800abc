"""Each feature is the same function in Python and in the graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.data import MISSING, Folding
from specml.features.boolean import Boolean
from specml.features.categorical import Categorical, FittedCategorical
from specml.features.numeric import Numeric
from specml.files import canonical_json
from specml.graph import Graph
from specml.kinds import Feature, FittedFeature, Preference, Training
from tests.conftest import column

TREES = Training(Preference(missing="native", scale="none", encode="ordinal"), np.zeros(0), "binary")
LINEAR = Training(Preference(missing="median", scale="standard", encode="onehot"), np.zeros(0), "binary")
ADVERSARIAL = np.array(
    [np.nan, 0.0, -0.0, 1.0, 0.1, 1e-45, -1e300, 1e300, 3.4e38, 3.5e38, 16777217.0, 1.7e9 + 0.5, np.inf, -np.inf]
)


def in_graph(fitted: FittedFeature, values: np.ndarray, dtype: Any) -> np.ndarray:
    graph = Graph("feature")
    graph.output("out", fitted.to_onnx(graph, graph.input("x_in", dtype)), "float32", len(fitted.names))
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], {"x_in": values.reshape(-1, 1)})[0])


NUMERIC: list[dict[str, Any]] = [
    {},
    {"missing": "mean", "scale": "none"},
    {"scale": "standard"},
    {"missing": "constant", "fill_value": -1.0, "scale": "robust"},
    {"missing": "native", "indicator": True},
    {"missing": "median", "indicator": True, "clip": {"quantiles": [0.05, 0.9]}, "scale": "standard"},
    {"clip": {"min": 30}, "missing": "native", "scale": "none"},
    {"clip": {"max": 41.5}, "missing": "constant", "fill_value": 99.0},
    {"scale": "quantile"},
    {"missing": "native", "scale": "quantile", "indicator": True, "monotone": "decreasing"},
]


def agrees(feature: Feature, fitted: FittedFeature, values: np.ndarray) -> np.ndarray:
    """What a fitted feature gives, after making sure that its graph and its stored form give the same."""
    out = fitted.transform(values)
    assert out.shape == (len(values), len(fitted.names))
    assert np.array_equal(out, in_graph(fitted, values, "float64"), equal_nan=True)
    again = type(feature).restore(json.loads(canonical_json(fitted.state())))
    assert again == fitted
    return out


@pytest.mark.parametrize("training", [TREES, LINEAR], ids=["trees", "linear"])
@pytest.mark.parametrize(
    "feature", [*(Numeric.model_validate(one, strict=False) for one in NUMERIC), Boolean()], ids=repr
)
def test_numbers_are_equal_in_the_graph(feature: Feature, training: Training) -> None:
    generator = np.random.default_rng(1)
    seen = np.concatenate([generator.normal(40, 12, 200).round(1), [np.nan] * 5, [40.0] * 30])
    fitted = feature.fit(column("x"), seen, training)
    edges = [knot[0] for knot in getattr(fitted, "knots", ())] + list(getattr(fitted, "limits", None) or ())
    beside = [np.nextafter(one, to) for one in edges for to in (-np.inf, np.inf)]
    out = agrees(feature, fitted, np.concatenate([ADVERSARIAL, edges, beside, seen]))
    if getattr(feature, "missing", "") not in ("native", "auto"):
        assert not np.isnan(out).any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=30), st.lists(st.floats(), min_size=1, max_size=30), st.data())
def test_any_numbers_are_equal_in_the_graph(seen: list[float], values: list[float], data: st.DataObject) -> None:
    feature = Numeric.model_validate(data.draw(st.sampled_from(NUMERIC)), strict=False)
    fitted = feature.fit(column("x"), np.array(seen), data.draw(st.sampled_from([TREES, LINEAR])))
    agrees(feature, fitted, np.array([*seen, *values]))


def test_what_scaling_leads_beyond_float64_is_the_limit() -> None:
    seen = np.array([0.0, 0.0, 0.0, -1.5e92, -8.3e-217])
    feature = Numeric(missing="constant", fill_value=-1.0, scale="robust")
    out = agrees(feature, feature.fit(column("x"), seen, LINEAR), seen)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("ties", [False, True])
def test_quantiles_are_those_of_scikit_learn(ties: bool) -> None:
    from sklearn.preprocessing import QuantileTransformer

    generator = np.random.default_rng(3)
    seen = generator.integers(0, 7, 500).astype(float) if ties else generator.normal(size=500)
    values = np.concatenate([seen, generator.uniform(-9, 9, 300), [np.inf, -np.inf]])
    ours = Numeric(scale="quantile").fit(column("x"), seen, LINEAR).transform(values)
    theirs = QuantileTransformer(n_quantiles=100, subsample=None).fit(seen.reshape(-1, 1))
    finite = np.clip(values, -1e9, 1e9).reshape(-1, 1)
    assert np.allclose(ours, theirs.transform(finite), atol=1e-6)


def test_robust_scale_is_that_of_scikit_learn() -> None:
    from sklearn.preprocessing import RobustScaler

    seen = np.random.default_rng(3).lognormal(size=301)
    ours = Numeric(scale="robust").fit(column("x"), seen, LINEAR).transform(seen)
    assert np.allclose(ours, RobustScaler().fit_transform(seen.reshape(-1, 1)), atol=1e-6)


def test_what_numbers_become() -> None:
    seen = np.array([0.0, 1.0, 2.0, 3.0, 100.0, np.nan])
    options: Any = {"clip": {"max": 3.0}, "missing": "constant", "fill_value": -7.0, "indicator": True}
    fitted = Numeric.model_validate({**options, "scale": "none"}).fit(column("x"), seen, TREES)
    assert fitted.names == ("x", "x is missing")
    assert fitted.transform(np.array([50.0, np.nan, -2.0])).tolist() == [[3, 0], [-7, 1], [-2, 0]]
    clipped = Numeric.model_validate({"clip": {"quantiles": [0.25, 0.75]}}, strict=False).fit(column("x"), seen, TREES)
    assert clipped.limits == (1.0, 3.0)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("scale", ["none", "standard"])
def test_target_encoding(task: Any, scale: Any) -> None:
    from sklearn.preprocessing import TargetEncoder

    generator = np.random.default_rng(2)
    seen = pl.Series([*generator.choice(["a", "b", "c", MISSING], 300, p=[0.5, 0.3, 0.15, 0.05]).tolist(), "once"])
    y = generator.integers(0, 3 if task == "multiclass" else 2, 301) | (seen == "b").to_numpy()
    y = y * 1.5 if task == "regression" else y
    training = Training(Preference("native", scale, "ordinal"), y, task, 4 if task == "multiclass" else 2, 7)
    feature = Categorical(encode="target")
    fitted = feature.fit(column("x", "categorical"), seen, training)
    values = pl.Series(["a", "b", MISSING, "once", "never seen", "", "ä"])
    out = fitted.transform(values)
    assert np.array_equal(out, in_graph(fitted, values.to_numpy(), "string"))
    assert Categorical.restore(json.loads(canonical_json(fitted.state()))) == fitted
    known = TargetEncoder(target_type="continuous" if task == "regression" else task)
    theirs = known.fit(np.array([seen.to_list()]).T, y)
    expected = theirs.transform(np.array([values.to_list()]).T)
    if scale == "standard":
        plain = theirs.transform(np.array([seen.to_list()]).T)
        expected = (expected - plain.mean(axis=0)) / plain.std(axis=0)
    assert np.allclose(out, expected, atol=1e-6)
    crossed = feature.training_values(fitted, seen, training)
    assert np.array_equal(crossed, feature.training_values(fitted, seen, training))
    # The one row of "once" gets what rows that are not its own say: as much as of what was never seen.
    assert abs(crossed[-1] - fitted.transform(pl.Series(["never seen"]))[0]).max() < 0.2
    assert np.corrcoef(crossed[:, 0], fitted.transform(seen)[:, 0])[0, 1] > 0.5


def test_target_encoding_of_noise_tells_a_model_nothing() -> None:
    generator = np.random.default_rng(0)
    seen, y = pl.Series(generator.integers(0, 300, 600).astype(str)), generator.integers(0, 2, 600)
    feature, training = Categorical(encode="target", max_categories=300), Training(TREES.prefers, y, "binary")
    fitted = feature.fit(column("x", "categorical"), seen, training)
    naive = np.corrcoef(fitted.transform(seen)[:, 0], y)[0, 1]
    crossed = np.corrcoef(feature.training_values(fitted, seen, training)[:, 0], y)[0, 1]
    assert naive > 0.5
    assert abs(crossed) < 0.15


def auc(values: np.ndarray, y: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, values[:, 0]))


def test_target_encoding_tells_no_row_of_its_group_or_its_future() -> None:
    feature, persons = Categorical(encode="target", max_categories=300), np.repeat(np.arange(100), 5)
    seen = pl.Series([f"p{one}" for one in persons])
    y = np.random.default_rng(1).integers(0, 2, 100)[persons]
    alone = Training(TREES.prefers, y, "binary")
    grouped = Training(TREES.prefers, y, "binary", folding=Folding(method="group", column="__group__"), key=persons)
    fitted = feature.fit(column("x", "categorical"), seen, alone)
    assert auc(feature.training_values(fitted, seen, alone), y) > 0.95
    assert auc(feature.training_values(fitted, seen, grouped), y) < 0.6
    # One group: nothing may encode it.
    one = Training(TREES.prefers, y, "binary", folding=grouped.folding, key=np.zeros(500, dtype=np.int64))
    assert len(np.unique(feature.training_values(fitted, seen, one))) == 1


def test_target_encoding_of_times_knows_earlier_rows_only() -> None:
    generator = np.random.default_rng(4)
    seen, times = pl.Series(generator.choice(["a", "b"], 300)), generator.permutation(300)
    y = generator.normal(size=300) + (seen == "a").to_numpy()
    feature, folding = Categorical(encode="target"), Folding(method="time", column="__time__")

    def told(y: np.ndarray) -> np.ndarray:
        training = Training(TREES.prefers, y, "regression", folding=folding, key=times)
        return feature.training_values(feature.fit(column("x", "categorical"), seen, training), seen, training)

    later = np.where(times >= 200, y + 100, y)
    passed, first = (times >= 50) & (times < 200), times < 50
    assert np.array_equal(told(y)[passed], told(later)[passed])
    assert len(np.unique(told(y)[first])) == 1
    assert len(np.unique(told(y)[passed])) > 2


@pytest.mark.parametrize("rare", [3, 0.3])
def test_rare_and_unseen_share_a_column(rare: Any) -> None:
    seen = pl.Series(["a"] * 5 + ["b"] * 4 + ["c"])
    fitted = Categorical(encode="onehot", min_frequency=rare).fit(column("x", "categorical"), seen, LINEAR)
    assert fitted.names == ("x=a", "x=b", "x: other")
    values = pl.Series(["a", "b", "c", "never seen", MISSING])
    out = fitted.transform(values)
    assert out.argmax(axis=1).tolist() == [0, 1, 2, 2, 2]
    assert (out.sum(axis=1) == 1).all()
    assert np.array_equal(out, in_graph(fitted, values.to_numpy(), "string"))
    assert Categorical.restore(fitted.state()) == fitted
    codes = Categorical(encode="ordinal", min_frequency=rare).fit(column("x", "categorical"), seen, LINEAR)
    assert codes.transform(values).ravel().tolist() == [0, 1, -1, -1, -1]
    few = Categorical(encode="onehot", min_frequency=100).fit(column("x", "categorical"), seen, LINEAR)
    assert few.names == ("x=a", "x: other")


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
