"""Each method of explanation against the definition, or the library that it stands on."""

from __future__ import annotations

import io
import json
import re
from itertools import combinations, permutations
from math import factorial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml import booster, shapley
from specml.bundle import BundleError, open_bundle, predict
from specml.candidates.lightgbm import LightGBM
from specml.candidates.logistic_regression import LogisticRegression
from specml.candidates.random_forest import RandomForest
from specml.candidates.ridge import Ridge
from specml.candidates.tabular_mlp import TabularMlp
from specml.cli import exit_status
from specml.cli.explain import lines
from specml.data import Column
from specml.explain import explainer
from specml.files import canonical_json, digest
from tests.bundles import Trained, trained_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.data import Task

OLD = Path(__file__).parent / "bundles" / "protocol_1"


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_boosted_trees_are_explained_by_pred_contrib(task: Task, tmp_path: Path) -> None:
    one = trained_bundle(tmp_path / "bundle", LightGBM(n_estimators=30), task)
    found = explainer(one.bundle)(one.rows())
    told = one.model.booster.predict(one.seen(), pred_contrib=True)  # type: ignore[attr-defined]
    told = told.reshape(40, -1, 5)  # ordinal codes: the design has a column for each input
    assert np.array_equal(found.contributions, told[:, :, :-1])
    assert np.array_equal(found.base, told[0, :, -1])


@pytest.mark.parametrize(
    ("candidate", "task"),
    [(Ridge(), "regression"), (LogisticRegression(), "binary"), (LogisticRegression(), "multiclass")],
)
def test_a_linear_model_is_explained_by_its_coefficients(candidate: Any, task: Task, tmp_path: Path) -> None:
    one = trained_bundle(tmp_path / "bundle", candidate, task)
    model: Any = one.model
    X, center = one.seen().astype(np.float64), one.seen(500).astype(np.float64).mean(axis=0)
    found = explainer(one.bundle)(one.rows())
    widths = one.bundle.contract.explained.widths
    assert widths == (1, 1, 4, 1)
    for k in range(len(model.coef)):
        single = (X - center) * model.coef[k]
        summed = np.stack([single[:, 0], single[:, 1], single[:, 2:6].sum(axis=1), single[:, 6]], axis=1)
        np.testing.assert_allclose(found.contributions[:, k], summed, atol=1e-12)
    np.testing.assert_allclose(found.base, center @ model.coef.T + model.intercept, atol=1e-12)


