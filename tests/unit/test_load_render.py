"""The full spec as YAML is the same spec; the JSON Schema allows what the loader allows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from specml.cli import main
from specml.document import read
from specml.load import load
from specml.load.render import render, values
from specml.load.schema import schema

ROOT = Path(__file__).parents[2]
SPECS = [
    ROOT / "conf" / "spec.yaml",
    *sorted((ROOT / "tests" / "specs").glob("*.yaml")),
    *ROOT.glob("examples/*/conf/spec.yaml"),
]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.parent.name + "/" + path.stem)
def test_a_rendered_spec_is_the_same_spec(path: Path, tmp_path: Path) -> None:
    loaded = load(path, ["search.seed=3"])
    (tmp_path / "spec.yaml").write_text(render(loaded), encoding="utf-8")
    again = load(tmp_path)
    assert again.spec == loaded.spec
    assert values(again.spec) == values(loaded.spec)
    assert [line.partition("  #")[0] for line in render(again).splitlines()] == [
        line.partition("  #")[0] for line in render(loaded).splitlines()
    ]


def test_every_value_says_where_it_came_from() -> None:
    lines = render(load(ROOT / "tests" / "specs" / "houses.yaml", ["search.folds=4"])).splitlines()
    said = {line.partition(":")[0].strip(): line.rpartition("  # ")[2] for line in lines if "  # " in line}
    assert said["name"] == "houses.yaml:3:1"
    assert said["folds"] == "override 'search.folds=4'"
    assert said["max_queue"] == "preset serving/low_latency:2:47"
    assert said["max_body"] == "default"


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "null",
        "12:30",
        "1e3",
        "010",
        "a: b",
        "- x",
        "#x",
        "a #b",
        "'",
        '"',
        "\\",
        "${x}",
        "\\${x}",
        "x${",
        "",
        " x ",
        "é\n\tß",
        "\x85\u2028\ufeff",
        "😀",
        "{a}",
        "[a",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "?",
        "-",
        "=",
        "<<",
        "~",
        "x:",
        "x,y",
        ".",
        "---",
        "k" * 500,
    ],
)
def test_any_text_survives(text: str, tmp_path: Path) -> None:
    spec = load(ROOT / "tests" / "specs" / "flowers.yaml").spec
    told = spec.problem.model_copy(update={"goal": text, "out_of_scope": (text,)})
    columns = {text: load(ROOT / "tests" / "specs" / "credit.yaml").spec.data.columns["age"]}
    changed = spec.model_copy(update={"problem": told, "data": spec.data.model_copy(update={"columns": columns})})
    (tmp_path / "spec.yaml").write_text(render(replace(load(SPECS[0]), spec=changed)), encoding="utf-8")
    assert load(tmp_path).spec == changed


def test_secrets_stay_references(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKENS", "hunter2")
    for arguments in (["render"], ["render", "--json"]):
        with pytest.raises(SystemExit) as end:
            main([*arguments, str(ROOT / "tests" / "specs" / "credit.yaml")])
        assert not end.value.code
        out = capsys.readouterr().out
        assert "${secret:API_TOKENS}" in out
        assert "hunter2" not in out


def test_check_tells_all_problems_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("nam: x\nproblem: {task: binary, target: y}\n")
    with pytest.raises(SystemExit) as end:
        main(["check", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert "spec.yaml:1:1: nam\n    is not a key known here.\n    Did you mean 'name'?" in err
    assert "spec.yaml:1:1: data\n    is required." in err
    with pytest.raises(SystemExit) as end:
        main(["check", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (end.value.code, told["valid"]) == (2, False)
    assert {problem["key"] for problem in told["problems"]} == {"nam", "data", "candidates"}


def test_check_says_ok(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", str(ROOT / "tests" / "specs" / "flowers.yaml"), "search.folds=3"])
    assert not end.value.code
    assert capsys.readouterr().out == "ok: flowers: 9 keys set, 1 file\n"


def test_the_schema_allows_every_spec_of_the_repo_and_refuses_broken_ones() -> None:
    found = schema()
    validator = Draft202012Validator(found)
    validator.check_schema(found)
    for path in SPECS:
        tree = read(path.read_bytes(), "spec.yaml").tree
        assert [error.message for error in validator.iter_errors(tree)] == []
        assert not validator.is_valid({**tree, "modle": 1})
        assert not validator.is_valid({**tree, "candidates": {"m": {"type": "lightgmb"}}})
        assert not validator.is_valid({key: value for key, value in tree.items() if key not in ("problem", "defaults")})
    assert validator.is_valid({**tree, "candidates": {"m": "lightgbm"}, "search": {"seed": "${search.folds}"}})


def test_the_schema_documents_every_key() -> None:
    found = schema()
    lightgbm = found["$defs"]["LightGBM"]
    assert lightgbm["properties"]["num_leaves"]["title"]
    assert "Most boosting rounds" in lightgbm["properties"]["n_estimators"]["description"]
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"]


def test_the_schema_in_the_docs_is_current(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["schema", "-o", str(tmp_path / "schema.json")])
    assert (tmp_path / "schema.json").read_text() == (ROOT / "docs" / "spec.schema.json").read_text(), "run make docs"
