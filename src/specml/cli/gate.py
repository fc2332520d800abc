"""``specml gate``: the packaged model, judged again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specml.cli.arguments import junit_option, parse, spec_and_overrides

if TYPE_CHECKING:
    import polars as pl


@click.command("gate")
@spec_and_overrides
@click.option(
    "--rows", "gate", metavar="GATE", help="Print the held-out rows behind this gate's verdict; judge nothing."
)
@click.option("-o", "out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Where rows go to.")
@click.option("--no-wait", is_flag=True, help="Refuse at once while a run is at work here.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors, a refusal among them.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
@junit_option
def command(
    arguments: tuple[str, ...],
    gate: str | None,
    out: Path | None,
    no_wait: bool,
    quiet: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Judge the packaged model by the gates as the spec has them now; nothing is trained.

    Ends in 4 when a gate refuses, in 3 when the model itself is not the one that the spec asks for. What has not
    changed since it was judged is not judged again.
    """
    from specml.cli.progress import console
    from specml.cli.run import LAST, Outcome, Way, carry, standing, told
    from specml.load import load

    if gate is not None:
        _rows(load(*parse(arguments)).folder, gate, out)
        return
    if out is not None:
        raise click.UsageError("-o goes with --rows.")
    way = Way(LAST, single=False, force=False, wait=not no_wait, quiet=quiet or as_json, judges=True)
    outcome, shown = Outcome(), console()
    with told(outcome, as_json=as_json, junit=junit):
        loaded = load(*parse(arguments))
        carry(loaded, outcome, shown, way)
        standing(loaded.folder, shown, quiet=way.quiet)


def _rows(folder: Path, gate: str, out: Path | None) -> None:
    """Write the rows; the ledger knows that they were shown, before they are."""
    from specml import holdout
    from specml.files import file_atomic

    rows, labels = _found(folder, gate)
    if not rows.height:
        print(f"the verdict of {gate} names no rows", file=sys.stderr)
        return
    holdout.shown(folder, gate=gate, labels=labels, rows=rows.height)
    if out is None:
        print(rows.write_csv(), end="")
        return
    with file_atomic(out) as temporary:
        if out.suffix == ".parquet":
            rows.write_parquet(temporary)
        else:
            rows.write_csv(temporary)
    print(f"{rows.height} rows in {out}", file=sys.stderr)


def _found(folder: Path, gate: str) -> tuple[pl.DataFrame, str]:
    """The rows that a verdict names, each with its number, and what names all held-out rows.

    Raises:
        SpecmlError: there are no verdicts, or the held-out rows are not those that they are about.
    """
    import polars as pl

    from specml import holdout
    from specml.bundle import VERDICTS
    from specml.data import Layout
    from specml.errors import SpecmlError
    from specml.files import read_json
    from specml.stages.prepare import LAYOUT, TEST

    hint = "`specml run` makes both."
    for name in (VERDICTS, TEST, LAYOUT):
        if not (folder / name).exists():
            raise SpecmlError("is missing.", where=str(folder / name), hint=hint)
    told = read_json(folder / VERDICTS)
    if gate not in told["gates"]:
        raise click.UsageError(f"there is no gate {gate!r}; gates: {', '.join(sorted(told['gates']))}.")
    numbers = told["gates"][gate].get("rows", ())
    table = pl.read_parquet(folder / TEST)
    labels = holdout.identity(table[Layout.model_validate_json((folder / LAYOUT).read_bytes()).target].to_list())
    if told["rows"] != table.height or holdout.of(folder, told["bundle"]) not in (None, labels):
        raise SpecmlError("holds other rows than those that were judged.", where=str(folder / TEST), hint=hint)
    column = "row" if "row" not in table.columns else "held_out_row"
    return table.with_row_index(column)[list(numbers)], labels