def interplay(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Two outputs whose columns depend on each other; one column is text, one has gaps."""
    names = sorted(name for name in columns if name.startswith("x"))
    x = np.stack([np.nan_to_num(columns[name], nan=3.0) for name in names], axis=1)
    red = (columns["color"] == "red") * 1.0
    first = x[:, 0] * x[:, 1] + red * x[:, -1] + np.sin(x).prod(axis=1)
    return np.stack([1 / (1 + np.exp(-first)), x.sum(axis=1) ** 2 * red], axis=1)


def case(numbers: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    generator = np.random.default_rng(numbers)
    made = []
    for n in (3, 16):
        columns: dict[str, np.ndarray] = {f"x{i:02}": generator.normal(size=n) for i in range(numbers)}
        columns["x00"][n // 2] = np.nan
        made.append({**columns, "color": generator.choice(np.array(["red", "blue"], dtype=object), n)})
    return made[0], made[1]


def by_definition(answer: Callable[..., Any], row: dict[str, Any], reference: dict[str, Any]) -> np.ndarray:
    """Shapley's sum over every group of columns, one group at a time."""
    names = list(row)
    d, m = len(names), len(reference[names[0]])

    def worth(group: tuple[str, ...]) -> Any:
        return answer({n: np.repeat(row[n], m) if n in group else reference[n] for n in names}).mean(axis=0)

    found = []
    for name in names:
        others = [other for other in names if other != name]
        total: Any = 0.0
        for size in range(d):
            weight = factorial(size) * factorial(d - size - 1) / factorial(d)
            for group in combinations(others, size):
                total = total + weight * (worth((*group, name)) - worth(group))
        found.append(total)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("numbers", [2, 3, 7])
def test_few_columns_get_their_shapley_values(numbers: int) -> None:
    rows, reference = case(numbers)
    base, found = shapley.shapley(interplay, rows, reference, shapley.EVALUATIONS)
    for i in range(3):
        expected = by_definition(interplay, {n: values[i : i + 1] for n, values in rows.items()}, reference)
        np.testing.assert_allclose(found[i], expected, atol=1e-12)
    np.testing.assert_allclose(base + found.sum(axis=2), interplay(rows), atol=1e-12)


def test_captum_given_every_order_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, reference = case(4)
    _, exact = shapley.shapley(interplay, rows, reference, shapley.EVALUATIONS)
    monkeypatch.setattr(shapley, "_orders", lambda d, _: (list(one) for one in permutations(range(d))))
    _, sampled = shapley.shapley(interplay, rows, reference, 1)
    np.testing.assert_allclose(sampled, exact, atol=1e-5)


def test_many_columns_are_sampled_and_still_add_up() -> None:
    rows, reference = case(11)
    _, exact = shapley.shapley(interplay, rows, reference, 10**6)
    base, sampled = shapley.shapley(interplay, rows, reference, shapley.EVALUATIONS)
    scale = np.abs(exact).max(axis=(0, 2))
    assert np.abs(sampled - exact).max(axis=(0, 2)) / scale == pytest.approx(0.0, abs=0.2)
    assert (np.abs(sampled - exact).max(axis=(0, 2)) > 0).all()
    np.testing.assert_allclose(base + sampled.sum(axis=2), interplay(rows), atol=1e-4)


def test_a_forest_that_is_too_large_for_its_text_is_explained_by_captum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booster, "MOST_LEAVES", 100)
    one = trained_bundle(tmp_path / "bundle", RandomForest(n_estimators=20), "binary", extra=8)
    assert one.bundle.contract.explained.method == "shapley"
    rows = one.rows(5)
    found = explainer(one.bundle)(rows)
    np.testing.assert_allclose(found.total[:, 0], one.model.predict(one.seen(5)), atol=1e-5)
    moves = np.abs(found.contributions[:, 0]).mean(axis=0)
    assert moves[:4].mean() > 3 * moves[4:].mean()


def score_of(one: Trained) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """What the network of a bundle says before sigmoid or softmax, as a function of columns."""
    import torch

    network, session = one.model.network, one.bundle.design_session()  # type: ignore[attr-defined]

    def score(columns: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            design = torch.from_numpy(predict(session, columns)["design"])
            return np.asarray(network.score(network.embed(design)).double().numpy())

    return score


@pytest.mark.parametrize(("hidden", "within"), [((), 1e-5), ((16,), 0.03)])
def test_a_network_gets_about_its_shapley_values(hidden: tuple[int, ...], within: float, tmp_path: Path) -> None:
    """Without hidden layers the score is a sum over the columns, and they are exact."""
    one = trained_bundle(tmp_path / "bundle", TabularMlp(hidden=hidden, epochs=4), "multiclass")
    rows = one.rows(8)
    reference = shapley.references(one.bundle.contract.inputs, one.bundle.reference["columns"])
    base, exact = shapley.shapley(score_of(one), rows, reference, shapley.EVALUATIONS)
    found = explainer(one.bundle)(rows)
    np.testing.assert_allclose(found.base, base, atol=1e-5)
    assert np.abs(found.contributions - exact).max() < within * np.abs(exact).max()
    np.testing.assert_allclose(found.total, score_of(one)(rows), atol=1e-5)


def test_a_network_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    one = trained_bundle(folder, TabularMlp(hidden=(4,), epochs=1), "regression")
    network = one.model.network  # type: ignore[attr-defined]
    from specml.network import Network

    good = network.to_bytes()
    packed, buffer = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, zeros=np.zeros(1_000_000))
    with np.load(io.BytesIO(good)) as arrays:
        shape = json.loads(arrays["shape"].tobytes())
        larger = np.frombuffer(json.dumps({**shape, "hidden": [10**9]}).encode(), dtype=np.uint8)
        np.savez(buffer, **{**{name: arrays[name] for name in arrays.files}, "shape": larger})
        texts = io.BytesIO()
        np.savez(texts, **{name: arrays[name] if name == "shape" else np.array(["x"]) for name in arrays.files})
        wide = io.BytesIO()
        vectors = {**shape, "embedding": 10**9, "cardinalities": [3, *shape["cardinalities"][1:]]}
        np.savez(wide, shape=np.frombuffer(json.dumps(vectors).encode(), dtype=np.uint8))
    kept = network.shape
    deep = Network(kept.model_copy(update={"hidden": (1,) * 65})).to_bytes()
    uneven = Network(kept.model_copy(update={"cardinalities": kept.cardinalities[:-1]})).to_bytes()
    for raw in (b"", good[:-30], packed.getvalue(), buffer.getvalue(), texts.getvalue(), wide.getvalue(), deep, uneven):
        vouched(folder, "network.npz", raw)
        with pytest.raises(BundleError, match="is no network"):
            explainer(open_bundle(folder))
    lists = ("cardinalities", "bins", "flagged")
    for other in ({name: getattr(kept, name)[:-1] for name in lists}, {"outputs": 2}):
        vouched(folder, "network.npz", Network(kept.model_copy(update=other)).to_bytes())
        with pytest.raises(BundleError, match="does not fit"):
            explainer(open_bundle(folder))


