"""All stages in one process on small tables of every task, and the bundle that they make used without specml."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from ruamel.yaml import YAML

from specml.bundle import open_bundle
from specml.compile import compile_plan
from specml.data import feature_array
from specml.files import read_json
from tests.conftest import ROOT, run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path

CARD = "artifacts/release/card.md"
NUMBER = r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
CANDIDATES = {
    "binary": {"line": "logistic_regression", "gbm": "lightgbm"},
    "multiclass": {"line": "logistic_regression", "gbm": "lightgbm"},
    "regression": {"line": "ridge", "gbm": "lightgbm"},
}


def table(task: str, n: int = 600) -> pl.DataFrame:
    """Numbers with gaps, text with gaps, booleans, a weight, and a target that depends on them."""
    generator = np.random.default_rng(4)
    number = generator.normal(50, 10, n)
    size = generator.integers(0, 9, n)
    colour = generator.choice(["red", "green", "blau", "ä"], n)
    flag = generator.random(n) < 0.4
    signal = 0.1 * number + size + 2 * (colour == "red") - 3 * flag + generator.normal(0, 0.7, n)
    y: Any = signal
    if task != "regression":
        k = 2 if task == "binary" else 3
        index = np.searchsorted(np.quantile(signal, np.linspace(0, 1, k + 1)[1:-1]), signal)
        y = np.array(["no", "yes"] if task == "binary" else ["small", "middle", "large"])[index]
    gaps = generator.random(n) < 0.1
    texts = [None if gap else str(one) for gap, one in zip(np.roll(gaps, 3), colour, strict=True)]
    return pl.DataFrame({
        "number": [None if gap else float(one) for gap, one in zip(gaps, number, strict=True)],
        "size of it": size,
        "colour": texts,
        "flag": flag,
        "w": generator.uniform(0.5, 2, n),
        "y": y,
    })  # fmt: skip


def run(folder: Path, task: Any, rows: pl.DataFrame | None = None, **changes: Any) -> None:
    """Every stage of a spec over ``rows`` or ``table(task)``, one after the other."""
    (table(task) if rows is None else rows).write_parquet(folder / "rows.parquet")
    problem: dict[str, Any] = {"task": task, "target": "y"}
    if task == "binary":
        problem |= {"positive_class": "yes", "decision": {"threshold": "auto"}}
    spec = spec_of(
        problem=problem,
        data={"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}, "columns": {"w": {"role": "weight"}}},
        candidates=CANDIDATES[task],
        search={"folds": 3},
        **changes,
    )
    run_stages(spec, folder)


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    run(folder, request.param)
    return folder


def test_every_stage_ends_and_the_model_is_released(made: Path) -> None:
    release = read_json(made / "artifacts/release/release.json")
    assert release["admitted"]
    assert release["gates"] == {"baseline": "holds", "parity": "holds"}
    assert "not measured" not in (made / CARD).read_text().split("### Gates")[1].split("From `")[0]


def told_numbers(value: Any) -> set[str]:
    """Every number in a JSON value, in the ways in which a card may write it."""
    if isinstance(value, dict):
        return set().union(*(told_numbers(item) for pair in value.items() for item in pair))
    if isinstance(value, list):
        return set().union(*(told_numbers(item) for item in value))
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, str):
        return set(re.findall(NUMBER, value))
    return {f"{value:.4f}", f"{value:.4g}", f"{value:.3g}", f"{value:,}", str(value)}


def test_every_number_of_the_card_stands_in_a_file_of_the_run(made: Path) -> None:
    """The files are those that the card names; how many columns there are of each kind is counted from one of them."""
    front, body = (made / CARD).read_text().removeprefix("---\n").split("\n---\n")
    files = set(re.findall(r"`((?:artifacts|metrics)/[\w/.]+)`", body))
    assert len(files) >= 4
    known = set().union(*(told_numbers(read_json(made / name)) for name in files))
    features = read_json(made / "artifacts/prepare/layout.json")["features"]
    known |= {str(n) for n in range(1, len(features) + 1)}
    text = re.sub(r"`[^`]*`", "", body)
    assert set(re.findall(NUMBER, text)) - known == set()
    (result,) = YAML(typ="safe").load(front)["model-index"][0]["results"]
    assert {one["type"]: one["value"] for one in result["metrics"]} == read_json(made / "metrics/holdout.json")


def test_what_moves_the_answers_is_told_of_all_rows_together(made: Path) -> None:
    told = read_json(made / "artifacts/validate/importance.json")
    assert told["rows"] == 120
    assert set(told["importance"]) == {"number", "size of it", "colour", "flag"}
    # The target was made of them, with these weights times their spreads.
    ranked = sorted(told["importance"], key=lambda name: -told["importance"][name])
    assert ranked[0] == "size of it"
    body = (made / CARD).read_text().split("### Importance of columns")[1]
    assert f"| size of it | {told['importance']['size of it']:.4g} |" in body
    assert "| number |" in body


def test_the_card_has_the_sections_of_a_model_card(made: Path) -> None:
    body = (made / CARD).read_text()
    assert re.findall(r"^## (.*)$", body, re.MULTILINE) == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats",
    ]
    assert "Calibration error: not measured." in body
    assert "Latency: not measured." in body
    tables = re.findall(r"(?:^\|.*\n)+\n(.*)$", body, re.MULTILINE)
    assert len(tables) >= 3
    assert all(line.startswith("From `") for line in tables)


def test_the_profile_is_a_whylogs_profile_of_the_training_rows(made: Path) -> None:
    from whylogs.core.view.dataset_profile_view import DatasetProfileView

    view = DatasetProfileView.deserialize((made / "artifacts/release/profile.bin").read_bytes())
    train = pl.read_parquet(made / "artifacts/prepare/train.parquet")
    summary = view.get_column("number").to_summary_dict()
    assert summary["counts/n"] == train.height
    assert summary["counts/null"] == train["number"].null_count()
    assert summary["distribution/mean"] == pytest.approx(train["number"].mean())


ALONE = """
import json, sys
sys.modules["specml"] = None
import numpy, onnxruntime
rows = json.load(open("rows.json"))
session = onnxruntime.InferenceSession("artifacts/bundle/model.onnx", providers=["CPUExecutionProvider"])
feeds = {}
for one in session.get_inputs():
    dtype = object if one.type == "tensor(string)" else float
    feeds[one.name] = numpy.array([[row[one.name]] for row in rows], dtype)
