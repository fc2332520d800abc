"""Presets, spec, overrides and references become one spec, each value with its origin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from specml.errors import Problem, SpecError
from specml.load import Loaded, load

SPECS = Path(__file__).parents[1] / "specs"

BASE = """\
name: small
problem:
  task: binary
  target: y
data:
  sources:
    rows: {type: csv, path: rows.csv}
candidates:
  line: {type: logistic_regression}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    return tmp_path


def loaded(project: Path, text: str, *overrides: str) -> Loaded:
    (project / "conf" / "spec.yaml").write_text(text)
    return load(project, overrides)


def problems(project: Path, text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        loaded(project, text, *overrides)
    assert caught.value.status == 2
    return list(caught.value.problems)


def preset(project: Path, name: str, text: str) -> None:
    path = project / "conf" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_the_spec_is_found_in_conf_then_in_the_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "spec.yaml").write_text(BASE.replace("small", "beside"))
    monkeypatch.chdir(project)
    found = load()
    assert (found.spec.name, found.folder, found.files) == ("beside", project, ("spec.yaml",))
    (project / "conf" / "spec.yaml").write_text(BASE)
    found = load()
    assert (found.spec.name, found.folder, found.files) == ("small", project, ("conf/spec.yaml",))
    assert found.path == project / "conf" / "spec.yaml"
    assert load(Path("conf/spec.yaml")).folder == project


def test_no_spec_says_what_was_looked_for(project: Path) -> None:
    with pytest.raises(SpecError, match=r"conf.spec\.yaml nor spec\.yaml"):
        load(project)
    with pytest.raises(SpecError, match="no such file"):
        load(project / "nothing.yaml")


def test_a_file_that_cannot_be_read_or_never_ends_is_told(project: Path) -> None:
    (project / "conf" / "serving").mkdir()
    (project / "conf" / "serving" / "own.yaml").symlink_to("/dev/zero")
    with pytest.raises(SpecError, match="no preset"):
        loaded(project, "defaults: [serving: owl]\n" + BASE)
    (project / "conf" / "spec.yaml").unlink()
    (project / "conf" / "spec.yaml").write_bytes(b"#" * 10_000_000)
    with pytest.raises(SpecError, match="more than 1000000 bytes"):
        load(project)
    with pytest.raises(SpecError, match=r"can't be read|more than"):
        load(Path("/dev/zero"))


def test_values_know_their_line(project: Path) -> None:
    origins = loaded(project, BASE).origins
    assert origins["problem", "target"] == "conf/spec.yaml:4:3"
    assert origins["data", "sources", "rows", "path"] == "conf/spec.yaml:7:23"
    assert ("search", "folds") not in origins


def test_presets_are_merged_under_their_section_and_the_spec_wins(project: Path) -> None:
    text = (
        "defaults: [candidates: fast, serving: low_latency, _self_]\n"
        + BASE
        + "  gbm: {num_leaves: 9}\nserving: {max_rows: 7}\n"
    )
    found = loaded(project, text)
    gbm = found.spec.candidates["gbm"].model_dump()
    assert (gbm["type"], gbm["num_leaves"], gbm["n_estimators"]) == ("lightgbm", 9, 200)
    assert (found.spec.serving.max_rows, found.spec.serving.batching.max_batch_size) == (7, 64)
    assert found.origins["candidates", "gbm", "n_estimators"] == "preset candidates/fast:4:3"
    assert found.origins["candidates", "gbm", "num_leaves"] == "conf/spec.yaml:11:9"
    assert found.files == ("conf/spec.yaml",)


def test_without_self_the_spec_wins_too(project: Path) -> None:
    found = loaded(project, "defaults: [serving: low_latency]\n" + BASE + "serving: {max_rows: 7}\n")
    assert found.spec.serving.max_rows == 7


def test_a_projects_own_preset_comes_before_the_shipped_one_and_is_a_file_of_the_project(project: Path) -> None:
    preset(project, "serving/low_latency", "# @package serving\nmax_rows: 3\n")
    found = loaded(project, "defaults: [serving: low_latency, _self_]\n" + BASE)
    assert found.spec.serving.max_rows == 3
    assert found.spec.serving.batching.max_batch_size == 256
    assert found.origins["serving", "max_rows"] == "conf/serving/low_latency.yaml:2:1"
    assert found.files == ("conf/serving/low_latency.yaml", "conf/spec.yaml")


