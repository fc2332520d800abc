"""The whole way on real data, by the command line, as a person goes it; without deployment."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from specml import admission
from specml.cli import exit_status
from tests.conftest import specml

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which breast_cancer was run once; tests work on copies of it."""
    from tests.conftest import EXAMPLES

    folder = tmp_path_factory.mktemp("finished") / "breast_cancer"
    leave = shutil.ignore_patterns("artifacts", "metrics", "plots", ".specml", ".dvc", "dvc.lock")
    shutil.copytree(EXAMPLES / "breast_cancer", folder, ignore=leave)
    specml("run", "--no-deploy", folder=folder)
    return folder


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def outcome(folder: Path, *arguments: str, status: int = 0) -> dict[str, object]:
    """``specml run --json``, parsed."""
    done = specml("run", "--no-deploy", "--json", *arguments, folder=folder, status=status)
    document = json.loads(done.stdout)
    assert document["exit_status"] == status
    return dict(document)


def recorded(folder: Path, event: str) -> list[dict[str, object]]:
    """The facts of the ledger's records of ``event``."""
    from specml import ledger

    return [record.facts for record in ledger.verify(folder).records if record.event == event]


def test_what_was_done_and_decided_is_recorded(again: Path) -> None:
    from specml.files import digest

    bundle = digest(again / "artifacts/bundle/manifest.json")
    first = recorded(again, "thresholds")
    outcome(again, "gates.auc.min=0.999", status=4)
    outcome(again)
    begun, ended = recorded(again, "run")[-2:]
    assert (begun["phase"], ended["phase"], ended["status"]) == ("begun", "ended", 0)
    assert begun["spec"] in (again / "params.yaml").read_text()
    assert [one["status"] for one in recorded(again, "run") if one["phase"] == "ended"] == [0, 4, 0]
    told = recorded(again, "thresholds")
    gates = [one["gates"] for one in told]
    assert [one["options"]["auc"]["min"] for one in told[:2]] == [0.95, 0.999]  # type: ignore[index]
    assert len({one["labels"] for one in told}) == 1
    assert told[0]["rows"] == digest(again / "artifacts/prepare/test.parquet")
    assert gates[:1] == [one["gates"] for one in first]
    assert gates[1] not in (gates[0], *gates[2:])
    releases = recorded(again, "release")
    assert [one["admitted"] for one in releases[:2]] == [True, False]
    assert releases[1]["gates"]["auc"] == "refused"  # type: ignore[index]
    assert {one["bundle"] for one in releases} == {bundle}


def test_a_run_that_cannot_be_recorded_does_nothing(again: Path) -> None:
    (again / ".specml/ledger.jsonl").write_bytes(b"")
    before = (again / "artifacts/release/release.json").read_bytes()
    done = specml("run", "--no-deploy", "gates.auc.min=0.96", folder=again, status=1)
    assert "is cut off" in done.stderr
    assert (again / "artifacts/release/release.json").read_bytes() == before


def test_a_second_run_does_nothing_and_says_so(again: Path) -> None:
    done = specml("run", "--no-deploy", folder=again)
    assert "nothing to do" in done.stderr
    assert outcome(again)["stages_run"] == []


def test_a_gates_threshold_runs_the_gates_again_and_what_follows(again: Path) -> None:
    assert outcome(again, "gates.auc.min=0.96")["stages_run"] == ["validate", "release"]


def test_one_candidates_option_trains_that_candidate_again(again: Path) -> None:
    ran = outcome(again, "candidates.gbm.num_leaves=15")["stages_run"]
    assert isinstance(ran, list)
    assert "train@gbm" in ran
    assert not {"train@scorecard", "ingest@biopsies", "prepare", "explore"} & set(ran)


@pytest.mark.parametrize(
    ("override", "gate"),
    [
        ("gates.auc.min=0.999", "auc"),
        pytest.param("gates.baseline.min=0.65", "baseline", marks=pytest.mark.sweep),
        pytest.param("gates.parity.max=1e-12", "parity", marks=pytest.mark.sweep),
    ],
)
def test_each_gate_refuses_one_model_and_admits_another(again: Path, override: str, gate: str) -> None:
    refused = outcome(again, override, status=4)
    assert refused["gates"][gate]["outcome"] == "refused"  # type: ignore[index]
    admitted = outcome(again)
    assert admitted["gates"][gate]["outcome"] == "holds"  # type: ignore[index]


