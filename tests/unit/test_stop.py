"""`specml stop` needs no more than the project's folder."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from specml.targets.local.cluster import MARK, Cluster
from tests.conftest import specml

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "spec", ["name: [", "name: x\nproblem: {task: strange}\n", "plugins: [nowhere_at_all]\n", None]
)
@pytest.mark.parametrize("asked", [".", "conf/spec.yaml"])
def test_a_broken_spec_keeps_nothing_running(spec: str | None, asked: str, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    if spec is not None:
        (tmp_path / "conf/spec.yaml").write_text(spec)
    made = Cluster.new(8123, 4)
    (tmp_path / ".specml").mkdir()
    made.write(tmp_path / ".specml")
    served = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: made.mark})
    try:
        done = specml("stop", asked, "--json", folder=tmp_path)
        assert json.loads(done.stdout) == {"schema_version": 1, "name": tmp_path.name, "stopped": True}
        assert "The spec can't be read" in done.stderr
        assert served.wait(10) != 0
        assert not (tmp_path / ".specml/serving.json").exists()
    finally:
        served.kill()
        served.wait()


def test_without_a_server_a_broken_spec_is_told(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: [")
    assert "spec.yaml:1:" in specml("stop", folder=tmp_path, status=2).stderr
