"""What each example compiles to, word for word; ``make golden`` rewrites, the difference is reviewed."""

from __future__ import annotations

import os
from difflib import unified_diff
from pathlib import Path

import pytest

from specml.compile import compile_plan
from specml.compile.dvc import dvc_yaml, params_yaml
from specml.compile.write import compiled
from specml.load import load
from tests import bad_data
from tests.conftest import EXAMPLES, ROOT

FILES = Path(__file__).parent
PROJECTS = {
    "default": ROOT,
    "breast_cancer": EXAMPLES / "breast_cancer",
    "diabetes": EXAMPLES / "diabetes",
    "employment": EXAMPLES / "employment",
    "flights": EXAMPLES / "flights",
    "gdpr": EXAMPLES / "loans",
}


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_compiled_files(name: str) -> None:
    found = compiled(load(PROJECTS[name]), force=True).contents
    for file in ("dvc.yaml", "params.yaml", "serve.yaml"):
        golden = FILES / name / file
        if os.environ.get("SPECML_GOLDEN") == "write":
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(found[file])
        assert found[file] == golden.read_text(), f"{golden}: `make golden` rewrites it"


def test_manifests() -> None:
    options = ("deployment.target={type: kubernetes, image: registry.example/models/census}",)
    spec = load(PROJECTS["default"], (*options, "serving.auth={tokens: '${secret:API_TOKENS}'}")).spec
    for name, text in spec.deployment.target.emit(spec).items():
        golden = FILES / "kubernetes" / Path(name).name
        if os.environ.get("SPECML_GOLDEN") == "write":
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(text)
        assert text == golden.read_text(), f"{golden}: `make golden` rewrites it"


def test_what_the_rule_gdpr_changes() -> None:
    spec = load(PROJECTS["gdpr"]).spec
    bare = spec.model_copy(update={"compliance": spec.compliance.model_copy(update={"rules": {}})})
    plans = [compile_plan(bare), compile_plan(spec)]
    files = [
        {
            "dvc.yaml": dvc_yaml(plan, ""),
            "params.yaml": params_yaml(plan, "spec.yaml", ()),
            **of.deployment.target.emit(of),
        }
        for plan, of in zip(plans, (bare, spec), strict=True)
    ]
    told = "".join(
        line
        for name in sorted(files[0])
        for line in unified_diff(
            *(one[name].splitlines(keepends=True) for one in files), f"without/{name}", f"with/{name}", n=2
        )
    )
    golden = FILES / "gdpr" / "rule.diff"
    if os.environ.get("SPECML_GOLDEN") == "write":
        golden.write_text(told)
    assert told == golden.read_text(), f"{golden}: `make golden` rewrites it"


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_the_committed_files_are_current(name: str) -> None:
    assert compiled(load(PROJECTS[name])).changed == ()


def test_the_page_about_bad_data() -> None:
    golden = ROOT / "docs" / "bad-data.md"
    if os.environ.get("SPECML_GOLDEN") == "write":
        golden.write_text(bad_data.page())
    assert bad_data.page() == golden.read_text(), f"{golden}: `make golden` rewrites it"
