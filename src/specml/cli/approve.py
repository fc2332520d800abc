"""``specml approve``: a person approves the release."""

from __future__ import annotations

import getpass
import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from pathlib import Path


@click.command("approve")
@spec_and_overrides
@click.option("--as", "name", metavar="NAME", help="Who approves; the name of your login unless given.")
@click.option("--reason", default="", metavar="TEXT", help="Why; recorded as it is written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], name: str | None, reason: str, as_json: bool) -> None:
    """Record in the ledger that NAME approves the project's release: its bundle, verdicts and waivers as they are.

    Another bundle, verdict or waiver needs another approval.
    """
    from specml import admission, bundle, ledger
    from specml.errors import SpecmlError
    from specml.load import load

    loaded = load(*parse(arguments))
    folder, where = loaded.folder, str(loaded.folder / bundle.RELEASE)
    release = bundle.released(folder, _bundle(folder))
    admission.refuse_parted(loaded.spec.compliance, release, where)
    needed = release.get("approval")
    if needed is None:
        hint = f"Name who must: compliance.approval.approvers: [{name or 'NAME'}]"
        raise SpecmlError("the spec asks for nobody's approval.", where=where, hint=hint)
    name = name or getpass.getuser()
    if name not in needed["approvers"]:
        hint = f"One of {', '.join(needed['approvers'])} may: specml approve --as {shlex.quote(needed['approvers'][0])}"
        raise SpecmlError(f"{name} may not approve it.", where=where, hint=hint)
    if new := name not in admission.approved_by(folder, release):
        ledger.append(folder, "approval", approver=name, reason=reason, **admission.subject(release))
    given = admission.approved_by(folder, release)
    if as_json:
        told = {"bundle": release["bundle"], "new": new, "approved_by": given, "needed": needed["minimum"]}
        print(json.dumps({"schema_version": 1, **told}, indent=1))
        return
    _tell(release, name, given, new)


def _bundle(folder: Path) -> str:
    from specml.errors import SpecmlError
    from specml.files import digest

    manifest = folder / "artifacts/bundle/manifest.json"
    if not manifest.exists():
        hint = "Make one with `specml run`."
        raise SpecmlError("there is no bundle to approve.", where=str(manifest.parent), hint=hint)
    return digest(manifest)


def _tell(release: dict[str, Any], name: str, given: list[str], new: bool) -> None:
    """What was approved, by all that the decision is about, and what comes next."""
    from specml import admission

    did = "approves" if new else "has already approved"
    print(f"{name} {did} {release['candidate']}, bundle {release['bundle'][:19]}")
    for gate, outcome in sorted(release["gates"].items()):
        print(f"  {gate:<20} {outcome}")
    for waiver, one in release.get("waivers", {}).items():
        print(f"  waiver {waiver}: {one['gate']} ({one['state']}), {admission.words(one)}")
    needed, approvers = release["approval"]["minimum"], release["approval"]["approvers"]
    if len(given) < needed:
        left = ", ".join(one for one in approvers if one not in given)
        print(f"{len(given)} of {needed} approvals; missing is one of {left}")
    else:
        print(f"{len(given)} of {needed} approvals: `specml deploy` serves it")
