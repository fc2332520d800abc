"""What a spec compiles to, and what of a person's survives it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ruamel.yaml import YAML

import specml
from specml.compile import compile_plan
from specml.compile.diff import differences
from specml.compile.dvc import compiled_digest, dvc_yaml, gitignore, params_yaml, read_params
from specml.compile.write import compiled
from specml.errors import SpecmlError, StaleCompile
from specml.load import load
from tests.conftest import ROOT, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable


def parsed(text: str) -> dict[str, dict[str, object]]:
    return dict(YAML(typ="safe").load(text))


def test_the_plan_is_pure_and_the_same_twice() -> None:
    assert compile_plan(spec_of()) == compile_plan(spec_of())


def test_only_validate_reads_the_test_rows() -> None:
    plan = compile_plan(spec_of())
    assert [s.name for s in plan.stages if any("test.parquet" in dep for dep in s.deps)] == ["validate"]


def test_every_dependency_inside_artifacts_is_the_output_of_an_earlier_stage() -> None:
    made: set[str] = set()
    for stage in compile_plan(spec_of(candidates={"a": "logistic_regression", "b": "lightgbm"})).stages:
        filled = {dep.replace("${key}", key) for dep in stage.deps for key in stage.keys or ("",)}
        assert {dep for dep in filled if dep.startswith("artifacts/")} <= made
        made |= {out.replace("${key}", key) for out in stage.outs for key in stage.keys or ("",)}


def test_every_stage_depends_on_the_version_of_specml() -> None:
    plan = compile_plan(spec_of())
    assert [stage.name for stage in plan.stages if "specml" not in stage.params] == ["guard"]
    assert plan.params["specml"] == specml.__version__


def test_commands_hold_nothing_of_the_spec() -> None:
    spec = spec_of(problem={"task": "binary", "target": "y; touch PWNED", "goal": "$(touch PWNED)"})
    stages = parsed(dvc_yaml(compile_plan(spec), ""))["stages"]
    commands = [entry.get("do", entry)["cmd"] for entry in stages.values()]  # type: ignore[attr-defined]
    assert all(command.startswith("exec specml stage ") for command in commands)
    assert not any("PWNED" in command for command in commands)


def test_stages_and_keys_of_a_persons_own_survive_with_their_comments() -> None:
    plan = compile_plan(spec_of())
    theirs = "# mine\nvars: []\nstages:\n  export: # by hand\n    cmd: ./export.sh\n    deps: [artifacts/bundle]\n"
    once = dvc_yaml(plan, theirs)
    assert "# by hand" in once
    assert "# mine" in once
    assert parsed(once)["stages"]["export"] == {"cmd": "./export.sh", "deps": ["artifacts/bundle"]}
    assert dvc_yaml(plan, once) == once


def test_a_stage_that_the_spec_no_longer_has_goes() -> None:
    plan = compile_plan(spec_of())
    before = dvc_yaml(plan, "")
    after = dvc_yaml(replace(plan, stages=plan.stages[:-1]), before)
    assert set(parsed(before)["stages"]) - set(parsed(after)["stages"]) == {"release"}


def test_a_stage_of_the_same_name_is_a_clear_refusal() -> None:
    with pytest.raises(SpecmlError, match="a stage 'train' of your own"):
        dvc_yaml(compile_plan(spec_of()), "stages:\n  train:\n    cmd: ./mine.sh\n")


def test_gitignore_keeps_a_persons_lines() -> None:
    once = gitignore("*.log")
    assert once.startswith("*.log\n# >>> specml\n")
    assert gitignore(once) == once
    assert gitignore(once.replace("/artifacts/", "/old/")) == once


def test_params_round_trip() -> None:
    plan = compile_plan(spec_of())
    read = read_params(params_yaml(plan, "conf/spec.yaml", ["gates.auc.min=0.8"]))
    assert read == (plan.params, compiled_digest(plan.params), "conf/spec.yaml", ("gates.auc.min=0.8",))


def test_params_that_somebody_wrote_are_read_as_text() -> None:
    read = read_params("2020-01-01: 3\nwhen: 2020-01-02\nlist: [2020-01-03]\n")
    assert read.values == {"2020-01-01": 3, "when": "2020-01-02", "list": ["2020-01-03"]}
    assert (read.compiled, read.overrides) == ("", ())


def test_differences_name_the_keys() -> None:
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})) == [("a.c", 2, 3)]


def test_values_changed_in_params_are_named_not_overwritten(project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    compiled(load(folder)).write()
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("num_leaves: 31", "num_leaves: 7"))
    with pytest.raises(StaleCompile, match=r"candidates\.gbm\.num_leaves: 7 in params\.yaml, 31 in the spec"):
        compiled(load(folder))
    assert compiled(load(folder), force=True).write() == ("params.yaml",)
    assert compiled(load(folder)).write() == ()


def test_files_of_another_target_go_and_those_of_a_person_stay(project: Callable[[str], Path]) -> None:
    folder = project("breast_cancer")
    compiled(load(folder)).write()
    (folder / "deploy").mkdir()
    (folder / "deploy/notes.md").write_text("ours\n")
    other = compiled(load(folder, ("deployment.target=edge",)))
    assert other.left == ("serve.yaml",)
    other.write()
    assert not (folder / "serve.yaml").exists()
    back = compiled(load(folder))
    assert back.left == ("deploy/edge.json",)
    back.write()
    assert [path.name for path in (folder / "deploy").iterdir()] == ["notes.md"]
    (folder / "deploy/notes.md").unlink()
    compiled(load(folder, ("deployment.target=edge",))).write()
    compiled(load(folder)).write()
    assert not (folder / "deploy").exists()
    assert compiled(load(folder)).left == ()


def test_planning_loads_no_ml_library() -> None:
    code = (
        "import sys; from specml.load import load; from specml.compile import compile_plan;"
        f"compile_plan(load(__import__('pathlib').Path({str(ROOT)!r})).spec);"
        "heavy = {'sklearn','lightgbm','torch','ray','onnx','onnxruntime','dvc','scipy','polars','whylogs'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
