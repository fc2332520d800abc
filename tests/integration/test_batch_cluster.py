"""The target batch on a real cluster of two nodes: the same bytes as here, whatever is killed in between."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import psutil
import pytest

from tests.conftest import specml
from tests.two_nodes import TwoNodes, two_nodes
from tests.unit.test_batch import journalled, people, project, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.sweep

ROWS, PART = 100_000, 200


@dataclass
class There:
    """A project whose files the cluster scores, and what comes out where they are scored here."""

    folder: Path
    nodes: TwoNodes
    wanted: dict[str, bytes]

    def run(self, *arguments: str, status: int = 0) -> str:
        done = specml(*arguments, folder=self.folder, status=status, RAY_TOKEN=self.nodes.token)
        return f"{done.stdout}{done.stderr}"

    @contextlib.contextmanager
    def deploying(self) -> Iterator[subprocess.Popen[str]]:
        """``specml deploy``, once some parts are done and many are not."""
        with subprocess.Popen(
            [sys.executable, "-m", "specml", "deploy"],
            cwd=self.folder,
            env={**os.environ, "RAY_TOKEN": self.nodes.token},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as run:
            while journalled(self.folder) < ROWS // PART // 5 and run.poll() is None:
                time.sleep(0.01)
            assert run.poll() is None, run.communicate()
            yield run
            assert self.unfinished or run.poll() is not None

    @property
    def unfinished(self) -> bool:
        return 0 < journalled(self.folder) < ROWS // PART

    def kill(self, name: str) -> None:
        """Kill a process of the cluster's whose command line has this in it."""
        for one in psutil.Process(self.nodes.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in " ".join(one.cmdline()):
                    one.kill()
                    return
        raise AssertionError(name)

    @property
    def jobs(self) -> list[str]:
        return list(self.nodes.cluster.jobs(specml_batch=str(self.folder.resolve())))


def spec(**target: Any) -> str:
    return json.dumps(
        {
            "name": "census",
            "problem": {"task": "binary", "target": "income"},
            "data": {"sources": {"people": {"type": "csv", "path": "people.csv"}}},
            "candidates": {"line": "logistic_regression"},
            "deployment": {"target": {"type": "batch", "input": "incoming", "part_rows": PART, **target}},
        }
    )


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes(cpus=2) as found:
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was scored on this machine."""
    folder = project(tmp_path_factory.mktemp("here"))
    (folder / "spec.yaml").write_text(spec(bad_rows="quarantine"))
    table = people(ROWS).with_columns(pl.col("age").cast(pl.String))
    bad = pl.when(pl.int_range(pl.len()) % 7001 == 5).then(pl.lit("?")).otherwise(pl.col("age"))
    table.with_columns(age=bad).write_csv(folder / "incoming/rows.csv")
    people(300, seed=1).write_parquet(folder / "incoming/few.parquet")
    specml("deploy", "-q", folder=folder)
    return folder


@pytest.fixture
def there(nodes: TwoNodes, here: Path, tmp_path: Path) -> There:
    folder = project(tmp_path / "there")
    shutil.copytree(here / "incoming", folder / "incoming", dirs_exist_ok=True)
    cluster = {"address": f"http://127.0.0.1:{nodes.dashboard}", "token": "${secret:RAY_TOKEN}"}
    (folder / "spec.yaml").write_text(spec(bad_rows="quarantine", cluster=cluster))
    return There(folder, nodes, tree(here / "scored"))


def test_the_same_bytes_come_out(there: There) -> None:
    told = there.run("deploy")
    assert "Scoring on the cluster as its job raysubmit_" in told
    assert f"incoming/rows.csv: {ROWS - 15:,} rows scored, 15 put aside." in told
    assert tree(there.folder / "scored") == there.wanted
    assert "nothing to do" in there.run("deploy")
    assert there.jobs == []


def test_an_actor_is_killed_and_nobody_notices(there: There) -> None:
    with there.deploying() as run:
        there.kill("ray::MapWorker")
        out, _ = run.communicate(timeout=300)
    assert run.returncode == 0, out
    assert tree(there.folder / "scored") == there.wanted


def test_a_node_is_lost_and_the_other_goes_on(there: There) -> None:
    try:
        with there.deploying() as run:
            there.nodes.lose()
            out, _ = run.communicate(timeout=300)
    finally:
        there.nodes.mend()
    assert run.returncode == 0, out
    assert tree(there.folder / "scored") == there.wanted


def test_the_job_is_killed_and_the_next_deploy_goes_on(there: There) -> None:
    with there.deploying() as run:
        there.kill("specml.targets.batch.driver")
        out, _ = run.communicate(timeout=120)
    assert run.returncode == 9, out
    assert "it ended before all was scored" in out
    assert "`specml deploy` goes on after the last part" in out
    assert "rows are done …" in there.run("deploy", "deployment.target.cluster=null")  # here, as well as there
    assert tree(there.folder / "scored") == there.wanted


def test_the_command_is_killed_and_the_next_follows_the_same_job(there: There) -> None:
    with there.deploying() as run:
        run.kill()
        run.wait()
    (job,) = there.jobs
    told = there.run("deploy")
    assert f"by the job {job} of the cluster already; following that" in told
    assert "Scoring on the cluster" not in told
    assert tree(there.folder / "scored") == there.wanted


def test_this_machine_waits_for_a_job_that_scores_the_same(there: There) -> None:
    with there.deploying() as run:
        run.kill()
        run.wait()
    told = there.run("deploy", "deployment.target.cluster=null")
    assert "rows.csv" not in told
    assert tree(there.folder / "scored") == there.wanted


def test_interrupted_the_job_stops_and_the_next_deploy_goes_on(there: There) -> None:
    with there.deploying() as run:
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    assert run.returncode == 130
    until = time.monotonic() + 30
    while there.jobs and time.monotonic() < until:
        time.sleep(0.5)
    assert there.jobs == []
    assert "rows are done …" in there.run("deploy")
    assert tree(there.folder / "scored") == there.wanted


def test_stop_ends_what_scores(there: There) -> None:
    with there.deploying() as run:
        assert "census: stopped." in there.run("stop")
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 9
    assert "it was stopped" in out
    assert "nothing was running" in there.run("stop")


def test_other_options_stop_the_job_that_runs_and_nothing_of_it_is_taken_for_theirs(there: There) -> None:
    with there.deploying() as run:
        run.kill()
        run.wait()
    told = there.run("deploy", "deployment.target.keep=[customer]")
    assert "What scored with another bundle or other options is stopped." in told
    assert "going on" not in told
    answered = pl.read_parquet(there.folder / "scored/live/rows.csv-*/part-*.parquet")
    assert answered.columns == ["customer", "predicted", "probability_0", "probability_1"]
    assert answered.height == ROWS - 15


def test_a_row_is_refused_as_it_is_here(there: There, here: Path, tmp_path: Path) -> None:
    alone = project(tmp_path / "alone")
    shutil.copytree(here / "incoming", alone / "incoming", dirs_exist_ok=True)
    (alone / "spec.yaml").write_text(spec())
    wanted = specml("deploy", "-q", folder=alone, status=6).stderr
    assert "incoming/rows.csv:\n    row 6: age is" in wanted
    assert there.run("deploy", "-q", "deployment.target.bad_rows=refuse", status=6) == wanted
    assert not (there.folder / "scored/live").exists()


def elsewhere(folder: Path, seen: Path, *command: str) -> list[str]:
    """Runs a command where ``folder`` stands at the path ``seen``, which nobody else finds it at."""
    return [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount --bind "$0" "$1" && cd "$1" && shift && "$@"',
        str(folder),
        str(seen),
        *command,
    ]


def test_nodes_that_do_not_see_the_project_are_refused_before_a_row_is_scored(there: There, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    if not shutil.which("unshare") or subprocess.run(elsewhere(there.folder, seen, "true"), check=False).returncode:
        pytest.skip("may mount nothing")
    command = elsewhere(there.folder, seen, sys.executable, "-m", "specml", "deploy")
    environment = {**os.environ, "RAY_TOKEN": there.nodes.token}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 9, done
    assert "it sees the bundle none in the project's folder." in done.stderr
    assert "Put the project on a disk that all nodes mount at the same path" in done.stderr
    assert not list(there.folder.glob("scored/*/.*"))  # nothing was begun


def test_another_token_is_told(there: There) -> None:
    found = specml("deploy", folder=there.folder, status=9, RAY_TOKEN="0" * 64).stderr
    assert "deployment.target.cluster.address" in found
    assert "does not know this token" in found
