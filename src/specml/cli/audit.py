"""``specml audit``: check and show the ledger."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import folder_of

if TYPE_CHECKING:
    from specml.ledger import Checked

spec = click.argument("path", metavar="[SPEC]", required=False, type=click.Path(path_type=Path))


@click.group("audit")
def command() -> None:
    """Check and show the ledger: what was run, decided and served in this project."""


@command.command("verify")
@spec
@click.option("--head", default="", metavar="SEQ:HASH", help="A head that was noted elsewhere: it must still be there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def verify(path: Path | None, head: str, as_json: bool) -> None:
    """Say whether a record was changed, removed, added or cut off; the first that is wrong is named."""
    from specml import ledger

    checked = ledger.verify(folder_of(path), head)
    if as_json:
        told = {"records": len(checked.records), "head": _head(checked), "unfinished": checked.unfinished}
        print(json.dumps({"schema_version": 1, **told}, indent=1))
        return
    if not checked.records and not checked.unfinished:
        print("nothing was recorded here yet")
        return
    print(f"{len(checked.records):,} records, none was changed; head {_head(checked)}")
    if checked.unfinished:
        left = ", ".join(f"{what} {count}" for what, count in checked.unfinished.items() if what != "sha256")
        print(f"A process was killed while it wrote ({left}); the next record puts it right.")


@command.command("show")
@spec
@click.option("--event", "events", multiple=True, metavar="EVENT", help="Only these; may be given several times.")
@click.option("-n", "last", type=click.IntRange(1), help="Only the last so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(path: Path | None, events: tuple[str, ...], last: int | None, as_json: bool) -> None:
    """Print the records, oldest first, once none is found changed."""
    from specml import ledger

    records = ledger.verify(folder_of(path)).records
    known = sorted({record.event for record in records})
    if strangers := [event for event in events if event not in known]:
        raise click.UsageError(
            f"there is no record of {', '.join(strangers)}; there are: {', '.join(known) or 'none'}."
        )
    kept = [record for record in records if not events or record.event in events]
    kept = kept[-last:] if last else kept
    if as_json:
        print(json.dumps({"schema_version": 1, "records": [asdict(record) for record in kept]}, indent=1))
        return
    from rich.console import Console
    from rich.text import Text

    from specml.cli.tables import plain

    table = plain("seq", "time (UTC)", "event", "facts")
    for record in kept:
        time = record.time[:19].replace("T", " ")
        facts = {key: value for key, value in record.facts.items() if key != "options"}  # whose digests are told
        table.add_row(str(record.seq), time, record.event, Text(_words(facts)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


def _head(checked: Checked) -> str:
    return str(checked.head) if checked.records else ""


def _words(value: Any) -> str:
    """Facts in a line; digests by the digits that name them elsewhere."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(_words(item) for item in value) or "none"
    text = json.dumps(value) if not isinstance(value, str) else value
    return text[7:19] if text.startswith("sha256:") else text