def test_presets_of_one_section_are_merged_in_order(project: Path) -> None:
    preset(project, "serving/a", "max_rows: 1\nmax_body: 2000\n")
    preset(project, "serving/b", "max_rows: 2\n")
    found = loaded(project, "defaults: [serving: [a, b], _self_]\n" + BASE)
    assert (found.spec.serving.max_rows, found.spec.serving.max_body) == (2, 2000)


def test_presets_of_the_command_line(project: Path) -> None:
    text = "defaults: [candidates: fast, _self_]\n" + BASE
    assert set(
        loaded(project, text, "candidates=regression", "~candidates.line", "problem.task=regression").spec.candidates
    ) == {"linear", "gbm"}
    assert set(loaded(project, text, "+candidates=linear").spec.candidates) == {"gbm", "scorecard", "line"}
    assert set(loaded(project, text, "~candidates").spec.candidates) == {"line"}
    assert set(loaded(project, BASE, "candidates=fast").spec.candidates) == {"gbm", "line"}
    assert loaded(project, text, "serving=low_latency", "serving=throughput").spec.serving.max_rows == 100_000


@pytest.mark.parametrize(
    ("line", "column", "says", "hint"),
    [
        ("defaults: [_self_, candidates: fast]", 12, "_self_ stands before a preset", "last"),
        ("defaults: [candidates: fats, _self_]", 12, "no preset for candidates", "'fast'"),
        ("defaults: [candidate: fast, _self_]", 12, "no group", "'candidates'"),
        ("defaults: [fast]", 12, "no choice", "candidates"),
        ("defaults: [candidates: fast, candidates: linear]", 30, "second time", ""),
        ("defaults: {candidates: fast}", 1, "must be a list", ""),
        ("defaults: [override candidates: fast]", 12, "plain group", ""),
    ],
)
def test_a_bad_defaults_list_is_located(project: Path, line: str, column: int, says: str, hint: str) -> None:
    (found,) = problems(project, line + "\n" + BASE)
    assert found.where == f"conf/spec.yaml:1:{column}"
    assert says in found.what
    assert hint in found.hint


def test_a_problem_in_a_preset_is_told_with_its_file(project: Path) -> None:
    preset(project, "serving/own", "max_rows: 0\nmax_rowz: 3\n")
    found = problems(project, "defaults: [serving: own, _self_]\n" + BASE)
    assert [(one.where, one.key) for one in found] == [
        ("conf/serving/own.yaml:1:1", "serving.max_rows"),
        ("conf/serving/own.yaml:2:1", "serving.max_rowz"),
    ]


def test_a_key_of_the_schema_is_set_without_a_plus(project: Path) -> None:
    for sign in ("", "+", "++"):
        found = loaded(project, BASE, f"{sign}serving.replicas.max=4", f"{sign}candidates.line.C=0.5")
        assert found.spec.serving.replicas.max == 4
        assert found.spec.candidates["line"].model_dump()["C"] == 0.5
        assert found.origins["serving", "replicas", "max"] == f"override '{sign}serving.replicas.max=4'"
        assert found.origins["candidates", "line", "type"] == "conf/spec.yaml:9:10"


def test_overrides_take_mappings_lists_and_short_forms(project: Path) -> None:
    found = loaded(
        project,
        BASE,
        "+candidates.x={type: lightgbm, num_leaves: 5}",
        "candidates.y=lightgbm",
        "candidates.y.num_leaves=6",
        "problem.out_of_scope=[a,'b, c']",
        "data.columns.sex={role: protected, groups: {m: [1], 2: [2]}}",
    )
    assert found.spec.candidates["x"].model_dump()["num_leaves"] == 5
    assert found.spec.candidates["y"].model_dump()["num_leaves"] == 6
    assert found.spec.problem.out_of_scope == ("a", "b, c")
    assert found.spec.data.columns["sex"].groups == {"m": (1,), "2": (2,)}


