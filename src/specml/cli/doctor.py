"""``specml doctor``: whether this machine, this installation and this project carry a run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from specml.cli.arguments import parse, spec_and_overrides, without_spec

if TYPE_CHECKING:
    from pathlib import Path

    from specml.doctor import Finding
    from specml.spec import Spec

MARKS = {"ok": "✔", "told": "·", "wrong": "✖"}


@click.command("doctor")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """Look for what would break a run, and say how to mend it; change nothing.

    Ends with status 1 when something would.
    """
    from specml.cli import TELEMETRY_OFF
    from specml.doctor import findings

    first, folder, spec = _spec(*parse(arguments))
    found = [first, *findings(folder, spec, TELEMETRY_OFF)]
    healthy = all(one.state != "wrong" for one in found)
    if as_json:
        document = {"schema_version": 1, "healthy": healthy, "project": str(folder)}
        print(json.dumps({**document, "findings": [asdict(one) for one in found]}, indent=1))
    else:
        _tell(found)
    if not healthy:
        raise click.exceptions.Exit(1)


def _spec(path: Path | None, overrides: tuple[str, ...]) -> tuple[Finding, Path, Spec | None]:
    """What can be said of the spec, the project's folder, and the spec if it is valid."""
    from specml.doctor.finding import ok, told, wrong

    folder = without_spec(path)
    try:
        from specml.errors import SpecError
        from specml.load import load, project_folder
    except ImportError as error:
        from specml.doctor.installed import AGAIN

        return wrong("spec", f"can't be read: {error}", "Every verb needs it.", AGAIN), folder, None
    try:
        folder = project_folder(path)
    except SpecError as error:
        return told("spec", error.problems[0].what, "Only the machine is looked at."), folder, None
    try:
        loaded = load(path, overrides)
    except SpecError as error:
        count = f"{len(error.problems)} problem{'s' * (len(error.problems) != 1)}"
        return wrong("spec", f"{count} in it", "It can't be compiled.", "`specml check` tells each."), folder, None
    return ok("spec", f"{loaded.spec.name}, {loaded.path}"), loaded.folder, loaded.spec


def _tell(found: list[Finding]) -> None:
    """A table of all, and under it what is to be done."""
    from rich.console import Console
    from rich.text import Text

    from specml.cli.tables import plain

    out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = plain("", "check", "found")
    for one in found:
        table.add_row(MARKS[one.state], Text(one.check), Text(one.what))
    out.print(table)
    for one in (one for one in found if one.state != "ok" and (one.why or one.mend)):
        out.print(f"{MARKS[one.state]} {one.check}: {one.why}", markup=False, soft_wrap=True)
        if one.mend:
            out.print(f"    {one.mend}", markup=False, soft_wrap=True)
    wrong = sum(one.state == "wrong" for one in found)
    out.print(f"{wrong} of {len(found)} would break a run" if wrong else "nothing would break a run", markup=False)
