"""`specml plan` beside a params.yaml that is not specml's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from specml import repro
from tests.conftest import specml

if TYPE_CHECKING:
    from pathlib import Path

SPEC = """\
name: small
problem: {task: binary, target: y}
data: {sources: {rows: {type: csv, path: rows.csv}}}
candidates: {line: logistic_regression}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "rows.csv").write_text("a,y\n1,0\n")
    specml("compile", folder=folder)
    repro.set_up(folder)
    return folder


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "\xff"])
def test_a_params_yaml_that_is_no_yaml_is_one_message(text: str, project: Path) -> None:
    (project / "params.yaml").write_bytes(text.encode("latin-1"))
    done = specml("plan", folder=project, status=1)
    assert "params.yaml:\n" in done.stderr
    assert "bug in specml" not in done.stderr


@pytest.mark.parametrize("text", ["", "- 1", "hello", "name: other", "seed: 2026-11-23", "a: .nan"])
def test_a_params_yaml_written_by_hand_is_told_and_planned_over(text: str, project: Path) -> None:
    (project / "params.yaml").write_text(text)
    done = specml("plan", folder=project)
    assert "run " in done.stdout
    assert "params.yaml is none that compile wrote" in done.stdout
    assert "compile would write params.yaml" in done.stdout
