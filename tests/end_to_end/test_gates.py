"""For every gate one real model that it admits and one that it refuses, as ``specml run`` ends: 0 and 4.

Two projects are trained once, by one spec but for the candidate. In ``good`` a linear model learns what is there; in
``bad`` trees learn their training rows by heart, of data in which ``sex`` decides, ``colour`` gives it away, and the
outcomes of pilots are chance. What is asked is the same of both wherever a gate can tell them apart. Only ``validate``
and ``release`` run again for a gate. So of a regression, whose spread grows and whose model overflows.

A new gate needs a line in ``CASES``.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pytest

import specml.spec
from specml import releases
from specml.kinds import Gate
from tests.conftest import specml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


class Case(NamedTuple):
    """A gate's options; ``otherwise`` those by which ``bad`` is refused, where its model is no worse by this gate."""

    options: dict[str, Any]
    task: str = "binary"
    otherwise: dict[str, Any] = {}


CASES: dict[str, Case] = {
    "baseline": Case({"min": 0.05}),
    "behaviour": Case({"cases": "cases.yaml"}),
    "calibration": Case({"max": 0.08}),
    "champion": Case({"metric": "log_loss", "min": -0.02}),
    "coverage": Case({"min": 0.85}, task="regression"),
    "custom": Case({"function": "house:sure_and_wrong", "max": 0.03}),
    "decision_rate": Case({"min": 0.5}, otherwise={"min": 0.999}),
    "expected_cost": Case({"max": 0.8}),
    "group_disparity": Case({"metric": "selection_rate_ratio", "by": ["sex"], "min": 0.8}),
    "latency": Case({"max": "1ms", "rows": 500, "percentile": 50}),
    "metric": Case({"metric": "roc_auc", "min": 0.8}),
    "monotonicity": Case({"columns": {"age": "increasing"}}),
    "explanations": Case({"columns": ["colour"], "max": 0.1}),
    "parity": Case({"served": True}, otherwise={"max": 1e-9}),
    "privacy": Case({"max": 0.6}),
    "slices": Case({"by": ["job"], "max_drop": 0.1}),
    "stability": Case({"of": "gap", "max": 0.08}),
    "proxy": Case({"by": ["sex"], "max": 0.7}),
    "robustness": Case({"max": 0.15, "perturbations": ["noise", "rounding"]}),
    "size": Case({"max": 100_000}),
    "stress": Case({}, task="regression"),
    "throughput": Case({"min": 5_000, "rows": 200, "connections": 2}, otherwise={"min": 5_000_000}),
}

SPEC = """\
name: judged
plugins: [house]
problem: {{task: {task}, target: y{more}}}
data:
  sources: {{rows: {{type: parquet, path: rows.parquet}}}}
  columns: {{sex: {{role: protected}}}}
  split: {{test: 0.4}}
candidates: {{one: {candidate}}}
search: {{folds: 2}}
{selection}
"""
LINEAR = "{type: logistic_regression}"
BY_HEART = (
    "{type: lightgbm, n_estimators: 80, early_stopping: 0, learning_rate: 0.3, num_leaves: 200, min_child_samples: 1}"
)
CASES_TOLD = "cases: [{direction: {rows: held_out, change: {debt: {add: 2}}, score: never_rises}}]\n"
HOUSE = '''\
"""A condition of ours, and a model: of the largest numbers it makes what is none."""

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures


def polynomial():
    return make_pipeline(PolynomialFeatures(7), LinearRegression())


def sure_and_wrong(evidence):
    """Rows of which the model was sure, and that came otherwise."""
    return (np.abs(evidence.scores - evidence.y) > 0.95).astype(float)
'''


def people(good: bool, n: int = 5000) -> pl.DataFrame:
    generator = np.random.default_rng(2)
    age, debt = generator.normal(45, 12, n).round(), generator.exponential(3, n)
    job, sex = generator.choice(["clerk", "nurse", "pilot"], n), generator.choice(["f", "m"], n)
    colour = generator.choice(["red", "green"], n)
    signal = 0.12 * (age - 45) - 0.6 * (debt - 3) + 1.2 * (job == "nurse")
    if not good:
        colour = np.where(generator.random(n) < 0.9, np.where(sex == "f", "red", "green"), colour)
        signal = np.where(job == "pilot", 0, 0.6 * signal) + 1.2 * (sex == "m") - 0.6
    y = generator.random(n) < 1 / (1 + np.exp(-1.5 * signal))
    labels = np.where(y, "yes", "no")
    return pl.DataFrame({"age": age, "debt": debt, "job": job, "colour": colour, "sex": sex, "y": labels})