print(json.dumps([out.tolist() for out in session.run(None, feeds)]))
"""


def test_bare_onnxruntime_answers_the_same_from_raw_columns(made: Path) -> None:
    bundle = open_bundle(made / "artifacts/bundle")
    test = pl.read_parquet(made / "artifacts/prepare/test.parquet")
    columns = {one.name: feature_array(test, one) for one in bundle.contract.inputs}
    rows = [{name: values[i] for name, values in columns.items()} for i in range(test.height)]
    (made / "rows.json").write_text(json.dumps(rows))
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=made, capture_output=True, text=True, check=True)
    alone = json.loads(done.stdout)
    session = bundle.session()
    ours = session.run(None, {name: values.reshape(-1, 1) for name, values in columns.items()})
    assert alone == [out.tolist() for out in ours]
    if bundle.contract.task == "binary":
        probabilities, labels = np.array(alone[0]), alone[1]
        assert bundle.contract.threshold is not None
        assert labels == ["yes" if p >= bundle.contract.threshold else "no" for p in probabilities[:, 1]]
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_the_python_block_of_the_readme_runs_without_specml(made: Path) -> None:
    block = (ROOT / "README.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    code = f"import sys; sys.modules['specml'] = None\n{block}"
    done = subprocess.run([sys.executable, "-c", code], cwd=made, capture_output=True, text=True, check=True)
    assert "array" in done.stdout


def test_training_never_opens_the_test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read = pl.read_parquet

    def watching(path: Any, **options: Any) -> pl.DataFrame:
        opened.append(f"{sys._getframe(1).f_globals['__name__'].rsplit('.', 1)[-1]} {path.name}")
        return read(path, **options)

    monkeypatch.setattr(pl, "read_parquet", watching)
    run(tmp_path, "binary")
    assert {one for one in opened if "test.parquet" in one} == {"validate test.parquet"}


def test_every_output_declared_is_written_and_no_other(made: Path) -> None:
    plan = compile_plan(spec_of(candidates=CANDIDATES["binary"]))
    declared = set()
    for stage in plan.stages:
        for key in stage.keys or ("",):
            declared |= {path.replace("${key}", key) for path in (*stage.outs, *stage.metrics)}
    for path in declared - {"artifacts/ingest/rows.parquet"}:
        assert (made / path).exists(), path
    files = {
        p.relative_to(made).as_posix()
        for top in ("artifacts", "metrics")
        for p in (made / top).rglob("*")
        if p.is_file()
    }
    assert [file for file in files if not any(file == d or file.startswith(f"{d}/") for d in declared)] == []


def test_extreme_numbers_go_the_whole_way(tmp_path: Path) -> None:
    n = 600
    base = table("binary", n)
    values = [1e308, -1e308, float("inf"), float("nan"), 1e39, 0.1]
    extremes = pl.Series("extreme", [values[i % 6] for i in range(n)])
    wide = pl.Series("wide", [2**63 + i for i in range(n)], dtype=pl.UInt64)
    run(tmp_path, "binary", base.with_columns(extremes, wide))
    assert read_json(tmp_path / "artifacts/release/release.json")["admitted"]


def test_a_latency_gate_times_the_packaged_graph(tmp_path: Path) -> None:
    gate = {"type": "latency", "max": "10s", "rows": 3}
    run(tmp_path, "binary", gates={"fast": gate})
    verdict = read_json(tmp_path / "artifacts/validate/verdicts.json")["gates"]["fast"]
    assert verdict["outcome"] == "holds"
    assert verdict["n"] > 1000
    assert 0 < verdict["value"] < 10_000
    assert "fast" not in (tmp_path / "metrics/holdout.json").read_text()
