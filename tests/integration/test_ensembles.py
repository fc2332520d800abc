"""A mean of several candidates is one graph that answers as they do together, on rows of any kind."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from specml.bundle import open_bundle, predict
from specml.data import Layout, feature_array
from specml.explain import explainer
from specml.files import digest, read_json
from specml.stages import STAGES, chosen, package, prepare, select
from specml.stages.work import Work, narrowed
from tests.conftest import run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec

TASKS = ["binary", "multiclass", "regression"]


def table(task: str, n: int = 500) -> pl.DataFrame:
    """Rows of which a line knows a part and trees another."""
    generator = np.random.default_rng(5)
    number, size = generator.normal(50, 10, n), generator.integers(0, 9, n)
    colour, flag = generator.choice(["red", "green", "blau", "ä"], n), generator.random(n) < 0.4
    signal = 0.15 * number + 2 * (colour == "red") + 4 * (size % 3 == 0) * flag + generator.normal(0, 1, n)
    y: Any = signal
    if task != "regression":
        k = 2 if task == "binary" else 3
        index = np.searchsorted(np.quantile(signal, np.linspace(0, 1, k + 1)[1:-1]), signal)
        y = np.array(["no", "yes"] if task == "binary" else ["small", "middle", "large"])[index]
    gaps = generator.random(n) < 0.1
    return pl.DataFrame({
        "number": [None if gap else float(one) for gap, one in zip(gaps, number, strict=True)],
        "size": size,
        "colour": [None if gap else str(one) for gap, one in zip(np.roll(gaps, 3), colour, strict=True)],
        "flag": flag,
        "w": generator.uniform(0.5, 2, n),
        "y": y,
    })  # fmt: skip


def mixed(task: Any, ensemble: str = "greedy") -> Spec:
    """Three families, of which two treat columns alike; their mean is taken wherever it is not behind."""
    problem: dict[str, Any] = {"task": task, "target": "y"}
    if task == "binary":
        problem |= {"positive_class": "yes", "decision": {"threshold": "auto"}}
    return spec_of(
        problem=problem,
        data={"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}, "columns": {"w": {"role": "weight"}}},
        candidates={
            "line": "ridge" if task == "regression" else "logistic_regression",
            "gbm": {"type": "lightgbm", "n_estimators": 30},
            "forest": {"type": "random_forest", "n_estimators": 10},
        },
        search={"folds": 3},
        selection={"rule": "one_standard_error", "prefer": ["ensemble"], "ensemble": ensemble},
    )


@pytest.fixture(scope="module", params=TASKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Spec]:
    folder = tmp_path_factory.mktemp(request.param)
    table(request.param).write_parquet(folder / "rows.parquet")
    spec = mixed(request.param)
    run_stages(spec, folder)
    return folder, spec


def work_of(name: str, spec: Spec, folder: Path) -> Work:
    module = STAGES[name]
    stage = module.declare(spec)
    return Work(stage, folder, narrowed(spec, stage), lambda *_, **__: None)


def test_the_mean_is_taken_and_released(made: tuple[Path, Spec]) -> None:
    folder, _ = made
    choice = read_json(folder / select.OUT)
    assert choice["candidate"] == "ensemble"
    assert len(choice["members"]) >= 2
    assert sum(choice["members"].values()) == pytest.approx(1)
    assert read_json(folder / "artifacts/release/release.json")["admitted"]
    (row,) = [row for row in choice["leaderboard"] if row["candidate"] == "ensemble"]
    assert row["members"] == choice["members"]
    assert len(row["folds"]) == 3


def test_stacked_weights_are_chosen_from_the_same_candidates(made: tuple[Path, Spec], tmp_path: Path) -> None:
    folder, spec = made
    shutil.copytree(folder / "artifacts", tmp_path / "artifacts")
    select.work(work_of("select", mixed(spec.problem.task, "stacking"), tmp_path))
    choice = read_json(tmp_path / select.OUT)
    assert choice["candidate"] == "ensemble"
    assert sum(choice["members"].values()) == pytest.approx(1)
    assert choice["members"] != read_json(folder / select.OUT)["members"]


def test_the_graph_answers_as_its_members_together_on_rows_of_any_kind(made: tuple[Path, Spec]) -> None:
    folder, spec = made
    layout = Layout.model_validate_json((folder / prepare.LAYOUT).read_bytes())
    opened = open_bundle(folder / package.OUT)
    model = chosen.load(work_of("package", spec, folder), layout, read_json(folder / select.OUT))
    generator = np.random.default_rng(0)
    train = pl.read_parquet(folder / prepare.TRAIN)
    n = 400
    rows = train.select(layout.target).sample(n, with_replacement=True, seed=1)
    numbers = [float("nan"), 0.0, -0.0, 1e-30, 1e30, -1e30, 3.4e38, 8.0, 50.0]
    for one in layout.features:
        seen = train[one.name].to_list()
        if one.kind == "categorical":
            values: Any = generator.choice(np.array([*seen, "unseen", "", "ä" * 50], dtype=object), n)
            rows = rows.with_columns(pl.Series(one.name, values.tolist(), dtype=pl.String))
        elif one.kind == "boolean":
            rows = rows.with_columns(pl.Series(one.name, generator.choice(np.array([0.0, 1.0, np.nan]), n)))
        else:
            known = [float("nan") if value is None else float(value) for value in seen]
            rows = rows.with_columns(pl.Series(one.name, generator.choice(np.array([*known, *numbers]), n)))
    native = model.predict(rows)
    told = predict(opened.session(), {one.name: feature_array(rows, one) for one in opened.contract.inputs})
    if layout.task == "regression":
        limit = np.maximum(np.abs(native), float(np.std(train[layout.target].to_numpy())))
        assert float((np.abs(told["prediction"] - native) / limit).max()) < 1e-5
        return
    probabilities = told["probabilities"]
    answers = probabilities[:, 1] if layout.task == "binary" else probabilities
    assert float(np.abs(answers - native).max()) < 1e-5
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_each_column_is_one_input_and_nothing_is_done_twice(made: tuple[Path, Spec]) -> None:
    import onnx

    folder, _ = made
    graph = onnx.load_model_from_string(open_bundle(folder / package.OUT).model).graph
    names = [one.name for one in graph.input]
    assert len(names) == len(set(names)) == 4
    done = [
        (node.op_type, tuple(node.input), tuple(a.SerializeToString() for a in node.attribute)) for node in graph.node
    ]
    assert len(done) == len(set(done))


def test_it_is_explained_by_its_own_answers(made: tuple[Path, Spec]) -> None:
    folder, _ = made
    opened = open_bundle(folder / package.OUT)
    # Trees that add up to the answer would add up in a mean of them, too; a line among them does not.
    assert "line" in read_json(folder / select.OUT)["members"]
    assert opened.contract.explained.method == "shapley"
    test = pl.read_parquet(folder / prepare.TEST).head(2)
    rows = {one.name: feature_array(test, one) for one in opened.contract.inputs}
    told = predict(opened.session(), rows)
    found = explainer(opened)(rows).total
    if opened.contract.task == "regression":
        answers = told["prediction"][:, None]
    else:
        answers = told["probabilities"][:, 1:] if opened.contract.task == "binary" else told["probabilities"]
    assert found == pytest.approx(answers, rel=1e-5, abs=1e-6)


def test_the_same_candidates_the_same_bytes(made: tuple[Path, Spec]) -> None:
    folder, spec = made
    paths = [folder / select.OUT, folder / package.OUT / "manifest.json"]
    before = [digest(path) for path in paths]
    for name in ("select", "package"):
        STAGES[name].work(work_of(name, spec, folder))
    assert [digest(path) for path in paths] == before


def test_card_and_report_tell_its_members_and_why_it_was_taken(made: tuple[Path, Spec]) -> None:
    folder, _ = made
    choice = read_json(folder / select.OUT)
    card = (folder / "artifacts/release/card.md").read_text()
    for name in choice["members"]:
        assert f"{choice['members'][name]:.3g} {name}" in card
    assert f"Taken because: {choice['reason']}" in card
    assert "members and weights that the other folds chose" in card


def test_a_graph_that_is_too_large_is_not_taken(made: tuple[Path, Spec]) -> None:
    folder, spec = made
    smallest = spec.model_copy(update={"selection": spec.selection.model_copy(update={"max_size": 20_000})})
    layout = Layout.model_validate_json((folder / prepare.LAYOUT).read_bytes())
    board = read_json(folder / select.OUT)["leaderboard"]
    fitting = select._within_size(work_of("select", smallest, folder), layout, board)
    assert [row["candidate"] for row in fitting] == ["line"]
    assert all(row["graph_bytes"] > 20_000 for row in board if row["candidate"] != "line")


@pytest.mark.parametrize(
    ("ensemble", "methods"), [("none", ("sigmoid", "temperature")), ("greedy", ("isotonic", "auto"))]
)
def test_what_is_calibrated_is_one_graph_that_is_explained(
    made: tuple[Path, Spec], tmp_path: Path, ensemble: str, methods: tuple[str, str]
) -> None:
    folder, spec = made
    if spec.problem.task == "regression":
        pytest.skip("a regression has no probabilities")
    shutil.copytree(folder / "artifacts", tmp_path / "artifacts")
    shutil.copytree(folder / "metrics", tmp_path / "metrics")
    method = methods[spec.problem.task == "multiclass"]
    told = spec.model_dump()
    told["selection"] |= {"calibration": method}
    if ensemble == "none":
        told["candidates"] = {"gbm": told["candidates"]["gbm"]}
        told["selection"] = {"calibration": method}
    spec = type(spec).model_validate(told)
    for name in ("select", "package", "validate", "release"):
        STAGES[name].work(work_of(name, spec, tmp_path))
    choice = read_json(tmp_path / select.OUT)
    assert choice["calibration"]["wanted"] == method
    assert method == "auto" or choice["calibration"]["method"] == method
    assert read_json(tmp_path / "artifacts/release/release.json")["gates"]["parity"] == "holds"
    assert "- Calibration: " in (tmp_path / "artifacts/release/card.md").read_text()
    opened = open_bundle(tmp_path / package.OUT)
    test = pl.read_parquet(tmp_path / prepare.TEST).head(20)
    rows = {one.name: feature_array(test, one) for one in opened.contract.inputs}
    answers = predict(opened.session(), rows)["probabilities"].astype(np.float64)
    total = explainer(opened)(rows).total
    space = opened.contract.explained.space
    assert space == ("probability" if ensemble == "greedy" else "log_odds" if method == "sigmoid" else "score")
    if space == "probability":
        answers = answers[:, 1:] if opened.contract.task == "binary" else answers
        assert total == pytest.approx(answers, abs=1e-5)
    elif space == "log_odds":
        assert 1 / (1 + np.exp(-total[:, 0])) == pytest.approx(answers[:, 1], abs=1e-5)
    else:
        powers = np.exp(total)
        assert powers / powers.sum(axis=1, keepdims=True) == pytest.approx(answers, abs=1e-5)
