"""A run that is stopped at any moment leaves no process behind, and the next one carries on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.conftest import specml
from tests.kills import outputs, write_project

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

LONG = ("candidates.gbm.early_stopping=0", "candidates.gbm.n_estimators=60000")


def working_in(folder: Path) -> list[psutil.Process]:
    """Processes whose working directory is ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.parametrize(
    ("how", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.sweep),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.sweep),
    ],
)
def test_stopped_while_training(project: Callable[[str], Path], how: signal.Signals, status: int) -> None:
    folder = project("breast_cancer").resolve()
    run = subprocess.Popen(
        [sys.executable, "-m", "specml", "run", "--no-deploy", *LONG],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    events = folder / ".specml/events.jsonl"
    deadline = time.monotonic() + 120
    while "train@gbm" not in (events.read_text() if events.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.send_signal(how)
    told, _ = run.communicate(timeout=10)
    assert run.returncode == status, told
    deadline = time.monotonic() + 2
    while working_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert working_in(folder) == []
    if how is signal.SIGINT:
        assert "interrupted" in told
        assert "Traceback" not in told
    done = specml("run", "--no-deploy", folder=folder)
    assert "prepare start" not in done.stderr, "what was finished is not done again"
    assert "released as" in done.stderr


SEARCH = ("candidates.other.type=random_forest", "search.trials=40", "search.folds=5")


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "specml", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def waited_for(truth: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.sweep
def test_a_search_that_is_interrupted_goes_on_with_its_trials(tmp_path: Path) -> None:
    folder = tmp_path.resolve() / "search"
    write_project(folder)
    run = started(folder, "run", "--no-deploy", *SEARCH)

    def trials() -> list[str]:
        return [
            line
            for path in sorted((folder / ".specml/search").rglob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    waited_for(lambda: bool(trials()))
    run.send_signal(signal.SIGINT)
    told, _ = run.communicate(timeout=10)
    assert (run.returncode, "Traceback" in told) == (130, False), told
    assert "Go on with: specml run --no-deploy candidates.other.type=random_forest" in told
    waited_for(lambda: not working_in(folder), 2)
    kept = trials()
    assert len(kept) < 80
    done = specml("run", "--no-deploy", *SEARCH, "search.trials=2", folder=folder)  # fewer, so that the test ends
    assert "released as" in done.stderr
    assert set(kept) <= set(trials())
    for path in (folder / ".specml/search").rglob("*.jsonl"):
        numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
        assert len(numbers) == len(set(numbers)), "what was finished is not judged again"


def test_a_run_that_waits_can_be_interrupted_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = tmp_path.resolve() / "two"
    write_project(folder)
    first = started(folder, "run", "--no-deploy")
    waited_for(lambda: (folder / ".specml/run.lock").exists() and bool((folder / ".specml/run.lock").read_text()))
    second = started(folder, "run", "--no-deploy")
    assert second.stdout is not None
    assert f"process {first.pid}" in second.stdout.readline()
    second.send_signal(signal.SIGINT)
    told, _ = second.communicate(timeout=10)
    assert (second.returncode, "Traceback" in told) == (130, False), told
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert "nothing to do" in specml("run", "--no-deploy", folder=folder).stderr


def test_without_network_and_home_a_run_is_the_same(tmp_path: Path) -> None:
    """``unshare`` gives the run a network of its own, in which nothing else is, and root's rights in nothing but it."""
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets no user make a network of his own (unshare --net)")
    outcomes = []
    for name, before in (("usual", []), ("alone", [*alone, "env", "-u", "HOME"])):
        folder = tmp_path / name
        write_project(folder)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [*before, sys.executable, "-m", "specml", "run", "--no-deploy"]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outcomes.append(outputs(folder))
    assert outcomes[0] == outcomes[1]


@pytest.mark.sweep
def test_eight_runs_in_eight_folders(tmp_path: Path) -> None:
    folders = [tmp_path / f"project{number}" for number in range(8)]
    for folder in folders:
        write_project(folder)
    runs = [started(folder, "run", "--no-deploy") for folder in folders]
    for run in runs:
        told, _ = run.communicate(timeout=600)
        assert run.returncode == 0, told
    assert all(outputs(folder) == outputs(folders[0]) for folder in folders)
