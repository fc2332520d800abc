"""``specml feedback``: labels that came late."""

from __future__ import annotations

import json
from pathlib import Path

import click

from specml.cli.arguments import parse, spec_and_overrides


@click.command("feedback")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@spec_and_overrides
@click.option("--id", "name", metavar="COLUMN", default="id", show_default=True, help="The column with the ids.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(file: Path, arguments: tuple[str, ...], name: str, as_json: bool) -> None:
    """Join the labels in FILE (.csv, .parquet or .jsonl) to the captured answers that they belong to.

    FILE has the ids of the answers, as `specml predict` writes them (a request's id and the row's number in it: ID-0,
    ID-1, …), and the target's column.
    The same file twice changes nothing.
    """
    from specml import ledger
    from specml.cli.predict import read_rows
    from specml.load import load
    from specml.watch.feedback import feed

    loaded = load(*parse(arguments))
    target = loaded.spec.problem.target
    labels = read_rows(file, loaded, frozenset({name}))
    with ledger.recorded(loaded.folder, "feedback") as facts:
        taken = feed(labels, loaded.folder, target, name)
        facts.update(taken.told())
    if as_json:
        print(json.dumps({"schema_version": 1, **taken.told()}, indent=1))
        return
    print(f"{taken.kept:,} of {taken.rows:,} labels are new and belong to captured rows.")
    for count, about in (
        (taken.known, "were told before"),
        (taken.conflicting, "contradict a label that was told before; the first stays"),
        (taken.unknown, "belong to no captured row"),
        (taken.unlabelled, "have no id or no label"),
    ):
        if count:
            print(f"{count:,} {about}.")
