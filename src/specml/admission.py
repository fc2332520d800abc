"""What lets a release be served beside gates that hold: waivers that have not run out, and approvals that stand.

Both are judged again whenever a release is to be served: DVC looks at no clock, and knows nothing of the ledger.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from specml import ledger
from specml.errors import ApprovalMissing, GateRefused, StaleCompile
from specml.files import canonical_json, digest

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Compliance, Waiver

TERMS = ("rules", "approval", "owner", "waivers")
"""Keys of the section compliance that a release is judged by."""

USED, EXPIRED, IDLE = "used", "expired", "no effect"


def today() -> str:
    """The date, UTC, as ``2026-12-31``."""
    return datetime.now(UTC).date().isoformat()


def stops(gate: dict[str, Any]) -> bool:
    """Whether a verdict stops the release: nothing but a waiver that has not run out lets a refusal pass."""
    waived = gate.get("waiver", {}).get("state") == USED
    return bool(gate["level"] == "fail" and not gate["passes"] and not waived)


def terms(compliance: Compliance, gates: dict[str, Any], day: str) -> dict[str, Any]:
    """What a release's record says of the section, as JSON values; ``gates`` are the verdicts by gate.

    Of the rules, ``rules`` is a digest: what follows from them stands elsewhere. A waiver lives to the end of the day
    (UTC) that it names. Its ``state`` is ``used``, ``expired``, or ``no effect`` when its gate stops nothing.
    """
    told: dict[str, Any] = {}
    for name, waiver in sorted(compliance.waivers.items()):
        state = IDLE if not stops(gates[waiver.gate]) else EXPIRED if day > waiver.expires else USED
        told.setdefault("waivers", {})[name] = {**_told(waiver), "state": state}
    if compliance.rules:
        rules = {name: rule.model_dump(mode="json") for name, rule in compliance.rules.items()}
        told["rules"] = digest(canonical_json(rules))
    if compliance.owner:
        told["owner"] = compliance.owner
    if compliance.approval is not None:
        approval = compliance.approval
        told["approval"] = {"approvers": sorted(set(approval.approvers)), "minimum": approval.minimum}
    return told


def _told(waiver: Waiver) -> dict[str, Any]:
    """What is set of a waiver, as JSON values."""
    return waiver.model_dump(mode="json", exclude_none=True)


def words(waiver: dict[str, Any]) -> str:
    """Until when, by whom, why, and what is done meanwhile."""
    control = f" (compensating control: {waiver['control']})" if waiver.get("control") else ""
    return f"until {waiver['expires']}, by {waiver['approver']}: {waiver['reason']}{control}"


def waived(gates: dict[str, Any], release: dict[str, Any]) -> dict[str, Any]:
    """The verdicts by gate, each that a waiver names with that waiver as ``waiver``."""
    by_gate = {one["gate"]: {"name": name, **one} for name, one in release.get("waivers", {}).items()}
    return {
        name: {**gate, "waiver": by_gate[name]} if by_gate.get(name, {}).get("state", IDLE) != IDLE else gate
        for name, gate in gates.items()
    }


def remarks(release: dict[str, Any]) -> list[str]:
    """What a person should know of waivers that let nothing pass."""
    why = {IDLE: "has no effect: the gate {gate} stops nothing", EXPIRED: "expired on {expires}: the gate {gate} bites"}
    waivers = release.get("waivers", {}).items()
    return [f"Waiver {name} {why[one['state']].format(**one)}." for name, one in waivers if one["state"] in why]


def approved_by(project: Path, release: dict[str, Any]) -> list[str]:
    """Who has approved a release, by the ledger: of those whose approval counts, sorted.

    An approval is of a bundle, its verdicts and the waivers that let it pass; of another it says nothing.

    Raises:
        LedgerError: the ledger was changed: no approval in it is trusted.
    """
    wanted = subject(release)
    found = {
        record.facts["approver"]
        for record in ledger.verify(project).records
        if record.event == "approval" and {key: record.facts.get(key) for key in wanted} == wanted
    }
    return sorted(found & set(release["approval"]["approvers"]))


def subject(release: dict[str, Any]) -> dict[str, Any]:
    """What an approval is about."""
    used = {name: one for name, one in release.get("waivers", {}).items() if one["state"] == USED}
    return {"bundle": release["bundle"], "verdicts": release["verdicts"], "waivers": used}


def refuse_expired(release: dict[str, Any], where: str) -> None:
    """Make sure that every waiver that let the release pass still lives.

    Raises:
        GateRefused: one has run out since.
    """
    day = today()
    for name, one in release.get("waivers", {}).items():
        if one["state"] == USED and day > one["expires"]:
            raise GateRefused(
                f"gate {one['gate']} refused {release['bundle'][:19]}, and waiver {name} expired on {one['expires']}.",
                where=where,
                hint="Mend the model, or have the waiver renewed in the spec; then `specml run`.",
            )


def refuse_unapproved(project: Path, release: dict[str, Any], where: str) -> None:
    """Make sure that as many have approved the release as it needs.

    Raises:
        ApprovalMissing: fewer have.
        LedgerError: as ``approved_by``.
    """
    needed = release.get("approval")
    if needed is None:
        return
    given = approved_by(project, release)
    if len(given) < needed["minimum"]:
        left = [name for name in needed["approvers"] if name not in given]
        so_far = f"; {', '.join(given)} approved" if given else ""
        raise ApprovalMissing(
            f"{release['bundle'][:19]} waits for approval: {len(given)} of {needed['minimum']}{so_far}.",
            where=where,
            hint=f"Approve it as {' or '.join(left)}: specml approve --as {shlex.quote(left[0])}",
        )


def refuse_parted(compliance: Compliance, release: dict[str, Any], where: str) -> None:
    """Make sure that the release was judged under the rules, waivers and approval of the spec as it is now.

    Raises:
        StaleCompile: it was not.
    """
    declared = {name: _told(waiver) for name, waiver in compliance.waivers.items()}
    judged = {name: {k: v for k, v in one.items() if k != "state"} for name, one in release.get("waivers", {}).items()}
    now = terms(compliance.model_copy(update={"waivers": {}}), {}, "")
    if declared != judged or any(now.get(key) != release.get(key) for key in TERMS if key != "waivers"):
        hint = "Run `specml run`: the release is judged anew."
        raise StaleCompile("the section compliance of the spec was changed after the release.", where=where, hint=hint)