def rewritten(folder: Path, old: str, new: str) -> None:
    """Change the project's spec itself: an override may only tighten."""
    text = (folder / "spec.yaml").read_text()
    assert old in text
    (folder / "spec.yaml").write_text(text.replace(old, new))


@pytest.mark.sweep
def test_a_warning_gate_does_not_stop_the_release(again: Path) -> None:
    rewritten(again, "min: 0.95}", "min: 0.999, level: warn}")
    told = outcome(again)
    assert told["gates"]["auc"]["outcome"] == "refused"  # type: ignore[index]


@pytest.mark.sweep
def test_what_is_refused_stands_in_the_card(again: Path) -> None:
    outcome(again, "gates.auc.min=0.999", status=4)
    card = (again / "artifacts/release/card.md").read_text()
    assert "| auc | refused |" in card


def test_what_is_refused_stands_in_the_report(again: Path) -> None:
    outcome(again, "gates.auc.min=0.999", status=4)
    drawn = (again / "artifacts/report.html").read_bytes()
    assert b"<h1>Not released</h1>" in drawn
    assert b"refused by auc" in drawn
    told = specml("report", "-o", "else.html", folder=again)
    assert told.stdout == "else.html\n"
    assert (again / "else.html").read_bytes() == drawn
    assert b"The spec was changed after" not in drawn
    specml("compile", "~candidates.gbm", "search.folds=4", folder=again)
    specml("report", folder=again)
    assert (
        "The spec was changed after this run: candidates, gates, search."
        in (again / "artifacts/report.html").read_text()
    )


def explained(folder: Path) -> list[dict[str, Any]]:
    """What `specml explain` tells of the first rows of the data, checked to add up."""
    rows = (folder / "data/breast_cancer.csv").read_text().splitlines()[:4]
    (folder / "few.csv").write_text("\n".join(rows) + "\n")
    told = json.loads(specml("explain", "few.csv", "--top", "4", "--json", folder=folder).stdout)
    for one in told["explanations"]:
        moves = sum(move["contribution"] for move in one["contributions"])
        assert one["base"] + moves + one["others"]["contribution"] == pytest.approx(one["total"], abs=1e-6)
        assert one["others"]["columns"] == 26
        p, total = one["prediction"]["probability"], one["total"]
        assert p == pytest.approx(1 / (1 + math.exp(-total)) if told["space"] == "log_odds" else total, abs=1e-3)
    found: list[dict[str, Any]] = told["explanations"]
    assert len(found) == 3
    return found


def test_an_answer_is_explained_without_data_or_server(again: Path) -> None:
    shutil.rmtree(again / "artifacts/train")
    shutil.rmtree(again / "artifacts/prepare")
    explained(again)
    importance = json.loads((again / "artifacts/validate/importance.json").read_text())["importance"]
    first = max(importance, key=importance.get)
    assert f"| {first} | {importance[first]:.4g} |" in (again / "artifacts/release/card.md").read_text()
    drawn = (again / "artifacts/report.html").read_text().partition('id="importance"')[2].partition("</section>")[0]
    assert first in drawn


@pytest.mark.sweep
def test_a_forest_is_explained_by_its_trees(again: Path) -> None:
    forest = "candidates.forest={type: random_forest, n_estimators: 30}"
    # Leaves of few rows are surer than their log loss can bear.
    rewritten(again, "gates:\n", "gates:\n  baseline: {type: baseline, level: warn}\n")
    rewritten(again, "min: 0.95}", "min: 0.9}")
    rewritten(again, "min: 0.8}", "min: 0.7}")
    outcome(again, "~candidates.gbm", "~candidates.scorecard", forest)
    told = json.loads((again / "artifacts/validate/importance.json").read_text())
    assert (told["method"], len(told["importance"])) == ("tree_shap", 30)
    explained(again)


WAIVER = "{gate: auc, reason: a pilot, approver: ann@clinic, expires: %s, control: each case is seen by two}"
STRICT = ("gates.auc.min=0.999", "compliance.owner=owner@clinic")


def waive(folder: Path, until: str) -> None:
    """Write a waiver of the gate auc into the spec."""
    with (folder / "spec.yaml").open("a") as file:
        file.write(f"\ncompliance:\n  waivers:\n    pilot: {WAIVER % until}\n")