def test_the_last_override_counts(project: Path) -> None:
    found = loaded(project, BASE, "search.folds=3", "search.folds=4")
    assert found.spec.search.folds == 4
    assert found.origins["search", "folds"] == "override 'search.folds=4'"


def test_a_deleted_key_is_gone_and_missed_where_it_was_deleted(project: Path) -> None:
    assert loaded(project, BASE + "search: {folds: 3}\n", "~search.folds").spec.search.folds == 5
    (found,) = problems(project, BASE, "~problem.target")
    assert (found.where, found.key, found.what) == ("override '~problem.target'", "problem.target", "is required.")
    (found,) = problems(project, BASE, "~problem.targe")
    assert found.hint == "Did you mean 'problem.target'?"


@pytest.mark.parametrize("how", ["override", "spec", "short", "preset"])
def test_a_changed_type_forgets_the_options_of_the_old_one(project: Path, how: str) -> None:
    preset(project, "candidates/own", "m: {type: lightgbm, num_leaves: 9}\n")
    listed = "defaults: [candidates: own, _self_]\n" + BASE
    if how == "override":
        found = loaded(project, listed, "candidates.m.C=0.1", "candidates.m.type=logistic_regression")
        assert found.spec.candidates["m"].model_dump()["C"] == 0.1
    elif how == "short":
        found = loaded(project, listed, "candidates.m=logistic_regression")
    elif how == "spec":
        found = loaded(project, listed + "  m: {type: logistic_regression, C: 0.1}\n")
    else:
        preset(project, "candidates/other", "m: logistic_regression\n")
        found = loaded(project, "defaults: [candidates: [own, other], _self_]\n" + BASE)
    assert found.spec.candidates["m"].model_dump()["type"] == "logistic_regression"


def test_the_same_type_keeps_the_options(project: Path) -> None:
    preset(project, "candidates/own", "m: {type: lightgbm, num_leaves: 9}\n")
    listed = "defaults: [candidates: own, _self_]\n" + BASE
    assert loaded(project, listed + "  m: lightgbm\n").spec.candidates["m"].model_dump()["num_leaves"] == 9


def test_every_bad_override_is_told(project: Path) -> None:
    found = problems(project, BASE, "search.folds=ten", "serving.max_rows=0", "problem.taks=binary")
    assert [(one.where, one.key) for one in found] == [
        ("override 'problem.taks=binary'", "problem.taks"),
        ("override 'search.folds=ten'", "search.folds"),
        ("override 'serving.max_rows=0'", "serving.max_rows"),
    ]


def test_an_override_into_a_value_is_told(project: Path) -> None:
    (found,) = problems(project, BASE + "search: {folds: 3}\n", "search.seed=4", "search.folds.x=1")
    assert found.where == "override 'search.folds.x=1'"
    assert (found.key, found.what) == ("search.folds", "must be a whole number; it is a mapping.")
    (found,) = problems(project, BASE + "search: {folds: 3}\n", "~search.folds.x")
    assert found.what == "is not there, so it can't be deleted."


@pytest.mark.parametrize(
    "override",
    [
        "serving.auth.tokens=hunter2",
        "serving.auth={type: bearer, tokens: hunter2}",
        "+x.api_key=hunter2",
        "token=[hunter2",
    ],
)
def test_an_override_never_shows_what_may_be_a_secret(project: Path, override: str) -> None:
    found = problems(project, BASE, override)
    assert "hunter2" not in str(SpecError(found))
    assert found[0].where == f"override '{override.partition('=')[0]}=…'"


