"""``specml predict``: the model's answers for the rows of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.load import Loaded

ROWS_AT_ONCE = 1024


@click.command("predict")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@spec_and_overrides
@click.option(
    "--bundle",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run this bundle in this process, without any server.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A .csv, .jsonl or .parquet file."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress; only errors.")
def command(file: Path, arguments: tuple[str, ...], folder: Path | None, output: Path | None, quiet: bool) -> None:
    """Predict the rows of FILE (.csv, .parquet or .jsonl); columns that the model does not know are passed through.

    The live server is asked, unless --bundle names a bundle. Rows go to standard output, or to --output.
    """
    from specml.load import load
    from specml.serving.table import with_predictions

    path, overrides = parse(arguments)
    loaded = load(path, overrides) if folder is None or path is not None else None
    table = _read(file, loaded)
    predictions = _by_bundle(table, folder) if folder is not None else _by_server(table, _known(loaded))
    answered = with_predictions(table, predictions)
    _write(answered, output, file)
    if not quiet:
        where = f" → {output}" if output else ""
        click.echo(f"{table.height:,} rows predicted{where}", err=True)


def _known(loaded: Loaded | None) -> Loaded:
    assert loaded is not None
    return loaded


def _read(file: Path, loaded: Loaded | None) -> pl.DataFrame:
    """The file's rows, read as the spec's source reads its own where that is of the same type."""
    import polars as pl

    from specml.sources.csv import Csv
    from specml.sources.parquet import Parquet

    here, path = Path.cwd(), str(file.resolve())
    sources = list(loaded.spec.data.sources.values()) if loaded else []
    if file.suffix == ".parquet":
        return Parquet(path=path, allow_outside=True).read(here)
    if file.suffix in (".jsonl", ".ndjson"):
        return pl.read_ndjson(file, infer_schema_length=None)
    if file.suffix not in (".csv", ".tsv"):
        raise click.UsageError(f"{file.name}: rows are read from .csv, .tsv, .parquet, .jsonl and .ndjson files.")
    like = next((source for source in sources if isinstance(source, Csv)), None)
    if like is not None and file.suffix == ".csv":
        return like.model_copy(update={"path": path, "allow_outside": True}).read(here)
    return Csv(path=path, separator="\t" if file.suffix == ".tsv" else ",", allow_outside=True).read(here)


def _by_bundle(table: pl.DataFrame, folder: Path) -> Iterator[dict[str, Any]]:
    import json

    from specml.bundle import open_bundle, predict
    from specml.errors import SpecmlError
    from specml.serving.answer import predict_body
    from specml.serving.refusal import Refused
    from specml.serving.request import named
    from specml.serving.table import to_rows

    bundle = open_bundle(folder)
    session = bundle.session()
    rows = to_rows(table, {column.name: column.kind for column in bundle.contract.inputs})
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        try:
            columns = named(part, bundle.contract).columns
        except Refused as refusal:
            raise SpecmlError(refusal.what, where=f"rows {start + 1} to {start + len(part)}") from None
        # The same text as from a server, so that both give the same digits.
        yield from json.loads(predict_body(predict(session, columns), bundle.contract, bundle.digest))["predictions"]


def _by_server(table: pl.DataFrame, loaded: Loaded) -> Iterator[dict[str, Any]]:
    from specml.errors import SpecmlError
    from specml.serving.client import Client
    from specml.serving.table import to_rows

    spec = loaded.spec
    live = spec.deployment.target.status(spec, loaded.folder)
    if live is None:
        raise SpecmlError(
            f"{spec.name} is not live.", hint="Start it with `specml deploy`, or say --bundle artifacts/bundle."
        )
    token = ""
    if spec.serving.auth is not None:
        token = os.environ.get(spec.serving.auth.tokens.name, "").partition(",")[0].strip()
    client = Client(live.url, token)
    columns, most = client.columns()
    yield from client.predict(to_rows(table, columns), most)


def _write(table: pl.DataFrame, output: Path | None, like: Path) -> None:
    import io

    from specml.files import write_atomic

    kind = output.suffix if output else ".csv" if like.suffix == ".csv" else ".jsonl"
    content = io.BytesIO()
    if kind == ".csv":
        table.write_csv(content)
    elif kind == ".parquet":
        table.write_parquet(content)
    elif kind in (".jsonl", ".ndjson"):
        table.write_ndjson(content)
    else:
        raise click.UsageError(f"{output}: rows are written to .csv, .jsonl and .parquet files.")
    if output is None:
        sys.stdout.buffer.write(content.getvalue())
        sys.stdout.buffer.flush()
    else:
        write_atomic(output, content.getvalue())
