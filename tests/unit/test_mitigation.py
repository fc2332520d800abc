"""Training rows that are weighed, and what is told of what that did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.errors import StageFailed
from specml.mitigation import reweighed
from specml.spec import Spec
from tests.conftest import problem_of, run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_weights_are_those_of_the_paper() -> None:
    """Kamiran & Calders 2012, example 3: ten applicants, five of each sex; four men and two women are hired."""
    sex = np.array(["m"] * 5 + ["f"] * 5, dtype=object)
    hired = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0])
    weights = reweighed([sex], hired, None)
    told = {("m", 1): 0.75, ("m", 0): 2.0, ("f", 1): 1.5, ("f", 0): 2 / 3}
    assert weights == pytest.approx([told[one, y] for one, y in zip(sex, hired.tolist(), strict=True)])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3), st.booleans(), st.booleans())
def test_group_and_label_are_independent_under_the_weights(seed: int, k: int, two: bool, weighed: bool) -> None:
    generator = np.random.default_rng(seed)
    n = 200
    y = generator.integers(0, k, n)
    groups = [np.array(["a", "b", "c"], dtype=object)[(y + generator.integers(0, 2, n)) % 3]]
    if two:
        groups.append(np.array(["x", "y"], dtype=object)[generator.integers(0, 2, n)])
    before = generator.random(n) + 0.1 if weighed else np.ones(n)
    after = reweighed(groups, y, before if weighed else None)
    keys = ["|".join(one) for one in zip(*groups, strict=True)]
    table = pl.DataFrame({"g": keys, "y": y, "before": before, "after": after})
    cells = {(g, c): w for g, c, w in table.group_by("g", "y").agg(pl.col("after").sum()).iter_rows()}
    for part in ("g", "y"):
        sums = table.group_by(part).agg(pl.col("before").sum(), pl.col("after").sum())
        if len(cells) == k * table["g"].n_unique():
            assert sums["after"].to_numpy() == pytest.approx(sums["before"].to_numpy())
    whole = {one: dict(table.group_by(one).agg(pl.col("before").sum()).iter_rows()) for one in ("g", "y")}
    for (g, c), w in cells.items():
        assert w == pytest.approx(whole["g"][g] * whole["y"][c] / before.sum())
    assert (after > 0).all()


def test_what_weighs_nothing_stays_so() -> None:
    weights = reweighed([np.array(["a", "a", "b"], dtype=object)], np.array([0, 1, 1]), np.array([0.0, 1.0, 2.0]))
    assert weights.tolist() == [0.0, 1.0, 2.0]


def applicants(folder: Path, n: int = 1200) -> None:
    """Rows of which one group is hired more often, with a column that tells of the group."""
    generator = np.random.default_rng(3)
    group = generator.integers(0, 2, n)
    skill = generator.normal(size=n)
    stands_for = group + generator.normal(scale=0.4, size=n)
    y = generator.random(n) < 1 / (1 + np.exp(-(1.2 * skill + 1.8 * group - 1.5)))
    columns = {"skill": skill, "stands_for": stands_for, "group": np.where(group, "a", "b")}
    pl.DataFrame({**columns, "y": np.where(y, "yes", "no")}).write_csv(folder / "rows.csv")


def hiring(**changes: Any) -> Spec:
    """A spec over these rows."""
    return Spec.model_validate({
        "name": "hiring",
        "problem": {
            "task": "binary", "target": "y", "positive_class": "yes", "feasibility": {"learning_curve": False},
            "decision": {"threshold": "auto"},
        },
        "data": {
            "sources": {"rows": {"type": "csv", "path": "rows.csv"}},
            "columns": {"group": {"role": "protected"}},
        },
        "candidates": {"line": {"type": "logistic_regression"}},
        "search": {"folds": 3},
        "selection": {"calibration": "sigmoid"},
        **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The project as it is, and with weights."""
    found = {}
    for name, mitigation in (("without", {}), ("with", {"reweighing": {"by": ("group",)}})):
        found[name] = tmp_path_factory.mktemp(name)
        applicants(found[name])
        run_stages(hiring(mitigation=mitigation), found[name])
    return found


def read(folder: Path, path: str) -> dict[str, Any]:
    return dict(json.loads((folder / path).read_text()))


def test_the_side_with_weights_is_the_model_that_was_chosen(both: dict[str, Path]) -> None:
    told, choice = (read(both["with"], f"artifacts/{path}") for path in ("compare/groups.json", "select/choice.json"))
    assert told["with"]["threshold"] == choice["threshold"]
    train = pl.read_parquet(both["with"] / "artifacts/prepare/train.parquet")
    assert told["rows"] == train.height
    assert {name: one["n"] for name, one in told["with"]["groups"].items()} == {
        f"group={name}": n for name, n in train["group"].value_counts().iter_rows()
    }


