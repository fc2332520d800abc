"""Waivers and approvals: what lets a release be served beside its gates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from specml import admission, ledger, rollout
from specml.bundle import RELEASE, VERDICTS
from specml.cli.approve import command
from specml.errors import ApprovalMissing, DeployFailed, GateRefused, SpecmlError, StaleCompile
from specml.files import canonical_json, digest, read_json, write_atomic
from specml.load import load
from specml.spec import Compliance
from tests.bundles import binary_bundle, release
from tests.conftest import problem_of, spec_of, specml

if TYPE_CHECKING:
    from pathlib import Path

SPEC = """\
name: census
problem: {task: binary, target: income}
data:
  sources: {rows: {type: csv, path: rows.csv}}
candidates: {by_hand: logistic_regression}
gates:
  auc: {type: metric, metric: roc_auc, min: 0.9}
deployment: {target: {type: local, port: 8123}}
compliance:
  owner: owner@bank
  approval: {approvers: [ann@bank, bob@bank], minimum: 2}
  waivers:
    early: {gate: auc, reason: few rows yet, approver: ann@bank, expires: 2026-12-31}
"""


def verdict(outcome: str, level: str = "fail") -> dict[str, Any]:
    return {"outcome": outcome, "level": level, "passes": outcome == "holds"}


def compliance(**waiver: Any) -> Compliance:
    told = {"gate": "auc", "reason": "few rows", "approver": "ann", "expires": "2026-12-31", **waiver}
    return Compliance.model_validate({"waivers": {"early": told}})


@pytest.mark.parametrize(
    ("outcome", "level", "day", "state", "stops"),
    [
        ("refused", "fail", "2026-12-30", "used", False),
        ("refused", "fail", "2026-12-31", "used", False),
        ("refused", "fail", "2027-01-01", "expired", True),
        ("not measured", "fail", "2026-12-31", "used", False),
        ("holds", "fail", "2026-12-31", "no effect", False),
        ("holds", "fail", "2027-01-01", "no effect", False),
    ],
)
def test_a_waiver_lives_to_the_end_of_its_day(outcome: str, level: str, day: str, state: str, stops: bool) -> None:
    gates = {"auc": verdict(outcome, level), "parity": verdict("holds")}
    told = admission.terms(compliance(), gates, day)
    assert told["waivers"]["early"]["state"] == state
    found = admission.waived(gates, told)
    assert admission.stops(found["auc"]) is stops
    assert ("waiver" in found["auc"]) is (state != "no effect")
    assert bool(admission.remarks(told)) is (state != "used")


def test_a_waiver_lets_no_other_gate_pass() -> None:
    gates = {"auc": verdict("refused"), "parity": verdict("refused")}
    found = admission.waived(gates, admission.terms(compliance(), gates, "2026-01-01"))
    assert [name for name, gate in found.items() if admission.stops(gate)] == ["parity"]


@pytest.mark.parametrize(
    "date", ["31.12.2026", "2026-13-01", "2026-02-30", '"20261231"', "2026-W01-1", "soon", "2026-1-1"]
)
def test_what_is_no_date_is_told_with_its_line(date: str, tmp_path: Path) -> None:
    problem = problem_of(tmp_path, SPEC.replace("2026-12-31", date))
    assert problem.where.endswith("spec.yaml:13:66")
    assert problem.key == "compliance.waivers.early.expires"
    assert problem.what == "must be a date like 2026-12-31."


@pytest.mark.parametrize(
    ("old", "new", "key", "what"),
    [
        ("gate: auc", "gate: acu", "waivers.early.gate", "no gate here"),
        ("min: 0.9}", "min: 0.9, level: warn}", "waivers.early.gate", "stops no release"),
        ("approver: ann", "approver: owner", "waivers.early.approver", "the owner"),
        ("[ann@bank, bob@bank]", "[ann@bank, owner@bank]", "approval.approvers.1", "the owner"),
        ("minimum: 2", "minimum: 3", "approval.minimum", "2 may approve"),
        ("[ann@bank, bob@bank]", "[ann@bank, ann@bank]", "approval.minimum", "1 may approve"),
        ("[ann@bank, bob@bank]", "[]", "approval.approvers", ""),
    ],
)
def test_what_contradicts_is_told_at_its_key(old: str, new: str, key: str, what: str, tmp_path: Path) -> None:
    problem = problem_of(tmp_path, SPEC.replace(old, new, 1))
    assert problem.key.replace("[", ".").replace("]", "") == f"compliance.{key}"
    assert what in problem.what
    assert problem.where.split(":")[-2] in {"11", "13"}


def test_two_waivers_of_one_gate_are_one_too_many(tmp_path: Path) -> None:
    again = "    again: {gate: auc, reason: more, approver: bob@bank, expires: 2027-01-31}\n"
    assert "is waived by early already" in problem_of(tmp_path, SPEC + again).what


def test_the_owners_word_counts_where_the_spec_says_so(tmp_path: Path) -> None:
    text = SPEC.replace("bob@bank]", "owner@bank], by_owner: true").replace("approver: ann", "approver: owner")
    (tmp_path / "spec.yaml").write_text(text)
    assert load(tmp_path).spec.compliance.owner == "owner@bank"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A project whose bundle was admitted under a waiver, and waits for two approvals."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    binary_bundle(tmp_path / "artifacts/bundle")
    judge(tmp_path)
    return tmp_path


def judge(project: Path, day: str = "2026-01-01", value: float = 0.8) -> None:
    """What the stages validate and release leave behind."""
    gates = {"auc": {**verdict("refused"), "value": value}, "baseline": verdict("holds")}
    write_atomic(project / VERDICTS, canonical_json({"gates": gates}))
    terms = admission.terms(load(project).spec.compliance, gates, day)
    outcomes = {name: gate["outcome"] for name, gate in gates.items()}
    release(project, gates=outcomes, verdicts=digest(project / VERDICTS), **terms)


def deploy(project: Path) -> None:
    """As ``specml deploy``, without reading the command line."""
    spec = load(project, ["deployment.target.port=8123"]).spec
    rollout.go_live(spec, project, lambda _: None)


def approve(project: Path, name: str, *more: str) -> None:
    done = CliRunner().invoke(command, [str(project), "--as", name, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def waits(project: Path) -> str:
    with pytest.raises(ApprovalMissing) as found:
        deploy(project)
    return str(found.value)


def test_a_release_waits_until_enough_have_approved_it(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "today", lambda: "2026-12-31")
    assert "waits for approval: 0 of 2." in waits(released)
    assert "specml approve --as ann@bank" in waits(released)
    approve(released, "ann@bank", "--reason", "seen")
    approve(released, "ann@bank")
    assert "1 of 2; ann@bank approved." in waits(released)
    assert "specml approve --as bob@bank" in waits(released)
    approve(released, "bob@bank")
    monkeypatch.setattr("specml.targets.local.refuse_taken", port_is_taken)
    with pytest.raises(DeployFailed, match="as far as the port"):
        deploy(released)
    facts = [one.facts for one in ledger.verify(released).records if one.event == "approval"]
    assert [(one["approver"], one["reason"]) for one in facts] == [("ann@bank", "seen"), ("bob@bank", "")]
    assert facts[0]["bundle"] == read_json(released / RELEASE)["bundle"]


def port_is_taken(port: int) -> None:
    raise DeployFailed("as far as the port")


@pytest.mark.parametrize("changed", ["bundle", "verdicts", "waiver"])
def test_whatever_was_changed_needs_approval_again(
    changed: str, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "today", lambda: "2026-12-31")
    for name in ("ann@bank", "bob@bank"):
        approve(released, name)
    if changed == "bundle":
        binary_bundle(released / "artifacts/bundle", weight=2.0)
    if changed == "waiver":
        (released / "spec.yaml").write_text(SPEC.replace("2026-12-31", "2027-12-31"))
    judge(released, value=0.7 if changed == "verdicts" else 0.8)
    assert "0 of 2" in waits(released)
    approve(released, "bob@bank")
    assert "1 of 2; bob@bank" in waits(released)


def test_verdicts_that_were_changed_afterwards_serve_nothing(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "today", lambda: "2026-01-01")
    (released / VERDICTS).write_bytes((released / VERDICTS).read_bytes().replace(b"0.8", b"0.9"))
    with pytest.raises(GateRefused, match="was changed after the release"):
        deploy(released)


def test_an_expired_waiver_bites_when_it_is_served(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ann@bank", "bob@bank"):
        ledger.append(released, "approval", approver=name, **admission.subject(read_json(released / RELEASE)))
    monkeypatch.setattr(admission, "today", lambda: "2027-01-01")
    with pytest.raises(GateRefused, match=r"gate auc refused .* waiver early expired on 2026-12-31"):
        deploy(released)
    with pytest.raises(GateRefused, match="expired"):
        approve(released, "ann@bank")


def test_who_may_not_approve_is_told_who_may(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "today", lambda: "2026-01-01")
    for name in ("owner@bank", "eve@bank"):
        with pytest.raises(SpecmlError, match=f"{name} may not approve it") as found:
            approve(released, name)
        assert "One of ann@bank, bob@bank may" in found.value.hint
    assert ledger.verify(released).records == ()


def test_an_approval_in_a_changed_ledger_counts_for_nothing(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "today", lambda: "2026-01-01")
    approve(released, "ann@bank")
    path = released / ledger.FILE
    path.write_bytes(path.read_bytes().replace(b"ann@bank", b"bob@bank"))
    with pytest.raises(ledger.LedgerError, match="record 1: was edited"):
        deploy(released)


def test_a_forged_approval_of_a_stranger_counts_for_nothing(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "today", lambda: "2026-01-01")
    for name in ("eve@bank", "owner@bank"):
        ledger.append(released, "approval", approver=name, **admission.subject(read_json(released / RELEASE)))
    assert "0 of 2." in waits(released)


@pytest.mark.parametrize(
    "text",
    [
        SPEC.replace("minimum: 2", "minimum: 1"),
        SPEC.replace("few rows yet", "another"),
        SPEC.partition("  waivers")[0],
        SPEC.partition("compliance")[0],
    ],
)
def test_a_spec_that_parted_from_the_release_serves_nothing(text: str, released: Path) -> None:
    (released / "spec.yaml").write_text(text)
    with pytest.raises(StaleCompile, match="the section compliance of the spec was changed after the release"):
        deploy(released)
    with pytest.raises(StaleCompile):
        approve(released, "ann@bank")


def test_the_command_line_ends_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.partition("  waivers")[0])
    assert "no bundle to approve" in specml("approve", "--as", "ann@bank", folder=tmp_path, status=1).stderr
    binary_bundle(tmp_path / "artifacts/bundle")
    write_atomic(tmp_path / VERDICTS, canonical_json({"gates": {}}))
    terms = admission.terms(load(tmp_path).spec.compliance, {}, "2026-01-01")
    release(tmp_path, verdicts=digest(tmp_path / VERDICTS), **terms)
    done = specml("deploy", folder=tmp_path, status=5)
    assert "waits for approval: 0 of 2." in done.stderr
    told = json.loads(specml("approve", "--as", "bob@bank", "--json", folder=tmp_path).stdout)
    assert (told["new"], told["approved_by"], told["needed"]) == (True, ["bob@bank"], 2)
    shown = specml("audit", "show", folder=tmp_path).stdout
    assert "status 5" in shown
    assert "approver bob@bank" in shown


def test_nobody_approves_where_the_spec_asks_for_nobody(released: Path) -> None:
    (released / "spec.yaml").write_text(SPEC.partition("compliance")[0])
    release(released)
    with pytest.raises(SpecmlError, match="asks for nobody's approval"):
        approve(released, "ann@bank")


def test_without_compliance_a_release_says_nothing_of_it() -> None:
    assert admission.terms(spec_of().compliance, {}, "2026-01-01") == {}