def test_a_waiver_passes_a_refusal_which_stands_everywhere(again: Path) -> None:
    waive(again, "2999-12-31")
    done = specml("run", "--no-deploy", *STRICT, folder=again)
    assert "✖ refused (waived)" in done.stderr
    told = "by ann@clinic: a pilot (compensating control: each case is seen by two)"
    assert f"waived until 2999-12-31, {told} (pilot)" in done.stderr
    release = json.loads((again / "artifacts/release/release.json").read_text())
    assert (release["admitted"], release["waivers"]["pilot"]["state"]) == (True, "used")
    card, report = (again / "artifacts/release/card.md").read_text(), (again / "artifacts/report.html").read_text()
    assert "| auc | refused (waived until 2999-12-31) |" in card
    assert f"- Waiver pilot: used; gate auc, until 2999-12-31, {told}" in card
    assert told in report
    assert "- Owner: owner@clinic" in card
    assert "<h1>Released</h1>" in report
    assert "refused (waived until 2999-12-31)" in report
    assert recorded(again, "waiver")[-1]["reason"] == "a pilot"
    assert recorded(again, "release")[-1]["gates"]["auc"] == "refused"  # type: ignore[index]
    idle = specml("run", "--no-deploy", folder=again)
    assert "Waiver pilot has no effect: the gate auc stops nothing." in idle.stderr


def test_an_expired_waiver_refuses_again(again: Path) -> None:
    waive(again, "2020-02-29")
    done = specml("run", "--no-deploy", *STRICT, folder=again, status=4)
    assert "Waiver pilot expired on 2020-02-29: the gate auc bites." in done.stderr
    assert "| auc | refused (waiver expired on 2020-02-29) |" in (again / "artifacts/release/card.md").read_text()