def test_the_side_without_is_what_the_folds_say_where_nothing_is_weighed(both: dict[str, Path]) -> None:
    told, choice = (read(both["with"], f"artifacts/{path}") for path in ("compare/groups.json", "select/choice.json"))
    other = read(both["without"], "artifacts/select/choice.json")
    assert told["without"]["threshold"] == other["threshold"] != choice["threshold"]
    row = other["leaderboard"][0]
    assert told["without"]["metric"]["value"] == pytest.approx(row["mean"], abs=0.01)


def test_a_mean_of_several_is_compared_with_the_mean_of_the_same(tmp_path: Path) -> None:
    applicants(tmp_path, 500)
    candidates = {"line": {"type": "logistic_regression"}, "trees": {"type": "extra_trees", "n_estimators": 20}}
    asked = hiring(
        candidates=candidates, selection={"ensemble": "greedy"}, mitigation={"reweighing": {"by": ("group",)}}
    )
    run_stages(asked, tmp_path, until="compare")
    told, choice = (read(tmp_path, f"artifacts/{path}") for path in ("compare/groups.json", "select/choice.json"))
    assert set(choice["members"]) == {"line", "trees"}
    assert told["with"]["threshold"] == choice["threshold"]
    assert told["without"]["threshold"] != choice["threshold"]


def test_weights_bring_the_groups_nearer(both: dict[str, Path]) -> None:
    told = read(both["with"], "artifacts/compare/groups.json")
    without, weighed = (told[side]["ratios"]["group"]["selection_rate"] for side in ("without", "with"))
    assert weighed["value"] > without["interval"]["high"]
    rates = [one["selection_rate"] for one in told["with"]["groups"].values()]
    assert weighed["value"] == pytest.approx(
        min(one["value"] for one in rates) / max(one["value"] for one in rates), abs=1e-9
    )


def test_the_card_tells_both_sides_and_calls_nothing_fair(both: dict[str, Path]) -> None:
    card = (both["with"] / "artifacts/release/card.md").read_text()
    told = read(both["with"], "artifacts/compare/groups.json")
    one = told["without"]["groups"]["group=b"]["true_positive_rate"]
    end = one["interval"]
    assert f"{one['value']:.3f} ({end['low']:.3f} to {end['high']:.3f})" in card
    assert "Training rows are weighed so that label and group (group) are independent" in card
    assert not any(word in card.lower() for word in ("debias", "unbias", " fair"))
    assert "### Mitigation" not in (both["without"] / "artifacts/release/card.md").read_text()


def test_the_weights_are_no_part_of_what_judges(both: dict[str, Path]) -> None:
    """The scores on the folds are those of the rows as they are."""
    from sklearn.metrics import roc_auc_score

    from specml.data import Layout
    from specml.stages.cross_validation import folds

    folder = both["with"]
    layout = Layout.model_validate_json((folder / "artifacts/prepare/layout.json").read_bytes())
    train = pl.read_parquet(folder / "artifacts/prepare/train.parquet")
    y, p = train["y"].to_numpy(), np.load(folder / "artifacts/train/line/out_of_fold.npy")
    told = read(folder, "artifacts/train/line/cross_validation.json")["folds"]
    found = [roc_auc_score(y[rows], p[rows]) for _, rows in folds(hiring(), layout, train)]
    assert told == pytest.approx(found)


def test_the_comparison_hangs_on_what_it_reads_alone() -> None:
    """Thresholds by group fit nothing again: another feature changes the comparison by the candidates' files alone."""
    from specml.stages.compare import declare

    weighed = hiring(mitigation={"reweighing": {"by": ("group",)}})
    again = set(declare(weighed).params) - set(declare(hiring(mitigation={"group_thresholds": {"by": "group"}})).params)
    assert again == {"features", "plugins"}
    assert {"search", "selection"}.isdisjoint(declare(weighed).params)


TEXT = """
name: hiring
problem: {task: TASK, target: y}
data:
  sources: {rows: {type: csv, path: rows.csv}}
  columns: {group: {role: ROLE}, age: {role: feature}}
mitigation: {reweighing: {by: [BY]}}
candidates: {one: dummy}
"""


@pytest.mark.parametrize(
    ("task", "role", "by", "key", "what"),
    [
        ("binary", "protected", "age", ".by.0", "'age', which is no protected column"),
        ("binary", "protected, use: audit_only", "group", ".by.0", "'group', which is audit_only"),
        ("binary", "protected", "group, group", ".by.1", "names 'group' twice"),
        ("regression", "protected", "group", "", "has no effect on a regression problem"),
    ],
)
def test_weights_that_can_not_be_are_refused(
    tmp_path: Path, task: str, role: str, by: str, key: str, what: str
) -> None:
    problem = problem_of(tmp_path, TEXT.replace("TASK", task).replace("ROLE", role).replace("BY", by))
    assert problem.key == f"mitigation.reweighing{key}"
    assert what in problem.what


