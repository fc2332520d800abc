"""``specml watch``: judge what the live model is asked."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.load import Loaded
    from specml.watch.judge import Judged

SHOWN = 8
"""Columns shown of a signal; the record has all."""


@click.command("watch")
@spec_and_overrides
@click.option("--once", is_flag=True, help="Judge what there is, and end.")
@click.option(
    "--rows",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Judge the rows of this file as one window, instead of what was captured.",
)
@click.option("--by", metavar="COLUMN", help="With --rows: a window for each value of this column.")
@click.option("--every", metavar="DURATION", default="10m", show_default=True, help="Without --once: how often.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document for each round.")
def command(
    arguments: tuple[str, ...], once: bool, file: Path | None, by: str | None, every: str, as_json: bool
) -> None:
    """Judge windows of live rows and late labels, by the signals of the spec.

    Ends with status 10 when a signal is raised; without --once it goes on until it is interrupted.
    """
    from specml.errors import SignalRaised
    from specml.load import load
    from specml.values import Duration

    pause = Duration.parse(every)
    if pause is None or pause < 1:
        raise click.UsageError(f"--every {every!r} is no duration of a second or more, like 30s or 10m.")
    if by is not None and file is None:
        raise click.UsageError("--by needs --rows.")
    loaded = load(*parse(arguments))
    while True:
        judged = list(_of_file(loaded, file, by) if file is not None else _of_captures(loaded))
        tell(judged, as_json)
        raised = [f"{name} ({one.name})" for one in judged for name in one.raised]
        if once or file is not None:
            break
        time.sleep(pause)
    if raised:
        raise SignalRaised(f"raised: {', '.join(raised)}.", where=loaded.spec.name)


def _of_captures(loaded: Loaded) -> Iterator[Judged]:
    from specml.watch.live import watch

    return watch(loaded.spec, loaded.folder, lambda text: click.echo(text, err=True))


def _of_file(loaded: Loaded, file: Path, by: str | None) -> Iterator[Judged]:
    from specml import rollout
    from specml.bundle import open_bundle
    from specml.cli.predict import rows_of
    from specml.files import digest
    from specml.tables.history import beside
    from specml.watch.judge import content, judge, parts, seen

    champion = rollout.current(loaded.spec, loaded.folder)
    bundle = champion.open() if champion else open_bundle(loaded.folder / "artifacts/bundle")
    columns, history = {one.name: one.kind for one in bundle.contract.inputs}, bundle.contract.history
    table = beside(rows_of(file, loaded, columns, history), history, columns)
    for part, rows in parts(table, by):
        origin = {"file": file.name, "rows": digest(content(rows)), **({"part": part} if part else {})}
        name = f"file-{digest(json.dumps([bundle.digest, origin]).encode())[7:19]}"
        judged = judge(loaded.spec, bundle, seen(rows, bundle.contract), name, origin)
        judged.write(loaded.folder)
        yield judged


def tell(judged: list[Judged], as_json: bool) -> None:
    """Print the verdicts."""
    if as_json:
        print(json.dumps({"schema_version": 1, "windows": [one.told() for one in judged]}, indent=1), flush=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for one in judged:
        console.print(f"\n{_title(one)}")
        console.print(_table(one.verdicts))


def _title(one: Judged) -> str:
    where = " · ".join(str(one.origin[key]) for key in ("file", "part") if key in one.origin)
    return f"{one.name}: {one.window.rows:,} {one.of}" + (f" of {where}" if where else "")


def _table(verdicts: dict[str, Any]) -> Any:
    from specml.card import number
    from specml.cli.tables import MARKS, plain

    words = {"holds": "quiet", "refused": "raised", "not measured": "not measured"}
    table = plain("signal", "verdict", "wanted", "value", "n", "")
    for name, verdict in verdicts.items():
        slices = verdict["slices"]
        note = verdict["reason"] if not slices or verdict["outcome"] == "not measured" else f"{len(slices)} columns"
        mark = MARKS[verdict["outcome"]] + words[verdict["outcome"]]
        table.add_row(name, mark, verdict["threshold"], number(verdict["value"]), f"{verdict['n']:,}", note)
        for one in slices[:SHOWN]:
            table.add_row(
                f"  {one['name']}", words[one["outcome"]], "", number(one["value"]), f"{one['n']:,}", one["note"]
            )
    return table
