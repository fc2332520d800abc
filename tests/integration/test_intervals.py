"""A prediction interval from the folds to the answer: in the graph, the server, the documents and the watch."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import polars as pl
import pytest
from jsonschema import Draft202012Validator

from specml import report
from specml.bundle import open_bundle, predict
from specml.compile import compile_plan
from specml.compile.dvc import params_yaml
from specml.data import feature_array
from specml.errors import DataCheckFailed
from specml.files import read_json
from specml.serving.answer import predictions
from specml.serving.app import Args
from specml.serving.table import with_predictions
from specml.stages import package, prepare, select, validate
from specml.watch import stream
from specml.watch.feedback import feed
from specml.watch.live import labelled
from tests.conftest import run_stages, spec_of
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from pathlib import Path


def table(n: int = 1500, step: float = 0.0) -> pl.DataFrame:
    """Rows whose errors grow with what is predicted, and of one group are twice as large."""
    generator = np.random.default_rng(0)
    size, sex = generator.uniform(1, 10, n), generator.choice(["f", "m"], n, p=[0.3, 0.7])
    noise = generator.normal(size=n) * (0.1 + 0.3 * size) * np.where(sex == "f", 2, 1)
    colour = generator.choice(["red", "green"], n)
    return pl.DataFrame(
        {
            "size": size,
            "colour": colour,
            "sex": sex,
            "y": 3 * size + (colour == "red") + step * (size % 3 > 1.5) + noise,
        }
    )


def spec(**changes: Any) -> Any:
    told: dict[str, Any] = {
        "problem": {"task": "regression", "target": "y"},
        "data": {
            "sources": {"rows": {"type": "parquet", "path": "rows.parquet"}},
            "columns": {"sex": {"role": "protected"}},
            "split": {"test": 0.4},
        },
        "candidates": {"line": "ridge", "gbm": {"type": "lightgbm", "n_estimators": 30}},
        "search": {"folds": 3},
        "selection": {
            "rule": "one_standard_error",
            "prefer": ["ensemble"],
            "ensemble": "greedy",
            "prediction_interval": {"coverage": 0.9},
        },
        "gates": {"coverage": {"type": "coverage", "min": 0.85}},
    }
    return spec_of(**{**told, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intervals")
    table().write_parquet(folder / "rows.parquet")
    run_stages(spec(), folder)
    return folder


def test_it_is_chosen_by_the_folds_and_measured_on_held_out_rows(made: Path) -> None:
    chosen = read_json(made / select.OUT)["prediction_interval"]
    assert chosen["method"] == "normalised"
    assert chosen["folds"]["coverage"] == pytest.approx(0.9, abs=0.03)
    told = read_json(made / validate.OUT)
    whole, groups = told["prediction_interval"]["all"], told["prediction_interval"]["groups"]
    assert whole["value"] == told["metrics"]["interval_coverage"] == pytest.approx(0.9, abs=0.04)
    assert whole["interval"]["low"] < 0.9 < whole["interval"]["high"]
    shares = {one["name"]: one["value"] for one in groups}
    assert shares["sex=f"] < 0.85 < shares["sex=m"]
    assert {name: gate["outcome"] for name, gate in told["gates"].items()} == dict.fromkeys(
        ("baseline", "coverage", "parity"), "holds"
    )
    test, opened = pl.read_parquet(made / prepare.TEST), open_bundle(made / package.OUT)
    answers = predict(opened.session(), {one.name: feature_array(test, one) for one in opened.contract.inputs})
    y = test["y"].to_numpy()
    assert np.mean((answers["lower"] <= y) & (y <= answers["upper"])) == whole["value"]
    assert ((answers["lower"] <= answers["prediction"]) & (answers["prediction"] <= answers["upper"])).all()


def test_it_stands_in_the_card(made: Path) -> None:
    card = (made / "artifacts/release/card.md").read_text()
    assert "- Prediction interval: normalised, for 0.9 of the targets, fitted on 900 out-of-fold rows" in card
    assert "### Prediction intervals" in card
    assert "| sex=f |" in card


def test_whoever_asks_is_answered_with_it_and_its_labels_are_watched(made: Path, tmp_path: Path) -> None:
    opened = open_bundle(made / package.OUT)
    captures = tmp_path / stream.CAPTURES / opened.digest[7:19]
    told = {"bundle": str(made / package.OUT), "capture": {"folder": str(captures)}}
    service = Args.model_validate(told).service("r1")
    row = {"size": 5.0, "colour": "red"}
    tensors = [
        {"name": "size", "datatype": "FP64", "shape": [1, 1], "data": [5.0]},
        {"name": "colour", "datatype": "BYTES", "shape": [1, 1], "data": ["red"]},
    ]

    async def asked() -> list[Any]:
        path = "/v2/models/small"
        return [
            await ask(service, "POST", "/predict", json.dumps({"rows": [row] * 60}).encode(), {
                "content-type": "application/json", "x-request-id": "r",
            }),
            await ask(service, "GET", "/openapi.json"),
            await ask(service, "GET", path),
            await ask(service, "POST", f"{path}/infer", json.dumps({"inputs": tensors}).encode()),
        ]  # fmt: skip

    answer, document, described, inferred = [orjson.loads(one.body) for one in asyncio.run(asked())]
    service.close()
    one = answer["predictions"][0]
    assert one["lower"] < one["prediction"] < one["upper"]
    schema = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator(schema).validate(answer)
    assert "hold 0.9" in str(schema)
    assert [output["name"] for output in described["outputs"]] == ["prediction", "lower", "upper"]
    assert {output["name"]: output["data"][0] for output in inferred["outputs"]} == pytest.approx(one, rel=1e-6)
    beside = with_predictions(pl.DataFrame([row]), [one])
    assert beside.columns == ["size", "colour", "predicted", "lower", "upper"]

    (tmp_path / "artifacts").mkdir()
    (tmp_path / package.OUT).symlink_to(made / package.OUT)
    labels = pl.DataFrame({"id": [f"r-{i}" for i in range(60)], "y": [one["prediction"]] * 30 + [1e6] * 30})
    assert feed(labels, tmp_path, "y").kept == 60
    (segment,) = tmp_path.glob(f"{stream.FEEDBACK}/*/*.parquet")
    window = labelled(stream.read(segment))
    assert window.ends is not None
    assert window.y is not None
    assert ((window.ends[:, 0] <= window.y) & (window.y <= window.ends[:, 1])).sum() == 30


@pytest.fixture(scope="module")
def in_quantiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantiles")
    table(700, step=5.0).write_parquet(folder / "rows.parquet")
    asked = spec(
        problem={"task": "regression", "target": "y", "quantiles": [0.1, 0.5, 0.9]},
        candidates={"line": "quantile_regression", "gbm": {"type": "lightgbm", "n_estimators": 30}, "none": "dummy"},
        gates={"coverage": {"type": "coverage", "min": 0.8}},
    )
    run_stages(asked, folder)
    (folder / "params.yaml").write_text(params_yaml(compile_plan(asked), "spec.yaml", ()), encoding="utf-8")
    return folder


def test_quantiles_are_chosen_measured_and_told(in_quantiles: Path) -> None:
    choice, told = read_json(in_quantiles / select.OUT), read_json(in_quantiles / validate.OUT)
    assert choice["metric"] == "mean_pinball_loss"
    assert choice["candidate"] == "ensemble"
    assert choice["prediction_interval"]["method"] == "quantile"
    assert len(choice["prior"]) == 3
    assert [one["level"] for one in told["quantiles"]] == [0.1, 0.5, 0.9]
    for one in told["quantiles"]:
        assert one["value"] == pytest.approx(one["level"], abs=0.08)
    assert {gate["outcome"] for gate in told["gates"].values()} == {"holds"}
    assert told["metrics"]["mean_pinball_loss"] < told["metrics"]["mean_absolute_error"] / 2
    card, page = (in_quantiles / "artifacts/release/card.md").read_text(), report.html(in_quantiles)
    assert "- Quantiles: 0.1, 0.5, 0.9; 0.5 is the prediction" in card
    assert "| 0.9 | 280 |" in card
    assert "share of targets no higher" in page
    test, opened = pl.read_parquet(in_quantiles / prepare.TEST), open_bundle(in_quantiles / package.OUT)
    answers = predict(opened.session(), {one.name: feature_array(test, one) for one in opened.contract.inputs})
    assert (answers["quantile_0.1"] <= answers["prediction"]).all()
    assert np.array_equal(answers["quantile_0.5"], answers["prediction"])
    one = predictions(answers, opened.contract)[0]
    assert list(one) == ["prediction", "lower", "upper", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    assert with_predictions(test[:1], [one]).columns[-5:] == list(one)[1:]


def test_a_column_that_is_called_as_an_end_is_refused(tmp_path: Path) -> None:
    table(300).rename({"size": "upper"}).write_parquet(tmp_path / "rows.parquet")
    small = spec(candidates={"line": "ridge"}, selection={"prediction_interval": {}}, gates={})
    with pytest.raises(DataCheckFailed, match="a feature can't be called 'upper'"):
        run_stages(small, tmp_path)