def asked_for(**changes: Any) -> Any:
    from specml.mitigation import GroupThresholds

    return GroupThresholds.model_validate({"by": "group", "min_group_size": 1, **changes})


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.sampled_from(["selection_rate_ratio", "true_positive_rate_ratio"]),
    st.integers(0, 1),
    st.sampled_from(["costs", "auto", 0.3]),
)
def test_no_thresholds_within_the_ratio_are_worth_more(
    seed: int, least: float, metric: str, favourable: int, by: Any
) -> None:
    """Every pair of cuts is tried."""
    from specml.stages.group_thresholds import group_thresholds
    from specml.stages.threshold import threshold

    generator = np.random.default_rng(seed)
    n = 24
    y, groups = generator.integers(0, 2, n), np.array(["a", "b"], dtype=object)[np.arange(n) % 2]
    y[:4] = [0, 0, 1, 1]
    scores = np.round(np.clip(0.5 + 0.3 * (y - 0.5) + generator.normal(scale=0.3, size=n), 0.02, 0.98) * 64) / 64
    problem = hiring().problem.model_copy(update={"costs": None})
    costs = {"false_negative": 5.0, "false_positive": 2.0}
    problem = type(problem).model_validate(
        {**problem.model_dump(), "decision": {"threshold": by}, "costs": costs if by == "costs" else None}
    )
    cut, _ = threshold(problem, y, scores, None)
    found = group_thresholds(
        asked_for(min=least, metric=metric),
        problem,
        y,
        scores,
        None,
        groups=groups,
        favourable=favourable,
        threshold=cut,
    )
    hit, alarm = {"costs": (5.0, 2.0), "auto": (1 / y.mean(), 1 / (1 - y.mean()))}.get(by, (0.7, 0.3))

    def judged(cuts: dict[str, float]) -> tuple[float, float]:
        """The ratio of the rates, and what the decisions are worth."""
        positive = scores >= np.array([cuts[one] for one in groups])
        over = np.ones(n, dtype=bool) if metric.startswith("selection") else y == favourable
        rates = [(positive == favourable)[over & (groups == one)].mean() for one in "ab"]
        worth = float(np.where(y == 1, hit, -alarm)[positive].sum())
        return (min(rates) / max(rates) if max(rates) else 0.0), worth

    ratio, worth = judged(found["thresholds"])
    assert ratio >= least - 1e-9
    assert found["ratio"] == pytest.approx(ratio)
    own = {one: [*np.unique(scores[groups == one]), 2.0] for one in "ab"}
    every = [judged({"a": a, "b": b}) for a in own["a"] for b in own["b"]]
    assert worth == pytest.approx(max(w for r, w in every if r >= least - 1e-9))


