"""Trees of every family in LightGBM's text: the same answers, and the contributions of the definition."""

from __future__ import annotations

import re
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pytest
from scipy.special import expit, softmax

from specml import booster, treeshap
from specml.bundle import open_bundle, predict, write_bundle
from specml.calibration import Sigmoid
from specml.candidates.extra_trees import ExtraTrees
from specml.candidates.hist_gradient_boosting import HistGradientBoosting
from specml.candidates.lightgbm import LightGBM
from specml.candidates.random_forest import RandomForest
from specml.candidates.ridge import Ridge
from specml.data import Design
from specml.explain import explainer
from specml.stages import package
from specml.stages.chosen import Chosen, Member
from specml.trees import Ensemble
from tests.bundles import Trained, trained_bundle
from tests.components.test_candidates import adversarial, made, needs_extra
from tests.unit.test_explain import SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from specml.data import Task
    from specml.kinds import Model, Native

TASKS: list[Task] = ["binary", "multiclass", "regression"]
COLUMNS = 4
FAMILIES = [
    pytest.param(name, options, marks=needs_extra(name), id=f"{name}{'-sets' * bool(options)}")
    for name in ("random_forest", "extra_trees", "lightgbm", "hist_gradient_boosting", "xgboost", "catboost")
    for options in ({}, {"categories": "sets"})
    if not options or name in {"lightgbm", "hist_gradient_boosting"}
]


def drawn(task: Task, n: int = 300, *, weighted: bool = False) -> Design:
    """Numbers with gaps and a category of 40 codes, a third of them never seen."""
    random = np.random.default_rng(4)
    X = random.normal(size=(n, COLUMNS)).astype(np.float32)
    X[:, 1] = np.round(X[:, 1] * 2) / 2
    X[random.random(n) < 0.2, 0] = np.nan
    X[:, 3] = random.choice([-1, *range(0, 40, 3)], n)
    signal = np.nan_to_num(X[:, 0]) * X[:, 2] + X[:, 1] + 2 * np.isin(X[:, 3], [3, 9, 36])
    y = {"binary": (signal > 0.5).astype(int), "multiclass": np.searchsorted([-0.5, 1], signal), "regression": signal}
    weight = random.uniform(0.2, 3, n) if weighted else None
    return Design(X, y[task], weight, task, 3 if task == "multiclass" else 2, (0, 0, 0, 40))


def asked(data: Design) -> np.ndarray:
    """Rows of training and adversarial ones; LightGBM takes a number below 1e-35 for 0."""
    X = np.vstack([data.X, adversarial(data.X, nan=True)])
    X[:, 3] = np.random.default_rng(1).choice([-1, *range(45), np.nan], len(X))
    return np.where(np.abs(X) < 1e-34, 0, X)


def contributions(native: Native, X: np.ndarray, outputs: int) -> np.ndarray:
    """[n, outputs, columns + 1], the base last."""
    booster.audit(native.content, COLUMNS, outputs)
    told = lightgbm.Booster(model_str=native.content.decode()).predict(X, pred_contrib=True, num_threads=1)
    return np.asarray(told).reshape(len(X), outputs, -1)


def answer(native: Native, total: np.ndarray) -> np.ndarray:
    if native.space == "score":
        return np.asarray(softmax(total, axis=1))
    return np.asarray(expit(total)) if native.space == "log_odds" else total


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_contributions_add_up_to_what_the_library_answers(name: str, options: dict[str, Any], task: Task) -> None:
    """Of every row; of XGBoost, which sums in float32, to that."""
    data = drawn(task)
    model: Model = made(name, **options).fit(data, seed=3, threads=1)
    native, X = model.native(), asked(data)
    assert native is not None
    assert native.method == "tree_shap"
    assert (native.space == "probability") == (name in {"random_forest", "extra_trees"} and task != "regression")
    if options:
        assert b"cat_threshold" in native.content
    expected = model.predict(X).reshape(len(X), -1)
    told = answer(native, contributions(native, X, expected.shape[1]).sum(axis=2))
    assert np.abs(told - expected).max() < (1e-5 if name == "xgboost" else 1e-12)


