"""A model's later life: a worse challenger refused, a better one released, rolled back from under load."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from specml import ledger
from tests.conftest import specml
from tests.end_to_end.test_run import dvc

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SPEC = """\
name: later
problem: {{task: binary, target: y}}
data:
  sources: {{rows: {{type: parquet, path: rows.parquet}}}}
  columns: {{year: {{role: time, dtype: int}}}}
  split: {{method: time, column: year, test: 0.25}}
candidates: {{line: logistic_regression}}
search: {{folds: 2}}
gates: {{{gates}}}
serving: {{replicas: {{min: 2, max: 2, cpus: 0.1}}}}
deployment: {{target: {{type: local, port: {port}}}}}
monitoring: {{retrain: {{on: [drift]}}}}
"""
CHAMPION = "champion: {type: champion}"


def rows(share: float) -> pl.DataFrame:
    """Four years; before the last, ``b`` tells something in ``share`` of the rows only. The last is always the same."""
    generator = np.random.default_rng(1)
    n = 4000
    a, b = generator.normal(size=(2, n))
    y = (generator.random(n) < 1 / (1 + np.exp(-a - 2 * b))).astype(int)
    year = 2020 + np.arange(n) // (n // 4)
    noise = (generator.random(n) >= share) & (year < 2023)
    return pl.DataFrame({"year": year, "a": a, "b": np.where(noise, generator.normal(size=n), b), "y": y})


def project(folder: Path, *gates: str) -> Path:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    (folder / "spec.yaml").write_text(SPEC.format(gates=", ".join(gates), port=port))
    rows(0.3).write_parquet(folder / "rows.parquet")
    return folder


def told(*arguments: str, folder: Path, status: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(specml(*arguments, "--json", folder=folder, status=status).stdout)
    return document


class Load:
    """One client that asks without pause, and remembers who answered and what went wrong."""

    def __init__(self, port: int) -> None:
        self._port, self._stopped = port, threading.Event()
        self.answers: list[tuple[str, float]] = []
        self.failures: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.005):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                connection.request(
                    "POST", "/predict", '{"rows": [{"a": 1, "b": 1}]}', {"content-type": "application/json"}
                )
                answer = connection.getresponse()
                body = json.loads(answer.read())
                connection.close()
                if answer.status == 200:
                    self.answers.append((body["bundle"], body["predictions"][0]["probability"]))
                else:
                    self.failures.append(body)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)


def verdict(outcome: dict[str, Any], name: str = "champion") -> dict[str, Any]:
    found: dict[str, Any] = outcome["gates"][name]
    return found


def compared_alike(folder: Path, clone: Path) -> bool:
    """Whether a clone that has no store, but what DVC's remote has, comes to the same verdicts byte for byte."""
    dvc("remote", "add", "-q", "-d", "far", str(clone.with_name("remote")), folder=folder)
    dvc("push", "-q", folder=folder)
    shutil.copytree(folder, clone, ignore=shutil.ignore_patterns("artifacts", ".specml", "cache", "tmp"))
    dvc("pull", "-q", folder=clone)
    dvc("repro", "-q", "--force", "--single-item", "validate", folder=clone)
    name = "artifacts/validate/verdicts.json"
    return (clone / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.serve
@pytest.mark.sweep
def test_a_worse_challenger_is_refused_a_better_one_released_and_rolled_back_from(tmp_path: Path) -> None:
    folder = project(tmp_path / "later", CHAMPION)
    try:
        first = told("run", folder=folder)
        assert first["release"] == 1
        assert "no champion yet" in verdict(first)["reason"]

        again = told("run", folder=folder)
        assert (again["stages_run"], again["release"]) == ([], 1)
        done = specml("retrain", folder=folder)
        assert "nothing is new since the last run" in done.stderr
        assert json.loads((folder / "champion.json").read_text()) == {"bundle": None}

        rows(0.0).write_parquet(folder / "rows.parquet")
        quiet = specml("retrain", "--if-raised", folder=folder)
        assert "not retrained: none of drift was raised on release 1" in quiet.stderr
        rows(1.0).with_columns(pl.col("b") + 2).write_parquet(tmp_path / "shifted.parquet")
        specml("watch", "--once", "--rows", str(tmp_path / "shifted.parquet"), folder=folder, status=10)
        worse = specml("retrain", "--if-raised", "--json", folder=folder, status=4)
        outcome = json.loads(worse.stdout)
        assert verdict(outcome)["outcome"] == "refused"
        assert outcome["cause"].startswith("drift raised in file-")
        assert [name for name, gate in outcome["gates"].items() if gate["outcome"] != "holds"] == ["champion"]
        assert "release 1 stays: the challenger is refused" in worse.stderr
        assert json.loads((folder / "champion.json").read_text()) == {"bundle": first["bundle"]}
        live = told("status", folder=folder)
        assert (live["live"]["bundle"], live["release"]) == (first["bundle"], 1)
        assert live["bundle_in_project"] == outcome["bundle"] != first["bundle"]
        assert "refused by champion (refused)" in specml("deploy", folder=folder, status=4).stderr

        rows(1.0).write_parquet(folder / "rows.parquet")
        better = told("retrain", folder=folder)
        assert (verdict(better)["outcome"], better["release"]) == ("holds", 2)
        assert verdict(better)["value"] > 0
        assert compared_alike(folder, tmp_path / "clone")
        # What went live since has not made its own evidence out of date.
        assert told("run", folder=folder)["stages_run"] == []

        with Load(int(live["live"]["url"].rpartition(":")[2])) as load:
            done = specml("rollback", "--reason", "drill", folder=folder)
        assert "rolled back from release 2 to release 1" in done.stdout
        assert load.failures == []
        assert load.answers[-1][0] == first["bundle"]
        assert {bundle for bundle, _ in load.answers} <= {first["bundle"], better["bundle"]}
        assert len({probability for bundle, probability in load.answers if bundle == first["bundle"]}) == 1

        assert told("status", folder=folder)["release"] == 1
        assert "release 2, rolled back from" in specml("status", folder=folder).stdout
        kept = told("releases", folder=folder)["releases"]
        assert [(one["number"], one["state"]) for one in kept] == [(1, "live"), (2, "retired")]
        assert kept[1]["rolled_back"]["reason"] == "drill"
        assert kept[1]["champion"] == first["bundle"]
        assert all(one["metric"]["name"] == "roc_auc" for one in kept)
        unchanged = specml("run", folder=folder, status=1)
        assert "nothing to do" in unchanged.stderr
        assert "release 2 was rolled back from" in unchanged.stderr
        assert told("status", folder=folder)["release"] == 1
        events = [record.event for record in ledger.verify(folder).records if record.facts.get("phase") != "ended"]
        assert [one for one in events if one in ("deploy", "rollback", "retrain")] == [
            "deploy", "deploy", "retrain", "retrain", "deploy", "retrain", "deploy", "deploy", "rollback", "deploy",
        ]  # fmt: skip
    finally:
        specml("stop", folder=folder)