def test_small_groups_keep_the_threshold_of_all_rows_and_too_few_are_refused() -> None:
    from specml.errors import StageFailed
    from specml.stages.group_thresholds import group_thresholds

    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 300)
    scores, groups = generator.random(300), np.array(["a"] * 150 + ["b"] * 145 + ["c"] * 5, dtype=object)
    told = {"groups": groups, "favourable": 1, "threshold": 0.5}
    found = group_thresholds(asked_for(min_group_size=100), hiring().problem, y, scores, None, **told)
    assert set(found["thresholds"]) == {"a", "b"}
    assert found["small"] == ["c"]
    with pytest.raises(StageFailed, match="1 groups of 'group' have 150 rows"):
        group_thresholds(asked_for(min_group_size=150), hiring().problem, y, scores, None, **told)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a threshold for each group."""
    folder = tmp_path_factory.mktemp("grouped")
    applicants(folder)
    run_stages(hiring(mitigation={"group_thresholds": {"by": "group", "min": 0.9}}), folder)
    return folder


def test_thresholds_by_group_are_in_the_graph(grouped: Path) -> None:
    from specml.bundle import open_bundle, predict
    from specml.data import MISSING, feature_array

    opened = open_bundle(grouped / "artifacts/bundle")
    contract, told = opened.contract, read(grouped, "artifacts/select/choice.json")["group_thresholds"]
    assert contract.group_thresholds is not None
    assert contract.group_thresholds.thresholds == told["thresholds"]
    assert [one.name for one in contract.inputs][-1] == "group"
    test = pl.read_parquet(grouped / "artifacts/prepare/test.parquet")
    inputs = {one.name: feature_array(test, one) for one in contract.inputs}
    for changed in (None, "a", "b", "never seen", MISSING):
        if changed is not None:
            inputs["group"] = np.full(test.height, changed, dtype=object)
        outputs = predict(opened.session(), inputs)
        p = outputs["probabilities"][:, 1]
        cuts = np.array([told["thresholds"].get(one, contract.threshold) for one in inputs["group"]], np.float32)
        assert outputs["label"].tolist() == ["yes" if yes else "no" for yes in p >= cuts]
        decided = contract.decide(outputs["probabilities"], inputs["group"])
        assert [("no", "yes")[one] for one in decided] == outputs["label"].tolist()
    assert read(grouped, "artifacts/validate/verdicts.json")["gates"]["parity"]["outcome"] == "holds"


def test_a_request_must_say_its_group(grouped: Path) -> None:
    from specml.bundle import open_bundle
    from specml.serving.refusal import Refused
    from specml.serving.request import named

    contract = open_bundle(grouped / "artifacts/bundle").contract
    with pytest.raises(Refused, match="group"):
        named([{"skill": 0.5, "stands_for": 1.0}], contract)
    assert named([{"skill": 0.5, "stands_for": 1.0, "group": "a"}], contract).columns["group"].tolist() == ["a"]


def test_the_group_moves_no_probability(grouped: Path) -> None:
    told = read(grouped, "artifacts/validate/importance.json")
    assert told["method"] == "linear"
    assert told["importance"]["group"] == 0.0
    assert told["importance"]["skill"] > 0


def test_both_sides_of_thresholds_by_group_are_told(grouped: Path, both: dict[str, Path]) -> None:
    told, choice = (read(grouped, f"artifacts/{path}") for path in ("compare/groups.json", "select/choice.json"))
    assert told["without"]["ratios"]["group"]["selection_rate"]["value"] < 0.9
    assert told["with"]["ratios"]["group"]["selection_rate"]["value"] == pytest.approx(
        choice["group_thresholds"]["ratio"], abs=1e-6
    )
    assert told["with"]["metric"] == told["without"]["metric"]
    card = (grouped / "artifacts/release/card.md").read_text()
    assert "Each group has a threshold of its own, and a row is asked for its group; group: a 0." in card
    assert "group_thresholds" not in read(both["with"], "artifacts/bundle/contract.json")


def test_a_champion_that_asks_for_the_group_is_comparable_while_the_rows_have_it(grouped: Path) -> None:
    from specml.bundle import open_bundle
    from specml.data import Layout
    from specml.stages.champion import unfit

    contract = open_bundle(grouped / "artifacts/bundle").contract
    layout = Layout.model_validate_json((grouped / "artifacts/prepare/layout.json").read_bytes())
    assert unfit(contract, layout) == ""
    gone = layout.model_copy(update={"protected": (), "groups": {}})
    assert unfit(contract, gone) == "the rows have no longer group, which it needs."


GROUPED = """
name: hiring
problem: {task: binary, target: y, positive_class: yes!, DECISION}
data:
  sources: {rows: {type: csv, path: rows.csv}}
  columns: {group: {role: protected, MORE}, age: {role: feature}}
mitigation: {group_thresholds: {by: BY}}
candidates: {one: dummy}
"""


@pytest.mark.parametrize(
    ("decision", "more", "by", "key", "what"),
    [
        ("goal: x", "dtype: category", "age", ".by", "'age', which is no protected column"),
        ("goal: x", "use: audit_only", "group", ".by", "no decision may hang on it"),
        ("goal: x", "groups: {a: [b]}", "group", ".by", "which has groups"),
        ("decision: {abstain_band: [0.4, 0.6]}", "dtype: category", "group", "", "can't stand beside"),
        ("decision: {threshold: auto, metric: f1}", "dtype: category", "group", "", "no sum over groups"),
    ],
)
def test_thresholds_by_group_that_can_not_be_are_refused(
    tmp_path: Path, decision: str, more: str, by: str, key: str, what: str
) -> None:
    text = GROUPED.replace("DECISION", decision).replace("MORE", more).replace("BY", by)
    problem = problem_of(tmp_path, text)
    assert problem.key == f"mitigation.group_thresholds{key}"
    assert what in problem.what


def test_groups_that_no_number_of_a_request_is_called_are_refused() -> None:
    from specml.stages.select import _refuse_unaskable

    _refuse_unaskable("sex", ["0", "1", "2.5", "Female", "nan"])
    with pytest.raises(StageFailed, match=r"as 0\.0\."):
        _refuse_unaskable("sex", ["0.0", "1.0"])


def test_of_several_classes_reweighing_is_told_which_is_wanted() -> None:
    spec = spec_of(
        problem={"task": "multiclass", "target": "y"},
        data={"sources": {"rows": {"type": "csv", "path": "rows.csv"}}, "columns": {"sex": {"role": "protected"}}},
        mitigation={"reweighing": {"by": ["sex"]}},
    )
    assert any("a person wants" in one.what for one in spec.contradictions())