@pytest.mark.serve
@pytest.mark.sweep
def test_a_release_is_served_once_it_is_approved_and_while_its_waiver_lives(
    again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    approval = "compliance.approval={approvers: [ann@clinic]}"
    waive(again, "2999-12-31")
    options = (f"deployment.target.port={port}", "serving.explain=null", STRICT[1], approval)
    asked = (*options, STRICT[0])

    def answers() -> dict[str, Any]:
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as told:
            body = json.load(told)["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        raw = json.dumps(body["examples"][0]).encode()
        request = urllib.request.Request(f"{url}/predict", raw, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as told:
            return dict(json.load(told))

    waits = specml("run", *asked, folder=again, status=5)
    assert "waits for approval: 0 of 1." in waits.stderr
    assert "specml approve --as ann@clinic" in waits.stderr
    assert "waits for approval: 0 of 1." in specml("run", "--no-deploy", *asked, folder=again).stderr
    assert "nothing is live" in specml("status", *asked, folder=again).stdout
    assert "1 of 1 approvals" in specml("approve", *asked, "--as", "ann@clinic", folder=again).stdout
    other_verdicts = (*options, "gates.auc.min=0.9995")
    assert "0 of 1" in specml("run", *other_verdicts, folder=again, status=5).stderr
    try:
        assert "is live at" in specml("run", *asked, folder=again).stderr
        bundle = recorded(again, "approval")[-1]["bundle"]
        assert answers()["bundle"] == bundle
        monkeypatch.setattr(admission, "today", lambda: "3000-01-01")
        assert exit_status(["deploy", str(again), *asked]) == 4
        assert "waiver pilot expired on 2999-12-31" in capsys.readouterr().err
        assert answers()["bundle"] == bundle, "what is live goes on"
    finally:
        specml("stop", folder=again)
    assert [one["status"] for one in recorded(again, "deploy") if one["phase"] == "ended"] == [5, 5, 0, 4]
    assert recorded(again, "run")[-1]["admitted"] is True


@pytest.mark.sweep
def test_disparity_refuses_a_model_and_admits_another(tmp_path: Path) -> None:
    import numpy as np
    import polars as pl

    generator = np.random.default_rng(1)
    n = 6000
    group = generator.integers(0, 2, n)
    skill = generator.normal(size=n)
    level = (skill + generator.normal(scale=0.5, size=n) > 0).astype(int)
    tilted = (skill + 1.5 * group + generator.normal(scale=0.5, size=n) > 0.75).astype(int)
    proxy = group + generator.normal(scale=0.2, size=n)
    pl.DataFrame({"skill": skill, "proxy": proxy, "group": group, "level": level, "tilted": tilted}).write_csv(
        tmp_path / "rows.csv"
    )
    (tmp_path / "spec.yaml").write_text(
        "name: groups\n"
        "problem: {task: binary, target: level}\n"
        "data:\n  sources: {rows: {type: csv, path: rows.csv}}\n"
        "  columns: {group: {role: protected}, tilted: {role: ignore}, level: {role: ignore}}\n"
        "candidates: {line: logistic_regression}\n"
        "gates:\n  apart: {type: group_disparity, metric: selection_rate_ratio, by: [group], min: 0.8}\n"
        "  told: {type: proxy, by: [group], of: score, max: 0.7}\n".replace(", level: {role: ignore}", "")
    )
    admitted = outcome(tmp_path)
    assert [admitted["gates"][name]["outcome"] for name in ("apart", "told")] == ["holds"] * 2  # type: ignore[index]
    spec = (tmp_path / "spec.yaml").read_text()
    (tmp_path / "spec.yaml").write_text(
        spec.replace("target: level", "target: tilted").replace("tilted: {role", "level: {role")
    )
    refused = outcome(tmp_path, status=4)
    assert [refused["gates"][name]["outcome"] for name in ("apart", "told")] == ["refused"] * 2  # type: ignore[index]


def test_the_same_bytes_in_another_folder_under_another_seed_and_thread_count(
    finished: Path, project: Callable[[str], Path]
) -> None:
    folder = project("breast_cancer")
    specml("run", "--no-deploy", folder=folder, PYTHONHASHSEED="77", SPECML_THREADS="1", LANG="C", TZ="Asia/Kathmandu")
    for name in ("model.onnx", "contract.json", "reference.json", "manifest.json"):
        path = f"artifacts/bundle/{name}"
        assert (folder / path).read_bytes() == (finished / path).read_bytes(), name


def test_dvc_repro_alone_does_the_same_work(finished: Path, project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    dvc("init", "--no-scm", "-q", folder=folder)
    dvc("repro", folder=folder)
    manifest = "artifacts/bundle/manifest.json"
    assert (folder / manifest).read_bytes() == (finished / manifest).read_bytes()


def test_dvc_repro_refuses_a_spec_edited_after_the_compile(again: Path) -> None:
    spec = again / "spec.yaml"
    spec.write_text(spec.read_text().replace("min: 0.95", "min: 0.5"))
    done = dvc("repro", folder=again, status=255)
    assert "the spec was edited after the last compile" in done.stderr
    assert "specml compile" in done.stderr
    specml("compile", folder=again)
    dvc("repro", folder=again)


def test_dvc_tells_metrics_params_and_plots(again: Path) -> None:
    metrics = json.loads(dvc("metrics", "show", "--json", folder=again).stdout)
    assert metrics[""]["data"]["metrics/holdout.json"]["data"]["roc_auc"] > 0.9
    dvc("plots", "show", "-o", "drawn", folder=again)
    assert (again / "drawn" / "index.html").stat().st_size > 1000
    assert "validate" not in dvc("status", folder=again).stdout


@pytest.mark.sweep
def test_dvc_experiments_change_a_value_and_specml_notices_it(project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    git("init", "-q", folder=folder)
    specml("run", "--no-deploy", "-q", folder=folder)
    git("add", "-A", folder=folder)
    git("commit", "-qm", "first", folder=folder)
    assert git("status", "--porcelain", folder=folder).stdout == ""
    tracked = git("ls-files", folder=folder).stdout
    assert "dvc.lock" in tracked
    assert "artifacts/" not in tracked
    dvc("exp", "run", "-q", "-S", "candidates.gbm.num_leaves=15", folder=folder)
    diff = json.loads(dvc("params", "diff", "--json", folder=folder).stdout)
    assert diff["params.yaml"]["candidates.gbm.num_leaves"]["new"] == 15
    done = specml("run", "--no-deploy", folder=folder, status=3)
    assert "candidates.gbm.num_leaves: 15 in params.yaml, 31 in the spec" in done.stderr
    assert "num_leaves: 15" in (folder / "params.yaml").read_text()


@pytest.mark.sweep
def test_a_spec_of_another_name(again: Path) -> None:
    (again / "spec.yaml").rename(again / "other.yaml")
    assert "stages_run" in outcome(again, "other.yaml", "gates.auc.min=0.96")


@pytest.mark.sweep
def test_plug_in_code_is_a_dependency(project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    (folder / "mine").mkdir()
    code = (
        "from typing import Literal\n"
        "from specml.candidates.logistic_regression import LogisticRegression\n"
        "class Mine(LogisticRegression):\n"
        '    """Mine."""\n'
        '    type: Literal["mine"] = "mine"  # type: ignore\n'
        "    C: float = 0.1\n"
    )
    (folder / "mine/__init__.py").write_text(code)
    spec = (folder / "spec.yaml").read_text().replace("name: breast-cancer", "name: breast-cancer\nplugins: [mine]")
    (folder / "spec.yaml").write_text(
        spec.replace("type: lightgbm, learning_rate: 0.1, min_child_samples: 10", "type: mine")
    )
    outcome(folder)
    (folder / "mine/__init__.py").write_text(code + "    # changed\n")
    ran = outcome(folder)["stages_run"]
    assert isinstance(ran, list)
    assert "train@gbm" in ran


def test_a_second_run_is_turned_away_before_it_writes(again: Path) -> None:
    import fcntl

    before = (again / "params.yaml").read_bytes()
    with (again / ".specml/run.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = specml("run", "--no-deploy", "--no-wait", "gates.auc.min=0.99", folder=again, status=1)
    assert "another run is at work here (process 4711)" in done.stderr
    assert (again / "params.yaml").read_bytes() == before


@pytest.mark.sweep
def test_until_and_only(project: Callable[[str], Path]) -> None:
    folder = project("diabetes")
    assert outcome(folder, "--until", "train@linear")["stages_run"] == [
        "guard", "ingest@patients", "prepare", "feasibility", "train@linear",
    ]  # fmt: skip
    assert outcome(folder, "--until", "train@linear")["stages_run"] == []
    assert not (folder / "artifacts/bundle").exists()
    assert outcome(folder, "--only", "explore")["stages_run"] == ["explore"]
    assert specml("run", "--until", "tran", folder=folder, status=2).stderr.count("there is no stage 'tran'") == 1


def test_a_failing_stage_is_one_message_with_the_datas_status(project: Callable[[str], Path]) -> None:
    folder = project("diabetes")
    data = folder / "data/diabetes.csv"
    data.write_text("\n".join(data.read_text().splitlines()[:60]) + "\n")
    done = specml("run", "--no-deploy", "-q", folder=folder, status=7)
    assert "44 training rows, 100 are needed" in done.stderr
    data.unlink()
    assert "diabetes.csv" in specml("run", "--no-deploy", "-q", folder=folder, status=None).stderr


def test_plan_tells_why_and_writes_nothing(again: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in again.rglob("*") if path.is_file() and "tmp" not in path.parts}
    done = specml("plan", "candidates.gbm.num_leaves=15", folder=again)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "candidates.gbm.num_leaves changed" in lines["train@gbm"]
    assert " skip " in lines["train@scorecard"]
    assert "params.yaml" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in again.rglob("*") if path.is_file() and "tmp" not in path.parts}
    assert {p: t for p, t in after.items() if ".dvc" not in p.parts} == {
        p: t for p, t in before.items() if ".dvc" not in p.parts
    }


def test_plan_tells_of_a_persons_own_stages(again: Path) -> None:
    with (again / "dvc.yaml").open("a") as file:
        file.write("  export:\n    cmd: cp artifacts/bundle/model.onnx model.onnx\n    outs: [model.onnx]\n")
    assert "export" in specml("plan", folder=again).stdout
    assert "export" in (again / "dvc.yaml").read_text()
    specml("run", "--no-deploy", "-q", folder=again)
    assert (again / "model.onnx").exists()


def test_quiet_and_json_and_no_terminal(again: Path) -> None:
    quiet = specml("run", "--no-deploy", "-q", folder=again)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    assert "\x1b" not in specml("run", "--no-deploy", "gates.auc.min=0.96", folder=again, FORCE_COLOR="").stderr


def dvc(*arguments: str, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    return other("dvc", *arguments, folder=folder, status=status)


def git(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return other("git", *identity, *arguments, folder=folder)


def other(*command: str, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Another tool's command line, found as after activating the environment."""
    import os
    import sys

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
