"""The rule gdpr: what it demands, with articles and lines; what it adds; the record of processing."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from specml import repro, rollout
from specml.compile import compile_plan
from specml.errors import DeployFailed, SpecError, StaleCompile
from specml.load import load
from specml.watch.live import watch
from tests.conftest import EXAMPLES, run_stages, specml

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec

RULE = "compliance.rules.privacy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    leave = shutil.ignore_patterns("artifacts", "metrics", "plots", ".specml", ".dvc", "dvc.lock")
    shutil.copytree(EXAMPLES / "loans", tmp_path / "loans", ignore=leave)
    return tmp_path / "loans"


def told(folder: Path, *overrides: str) -> list[tuple[str, str]]:
    """The problems of the spec with some overrides: (key, what is wrong)."""
    with pytest.raises(SpecError) as error:
        load(folder, overrides)
    return [(problem.key, problem.what) for problem in error.value.problems]


def test_the_example_complies(folder: Path) -> None:
    load(folder)


@pytest.mark.parametrize(
    ("without", "what"),
    [
        (f"~{RULE}.controller", "lacks controller: GDPR Art. 30(1)(a) wants"),
        (f"~{RULE}.purpose", "lacks purpose: GDPR Art. 5(1)(b) wants"),
        (f"~{RULE}.lawful_basis", "lacks lawful_basis: GDPR Art. 6(1) wants"),
        (f"~{RULE}.data_subjects", "lacks data_subjects: GDPR Art. 30(1)(c) wants"),
        (f"{RULE}.retention.data=null", "lacks retention.data: GDPR Art. 5(1)(e) wants"),
        (f"{RULE}.retention.captures=null", "lacks retention.captures: GDPR Art. 5(1)(e) wants"),
        (f"~{RULE}.solely_automated", "lacks solely_automated: GDPR Art. 22(1) wants"),
        (f"~{RULE}.exception", "lacks exception: GDPR Art. 22(2) wants"),
        (f"~{RULE}.human_review", "lacks human_review: GDPR Art. 22(3) wants"),
        (f"~{RULE}.contest", "lacks contest: GDPR Art. 22(3) wants"),
        ("data.columns.housing.personal=special", "GDPR Art. 9(2) wants one of its exceptions"),
    ],
)
def test_what_is_missing_is_told_with_its_article(without: str, what: str, folder: Path) -> None:
    problems = told(folder, without)
    assert any(key == RULE and what in said for key, said in problems), problems


@pytest.mark.parametrize(
    ("overrides", "key", "what"),
    [
        (("monitoring.capture.retention=60d",), "monitoring.capture.retention", "longer than the rule's"),
        (("data.columns.customer.action=null", "~compliance.hash_key"), "data.columns.customer", "Art. 25(1)"),
        (("+features.columns.email={type: categorical}",), "features.columns.email", "not declared"),
        ((f"{RULE}.solely_automated=false",), f"{RULE}.human_review", "has no effect: solely_automated is false"),
        ((f"{RULE}.special_categories=explicit_consent",), f"{RULE}.special_categories", "has no effect"),
        (
            ("data.columns.housing.personal=special", f"{RULE}.special_categories=health_care"),
            f"{RULE}.special_categories",
            "Art. 22(4) allows decisions on 'housing' by",
        ),
        (
            (
                "data.columns.sex={role: protected, personal: special}",
                "+mitigation.group_thresholds={by: sex}",
                f"{RULE}.special_categories=health_care",
            ),
            f"{RULE}.special_categories",
            "Art. 22(4) allows decisions on 'sex' by",
        ),
    ],
)
def test_what_can_not_comply_is_told_where_it_stands(
    overrides: tuple[str, ...], key: str, what: str, folder: Path
) -> None:
    problems = told(folder, *overrides)
    assert any(one == key and what in said for one, said in problems), problems


def test_a_problem_has_its_line(folder: Path) -> None:
    text = (folder / "spec.yaml").read_text().replace("capture: {retention: 30d}", "capture: {retention: 60d}")
    (folder / "spec.yaml").write_text(text)
    line = next(i for i, one in enumerate(text.splitlines(), 1) if "retention: 60d" in one)
    assert f"spec.yaml:{line}:" in specml("check", folder=folder, status=2).stderr


def test_a_spec_without_personal_columns_or_features_is_refused(folder: Path) -> None:
    what = " ".join(said for _, said in told(folder, "~data.columns", "~compliance.hash_key"))
    assert "no column that is declared personal" in what
    assert "declares no feature" in what


def test_an_unset_rule_lists_all_that_it_wants(folder: Path) -> None:
    problems = told(folder, "~compliance.rules.privacy", "+compliance.rules.other=gdpr")
    assert len([key for key, _ in problems if key == "compliance.rules.other"]) == 7


def test_what_it_adds_is_in_the_plan(folder: Path) -> None:
    plan = compile_plan(load(folder).spec)
    params: Any = plan.params
    assert params["data"]["undeclared"] == "drop"
    assert params["gates"]["gdpr_disparity"]["by"] == ["age", "sex"]
    assert params["gates"]["gdpr_disparity"]["level"] == "warn"
    release = next(stage for stage in plan.stages if stage.name == "release")
    assert "artifacts/release/ropa.json" in release.outs
    assert [one.name for one in plan.obligations if one.told] == ["automated_decision", "human_review", "contest"]
    shown = specml("plan", folder=folder).stdout
    assert 'adds data.undeclared: "drop"' in shown
    assert "owes human_review: Ask for a person" in shown
    assert "evidence, not legal advice" in shown


def test_a_gate_of_the_specs_own_is_enough(folder: Path) -> None:
    gate = "+gates.mine={type: group_disparity, metric: selection_rate_ratio, by: [age, sex], min: 0.9}"
    params: Any = compile_plan(load(folder, (gate,)).spec).params
    assert "gdpr_disparity" not in params["gates"]


def assisted(spec: Spec) -> Spec:
    (rule,) = spec.compliance.rules.values()
    alone = {"solely_automated": False, "exception": None, "human_review": "", "contest": ""}
    rules = {"privacy": rule.model_copy(update=alone)}
    return spec.model_copy(update={"compliance": spec.compliance.model_copy(update={"rules": rules})})


def test_where_a_person_decides_only_time_limits_are_owed(folder: Path) -> None:
    plan = compile_plan(assisted(load(folder).spec))
    params: Any = plan.params
    assert [one.name for one in plan.obligations] == ["capture_retention", "data_retention"]
    assert "gdpr_disparity" not in params["gates"]


def test_the_record_of_processing_is_made_from_spec_and_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOANS_KEY", "k" * 32)
    run_stages(load(folder).spec, folder)
    record = json.loads((folder / "artifacts/release/ropa.json").read_bytes())
    found = {one["what"]: one["value"] for one in record["entries"]}
    assert {one["article"] for one in record["entries"]} == {f"30(1)({letter})" for letter in "abcdefg"}
    assert all(one["value"] and one["source"] for one in record["entries"])
    assert record["text"].endswith("as of 2016-04-27")
    assert "not legal advice" in record["caution"]
    prepared = json.loads((folder / "metrics/prepare.json").read_bytes())
    assert found["rows"] == prepared["rows"]
    assert found["columns forgotten as they are read (Art. 5(1)(c))"]["undeclared"] == ["email"]
    assert found["controller: data protection officer"] == "not said"
    release = json.loads((folder / "artifacts/release/release.json").read_bytes())
    assert release["bundle"] == record["bundle"]
    assert release["obligations"]["contest"] == "privacy@bank.example (GDPR Art. 22(3))"
    card = (folder / "artifacts/release/card.md").read_text()
    assert "customer (identifier hashed as it is read)" in card
    assert "Ask for a person" in card
    assert "evidence, not legal advice" in card
    verdicts = json.loads((folder / "artifacts/validate/verdicts.json").read_bytes())
    assert {one["name"].partition("=")[0] for one in verdicts["gates"]["gdpr_disparity"]["slices"]} == {"age", "sex"}
    # Two years later, `specml watch` forgets the rows, and nothing else.
    repro.set_up(folder)
    rows = sorted(one.relative_to(folder) for one in folder.glob("artifacts/*/*.parquet"))
    assert len(rows) == 3
    said: list[str] = []
    list(watch(load(folder).spec, folder, said.append))
    assert all((folder / one).exists() for one in rows)
    for one in rows:
        os.utime(folder / one, (time.time() - 731 * 86400,) * 2)
    list(watch(load(folder).spec, folder, said.append))
    assert not any((folder / one).exists() for one in rows)
    assert (folder / "artifacts/bundle/model.onnx").exists()
    assert "3 copies of rows older than 730d deleted; `specml run` reads the source again." in said


def test_the_server_is_told_what_is_owed(folder: Path) -> None:
    spec = load(folder).spec
    emitted = spec.deployment.target.emit(spec)["serve.yaml"]
    assert "contest: privacy@bank.example" in emitted
    assert "retention: 2592000.0" in emitted
    assert "notice" not in spec.deployment.target.emit(assisted(spec))["serve.yaml"]


def test_a_release_is_served_under_the_obligations_it_was_made_under_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the target, which would start Ray, only what comes before it is asked."""
    monkeypatch.setenv("LOANS_KEY", "k" * 32)
    spec = load(folder).spec
    monkeypatch.setattr("specml.targets.local.refuse_taken", port_is_taken)
    for made, other in ((spec, assisted(spec)), (assisted(spec), spec)):
        run_stages(made, folder)
        with pytest.raises(StaleCompile, match="section compliance") as error:
            rollout.go_live(other, folder, lambda _: None)
        assert "Run `specml run`" in error.value.hint
        with pytest.raises(DeployFailed, match="as far as the port"):
            rollout.go_live(made, folder, lambda _: None)


def port_is_taken(port: int) -> None:
    raise DeployFailed("as far as the port")


def test_two_rules_that_would_overwrite_each_other_are_told(folder: Path) -> None:
    rule = load(folder).spec.compliance.rules["privacy"].model_copy(update={"contest": "second@bank.example"})
    with (folder / "spec.yaml").open("a") as file:
        file.write(f"    second: {json.dumps(rule.model_dump(mode='json'))}\n")
    problems = told(folder)
    assert [key for key, _ in problems] == ["compliance.rules.second"] * 2
    assert "writes artifacts/release/ropa.json, and so does privacy" in problems[0][1]
    assert "owes contest in other words than privacy" in problems[1][1]