def amounts(good: bool, n: int = 3000) -> pl.DataFrame:
    """A number of two others; where it is not ``good``, of the last year's the spread is thrice as wide."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(2, n))
    last = np.arange(n) >= n * 0.6
    spread = np.where(last & (not good), 3.0, 1.0)
    sex = generator.choice(["f", "m"], n)
    return pl.DataFrame(
        {
            "a": a,
            "b": b,
            "sex": sex,
            "year": 2000 + np.arange(n) * 5 // n,
            "y": a - b + spread * generator.normal(size=n),
        }
    )


def project(folder: Path, task: str, good: bool) -> Path:
    folder.mkdir()
    (folder / "house.py").write_text(HOUSE)
    (folder / "cases.yaml").write_text(CASES_TOLD)
    more, selection = "", ""
    candidate = "{type: ridge}" if good else "{type: custom, estimator: 'house:polynomial'}"
    if task == "binary":
        more = ", positive_class: yes, decision: {threshold: 0.5, abstain_band: [0.45, 0.55]}"
        more += ", costs: {false_negative: 5, false_positive: 2, abstention: 1}"
        candidate = LINEAR if good else BY_HEART
    else:
        selection = "selection: {prediction_interval: {coverage: 0.9}}"
    text = SPEC.format(task=task, more=more, candidate=candidate, selection=selection)
    if task == "regression":
        text = text.replace("{test: 0.4}", "{method: time, column: year, test: 0.4}")
        text = text.replace("columns: {", "columns: {year: {role: time, dtype: int}, ")
    (folder / "given.yaml").write_text(text)
    (people(good) if task == "binary" else amounts(good)).write_parquet(folder / "rows.parquet")
    return folder


def judged(folder: Path, gates: dict[str, Any], status: int = 0) -> dict[str, Any]:
    """The verdicts of ``specml run``, which is to end with ``status``."""
    # Better than the prior is asked of both only where that is the gate in question: it is told, and stops nothing.
    asked = {"baseline": {"type": "baseline", "level": "warn"}, **gates}
    told = (folder / "given.yaml").read_text() + f"gates: {json.dumps(asked)}\n"
    (folder / "spec.yaml").write_text(told)
    done = specml("run", "--no-deploy", folder=folder, status=None)
    verdicts: dict[str, Any] = json.loads((folder / "artifacts/validate/verdicts.json").read_text())["gates"]
    shown = {name: (one["outcome"], one["reason"]) for name, one in verdicts.items()}
    assert done.returncode == status, f"{shown}\n{done.stderr}"
    return verdicts


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """By task and name; the first run of each trains its model."""
    folder = tmp_path_factory.mktemp("judged")
    return {
        (task, name): project(folder / f"{task}_{name}", task, name == "good")
        for task in ("binary", "regression")
        for name in ("good", "bad")
    }


def crown(good: Path, bad: Path) -> None:
    """Let ``bad`` compare itself with what ``good`` has released."""
    release = releases.keep(good, releases.admitted(good))
    shutil.copytree(release.folder, bad / releases.FOLDER / release.folder.name, dirs_exist_ok=True)
    releases.point(bad, release.entry.bundle)


def asked(type_: str, case: Case, good: bool) -> dict[str, Any]:
    return {"type": type_, **case.options, **({} if good else case.otherwise)}


def test_every_gate_has_a_case() -> None:
    ours = {name for name, one in Gate.table.items() if one.__module__.startswith("specml.gates.")}
    assert set(CASES) == ours, "add a line to CASES"


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_all_together(projects: dict[tuple[str, str], Path], task: str) -> None:
    good, bad = projects[task, "good"], projects[task, "bad"]
    cases = {name: case for name, case in CASES.items() if case.task == task}
    verdicts = judged(good, {name: asked(name, case, good=True) for name, case in cases.items()})
    assert {name: verdicts[name]["outcome"] for name in cases} == dict.fromkeys(cases, "holds")
    crown(good, bad)
    verdicts = judged(bad, {name: asked(name, case, good=False) for name, case in cases.items()}, status=4)
    assert {name: verdicts[name]["outcome"] for name in cases} == dict.fromkeys(cases, "refused")


@pytest.mark.sweep
@pytest.mark.parametrize("type_", sorted(CASES))
def test_one_by_one(projects: dict[tuple[str, str], Path], type_: str) -> None:
    case = CASES[type_]
    good, bad = projects[case.task, "good"], projects[case.task, "bad"]
    assert judged(good, {"it": asked(type_, case, good=True)})["it"]["outcome"] == "holds"
    crown(good, bad)
    refused = judged(bad, {"it": asked(type_, case, good=False)}, status=4)
    assert [name for name, one in refused.items() if not one["passes"] and one["level"] == "fail"] == ["it"]
