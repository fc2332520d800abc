"""Training rows that are weighed, and what is told of what that did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.errors import SpecmlError
from specml.load import load
from specml.mitigation import reweighed
from specml.spec import Spec
from tests.conftest import run_stages

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
    without, weighed = (told[side]["ratios"]["group"] for side in ("without", "with"))
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
    ("task", "role", "by", "what"),
    [
        ("binary", "protected", "age", "'age', which is no protected column"),
        ("binary", "protected, use: audit_only", "group", "'group', which is audit_only"),
        ("binary", "protected", "group, group", "names 'group' twice"),
        ("regression", "protected", "group", "has no effect on a regression problem"),
    ],
)
def test_weights_that_can_not_be_are_refused(tmp_path: Path, task: str, role: str, by: str, what: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(TEXT.replace("TASK", task).replace("ROLE", role).replace("BY", by))
    with pytest.raises(SpecmlError) as error:
        load(path, [])
    assert what in str(error.value)
    assert "mitigation.reweighing" in str(error.value)
