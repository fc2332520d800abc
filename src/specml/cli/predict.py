"""``specml predict``: the model's answers for the rows of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from specml.cli.arguments import parse, spec_and_overrides
from specml.data import TEXTS, looks_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import polars as pl

    from specml.data import Kind, PastRows
    from specml.load import Loaded
    from specml.serving.client import Client

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
    """Predict the rows of FILE: .csv, .parquet, .jsonl, an image or a .zip of some.

    Columns that the model does not know are passed through.

    The live server is asked, unless --bundle names a bundle. Rows go to standard output, or to --output.
    """
    from specml.serving.table import to_rows, with_predictions
    from specml.tables.history import beside

    loaded = spec_beside(folder, arguments)
    model: Asked = ByBundle(folder) if folder is not None else ByServer(known(loaded))
    table = rows_of(file, loaded, model.columns, model.history)
    known_rows = beside(table, model.history, model.columns)
    answered = with_predictions(table, model.predict(to_rows(known_rows, model.columns)))
    _write(answered, output, file)
    if not quiet:
        where = f" → {output}" if output else ""
        click.echo(f"{table.height:,} rows predicted{where}", err=True)
        tell_lacking(file, known_rows, model.columns)


def rows_of(file: Path, loaded: Loaded | None, columns: Mapping[str, Kind], history: PastRows | None) -> pl.DataFrame:
    """The file's rows for a model of these ``columns``, which may look back at a ``history``."""
    kinds = {(looks_back(name) or (name,))[0]: kind for name, kind in columns.items()}
    texts, times = ({name for name, kind in kinds.items() if kind in of} for of in (TEXTS, ("datetime",)))
    if history is not None:
        texts |= set(history.by) - kinds.keys()  # as numbers, "01" and "1" would be one group
        times |= {history.time}
    return read_rows(file, loaded, frozenset(texts), frozenset(times))


def spec_beside(bundle: Path | None, arguments: tuple[str, ...]) -> Loaded | None:
    """The spec, unless a bundle is named and no spec is."""
    from specml.load import load

    path, overrides = parse(arguments)
    if bundle is None or path is not None:
        return load(path, overrides)
    if overrides:
        raise click.UsageError(f"{overrides[0]} changes a spec, and --bundle alone needs none; name the spec, too.")
    return None


def known(loaded: Loaded | None) -> Loaded:
    """The spec, where no bundle is named."""
    assert loaded is not None
    return loaded


def tell_lacking(file: Path, table: pl.DataFrame, columns: Mapping[str, Kind]) -> None:
    """Say on standard error which of the model's columns the file does not have."""
    if lacking := [name for name in columns if name not in table.columns]:
        click.echo(f"{file} lacks {', '.join(lacking)}: missing in every row.", err=True)


def read_rows(
    file: Path, loaded: Loaded | None, texts: frozenset[str], times: frozenset[str] = frozenset()
) -> pl.DataFrame:
    """The file's rows, read as the spec's source reads its own where that is of the same type.

    ``texts``: columns to be read as they are written: ``02139`` stays so.
    ``times``: columns that the model takes as times; any other date is passed through as it is written.
    """
    from specml.reading.images import ENDS
    from specml.sources.csv import Csv
    from specml.sources.image_folder import ImageFolder
    from specml.sources.jsonl import Jsonl
    from specml.tables.rows import TYPES, ending, source_of

    here, ends = Path.cwd(), ending(file)
    images = {end.removeprefix(".") for end in (*ENDS, ".zip")}
    known = list(loaded.spec.data.sources.values()) if loaded else []
    if ends in TYPES:
        source = source_of(file, known, times)
    elif ends in images:
        like = next((one for one in known if type(one) is ImageFolder), None)
        if like is None:
            what = f"{file.name}: images are read as the spec's image_folder reads them; there is none."
            raise click.UsageError(what)
        source = like.model_copy(update={"path": str(file.resolve()), "allow_outside": True})
    else:
        told = ", ".join(f".{one}" for one in (*TYPES, *sorted(images)))
        raise click.UsageError(f"{file.name}: rows are read from files that end in {told}.")
    table = source.read(here, texts)
    others = frozenset(name for name, kind in table.schema.items() if kind.is_temporal()) - times
    return source.read(here, texts | others) if others and isinstance(source, Csv | Jsonl) else table