def by_definition(ensemble: Ensemble, x: np.ndarray, covers: dict[tuple[int, int], float]) -> np.ndarray:
    """[width, columns]: Shapley's sum, where a split on an unknown column is taken both ways by the rows of each."""
    places = {key: place for place, key in enumerate(zip(ensemble.tree, ensemble.node, strict=True))}
    leaves: dict[tuple[int, int], np.ndarray] = {}
    for tree, node, target, value in zip(
        ensemble.leaf_tree, ensemble.leaf_node, ensemble.leaf_target, ensemble.leaf_value, strict=True
    ):
        leaves.setdefault((tree, node), np.zeros(ensemble.width))[target] += value

    def worth(tree: int, node: int, known: tuple[int, ...]) -> Any:
        place = places[tree, node]
        if ensemble.mode[place] == "LEAF":
            return leaves.get((tree, node), np.zeros(ensemble.width))
        below, feature = (ensemble.left[place], ensemble.right[place]), ensemble.feature[place]
        if feature in known:
            if (left := ensemble.sets.get((tree, node))) is not None:
                code = -1 if np.isnan(x[feature]) else int(min(x[feature], len(left) - 2))
                goes_left = bool(left[max(code, -1) + 1])
            elif np.isnan(x[feature]):
                goes_left = bool(ensemble.missing_goes_left[place])
            else:
                goes_left = x[feature] <= ensemble.threshold[place]
            return worth(tree, below[0 if goes_left else 1], known)
        parts = [covers[tree, one] for one in below]
        return sum(part * worth(tree, one, known) for part, one in zip(parts, below, strict=True)) / sum(parts)

    trees = sorted(set(ensemble.tree))
    values = {
        known: sum(worth(tree, 0, known) for tree in trees)
        for size in range(COLUMNS + 1)
        for known in combinations(range(COLUMNS), size)
    }
    told = np.zeros((ensemble.width, COLUMNS))
    for column in range(COLUMNS):
        for known, value in values.items():
            if column not in known:
                weight = factorial(len(known)) * factorial(COLUMNS - len(known) - 1) / factorial(COLUMNS)
                told[:, column] += weight * (values[tuple(sorted((*known, column)))] - value)
    return told


def counted(ensemble: Ensemble) -> dict[tuple[int, int], float]:
    """Rows that came to each node: of a split, those of its two children."""
    found: dict[tuple[int, int], float] = {}
    places = {key: place for place, key in enumerate(zip(ensemble.tree, ensemble.node, strict=True))}

    def count(tree: int, node: int) -> float:
        place = places[tree, node]
        split = ensemble.mode[place] != "LEAF"
        below = (ensemble.left[place], ensemble.right[place])
        found[tree, node] = sum(count(tree, one) for one in below) if split else max(ensemble.cover[place], 1e-9)
        return found[tree, node]

    for tree in set(ensemble.tree):
        count(tree, 0)
    return found