def test_references_repeat_values(project: Path) -> None:
    text = BASE + "search: {seed: 11}\n"
    found = loaded(
        project,
        text.replace("target: y", "target: y\n  goal: 'Model ${name}, seed ${search.seed}, \\${kept}'")
        + "gates: {a: {type: metric, metric: roc_auc, min: 0.5}, b: '${gates.a}'}\n",
        "data.split.seed=${search.seed}",
    )
    assert found.spec.problem.goal == "Model small, seed 11, ${kept}"
    assert found.spec.data.split.seed == 11
    assert found.spec.gates["b"] == found.spec.gates["a"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${nope}", "the spec has no 'nope'"),
        ("${problem.nope}", "problem has no 'nope'"),
        ("${problem.goal}", "refers to itself"),
        ("${problem}", "refers to itself"),
        ("${problem.intended_use}", "refers to itself"),
        ("x ${search}", "that is a mapping"),
        ("${oc.env:HOME}", "calls the resolver 'oc.env'"),
        ("${secret:HOME}", "can't take a secret"),
        ("see ${secret:HOME}", "mixes a secret"),
        ("${", "not closed"),
        ("${a b}", "no reference"),
    ],
)
def test_a_bad_reference_is_told_with_its_place(project: Path, text: str, says: str) -> None:
    spec = BASE.replace("target: y", f"target: y\n  goal: '{text}'\n  intended_use: '${{problem.goal}}'")
    found = problems(project, spec + "search: {folds: 3}\n")
    assert found[0].where == "conf/spec.yaml:5:3"
    assert found[0].key == "problem.goal"
    assert says in found[0].what


def test_many_references_are_bounded(project: Path) -> None:
    lines = ["  a0: {role: id}"] + [
        f"  a{n}: {{groups: {{x: '${{data.columns.a{n - 1}.groups}}', y: '${{data.columns.a{n - 1}.groups}}'}}}}"
        for n in range(1, 40)
    ]
    text = BASE.replace("data:", "data:\n  columns:\n" + "\n".join("  " + line for line in lines))
    assert any("refer" in one.what or "repeats" in one.what for one in problems(project, text))


def test_contradictions_are_told_together_with_faults_and_in_order(project: Path) -> None:
    text = """\
name: small
problem:
  task: binry
  target: y
  primary_metric: root_mean_squared_error
data:
  sources:
    rows: {type: csv, path: rows.csv}
  columns:
    sex: {rolle: protected}
candidates:
  line: {type: logistic_regresion}
  far: {type: ridge}
search: {folds: 1}
gates:
  fair: {type: group_disparity, metric: selection_rate_ratio, by: [sex, age], min: 0.8}
serving:
  batching: {max_batch_size: 64, max_queue: 2}
"""
    found = problems(project, text)
    assert [(one.where.removeprefix("conf/spec.yaml:"), one.key) for one in found] == [
        ("3:3", "problem.task"),
        ("5:3", "problem.primary_metric"),
        ("10:11", "data.columns.sex.rolle"),
        ("12:10", "candidates.line.type"),
        ("13:9", "candidates.far.type"),
        ("14:10", "search.folds"),
        ("16:73", "gates.fair.by.1"),
        ("18:34", "serving.batching.max_queue"),
    ]


def test_what_was_left_out_raises_no_contradiction_of_its_own(project: Path) -> None:
    text = BASE.replace("data:", "data:\n  columns: {sex: {role: 7}}") + (
        "gates: {fair: {type: group_disparity, metric: selection_rate_ratio, by: [sex], min: 0.8}}\n"
    )
    assert [one.key for one in problems(project, text)] == ["data.columns.sex.role"]


def test_an_unknown_version_is_one_problem(project: Path) -> None:
    (found,) = problems(project, "spec: 2\nnoname: x\n" + BASE)
    assert found.where == "conf/spec.yaml:1:1"
    assert "version 2" in found.what


PLUGIN = """\
from __future__ import annotations
from typing import Literal
from specml.kinds import Gate, Source

class Never(Gate):
    type: Literal["never_again"] = "never_again"
    def check(self, evidence):
        raise NotImplementedError

class Nowhere(Source):
    type: Literal["nowhere"] = "nowhere"
    rows: int = 0
    def files(self):
        return ()
    def read(self, folder):
        raise NotImplementedError
"""


def test_a_plugin_brings_its_components(project: Path) -> None:
    (project / "own_parts.py").write_text(PLUGIN)
    text = BASE.replace("{type: csv, path: rows.csv}", "{type: nowhere, rows: x}")
    (project / "conf" / "spec.yaml").write_text("plugins: [own_parts]\n" + text + "gates: {n: never_again}\n")
    script = (
        "from specml.load import load\nfrom specml.errors import SpecError\nfrom pathlib import Path\n"
        "try:\n    load(Path('.'))\nexcept SpecError as error:\n    print(error)\n"
        "spec = load(Path('.'), ['data.sources.rows.rows=3']).spec\n"
        "print(spec.gates['n'].type, spec.data.sources['rows'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "conf/spec.yaml:8:27: data.sources.rows.rows",
        "    must be a whole number; it is 'x'.",
        "never_again type='nowhere' rows=3",
    ]


