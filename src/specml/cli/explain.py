"""``specml explain``: why the model answers as it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import spec_and_overrides
from specml.cli.predict import client, known, rows_of, spec_beside, tell_lacking
from specml.data import looks_back
from specml.serving import picture
from specml.serving.history import KEY, by_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from specml.bundle import Bundle
    from specml.data import Kind, PastRows
    from specml.load import Loaded

BUNDLE = "artifacts/bundle"


@click.command("explain")
@spec_and_overrides
@click.option("--row", help="One row, as JSON: '{\"age\": 39}'. Otherwise the first argument is a file of rows.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Columns told of each row.")
@click.option("--class", "label", help="The class that is explained: the positive or the decided one unless said.")
@click.option(
    "--bundle",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Explain this bundle; the project's unless said.",
)
@click.option("--live", is_flag=True, help="Ask the live server's /explain instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(
    arguments: tuple[str, ...],
    row: str | None,
    top: int,
    label: str | None,
    folder: Path | None,
    live: bool,
    as_json: bool,
) -> None:
    """Say of each row of FILE, or of --row, what moves the model's answer: [FILE] [SPEC] [KEY=VALUE]...

    The project's bundle is explained in this process, unless --live asks the server.
    """
    file, rest = _file(arguments, row)
    loaded = spec_beside(folder, rest)
    if live and loaded is None:
        raise click.UsageError("--live asks a project's server; name its spec, or leave --bundle out.")
    model = _live(known(loaded)) if live else _here(folder or known(loaded).folder / BUNDLE)
    rows = [_parsed(row)] if row is not None else _read(file, loaded, model)
    told = model.explain({"rows": rows, "top": top, **({} if label is None else {"class": label})})
    if as_json:
        print(json.dumps(told, ensure_ascii=False, indent=1))
        return
    if model.history and model.history.steps:
        rows = by_steps(rows, model.columns, model.history, model.history.steps)
    for number, (given, one) in enumerate(zip(rows, told["explanations"], strict=True)):
        print("\n".join([*([""] if number else []), *lines(number + 1, given, one, told["space"], model.target)]))


@dataclass(frozen=True)
class _Asked:
    """Whoever explains: the live server, or a bundle in this process."""

    columns: Mapping[str, Kind]
    """The model's columns by name, with their kinds."""
    history: PastRows | None
    target: str
    explain: Callable[[dict[str, Any]], dict[str, Any]]


def _live(loaded: Loaded) -> _Asked:
    asked = client(loaded)
    columns, _, history = asked.columns()
    return _Asked(columns, history, loaded.spec.problem.target, asked.explain)


def _here(folder: Path) -> _Asked:
    from specml.bundle import open_bundle

    bundle = open_bundle(folder)
    columns = {column.name: column.kind for column in bundle.contract.inputs}
    return _Asked(columns, bundle.contract.history, bundle.contract.target, partial(_alone, bundle))


def lines(number: int, row: dict[str, Any], told: dict[str, Any], space: str, target: str) -> Iterator[str]:
    """What a person reads of one row: the answer, the base, and the columns that move it, largest first."""
    from specml.data import category
    from specml.explain import UNITS

    prediction, name = told["prediction"], told.get("class", target)
    if "label" in prediction and prediction["label"] is None:
        sure = prediction["probability"]
        yield f"row {number}: {target} is not decided, with probability {sure:.3f} of the positive class"
    elif "label" in prediction:
        sure = prediction["probabilities"][category(prediction["label"])]
        yield f"row {number}: {target} is {_text(prediction['label'])}, with probability {sure:.3f}"
    else:
        ends = f", {prediction['lower']:.6g} to {prediction['upper']:.6g}" if "lower" in prediction else ""
        yield f"row {number}: {target} is {prediction['prediction']:.6g}{ends}"
    unit = f"{UNITS[space]} of {_text(name)}"
    yield f"  {told['base']:+11.4f}  the usual {unit}"
    for one in told["contributions"]:
        value = _value(row, one["column"])
        said = " is missing" if value is None else f" is {_text(value)}"
        if picture.KEY in row and one["column"] not in row:  # the image tells it
            said = ""
        way = "raises" if one["contribution"] > 0 else "lowers" if one["contribution"] < 0 else "leaves"
        yield f"  {one['contribution']:+11.4f}  {one['column']}{said}: {way} it"
    if "others" in told:
        others = told["others"]
        yield f"  {others['contribution']:+11.4f}  {others['columns']} other column{'s' * (others['columns'] > 1)}"
    yield f"  {told['total']:+11.4f}  the {unit} of this row"


def _value(row: dict[str, Any], column: str) -> Any:
    """What a row holds, or one of the rows that it brings along; None where it is missing."""
    step, before = looks_back(column), row.get(KEY)
    if step is None or not before:
        return row.get(column)
    return before[-step[1]].get(step[0]) if step[1] <= len(before) else None


def _text(value: Any) -> str:
    from specml.data import category

    text = category(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _file(arguments: tuple[str, ...], row: str | None) -> tuple[Path | None, tuple[str, ...]]:
    """The file of rows, and the other arguments."""
    if row is not None:
        return None, arguments
    wanted = "name a file of rows, or give one row: --row '{\"age\": 39}'."
    if not arguments:
        raise click.UsageError(wanted)
    file = Path(arguments[0])
    if not file.is_file():
        raise click.UsageError(wanted if "=" in arguments[0] else f"{file} is no file.")
    return file, arguments[1:]


def _parsed(row: str) -> dict[str, Any]:
    try:
        found = json.loads(row)
    except ValueError as error:
        raise click.UsageError(f"--row is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise click.UsageError('--row is no JSON object: write {"column": value, …}.')
    return found


def _read(file: Path | None, loaded: Loaded | None, model: _Asked) -> list[dict[str, Any]]:
    from specml.serving.table import to_rows
    from specml.tables.history import beside

    assert file is not None
    table = beside(rows_of(file, loaded, model.columns, model.history), model.history, model.columns)
    tell_lacking(file, table, model.columns)
    return to_rows(table, model.columns)


def _alone(bundle: Bundle, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of a bundle in this process: the same text as a server's, so that both give the same digits."""
    from specml.errors import SpecmlError
    from specml.serving.explanation import Explainer
    from specml.serving.refusal import Refused

    try:
        raw = json.dumps(question).encode()
        answer = Explainer(bundle).body(raw, "", max_rows=len(question["rows"]))
    except Refused as refusal:
        raise SpecmlError(refusal.what) from None
    return dict(json.loads(answer))