class Asked(Protocol):
    """Whoever predicts: a live server, or a bundle in this process."""

    columns: Mapping[str, Kind]
    """The model's columns by name, with their kinds."""
    history: PastRows | None
    """Which rows before a row it takes; None: none."""

    def predict(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """A prediction for each row, in order."""


class ByBundle:
    """A bundle in this process."""

    def __init__(self, folder: Path) -> None:
        from specml.bundle import open_bundle

        self._bundle = open_bundle(folder)
        self.columns: Mapping[str, Kind] = {column.name: column.kind for column in self._bundle.contract.inputs}
        self.history = self._bundle.contract.history

    def predict(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """A prediction for each row, in order."""
        import json

        from specml.bundle import predict
        from specml.errors import SpecmlError
        from specml.serving.answer import predict_body
        from specml.serving.refusal import Refused
        from specml.serving.request import named

        contract, session = self._bundle.contract, self._bundle.session()
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            try:
                outputs = predict(session, named(part, contract).columns)
                # The same text as from a server, so that both give the same digits.
                yield from json.loads(predict_body(outputs, contract, self._bundle.digest, "", {}))["predictions"]
            except Refused as refusal:
                raise SpecmlError(refusal.what, where=f"rows {start + 1} to {start + len(part)}") from None


class ByServer:
    """The live server of a project."""

    def __init__(self, loaded: Loaded) -> None:
        self._client = client(loaded)
        self.columns: Mapping[str, Kind]
        self.columns, self._most, self.history = self._client.columns()

    def predict(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """A prediction for each row, in order."""
        return self._client.predict(rows, self._most)


def client(loaded: Loaded) -> Client:
    """A connection to the live server of a project."""
    from specml.errors import SpecmlError
    from specml.serving.client import Client

    spec = loaded.spec
    live = spec.deployment.target.status(spec, loaded.folder)
    if live is None:
        raise SpecmlError(
            f"{spec.name} is not live.", hint="Start it with `specml deploy`, or say --bundle artifacts/bundle."
        )
    if live.scored:
        raise SpecmlError(f"{spec.name} scores files, and nobody can ask it.", hint="Say --bundle artifacts/bundle.")
    token = ""
    if spec.serving.auth is not None:
        token = (
            os.environ.get(spec.serving.auth.variable("predict", "explain", "describe"), "").partition(",")[0].strip()
        )
    return Client(live.url, token)


def _write(table: pl.DataFrame, output: Path | None, like: Path) -> None:
    import io

    import polars as pl

    from specml.errors import SpecmlError, first_line
    from specml.files import write_atomic

    kind = output.suffix if output else ".csv" if like.suffix == ".csv" else ".jsonl"
    writers: dict[str, Callable[[io.BytesIO], None]] = {
        ".csv": table.write_csv,
        ".parquet": table.write_parquet,
        ".jsonl": table.write_ndjson,
        ".ndjson": table.write_ndjson,
    }
    if kind not in writers:
        raise click.UsageError(f"{output}: rows are written to .csv, .jsonl and .parquet files.")
    content = io.BytesIO()
    try:
        if "json" in kind and any("Binary" in str(dtype) for dtype in table.dtypes):
            raise pl.exceptions.ComputeError("bytes are no JSON")  # polars would panic
        writers[kind](content)
    except pl.exceptions.PolarsError as error:
        raise SpecmlError(
            f"the rows can't be written as {kind}: {first_line(error)}.",
            hint="Name another file: --output rows.parquet takes every type.",
        ) from None
    if output is None:
        sys.stdout.buffer.write(content.getvalue())
        sys.stdout.buffer.flush()
    else:
        write_atomic(output, content.getvalue())