def loaded_elsewhere(project: Path, elsewhere: Path, **environment: str) -> str:
    """What a spec's gate ``n`` is, asked from another folder."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom specml.load import load\n"
        "print(load(Path(sys.argv[1])).spec.gates['n'].type)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(project)],
        cwd=elsewhere, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_no_file_of_the_project_takes_the_place_of_a_library(project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (project / "colorsys.py").write_text("raise RuntimeError('not the library')\n")
    (project / "conf" / "spec.yaml").write_text("plugins: [own_parts]\n" + BASE + "gates: {n: never_again}\n")
    code = PLUGIN.replace(
        "from __future__ import annotations\n", "from __future__ import annotations\nimport colorsys\n"
    )
    (project / "own_parts.py").write_text(code)
    assert loaded_elsewhere(project, tmp_path / "elsewhere") == "never_again\n"


def test_an_installed_plugin_needs_no_naming(project: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "their_parts-1.dist-info").mkdir(parents=True)
    (site / "their_parts.py").write_text(PLUGIN)
    (site / "their_parts-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: their-parts\nVersion: 1\n")
    (site / "their_parts-1.dist-info/entry_points.txt").write_text("[specml]\nparts = their_parts\n")
    (project / "conf" / "spec.yaml").write_text(BASE + "gates: {n: never_again}\n")
    assert loaded_elsewhere(project, site.parent, PYTHONPATH=str(site)) == "never_again\n"
    assert "no gate known here" in loaded_elsewhere(project, site.parent)


@pytest.mark.parametrize("code", ["raise SystemExit(3)", None, "1/0", "import nothing_such", "raise SystemError('x')"])
def test_a_plugin_that_fails_is_told_with_its_place(project: Path, code: str | None) -> None:
    name = f"broken_{abs(hash(code))}"
    if code is not None:
        (project / f"{name}.py").write_text(code + "\n")
    (found,) = problems(project, f"plugins:\n  - {name}\n" + BASE)
    assert found.where == "conf/spec.yaml:2:5"
    assert f"{name} can't be imported" in found.what


def test_loading_leaves_no_trace(project: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase
    from omegaconf import OmegaConf

    loaded(project, BASE)
    version = VersionBase.instance().version_base
    assert not GlobalHydra.instance().is_initialized()
    assert not OmegaConf.has_resolver("now")
    (project / "other.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(project), version_base="1.2"):
        assert loaded(project, BASE, "search.folds=3").spec.search.folds == 3
        assert compose("other") == {"a": 1}
        assert OmegaConf.has_resolver("now")
    for name in ("now", "hydra", "python_version"):
        OmegaConf.clear_resolver(name)
    VersionBase.instance().version_base = version
    assert loaded(project, BASE) == loaded(project, BASE)


def test_every_spec_of_the_repo_loads() -> None:
    root = Path(__file__).parents[2]
    paths = [
        root / "conf" / "spec.yaml",
        *SPECS.glob("*.yaml"),
        *root.glob("examples/*/conf/spec.yaml"),
        *root.glob("examples/*/spec.yaml"),
    ]
    assert len(paths) >= 4
    for path in paths:
        assert load(path).spec.name


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_alone_means_the_same_with_and_without_hydra(path: Path) -> None:
    alone = load(path)
    composed = load(path, [f"name={alone.spec.name}"])
    assert composed.spec == alone.spec
    assert {**composed.origins, ("name",): ""} == {**alone.origins, ("name",): ""}


def test_checking_imports_no_machine_learning(project: Path) -> None:
    shutil.copy(SPECS / "credit.yaml", project / "conf" / "spec.yaml")
    script = (
        "import sys\n"
        "from specml.cli import main\n"
        "try:\n    main(['check'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = 'sklearn lightgbm torch ray onnx onnxruntime dvc polars scipy pandas captum whylogs'.split()\n"
        "print(sorted(set(heavy) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ok: credit-risk: 80 keys set, 1 file", "[]"]
