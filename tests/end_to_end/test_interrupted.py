"""A run that is stopped at any moment leaves no process behind, and the next one carries on."""

from __future__ import annotations

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


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
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
