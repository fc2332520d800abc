"""The page on disparity says what its own script prints, and its YAML is valid."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from specml.load import load
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs/disparity.md").read_text()


def test_the_two_models_are_judged_as_the_page_says() -> None:
    code, told = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", PAGE, re.DOTALL).groups()  # type: ignore[union-attr]
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout == told


def test_its_gates_are_valid(tmp_path: Path) -> None:
    text = PAGE.split("```yaml\n", 1)[1].split("```", 1)[0]
    head = "name: x\nproblem: {task: binary, target: y}\ncandidates: {line: logistic_regression}\n"
    source = "data:\n  sources: {rows: {type: csv, path: rows.csv}}\n"
    (tmp_path / "spec.yaml").write_text(head + text.replace("data:\n", source, 1))
    gates = load(tmp_path).spec.gates
    assert gates["hired"].by == ("sex", "race", ("sex", "race"))  # type: ignore[attr-defined]
