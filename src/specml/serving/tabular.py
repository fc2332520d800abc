"""Rows and answers as tables: CSV and Arrow in the place of JSON, checked and refused as JSON is."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any

from specml.data import blank
from specml.serving.answer import predictions, refuse_not_finite
from specml.serving.capture import row_ids
from specml.serving.refusal import Refused, short
from specml.serving.request import most_values, named, read_rows, too_many_rows
from specml.serving.table import BOOLEANS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from specml.bundle import Contract
    from specml.serving.request import Rows

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
TAKEN = (JSON, CSV, ARROW)
"""Content types of the rows to predict."""


def read(raw: bytes, kind: str, contract: Contract, max_rows: int, *, ignore_unknown: bool = False) -> Rows:
    """The rows in a body of the content type ``kind``.

    Raises:
        Refused: 400, 413 or 422, as of ``request.read_rows``; ``rows[0]`` is the first below the header.
    """
    if kind == CSV:
        rows = read_csv(raw, contract, max_rows)
    elif kind == ARROW:
        from specml.serving import arrow

        rows = arrow.read(raw, most_values(contract, max_rows), max_rows)
    else:
        return read_rows(raw, contract, max_rows, ignore_unknown=ignore_unknown)
    return named(rows, contract, ignore_unknown=ignore_unknown)


def read_csv(raw: bytes, contract: Contract, max_rows: int) -> list[dict[str, Any]]:
    """The rows of a CSV file (RFC 4180, UTF-8) whose first line names the columns; an empty field is missing.

    A field that is not what its column takes stays a text, for ``request.named`` to refuse.

    Raises:
        Refused: 400 for what is no CSV, 413 for too many rows, 422 for rows unlike the header.
    """
    if raw.count(b",") + raw.count(b"\n") > (most := most_values(contract, max_rows)):
        raise Refused(413, f"the body holds more than {most} values. Send the rows in parts.")
    columns = {column.name: column for column in contract.inputs}
    try:
        lines = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        names = next(lines, [])
        if len({*names}) < len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            raise Refused(400, f"the column {short(twice)!r} stands twice in the header.")
        read = [_READ.get(columns[name].kind, _text) if name in columns else _text for name in names]
        rows = list[dict[str, Any]]()
        for fields in lines:
            if not fields:  # an empty line
                continue
            if len(fields) != len(names):
                raise Refused(422, f"rows[{len(rows)}] has {len(fields)} fields, the header {len(names)}.")
            rows.append({name: one(field) for name, one, field in zip(names, read, fields, strict=True)})
    except UnicodeDecodeError:
        raise Refused(400, "the body is no CSV: it is not UTF-8.") from None
    except csv.Error as error:
        raise Refused(400, f"the body is no CSV: {error}.") from None
    if not rows:
        raise Refused(422, "the CSV has no row: its first line names the columns, the others are rows.")
    if len(rows) > max_rows:
        raise too_many_rows(len(rows), max_rows)
    return rows


def _text(field: str) -> str | None:
    return None if blank(field) else field


def _number(field: str) -> float | str | None:
    """A number; NaN, as which other programs write what is missing, is missing."""
    if blank(field):
        return None
    try:
        number = float(field) if "_" not in field else math.inf
    except ValueError:
        return field
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else field


def _boolean(field: str) -> bool | str | None:
    return None if blank(field) else BOOLEANS.get(field.strip().lower(), field)


_READ: dict[str, Callable[[str], Any]] = {"numeric": _number, "boolean": _boolean}


def answered_as(accept: str | None) -> str:
    """The content type of the answer: the first of ours that the header names, JSON where it names none."""
    if accept is None:
        return JSON
    for one in accept.lower().split(","):
        if (kind := one.partition(";")[0].strip()) in TAKEN:
            return kind
    return JSON


def columns_of(
    outputs: dict[str, np.ndarray], contract: Contract, identity: str, notice: Mapping[str, str]
) -> dict[str, list[Any]]:
    """What was predicted, by column: called as `specml predict` calls them in a file.

    ``id`` of each row, ``predicted``, ``probability_CLASS`` or what a regression has beside it, and ``notice_NAME``.

    Raises:
        Refused: 422; a row has no finite answer.
    """
    refuse_not_finite(outputs)
    found = predictions(outputs, contract)
    told: dict[str, list[Any]] = {"id": row_ids(identity, len(found))}
    told["predicted"] = [one["label" if "label" in one else "prediction"] for one in found]
    for name in found[0]:
        if name == "probabilities":
            for label in found[0][name]:
                told[f"probability_{label}"] = [one[name][label] for one in found]
        elif name not in ("label", "prediction", "probability"):
            told[name] = [one[name] for one in found]
    return told | {f"notice_{name}": [text] * len(found) for name, text in notice.items()}


def write(kind: str, columns: dict[str, list[Any]]) -> bytes:
    """An answer as CSV or Arrow.

    Raises:
        Refused: 406; nothing here writes Arrow.
    """
    if kind == ARROW:
        from specml.serving import arrow

        return arrow.write(columns)
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(columns)
    # As text first: csv would write a numpy float by its constructor, and a float32 with digits that it doesn't have.
    lines.writerows(["" if one is None else str(one) for one in row] for row in zip(*columns.values(), strict=True))
    return text.getvalue().encode()