def test_what_a_row_costs_has_a_bound() -> None:
    asked = []

    def answer(columns: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(len(columns["color"]))
        return columns["x00"][:, None] * 0.0

    for numbers, most in ((7, 4096), (20, 4096), (60, 4096), (199, 2 * 16 * 200)):
        rows, reference = case(numbers)
        asked.clear()
        shapley.shapley(answer, {n: values[:1] for n, values in rows.items()}, reference, shapley.EVALUATIONS)
        assert sum(asked) <= most + 32, numbers
        assert max(asked) <= 4096, numbers


def test_no_reference_row_is_a_persons() -> None:
    """Numbers stand between the quantiles that reference.json tells, categories come by their shares."""
    columns = [
        Column(name="age", kind="numeric", integral=True),
        Column(name="pay", kind="numeric"),
        Column(name="work", kind="categorical"),
        Column(name="empty", kind="numeric"),
    ]
    described = {
        "age": {"missing": 0.0, "quantiles": list(range(20, 41))},
        "pay": {"missing": 0.25, "quantiles": [i / 10 for i in range(21)]},
        "work": {"missing": 0.25, "shares": {"clerk": 0.5, "nurse": 0.2, "king": 0.001}},
        "empty": {"missing": 1.0, "quantiles": []},
    }
    found = shapley.references(columns, described)
    assert {len(values) for values in found.values()} == {16}
    assert (found["age"] == found["age"].round()).all()
    assert found["age"].mean() == pytest.approx(30.0, abs=0.5)
    assert np.isnan(found["pay"]).sum() == 4
    assert np.nanmin(found["pay"]) > 0.0
    assert np.nanmax(found["pay"]) < 2.0
    kinds = found["work"].tolist()
    assert (kinds.count("__missing__"), kinds.count("clerk"), kinds.count("king")) == (4, 9, 0)
    assert np.isnan(found["empty"]).all()
    with pytest.raises(BundleError, match="does not describe 'age'"):
        shapley.references(columns, {})


def test_a_bundle_of_the_first_protocol_is_read_and_explained() -> None:
    bundle = open_bundle(OLD)
    assert bundle.contract.protocol == 1
    found = explainer(bundle)({"x": np.array([7.0])})
    assert found.base[0] == pytest.approx(10.0, abs=0.1)
    assert found.total[0, 0] == pytest.approx(14.0, abs=1e-5)


SMALL = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=1
feature_names=x0 x1
feature_infos=none none

Tree=0
num_leaves=3
num_cat=0
split_feature=0 1
threshold=0.5 -1.5
decision_type=10 8
left_child=1 -1
right_child=-2 -3
leaf_value=0.1 -0.2 0.3
leaf_count=10 20 30
internal_count=60 40
is_linear=0
shrinkage=1

end of trees
"""

BROKEN = {
    "a column that is not there": (
        "split_feature=0 1",
        "split_feature=0 2",
        "on a column that the design does not have",
    ),
    "a column below all": ("split_feature=0 1", "split_feature=-1 1", "on a column that the design does not have"),
    "a split beyond the list": ("left_child=1 -1", "left_child=2 -1", "its splits form no tree"),
    "a leaf beyond the list": ("right_child=-2 -3", "right_child=-2 -9", "its splits form no tree"),
    "a leaf twice": ("right_child=-2 -3", "right_child=-2 -1", "its splits form no tree"),
    "a split that leads back": ("left_child=1 -1", "left_child=0 -1", "its splits form no tree"),
    "a list that is short": ("threshold=0.5 -1.5", "threshold=0.5", "threshold has 1 entries"),
    "a list that is long": ("leaf_count=10 20 30", "leaf_count=10 20 30 40", "leaf_count has 4 entries"),
    "more leaves": ("num_leaves=3", "num_leaves=4", "split_feature has 2 entries in a tree of 4"),
    "no leaves": ("num_leaves=3", "num_leaves=0", "of no kind that is known"),
    "huge": ("num_leaves=3", "num_leaves=99999999999", "is no whole number"),
    "categories": ("num_cat=0", "num_cat=1", "cat_boundaries has 0 entries for 1 sets"),
    "a categorical split": ("decision_type=10 8", "decision_type=1 8", "a split is of no kind"),
    "linear leaves": ("is_linear=0", "is_linear=1", "of no kind that is known"),
    "no number": ("leaf_value=0.1", "leaf_value=x", "'x' is no finite number"),
    "another spelling of a number": ("leaf_value=0.1", "leaf_value=1_0", "is no finite number"),
    "a leaf that is NaN": ("leaf_value=0.1", "leaf_value=nan", "is no finite number"),
    "a leaf that is infinite": ("leaf_value=0.1", "leaf_value=1e999", "is no finite number"),
    "a threshold that is NaN": ("threshold=0.5", "threshold=nan", "is no finite number"),
    "another shrinkage": ("shrinkage=1", "shrinkage=inf", "is no finite number"),
    "a count too large": ("leaf_count=10", "leaf_count=2147483648", "more than 31 bits"),
    "a negative count": ("internal_count=60", "internal_count=-5", "or is negative"),
    "a child left out": ("left_child=1 -1", "left_child=1 ", "is no whole number"),
    "a line that only LightGBM sees": ("shrinkage=1", "shrinkage=1\rleft_child=50000000", "control characters"),
    "an end that only LightGBM sees": ("shrinkage=1", "shrinkage=1\0", "control characters"),
    "another key": ("shrinkage=1", "shrinkage=1\nleaf_const=1", "it says 'leaf_const'"),
    "a key twice": ("shrinkage=1", "shrinkage=1\nnum_cat=0", "it says 'num_cat', or says it twice"),
    "another version": ("version=v4", "version=v9", "version is not 'v4'"),
    "more classes": ("num_class=1", "num_class=2", "num_class is not '1'"),
    "other names": ("feature_names=x0 x1", "feature_names=x0", "feature_names is not"),
    "no end": ("end of trees\n", "", "does not begin or end as one"),
    "no tree": (SMALL[SMALL.index("Tree=0") : SMALL.index("end of")], "", "0 trees do not give 1"),
    "another number": ("Tree=0", "Tree=5", "called 'Tree=5'"),
    "not ASCII": ("shrinkage=1", "shrinkage=é", "not ASCII text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_booster_that_would_lead_lightgbm_astray_is_refused(name: str) -> None:
    booster.audit(SMALL.encode(), 2, 1)
    before, after, said = BROKEN[name]
    assert before in SMALL
    with pytest.raises(ValueError, match=re.escape(said)):
        booster.audit(SMALL.replace(before, after).encode(), 2, 1)


def vouched(folder: Path, name: str, raw: bytes) -> None:
    """Put another file in, with a manifest that vouches for it."""
    (folder / name).write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"sha256": digest(raw), "bytes": len(raw)}
    (folder / "manifest.json").write_bytes(canonical_json(manifest))


def test_what_explains_is_verified_and_audited(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    trained_bundle(folder, LightGBM(n_estimators=2), "binary")
    good = (folder / "booster.txt").read_bytes()
    (folder / "booster.txt").write_bytes(good[:-1])
    with pytest.raises(BundleError, match="altered or cut short"):
        open_bundle(folder)
    vouched(folder, "booster.txt", SMALL.encode())
    with pytest.raises(BundleError, match="no booster of this bundle"):
        open_bundle(folder)
    vouched(folder, "booster.txt", good)
    vouched(folder, "design.onnx", b"no graph")
    with pytest.raises(BundleError, match="not an ONNX model"):
        open_bundle(folder)
    vouched(folder, "linear.json", b"{}")
    vouched(folder, "design.onnx", (folder / "model.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"explains by tree_shap, which takes booster\.txt and design\.onnx"):
        open_bundle(folder)


def test_numbers_that_do_not_fit_the_design_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    trained_bundle(folder, Ridge(), "regression")
    vouched(folder, "linear.json", canonical_json({"coef": [[1.0]], "intercept": [0.0], "center": [0.0]}))
    with pytest.raises(BundleError, match="does not fit"):
        explainer(open_bundle(folder))
    for raw in (b"{}", b"[]", b"{", b'{"coef": "x", "intercept": [0.0], "center": [0.0]}'):
        vouched(folder, "linear.json", raw)
        with pytest.raises(BundleError, match="holds no linear model"):
            explainer(open_bundle(folder))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert exit_status(["explain", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command_line_tells_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = trained_bundle(tmp_path / "bundle", LightGBM(n_estimators=20), "multiclass")
    one.table.drop("member")[:3].write_csv(tmp_path / "rows.csv")
    bundle = str(tmp_path / "bundle")
    told = run(capsys, str(tmp_path / "rows.csv"), "--bundle", bundle, "--top", "2")
    blocks = told.split("\n\n")
    assert len(blocks) == 3
    for block in blocks:
        head, *moves = block.strip().splitlines()
        assert head.startswith("row ")
        numbers = [float(line.split()[0]) for line in moves]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=3e-4)
        assert "2 other columns" in moves[-2]
    row = '{"age": 70, "pay": null, "work": "clerk", "member": true}'
    answer = json.loads(run(capsys, "--row", row, "--bundle", bundle, "--class", "low", "--json"))
    (only,) = answer["explanations"]
    assert (answer["method"], answer["space"], only["class"]) == ("tree_shap", "score", "low")
    found = explainer(one.bundle)(
        {"age": np.array([70.0]), "pay": np.array([np.nan]), "work": np.array(["clerk"], object), "member": np.ones(1)}
    )
    assert {one["column"]: one["contribution"] for one in only["contributions"]} == dict(
        zip(["age", "pay", "work", "member"], found.contributions[0, 0].tolist(), strict=True)
    )


def test_long_labels_and_odd_paths_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = trained_bundle(tmp_path / "bundle", LogisticRegression(), "binary")
    long = "a label of more than sixty characters, as questionnaires have them"
    (told,) = [{"prediction": {"label": long, "probabilities": {long: 0.75, "no": 0.25}}, "base": 0.0, "total": 0.0}]
    head = next(lines(1, {}, {**told, "contributions": []}, "log_odds", "answer"))
    assert head.endswith("…, with probability 0.750")
    pixel = {**told, "contributions": [{"column": "p3_4", "contribution": 0.5}]}
    for row, said in (({"image": "aGk="}, "p3_4: raises it"), ({}, "p3_4 is missing: raises it")):
        assert list(lines(1, row, pixel, "log_odds", "answer"))[2].endswith(f"  {said}")
    folder = tmp_path / "year=2018"
    folder.mkdir()
    one.table.drop("member")[:1].write_csv(folder / "rows.csv")
    assert exit_status(["explain", str(folder / "rows.csv"), "--bundle", str(tmp_path / "bundle")]) == 0
    captured = capsys.readouterr()
    assert "lacks member: missing in every row" in captured.err
    assert captured.out.startswith("row 1: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--row"),
        (("none.csv",), "is no file"),
        (("--row", "{"), "no JSON"),
        (("--row", "[]"), "no JSON object"),
        (("--row", '{"agee": 1}'), "Did you mean 'age'?"),
        (("--row", '{"age": "x"}'), "takes a number"),
        (("--row", "{}", "--class", "x"), "its classes: 0, 1"),
        (("--row", "{}", "name=other"), "name=other changes a spec"),
        (("year=2018/none.csv",), "name a file of rows"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    arguments: tuple[str, ...], words: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "ridge"
    if not folder.exists():
        trained_bundle(folder, LogisticRegression(), "binary")
    assert exit_status(["explain", *arguments, "--bundle", str(folder)]) in (1, 2)
    assert words in capsys.readouterr().err
