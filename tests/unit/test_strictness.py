"""Which of two specs asks for more, and what may not be had by an override."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from specml import admission, strictness
from specml.cli import exit_status
from specml.compile.diff import diff
from specml.errors import SpecError
from specml.evidence import Evidence, Verdict
from specml.kinds import STRICTER, Gate, Stricter
from specml.load import load
from tests.conftest import tree

if TYPE_CHECKING:
    from pathlib import Path

    from specml.strictness import Change

GATES: dict[str, Any] = {
    "auc": {"type": "metric", "metric": "roc_auc", "min": 0.9},
    "fair": {"type": "group_disparity", "metric": "selection_rate_ratio", "by": ["sex", "age"], "min": 0.8},
    "quick": {"type": "latency", "max": "5ms"},
}
COLUMNS = {"sex": {"role": "protected"}, "age": {"role": "protected"}, "id": {"role": "id", "personal": "identifier"}}
WAIVER = {"gate": "auc", "reason": "a pilot", "approver": "ann@bank", "expires": "2999-12-31", "control": "by hand"}
COMPLIANCE: dict[str, Any] = {
    "owner": "owner@bank",
    "approval": {"approvers": ["ann@bank", "bob@bank"], "minimum": 2},
    "waivers": {"pilot": WAIVER},
}


def written(folder: Path, **changes: Any) -> Path:
    """A project whose spec has gates, protected columns and a compliance section."""
    folder.mkdir(exist_ok=True)
    rows = {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}, "columns": COLUMNS}
    whole = tree(**{"gates": GATES, "data": rows, "compliance": {**COMPLIANCE, "waivers": {}}, **changes})
    (folder / "spec.yaml").write_text(json.dumps(whole))
    return folder


def gate(type_: str = "metric", **options: Any) -> Gate:
    found = Gate.table[type_].model_validate({"type": type_, **options})
    assert isinstance(found, Gate)
    return found


def change(before: Gate, after: Gate) -> Change | None:
    return next(strictness.gates({"g": before}, {"g": after}), None)


AUC: dict[str, Any] = {"metric": "roc_auc", "min": 0.9}
FAIR: dict[str, Any] = {"metric": "selection_rate_ratio", "by": ("sex",), "min": 0.8}


@pytest.mark.parametrize(
    ("type_", "options", "new", "way"),
    [
        ("metric", AUC, {"min": 0.5}, "loosened"),
        ("metric", AUC, {"min": 0.95}, "tightened"),
        ("metric", AUC, {"level": "warn"}, "loosened"),
        ("metric", AUC, {"confidence": 0.99}, "tightened"),
        ("metric", AUC, {"confidence": 0.9}, "loosened"),
        ("metric", AUC, {"min_rows": 50}, "loosened"),
        ("metric", AUC, {"metric": "accuracy"}, "changed"),
        ("metric", AUC, {"metric": "log_loss", "min": None, "max": 3.0}, "changed"),
        ("metric", AUC, {"metric": "accuracy", "min": 0.1}, "loosened"),
        ("metric", AUC, {"min": 0.95, "confidence": 0.9}, "loosened"),
        ("parity", {}, {"max": 1e-6}, "tightened"),
        ("parity", {}, {"max": 1e-4}, "loosened"),
        ("latency", {"max": "5ms"}, {"max": "6ms"}, "loosened"),
        ("latency", {"max": "5ms"}, {"rows": 10}, "tightened"),
        ("group_disparity", FAIR, {"by": ("sex", "age")}, "tightened"),
        ("group_disparity", FAIR, {"by": ("age",)}, "loosened"),
        ("group_disparity", FAIR, {"policy": "warn"}, "loosened"),
        ("group_disparity", FAIR, {"group_policy": {"sex=x": "warn"}}, "loosened"),
        ("group_disparity", FAIR, {"group_policy": {"sex=x": "block"}}, "tightened"),
        ("group_disparity", FAIR, {"min_group_size": 200}, "tightened"),
        ("group_disparity", {**FAIR, "policy": "warn"}, {"min_group_size": 200}, "changed"),
        # Where what is not measured says nothing, asking for more rows or more confidence may ask for less.
        ("slices", {"discover": 2, "max_drop": 0.1}, {"min_rows": 500}, "changed"),
        ("slices", {"discover": 2, "max_drop": 0.1}, {"confidence": 0.999}, "changed"),
        ("slices", {"by": ("age",), "max_drop": 0.1}, {"multiplicity": "none"}, "changed"),
        ("privacy", {"by": ("sex",)}, {"min_rows": 500}, "changed"),
        ("privacy", {"by": ("sex",)}, {"confidence": 0.999}, "changed"),
        ("proxy", {"by": ("sex",), "max": 0.8}, {"min_group_size": 500}, "changed"),
        ("group_disparity", {**FAIR, "policy": "warn"}, {"policy": "block"}, "tightened"),
    ],
)
def test_which_way_an_option_goes(type_: str, options: dict[str, Any], new: dict[str, Any], way: str) -> None:
    found = change(gate(type_, **options), gate(type_, **{**options, **new}))
    assert found is not None
    assert found.way == way
    assert found.loosened is (way != "tightened")


def test_another_type_can_not_be_compared() -> None:
    found = change(gate("parity"), gate("baseline"))
    assert found is not None
    assert {move.way for move in found.moves} == {"changed"}


bounds = st.floats(0.1, 0.9)


@given(bounds, bounds, st.floats(0.6, 0.99), st.floats(0.6, 0.99))
def test_what_is_loosened_one_way_is_tightened_the_other(a: float, b: float, c: float, d: float) -> None:
    one, other = gate(metric="roc_auc", min=a, confidence=c), gate(metric="roc_auc", min=b, confidence=d)
    there, back = change(one, other), change(other, one)
    if there is None or back is None:
        assert (a, c) == (b, d)
        return
    turned = {"loosened": "tightened", "tightened": "loosened"}
    assert [turned[move.way] for move in there.moves] == [move.way for move in back.moves]
    assert (a <= b and c <= d) == (there.way == "tightened")


def test_a_gate_of_ones_own_says_which_way_its_options_go() -> None:
    class Odd(Gate):
        """A gate with options that no other has."""

        stricter: ClassVar[Mapping[str, Stricter]] = {
            "flips": "smaller",
            "spared": "fewer",
            "how": ("some", "all"),
            "all_of": ("false", "true"),
        }
        flips: float = 0.1
        spared: tuple[str, ...] = ()
        how: Literal["some", "all"] = "all"
        all_of: bool = True
        by_kind: dict[str, float] = {}

        @override
        def check(self, evidence: Evidence) -> Verdict:
            raise NotImplementedError

    def way(**options: Any) -> str:
        found = change(Odd(), Odd(**options))
        assert found is not None
        return found.way

    assert way(flips=0.2) == "loosened"
    assert way(flips=0.05) == "tightened"
    assert way(spared=("a",)) == "loosened"
    assert way(how="some") == "loosened"
    assert way(all_of=False) == "loosened"
    assert way(by_kind={"a": 1.0}) == "changed"


def test_no_gate_says_again_what_is_known_of_all() -> None:
    for kind in Gate.table.values():
        assert issubclass(kind, Gate)
        assert kind.stricter.keys() <= kind.model_fields.keys()
        assert all(kind.stricter[name] == () for name in kind.stricter.keys() & STRICTER.keys())


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("gates.auc.min=0.5", "gates.auc.min", "loosens the gate auc: 0.5, where the spec says 0.9."),
        ("gates.auc.level=warn", "gates.auc.level", "loosens the gate auc: warn, where the spec says fail."),
        ("~gates.auc", "gates.auc", "removes the gate auc (metric), which the spec asks for."),
        (
            "gates.auc.interval=analytic",
            "gates.auc.interval",
            "may loosen the gate auc: analytic, where the spec says auto.",
        ),
        ("gates.fair.by=[sex]", "gates.fair.by", "loosens the gate fair: sex, where the spec says sex, age."),
        ("~compliance.approval", "compliance.approval", "weakens it: nobody must approve a release any more"),
        ("~compliance.owner", "compliance.owner", "weakens it: owner@bank does not answer"),
        (
            "compliance.waivers.mine={gate: auc, reason: x, approver: ann, expires: 2999-01-01}",
            "compliance.waivers.mine",
            "weakens it: a refusal of the gate auc is let pass until 2999-01-01, by ann: x.",
        ),
    ],
)
def test_an_override_that_loosens_is_refused_by_name(tmp_path: Path, override: str, key: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        load(written(tmp_path), (override,))
    (problem,) = error.value.problems
    assert problem.where == f"override {override!r}"
    assert problem.key == key
    assert said in problem.what


def test_an_override_may_tighten_and_add(tmp_path: Path) -> None:
    more = ("gates.auc.min=0.95", "gates.parity.max=1e-6", "gates.mine={type: metric, metric: f1, min: 0.5}")
    assert load(written(tmp_path), (*more, "compliance.approval.approvers=[ann@bank,bob@bank]")).spec.gates["mine"]


def test_a_preset_of_the_command_line_may_not_loosen_either(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "conf/gates").mkdir(parents=True)
    (folder / "conf/gates/easy.yaml").write_text("parity: {max: 0.1}\n")
    with pytest.raises(SpecError, match=r"override 'gates=easy': gates\.parity\.max"):
        load(folder, ("gates=easy",))
    assert load(folder, ("gates=strict",)).spec.gates["parity"]


def test_a_reference_is_no_way_around(tmp_path: Path) -> None:
    asked = {**GATES, "auc": {**GATES["auc"], "min": "${data.split.test}"}}
    rows = {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}, "columns": COLUMNS, "split": {"test": 0.4}}
    folder = written(tmp_path, gates=asked, data=rows)
    with pytest.raises(SpecError, match=r"loosens the gate auc: 0\.3"):
        load(folder, ("data.split.test=0.3",))


def test_a_living_waiver_in_the_spec_lets_its_gate_be_loosened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path, compliance={"waivers": {"pilot": WAIVER}})
    assert load(folder, ("gates.auc.min=0.5",)).spec.gates["auc"].model_dump()["min"] == 0.5
    with pytest.raises(SpecError, match="loosens the gate parity"):
        load(folder, ("gates.parity.max=1",))
    monkeypatch.setattr(admission, "today", lambda: "3000-01-01")
    with pytest.raises(SpecError, match="loosens the gate auc"):
        load(folder, ("gates.auc.min=0.5",))


def test_what_a_spec_needs_an_override_for_is_held_against_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path, gates={"auc": {"type": "metric", "metric": "roc_auc"}})
    assert load(folder, ("gates.auc.min=0.1",)).spec.gates["auc"]
    folder = written(tmp_path, name="A bad name")
    with pytest.raises(SpecError, match="loosens the gate auc"):
        load(folder, ("name=good", "gates.auc.min=0.1"))


def test_check_run_compile_and_plan_all_see_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path)
    for verb in ("check", "run", "gate", "compile", "plan", "deploy"):
        assert exit_status([verb, str(folder), "gates.auc.min=0.5"]) == 2
        assert "loosens the gate auc" in capsys.readouterr().err
    assert not (folder / "params.yaml").exists()


WEAKER = (
    ({"owner": None}, "compliance.owner"),
    ({"approval": None}, "compliance.approval"),
    ({"approval": {"approvers": ["ann@bank", "bob@bank"], "minimum": 1}}, "compliance.approval.minimum"),
    ({"approval": {"approvers": ["ann@bank"], "minimum": 1}}, "compliance.approval.approvers"),
    ({"approval": {"approvers": ["ann@bank", "bob@bank", "x"], "minimum": 2}}, "compliance.approval.approvers"),
    ({"waivers": {"pilot": WAIVER, "new": {**WAIVER, "gate": "quick"}}}, "compliance.waivers.new"),
    ({"waivers": {"pilot": {**WAIVER, "expires": "3000-01-01"}}}, "compliance.waivers.pilot.expires"),
    ({"waivers": {"pilot": {k: v for k, v in WAIVER.items() if k != "control"}}}, "compliance.waivers.pilot.control"),
)


@pytest.mark.parametrize(("new", "key"), WEAKER)
def test_what_weakens_in_compliance_is_told(tmp_path: Path, new: dict[str, Any], key: str) -> None:
    before = load(written(tmp_path / "a", compliance=COMPLIANCE)).spec
    after = load(written(tmp_path / "b", compliance={**COMPLIANCE, **new})).spec
    assert key in [one.key for one in diff(before, after).weakened]
    back = [one.key for one in diff(after, before).weakened]
    assert (key in back) is (key == "compliance.approval.approvers"), "who may approve says nothing by itself"


def test_columns_and_captured_rows_are_told(tmp_path: Path) -> None:
    rows = {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}}
    loose = {**rows, "columns": {"sex": {"role": "feature"}, "id": {"role": "id"}}}
    gates = {name: one for name, one in GATES.items() if name != "fair"}
    before = load(written(tmp_path / "a", gates=gates, monitoring={"capture": {"retention": "7d"}})).spec
    after = load(written(tmp_path / "b", gates=gates, data=loose, monitoring={"capture": {"retention": "30d"}})).spec
    assert {one.key: one.what for one in diff(before, after).weakened} == {
        "data.columns.age.role": "feature; it was protected: its groups are not compared",
        "data.columns.sex.role": "feature; it was protected: its groups are not compared",
        "data.columns.id.personal": "the column is not told to be personal any more",
        "monitoring.capture.retention": "requests are kept for 30d; it was 7d",
    }
    assert not diff(after, before).weakened


def test_a_rule_that_goes_takes_what_it_owes_along(tmp_path: Path) -> None:
    from tests.conftest import EXAMPLES

    before = load(EXAMPLES / "loans").spec
    after = before.model_copy(update={"compliance": before.compliance.model_copy(update={"rules": {}})})
    keys = [one.key for one in diff(before, after).weakened]
    assert "compliance.rules.privacy" in keys
    assert "compliance.rules: data_retention" in keys


def test_what_re_runs_is_what_dvc_would_run(tmp_path: Path) -> None:
    two = {"line": {"type": "logistic_regression"}, "gbm": {"type": "lightgbm"}}
    before = load(written(tmp_path, candidates=two)).spec

    def stages(*overrides: str) -> list[str]:
        return [one.stage for one in diff(before, load(tmp_path, overrides, may_loosen=True).spec).reruns]

    assert stages() == []
    assert stages("gates.auc.min=0.95") == ["validate", "release"]
    assert stages("problem.goal=another") == ["release"]
    assert stages("candidates.gbm.num_leaves=15") == ["train@gbm", "select", "package", "validate", "release"]
    gone = diff(before, load(tmp_path, ("~candidates.line",)).spec)
    assert gone.gone == ("train@line",)
    new = diff(before, load(tmp_path, ("gates.champion={type: champion}",)).spec)
    assert [(one.stage, one.new) for one in new.reruns if one.new] == [("champion", True)]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository with the project in a folder of it; the second commit loosens a gate."""
    folder = written(tmp_path / "project")
    git(tmp_path, "init", "-q")
    (folder / "rows.csv").write_text("y\n1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    written(folder, gates={**GATES, "auc": {**GATES["auc"], "min": 0.8}})
    git(tmp_path, "commit", "-qam", "second")
    return folder


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_revisions_of_git_are_compared(
    history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(history)

    def told(*words: str, status: int = 0) -> str:
        assert exit_status(["diff", *words]) == status
        return "".join(capsys.readouterr())

    loosened = told("HEAD~1")
    assert "validate: gates.auc.min: 0.9 → 0.8" in loosened
    assert "LOOSENED  auc (metric)\n    min: 0.9 → 0.8 (loosened)" in loosened
    assert told("HEAD~1", "--exit-code", status=1) == loosened
    assert "tightened auc" in told("HEAD", "HEAD~1", "--exit-code")
    assert told() == "nothing changes\n"
    document = json.loads(told("HEAD~1:project/spec.yaml", "spec.yaml", "--json"))
    assert document["looser"] is True
    assert document["gates"][0]["moves"] == [{"option": "min", "before": 0.9, "after": 0.8, "way": "loosened"}]
    assert told("HEAD~1:./spec.yaml", ".") == loosened
    assert "no revision of git" in told("nothing", status=1)
    assert "no revision of git" in told("--", "--upload-pack", status=1)
    assert "there is no spec" in told("HEAD:other.yaml", status=1)
    shown = told("~gates.quick", "gates.parity.max=1e-6")
    assert "LOOSENED  quick (latency): is removed" in shown
    assert "tightened parity (parity)" in shown


def test_a_preset_that_the_spec_loosens_is_told(tmp_path: Path) -> None:
    before = load(written(tmp_path / "a", defaults=[{"gates": "strict"}])).spec
    after = load(written(tmp_path / "b", defaults=[{"gates": "strict"}], gates={**GATES, "parity": {"max": 1}})).spec
    assert [(one.gate, one.way) for one in diff(before, after).gates] == [("parity", "loosened")]