@pytest.mark.parametrize(
    ("candidate", "task"),
    [
        (RandomForest(n_estimators=3, max_depth=5), "multiclass"),
        (ExtraTrees(n_estimators=3, max_depth=4), "binary"),
        (HistGradientBoosting(max_iter=4, categories="sets"), "multiclass"),
        (HistGradientBoosting(max_iter=4), "regression"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_contributions_are_those_of_the_definition(
    candidate: Any, task: Task, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = drawn(task, weighted=weighted)
    taken: list[Ensemble] = []
    native_of = treeshap.native
    monkeypatch.setattr(
        treeshap, "native", lambda ensemble, *rest: (taken.append(ensemble), native_of(ensemble, *rest))[1]
    )
    native = candidate.fit(data, seed=3, threads=1).native()
    (ensemble,), X = taken, asked(data)[280:312]
    assert {"binary": 1, "multiclass": 3, "regression": 1}[task] == ensemble.width
    covers = counted(ensemble)
    told = contributions(native, X, ensemble.width)[:, :, :-1]
    for row, x in zip(told, X, strict=True):
        np.testing.assert_allclose(row, by_definition(ensemble, x, covers), atol=1e-7)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [pytest.param(one, marks=needs_extra(one)) for one in ("xgboost", "catboost")])
def test_contributions_are_those_that_the_library_tells(name: str, task: Task) -> None:
    data = drawn(task)
    model: Any = made(name).fit(data, seed=3, threads=1)
    k = 3 if task == "multiclass" else 1
    if name == "xgboost":
        import xgboost

        one = xgboost.Booster({"nthread": 1})
        one.load_model(bytearray(model.raw))
        theirs = one.predict(xgboost.DMatrix(data.X), pred_contribs=True)
    else:
        import catboost

        theirs = model._booster.get_feature_importance(catboost.Pool(data.X), type="ShapValues")
    told = contributions(model.native(), data.X, k)
    np.testing.assert_allclose(told, np.reshape(theirs, told.shape), atol=1e-5)


def test_what_parts_missing_numbers_from_infinite_ones_does_so_in_the_text() -> None:
    ensemble = Ensemble(1)
    ensemble.add_split(0, 0, feature=0, limit=float("inf"), below=(1, 2), missing_left=0)
    ensemble.add_leaf(0, 1, {0: 1.0}, 3)
    ensemble.add_split(0, 2, feature=1, limit=float("-inf"), below=(3, 4), missing_left=1)
    ensemble.add_leaf(0, 3, {0: 2.0})  # no training row came there
    ensemble.add_leaf(0, 4, {0: 4.0}, 2)
    native = treeshap.native(ensemble, "prediction", COLUMNS, [0.5])
    assert native is not None
    X = np.zeros((4, COLUMNS))
    X[:, 0], X[:, 1] = [np.inf, 1e30, np.nan, np.nan], [0, 0, np.nan, 1]
    told = contributions(native, X, 1)
    assert told.sum(axis=2)[:, 0] == pytest.approx([1.5, 1.5, 2.5, 4.5], abs=1e-12)
    assert told[0, 0, -1] == pytest.approx(0.5 + (3 + 8) / 5, abs=1e-6)


def test_trees_that_lightgbm_can_not_say_or_that_are_too_many_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = Ensemble(1)
    ensemble.add_set(0, 0, feature=0, left=np.array([True, False, True, False]), below=(1, 2))
    ensemble.add_leaf(0, 1, {0: 1.0}, 1)
    ensemble.add_leaf(0, 2, {0: 2.0}, 1)
    assert treeshap.native(ensemble, "prediction", COLUMNS) is None
    model = RandomForest(n_estimators=3).fit(drawn("binary"), seed=3, threads=1)
    boosted = LightGBM(n_estimators=3).fit(drawn("binary"), seed=3, threads=1)
    monkeypatch.setattr(booster, "MOST_LEAVES", 5)
    assert model.native() is None
    assert boosted.native() is None


def chain(splits: int, trees: int = 1) -> bytes:
    """Every split has a leaf and the next split."""
    tree = booster.Tree(
        split_feature=[n % COLUMNS for n in range(splits)],
        threshold=[float("inf")] * splits,
        decision_type=[treeshap.NAN] * splits,
        left_child=[*range(1, splits), -splits - 1],
        right_child=[-1 - n for n in range(splits)],
        internal_count=[*range(splits + 1, 1, -1)],
        leaf_value=[float(n) for n in range(splits + 1)],
        leaf_count=[1] * (splits + 1),
    )
    return booster.text([tree] * trees, COLUMNS, 1)


def test_trees_that_are_too_deep_are_neither_told_nor_read() -> None:
    """LightGBM reads and explains the deepest that may be."""
    native = treeshap.told(chain(736), "prediction")
    assert native is not None
    assert contributions(native, np.zeros((1, COLUMNS)), 1).sum() == pytest.approx(736.0)
    assert treeshap.told(chain(737), "prediction") is None
    with pytest.raises(ValueError, match="too deep"):
        booster.audit(chain(737), COLUMNS, 1)
    with pytest.raises(ValueError, match="too deep"):
        booster.audit(chain(600, trees=2), COLUMNS, 1)


def mean_of(one: Trained, two: Trained, folder: Path) -> Chosen:
    """A bundle of the mean of two trained candidates, in ``folder``."""
    members = tuple(Member(each.preprocessing, each.model, weight) for each, weight in ((one, 0.3), (two, 0.7)))
    chosen = Chosen(members)
    explained = chosen.explained()
    assert explained is not None
    contract = one.bundle.contract.model_copy(update={"explanation": package.explanation(*explained)})
    write_bundle(
        folder,
        contract,
        package.build(contract, chosen),
        one.bundle.reference,
        design=package.build_design(explained[0]),
        native=explained[1].content,
    )
    return chosen


@pytest.mark.parametrize(
    ("first", "second", "task"),
    [
        (LightGBM(n_estimators=20), RandomForest(n_estimators=5), "regression"),
        (LightGBM(n_estimators=5), HistGradientBoosting(max_iter=5), "regression"),
        (ExtraTrees(n_estimators=5), RandomForest(n_estimators=5), "multiclass"),
    ],
)
def test_contributions_to_a_mean_of_trees_are_the_mean_of_theirs(
    first: Any, second: Any, task: Task, tmp_path: Path
) -> None:
    """Also where the members treat columns in different ways."""
    one, two = (trained_bundle(tmp_path / name, each, task) for name, each in (("one", first), ("two", second)))
    chosen = mean_of(one, two, tmp_path / "mean")
    opened, rows = open_bundle(tmp_path / "mean"), one.rows()
    assert opened.contract.explained.method == "tree_shap"
    found, parts = explainer(opened)(rows), [explainer(each.bundle)(rows) for each in (one, two)]
    wanted = 0.3 * parts[0].contributions + 0.7 * parts[1].contributions
    np.testing.assert_allclose(found.contributions, wanted, atol=1e-9)
    expected = chosen.predict(one.table[:40]).reshape(40, -1)
    np.testing.assert_allclose(found.total, expected, atol=1e-9)
    told = predict(opened.session(), rows)
    graph = told["prediction"][:, None] if task == "regression" else told["probabilities"]
    np.testing.assert_allclose(found.total, graph, atol=1e-5)


def test_a_mean_of_too_many_leaves_is_explained_by_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [trained_bundle(tmp_path / name, RandomForest(n_estimators=2), "binary") for name in ("one", "two")]
    mean = Chosen(tuple(Member(one.preprocessing, one.model, 0.5) for one in made))
    assert mean.explained() is not None
    native = made[0].model.native()
    assert native is not None
    leaves = sum(int(one) for one in re.findall(rb"num_leaves=(\d+)", native.content))
    monkeypatch.setattr(booster, "MOST_LEAVES", leaves)
    assert made[0].model.native() is not None
    assert mean.explained() is None


def test_a_mean_that_is_not_a_sum_of_contributions_is_explained_by_its_graph(tmp_path: Path) -> None:
    def explained(*candidates: Any, task: Task, calibration: Any = None) -> Any:
        made = [trained_bundle(tmp_path / f"{id(one)}", one, task) for one in candidates]
        members = tuple(Member(one.preprocessing, one.model, 1 / len(made)) for one in made)
        return Chosen(members, calibration).explained()

    booster, forest = LightGBM(n_estimators=5), RandomForest(n_estimators=5)
    assert explained(booster, forest, task="binary") is None  # log-odds
    assert explained(Ridge(), forest, task="regression") is None
    # A calibration is a line in log-odds, which a forest's contributions are not of.
    assert explained(forest, task="binary", calibration=Sigmoid(1.1, 0.2)) is None
    assert explained(booster, task="binary", calibration=Sigmoid(1.1, 0.2)) is not None


SETS = (
    SMALL.replace("num_cat=0", "num_cat=1")
    .replace("threshold=0.5", "threshold=0")
    .replace("decision_type=10", "decision_type=9")
    .replace("is_linear=0", "cat_boundaries=0 2\ncat_threshold=5 4294967295\nis_linear=0")
)
"""The first split by a set."""
ASTRAY = {
    "a set that is not there": ("threshold=0 -1.5", "threshold=1 -1.5", "a split is by a set that the tree does not"),
    "a set below all": ("threshold=0 -1.5", "threshold=-1 -1.5", "a split is by a set that the tree does not"),
    "half a set": ("threshold=0 -1.5", "threshold=0.5 -1.5", "is no whole number"),
    "no sets": ("num_cat=1", "num_cat=0", "cat_boundaries has 2 entries for 0 sets"),
    "more sets than splits": ("num_cat=1", "num_cat=3", "cat_boundaries has 2 entries for 3 sets"),
    "fewer words": ("cat_threshold=5 4294967295", "cat_threshold=5", "do not lie within their words"),
    "words before the first": ("cat_boundaries=0 2", "cat_boundaries=1 2", "do not lie within their words"),
    "a negative word": ("cat_threshold=5 ", "cat_threshold=-5 ", "has more than 32 bits"),
    "a word too long": ("cat_threshold=5 ", "cat_threshold=4294967296 ", "has more than 32 bits"),
}


@pytest.mark.parametrize("name", ASTRAY)
def test_sets_that_would_lead_lightgbm_astray_are_refused(name: str) -> None:
    booster.audit(SETS.encode(), 2, 1)
    before, after, said = ASTRAY[name]
    assert before in SETS
    with pytest.raises(ValueError, match=re.escape(said)):
        booster.audit(SETS.replace(before, after).encode(), 2, 1)


def test_boundaries_of_sets_do_not_go_back() -> None:
    two = SETS.replace("num_cat=1", "num_cat=2").replace("cat_boundaries=0 2", "cat_boundaries=0 5 2")
    with pytest.raises(ValueError, match="do not lie within their words"):
        booster.audit(two.encode(), 2, 1)
