"""``specml releases``: what went live, and what may again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from rich.table import Table


@click.command("releases")
@spec_and_overrides
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(arguments: tuple[str, ...], as_json: bool) -> None:
    """List the releases that are kept, and say which is live, as told by the server itself."""
    from specml import releases
    from specml.load import load

    loaded = load(*parse(arguments))
    live = loaded.spec.deployment.target.status(loaded.spec, loaded.folder)
    rows = releases.told(loaded.folder, live.bundle if live else "")
    if as_json:
        print(json.dumps({"schema_version": 1, "name": loaded.spec.name, "releases": rows}, indent=1))
        return
    if not rows:
        print(f"{loaded.spec.name}: nothing was released yet. `specml run` does it.")
        return
    from rich.console import Console

    Console(highlight=False).print(_table(rows))
    if live is None:
        print("Nothing is live now. `specml deploy` serves the project's bundle.")


def _table(rows: list[dict[str, Any]]) -> Table:
    """The newest first; fits into 80 columns."""
    from specml.card import number
    from specml.cli.tables import plain

    metric = next((row["metric"]["name"] for row in reversed(rows) if row["metric"]), "metric")
    table = plain("release", "bundle", "candidate", metric, "went live (UTC)", "state")
    for row in reversed(rows):
        # A release of before the spec had another primary metric has no figure in this column.
        measured = row["metric"] is not None and row["metric"]["name"] == metric
        score = number(row["metric"]["value"]) if measured else "-"
        went = (row["went_live"] or "-")[:16].replace("T", " ")
        state = "rolled back" if row["rolled_back"] else row["state"]
        table.add_row(str(row["number"]), row["bundle"][7:19], row["candidate"], score, went, state)
    return table
