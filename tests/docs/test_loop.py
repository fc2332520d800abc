"""The commands of docs/loop.md, in their order, in one project."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES, ROOT

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/loop.md").read_text(), re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example as a stranger has it, on a port that is free."""
    copied = tmp_path / "employment"
    shutil.copytree(EXAMPLES / "employment", copied, ignore=shutil.ignore_patterns("artifacts", ".specml", ".dvc"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = copied / "spec.yaml"
    assert "port: 8030" in spec.read_text()
    spec.write_text(spec.read_text().replace("port: 8030", f"port: {port}"))
    return copied


def ran(folder: Path, line: str) -> str:
    """What a line of the page prints; its comment says the exit status that is not 0."""
    command, _, comment = line.partition("  # ")
    status = int(comment.strip().removeprefix("exit status ") or 0)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    assert "Traceback" not in told, f"{line}\n{told}"
    assert done.returncode == status, f"{line}\n{told}"
    return told


@pytest.mark.slow
@pytest.mark.serve
def test_the_loop(folder: Path) -> None:
    assert LINES[0] == "cd examples/employment"
    assert LINES[-1] == "specml stop"
    told: list[tuple[str, str]] = []
    try:
        for line in LINES[1:]:
            told.append((line, ran(folder, line)))
    finally:
        ran(folder, "specml stop")

    def said(start: str) -> list[str]:
        return [text for line, text in told if line.startswith(start)]

    quiet, ranks, loud = said("specml watch")
    assert "raised" not in quiet + ranks
    assert "SCHL" in loud
    assert "2,000 of 2,000 labels are new" in said("specml feedback")[0]
    assert "SCHL" in said("specml explain")[0]
    worse, better, again = said("specml retrain")
    assert "champion" in worse
    assert "refused" in worse
    assert "is live at" in better
    assert "not retrained" in again
    assert all("release   1, live since" in text for text in said("specml status"))
    assert "registry complains" in said("specml releases")[0] + said("specml audit show")[0] + said("specml run")[1]
    events = [json.loads(line)["event"] for line in (folder / ".specml/ledger.jsonl").read_text().splitlines()]
    wanted = ("run", "thresholds", "release", "deploy", "feedback", "signal", "retrain", "rollback")
    assert set(wanted) <= set(events)
