"""What each example compiles to, word for word; ``make golden`` rewrites, the difference is reviewed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specml.compile.write import compiled
from specml.load import load
from tests.conftest import EXAMPLES, ROOT

FILES = Path(__file__).parent
PROJECTS = {"default": ROOT, "breast_cancer": EXAMPLES / "breast_cancer", "diabetes": EXAMPLES / "diabetes"}


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_compiled_files(name: str) -> None:
    found = compiled(load(PROJECTS[name]), force=True).contents
    for file in ("dvc.yaml", "params.yaml", "serve.yaml"):
        golden = FILES / name / file
        if os.environ.get("SPECML_GOLDEN") == "write":
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(found[file])
        assert found[file] == golden.read_text(), f"{golden}: `make golden` rewrites it"


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_the_committed_files_are_current(name: str) -> None:
    assert compiled(load(PROJECTS[name])).changed == ()
