"""The catalogue of bad data: each case with the outcome that ``docs/bad-data.md`` documents.

To add one, append a ``Case`` to ``CASES``; ``make golden`` writes the page.
"""

# ruff: noqa: E501 - one case a line reads best
from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

N = 400
SECRET = "Jane Doe"
"""A value that no message may show."""

_G = np.random.default_rng(5)
_X = _G.normal(size=N).round(3)
_NOISE = _G.normal(size=N)
_Y = (_X + 0.6 * _G.normal(size=N) > 0).astype(int)


@dataclass(frozen=True)
class Case:
    """Rows with one fault."""

    section: Literal["Files", "Rows", "Columns", "Values", "The target", "Split and leakage", "Requests", "Size"]
    what: str
    rows: Callable[[], dict[str, Any] | bytes]
    """A table, or the bytes of ``file``."""
    says: str
    """A part of what is said about it, word for word; empty where nothing is lost and nothing is to say."""
    status: int = 0
    """The exit status; 0: the run goes on."""
    how: str = ""
    """What becomes of it, in a few words, where the run goes on."""
    spec: dict[str, Any] = field(default_factory=dict)
    """Changes of the spec: sections, and below ``data``."""
    file: str = "rows.csv"
    whole: bool = False
    """Whether it is taken through all stages, up to the release."""
    slow: bool = False
    asked: dict[str, Any] = field(default_factory=dict)
    """A row that the bundle is then asked about; what its server's counters say of it is said."""


def rows(**columns: Any) -> dict[str, Any]:
    """A table that is fine but for ``columns``."""
    base = {"x": _X.tolist(), "kind": [["new", "old", "odd"][i // 2 % 3] for i in range(N)], "y": _Y.tolist()}
    return {**base, **{name: list(values) for name, values in columns.items()}}


def put(column: str, *values: Any) -> dict[str, Any]:
    """The table with ``values`` in the first rows of a column."""
    return rows(**{column: [*values, *rows()[column][len(values) :]]})


def csv(*changes: tuple[bytes, bytes, int]) -> bytes:
    """The same as a CSV file, with ``(old, new, times)`` replaced."""
    raw = pl.DataFrame(rows()).write_csv().encode()
    for old, new, times in changes:
        raw = raw.replace(old, new, times)
    return raw


def parquet() -> bytes:
    """The same as a Parquet file."""
    buffer = io.BytesIO()
    pl.DataFrame(rows()).write_parquet(buffer)
    return buffer.getvalue()


def column(name: str, **declared: Any) -> dict[str, Any]:
    """A declaration, as a change of the spec."""
    return {"data": {"columns": {name: declared}}}


REGRESSION: dict[str, Any] = {
    "problem": {"task": "regression", "target": "y"},
    "candidates": {"line": {"type": "ridge"}},
}
TEXTS = [f"{1000 * abs(x):,.2f}" for x in _X]
DAYS = [f"2026-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(N)]
ODD_NAMES = ["a b", "a.b", "größe", "select", "_x", "1st", "a/b", "$", "日本", "class", 'a"b', "{key}"]

CASES = (
    Case("Files", "an empty file", lambda: b"", "is empty", 7),
    Case(
        "Files",
        "latin-1",
        lambda: csv((b"new", b"gr\xf6\xdfer", 999)),
        "found out: encoding 'latin-1'",
        how="read, and said",
    ),
    Case(
        "Files",
        "UTF-16 with a byte order mark",
        lambda: csv().decode().encode("utf-16"),
        "found out: encoding 'utf-16'",
        how="read, and said",
    ),
    Case(
        "Files",
        "UTF-8 with a byte order mark",
        lambda: b"\xef\xbb\xbf" + csv(),
        "found out: encoding 'utf-8-sig'",
        how="read, and said",
    ),
    Case(
        "Files",
        "bytes that are in no encoding",
        lambda: csv((b"new", b"n\xc3\xa4w", 3), (b"old", b"o\xff", 1)),
        "1 bytes can't be read as utf-8, the first in line 4",
        6,
    ),
    Case("Files", "NUL bytes", lambda: csv((b"new", b"n\0w", 2)), "holds 2 NUL bytes, the first in line 2", 6),
    Case(
        "Files",
        "rows with too many or too few values",
        lambda: csv((b",new,1\n", b",new,1,7\n", 3)),
        "3 of 400 rows have another number of values than the header's 3",
        6,
    ),
    Case(
        "Files",
        "quotes, separators and line ends within values",
        lambda: csv((b"new", b'"n, ""e""\nw"', 999)),
        "",
        how="read",
    ),
    Case(
        "Files",
        "a quotation mark without its twin",
        lambda: csv((b"new", b'"new', 1)),
        "the quotation mark in line 2 lacks its twin",
        6,
    ),
    Case(
        "Files",
        "two columns of one name",
        lambda: csv((b"x,kind,y", b"x,x,y", 1)),
        "has more than one column called 'x'",
        6,
    ),
    Case("Files", "semicolons", lambda: csv((b",", b";", -1)), "found out: separator ';'", how="read, and said"),
    Case(
        "Files",
        "blank lines",
        lambda: csv((b",new,1\n", b",new,1\n\n", 5)),
        "found out: blank lines left out 5",
        how="left out, and counted",
    ),
    Case(
        "Files",
        "texts that mean missing",
        lambda: csv((b"new", b"NA", 5), (b"old", b"-", 5), (b"odd", b"?", 5)),
        "",
        how="missing",
    ),
    Case(
        "Files",
        "gzip that was cut off",
        lambda: gzip.compress(csv())[:-40],
        "is a truncated gzip file",
        6,
        file="rows.csv.gz",
    ),
    Case(
        "Files", "Parquet that was cut off", lambda: parquet()[:-30], "can't be read as Parquet", 6, file="rows.parquet"
    ),
    Case(
        "Files",
        "Parquet that is damaged",
        lambda: parquet()[:60] + bytes(30) + parquet()[90:],
        "can't be read as Parquet",
        6,
        file="rows.parquet",
    ),
    Case("Rows", "a header and no row", lambda: b"x,kind,y\n", "the source has no rows", 7),
    Case("Rows", "one row", lambda: {k: v[:1] for k, v in rows().items()}, "has one value only", 7),
    Case("Rows", "too few rows", lambda: {k: v[:50] for k, v in rows().items()}, "40 training rows, 100 are needed", 7),
    Case(
        "Rows",
        "rows that stand there twice",
        lambda: {k: [*v, *v[:9]] for k, v in rows(x=_NOISE).items()},
        "9 of 409 rows stood there before",
        6,
        spec={"data": {"checks": {"duplicates": {"max": 0}}}},
    ),
    Case(
        "Rows",
        "rows sorted by the target",
        lambda: {
            k: [one for _, one in sorted(zip(_Y.tolist(), v, strict=True), key=lambda pair: pair[0])]
            for k, v in rows().items()
        },
        "",
        how="no matter: the split and the folds shuffle",
        whole=True,
        slow=True,
    ),
    Case("Columns", "one column", lambda: {"y": rows()["y"]}, "no feature is left", 6),
    Case(
        "Columns",
        "a declared column that is not there",
        rows,
        "the data has no column 'kin'",
        6,
        spec=column("kin", role="id"),
    ),
    Case(
        "Columns",
        "a column without a value",
        lambda: rows(e=[None] * N),
        "e set aside: every value is missing",
        how="set aside",
    ),
    Case(
        "Columns",
        "a column of one value",
        lambda: rows(e=[1] * N),
        "e set aside: it has one value only",
        how="set aside",
    ),
    Case(
        "Columns",
        "a column without a name",
        lambda: rows(**{"": range(N)}),
        "(unnamed) set aside: it has no name",
        how="set aside",
    ),
    Case(
        "Columns",
        "as many texts as rows",
        lambda: rows(t=[f"t{i}" for i in range(N)]),
        "t set aside: 320 of its 320 texts are distinct; an id?",
        how="set aside",
    ),
    Case(
        "Columns",
        "lists, structures, bytes",
        lambda: rows(e=[[1, 2]] * N),
        "e set aside: it holds List(Int64) values",
        how="set aside",
    ),
    Case(
        "Columns",
        "times that have no role",
        lambda: rows(e=pl.Series(DAYS).str.to_date()),
        "e set aside: it holds Date values; say features.columns.e: date",
        how="set aside",
    ),
    Case(
        "Columns",
        "names with blanks, dots, umlauts, quotes, words of SQL",
        lambda: rows(**dict.fromkeys(ODD_NAMES, _NOISE)),
        "",
        how="no matter: names may be any text",
        whole=True,
        slow=True,
    ),
    Case("Columns", "a name that the graph needs", lambda: rows(_v1=_X), "a feature can't be called '_v1'", 6),
    Case(
        "Columns",
        "a name that the prepared table needs",
        lambda: rows(__time__=_X),
        "a feature can't be called '__time__'",
        6,
    ),
    Case(
        "Values",
        "infinities",
        lambda: put("x", float("inf"), float("-inf"), None),
        "x: 2 infinite values are taken as missing",
        how="missing",
        whole=True,
        slow=True,
    ),
    Case(
        "Values",
        "NaN",
        lambda: put("x", float("nan"), float("nan")),
        "",
        how="missing; counted by the check `missing` and in the report",
        whole=True,
        slow=True,
    ),
    Case(
        "Values",
        "missing values where none may be",
        lambda: put("x", None, None, None),
        "3 of 400 values are missing, but nullable is false",
        6,
        spec=column("x", nullable=False),
    ),
    Case(
        "Values",
        "more missing than may be",
        lambda: put("x", *[None] * 60),
        "60 of 400 values are missing. Wanted: ≤ 0.1 of the rows",
        6,
        spec=column("x", checks={"missing": {"max": 0.1}}),
    ),
    Case(
        "Values",
        "numbers beyond ±3.4e38",
        lambda: put("x", 1e39, -1e300),
        "x: 2 beyond ±3.4e+38 are more than float32 holds",
        how="taken as the largest, and said",
    ),
    Case(
        "Values",
        "whole numbers beyond ±2^63",
        lambda: rows(e=[str(10**19 + i * 4096) for i in range(N)]),
        "e: 400 numbers that stood as text are read as such",
        how="read as float64, and said",
    ),
    Case(
        "Values",
        "whole numbers beyond ±2^53",
        lambda: rows(e=[2**60 + i * 4096 for i in range(N)]),
        "e: 400 whole numbers beyond ±2^53 are rounded; is it an id?",
        how="rounded, and said",
    ),
    Case(
        "Values",
        "numbers that stand as text",
        lambda: rows(e=[" " if i % 40 == 0 else f"{x}" for i, x in enumerate(_X)]),
        "e: 390 numbers that stood as text are read as such, 10 are missing",
        how="read as numbers",
        whole=True,
        slow=True,
    ),
    Case(
        "Values",
        "numbers and other texts in one column",
        lambda: put("kind", *["7"] * 250, SECRET),
        "kind: 250 of its 400 texts are numbers, 150 are not: all are taken as categories",
        how="categories, and said",
    ),
    Case(
        "Values",
        "the same, declared a number",
        lambda: rows(e=["12x", SECRET, *map(str, _X[2:])]),
        "2 of 400 values can't be read as float",
        6,
        spec=column("e", dtype="float"),
    ),
    Case(
        "Values",
        "the same, put aside",
        lambda: rows(e=["12x", SECRET, *map(str, _X[2:])]),
        "data.columns.e.checks.dtype: 2 of 400 values can't be read as float",
        how="2 rows in quarantine.parquet",
        spec=column("e", dtype="float", checks={"dtype": {"level": "quarantine"}}),
    ),
    Case(
        "Values",
        "texts that mean missing, unknown to the source",
        lambda: rows(e=["n.a." if i % 40 == 0 else f"{x}" for i, x in enumerate(_X)]),
        "e: 390 of its 400 texts are numbers, 10 are not",
        how="categories, and said",
    ),
    Case(
        "Values",
        "separators of thousands",
        lambda: rows(e=TEXTS),
        "e: its 400 texts look like numbers with separators of thousands or a decimal comma",
        how="categories, and said",
    ),
    Case(
        "Values",
        "decimal commas",
        lambda: rows(e=[f"{abs(x):.1f}".replace(".", ",") for x in _X]),
        "e: its 400 texts look like numbers with separators of thousands or a decimal comma",
        how="categories, and said",
    ),
    Case(
        "Values",
        "codes with leading zeros",
        lambda: rows(e=[f"0{1000 + i % 7}" for i in range(N)]),
        "",
        how="categories, as they are written",
    ),
    Case(
        "Values",
        "booleans as text",
        lambda: rows(e=[["True", "False"][i // 3 % 2] for i in range(N)]),
        "e: 400 booleans that stood as text are read as such",
        how="read as booleans",
    ),
    Case(
        "Values",
        "days as text that have no role",
        lambda: rows(e=DAYS),
        "e: its 400 texts are days: they are taken as categories",
        how="categories, and said",
    ),
    Case(
        "Values",
        "days in three formats",
        lambda: rows(e=[["2026-01-02", "02/01/2026", "Jan 2, 2026"][i % 3] for i in range(N)]),
        "266 of 400 values can't be read as datetime",
        6,
        spec=column("e", role="time"),
    ),
    Case(
        "Values",
        "days in the future",
        lambda: rows(e=[*["2999-01-01"] * 3, *DAYS[3:]]),
        "3 of 400 values are invalid (3 by valid_max)",
        6,
        spec=column("e", role="time", checks={"valid_max": "2026-12-31"}),
    ),
    Case(
        "Values",
        "values out of range",
        lambda: put("x", -99.0, 99.0),
        "2 of 400 values are invalid (1 by valid_min, 1 by valid_max)",
        6,
        spec=column("x", checks={"valid_min": -9, "valid_max": 9}),
    ),
    Case(
        "Values",
        "values that are no valid ones",
        lambda: put("kind", SECRET),
        "1 of 400 values are invalid (1 by valid_values)",
        6,
        spec=column("kind", checks={"valid_values": ["new", "old", "odd"]}),
    ),
    Case(
        "Values",
        "ids that are no valid ones",
        lambda: rows(e=[SECRET, *(f"c{i}" for i in range(1, N))]),
        "1 of 400 values are invalid (1 by regex)",
        6,
        spec=column("e", role="id", checks={"regex": r"^c\d+$"}),
    ),
    Case(
        "Values",
        "ids that repeat",
        lambda: rows(e=["c1", "c1", *(f"c{i}" for i in range(2, N))]),
        "1 of 400 values stood in a row before",
        6,
        spec=column("e", role="id", checks={"unique": {}}),
    ),
    Case(
        "Values",
        "weights below zero, missing or infinite",
        lambda: rows(e=[-1.0, None, float("inf"), *[1.0] * (N - 3)]),
        "3 of 400 weights are missing, not finite or negative",
        6,
        spec=column("e", role="weight"),
    ),
    Case(
        "Values",
        "weights that are all 0",
        lambda: rows(e=[0.0] * N),
        "every weight is 0",
        6,
        spec=column("e", role="weight"),
    ),
    Case(
        "Values",
        "NUL and blank texts",
        lambda: put("kind", "a\0b", " ", ""),
        "",
        how="categories like others",
        whole=True,
        slow=True,
    ),
    Case(
        "The target",
        "it is not there",
        rows,
        "the data has no column 'Y'",
        6,
        spec={"problem": {"task": "binary", "target": "Y"}},
    ),
    Case(
        "The target",
        "it is missing in some rows",
        lambda: put("y", None, None, None),
        "3 rows without a label are left out",
        how="left out, and counted",
    ),
    Case(
        "The target",
        "it is missing in more rows than may be",
        lambda: put("y", *[None] * 50),
        "50 of 400 rows have no label",
        how="left out, counted and said",
    ),
    Case(
        "The target",
        "the same, with `data.labels.unlabelled` as `level: fail`",
        lambda: put("y", *[None] * 50),
        "50 of 400 rows have no label. Wanted: ≤ 0.1 of the rows",
        6,
        spec={"data": {"labels": {"unlabelled": {"level": "fail"}}}},
    ),
    Case(
        "The target",
        "labels that can't be known yet",
        lambda: rows(e=DAYS),
        "rows are younger than 100d: their label can't be known yet",
        how="left out, and counted",
        spec={
            "data": {
                "columns": {"e": {"role": "time"}},
                "labels": {"time": "e", "delay": "100d", "at": "2026-12-31"},
                "split": {"method": "time", "column": "e"},
            }
        },
    ),
    Case(
        "The target",
        "rules that differ",
        lambda: rows(y=[None] * N),
        "rules of the same priority differ about 1 of 400 rows",
        6,
        spec={
            "data": {
                "labels": {
                    "rules": {
                        "high": {"expression": "x > 0", "label": 1},
                        "low": {"expression": f"x <= {min(x for x in _X if x > 0)}", "label": 0},
                    }
                }
            }
        },
    ),
    Case("The target", "it is missing in every row", lambda: rows(y=[None] * N), "no row has a value of 'y'", 7),
    Case("The target", "one class", lambda: rows(y=[1] * N), "'y' has one value only", 7),
    Case("The target", "a class of one row", lambda: rows(y=[1, *[0] * (N - 1)]), "the rarest class has one row", 7),
    Case(
        "The target",
        "a class too rare",
        lambda: rows(y=[int(i < 20) for i in range(N)]),
        "class 1 has 16 training rows of 20 needed",
        7,
    ),
    Case(
        "The target",
        "a class rarer than declared",
        lambda: rows(y=[int(i < 40) for i in range(N)]),
        "the rarest class has 40 of 400 labelled rows (10.00%)",
        6,
        spec={"data": {"checks": {"class_balance": {"min": 0.2}}}},
    ),
    Case(
        "The target",
        "three classes in a binary problem",
        lambda: rows(y=[i % 3 for i in range(N)]),
        "'y' has 3 values",
        6,
    ),
    Case(
        "The target",
        "texts in a regression",
        lambda: rows(y=[SECRET, *map(str, _X[1:])]),
        "holds String values, not numbers",
        6,
        spec=REGRESSION,
    ),
    Case(
        "The target",
        "infinities in a regression",
        lambda: rows(y=[float("inf"), *_X[1:]], z=_X[::-1]),
        "y: 1 infinite values are taken as missing",
        how="left out, and counted",
        spec={**REGRESSION, "data": {"columns": {"x": {"role": "ignore"}}}},
    ),
    Case(
        "The target",
        "numbers beyond ±3.4e38 in a regression",
        lambda: rows(y=[1e39, *_X[1:]]),
        "1 values are beyond ±3.4e+38",
        6,
        spec=REGRESSION,
    ),
    Case(
        "The target",
        "the same features with two labels",
        lambda: rows(x=[i % 5 for i in range(N)]),
        "rows have the features of another row, but another label",
        6,
        spec={"data": {"checks": {"conflicting_labels": {"max": 0.05}}}},
    ),
    Case(
        "Split and leakage",
        "a copy of the target",
        lambda: rows(e=_Y + 3),
        "alone, of 3 columns, tell y: e (1.0000)",
        6,
    ),
    Case(
        "Split and leakage",
        "a column that is missing unless the target is 1",
        lambda: rows(e=[i if y else None for i, y in enumerate(_Y)]),
        "tell y: e (1.0000)",
        6,
    ),
    Case(
        "Split and leakage",
        "a column that tells nearly all",
        lambda: rows(e=_Y * 2.6 + _NOISE),
        "the column that tells most alone is e: ROC AUC 0.9",
        how="goes on, and said",
    ),
    Case(
        "Split and leakage",
        "columns that add up to the target",
        lambda: rows(a=_X * 3, b=10 - _X**2, y=_X * 3 + 10 - _X**2, x=_X[::-1]),
        "a and b add up to y in every row",
        6,
        spec=REGRESSION,
    ),
    Case(
        "Split and leakage",
        "a column known only after the event",
        lambda: rows(e=_Y),
        "e set aside: it is known only after the event",
        how="set aside",
        spec=column("e", known_after="event"),
    ),
    Case(
        "Split and leakage",
        "the same rows on both sides of the split",
        lambda: rows(x=[i % 5 for i in range(N)]),
        "data.checks.overlap: 80 of 80 held-out rows stand among the training rows",
        how="goes on, and said",
    ),
    Case(
        "Split and leakage",
        "the same people on both sides of the split",
        lambda: rows(e=[f"p{i // 4}" for i in range(N)]),
        "held-out rows share their e with a training row",
        how="goes on, and counted",
        spec=column("e", role="id"),
    ),
    Case(
        "Split and leakage",
        "times, and a split that does not heed them",
        lambda: rows(e=DAYS),
        "rows later than held-out ones train the model",
        how="goes on, and said",
        spec=column("e", role="time"),
    ),
    Case(
        "Split and leakage",
        "a time that is missing, in a split by time",
        lambda: rows(e=[None, *DAYS[1:]]),
        "1 rows have no time",
        6,
        spec={"data": {"columns": {"e": {"role": "time"}}, "split": {"method": "time", "column": "e"}}},
    ),
    Case(
        "Split and leakage",
        "one time, in a split by time",
        lambda: rows(e=[2020] * N),
        "every row would be held out",
        7,
        spec={"data": {"columns": {"e": {"role": "time"}}, "split": {"method": "time", "column": "e"}}},
    ),
    Case(
        "Split and leakage",
        "a short history, in a split by time",
        lambda: rows(e=DAYS),
        "the training rows span",
        7,
        spec={
            "data": {"columns": {"e": {"role": "time"}}, "split": {"method": "time", "column": "e"}},
            "problem": {"task": "binary", "target": "y", "feasibility": {"min_history": "9999d"}},
        },
    ),
    Case(
        "Split and leakage",
        "rows within the embargo before the held-out ones",
        lambda: rows(e=DAYS),
        "rows within the embargo are left out",
        how="left out, and counted",
        spec={
            "data": {"columns": {"e": {"role": "time"}}, "split": {"method": "time", "column": "e", "embargo": "9d"}}
        },
    ),
    Case(
        "Split and leakage",
        "an id that is missing, in a split by group or digest",
        lambda: rows(e=[None, *(f"p{i // 4}" for i in range(1, N))]),
        "1 rows have no e, by which they are divided",
        6,
        spec={"data": {"columns": {"e": {"role": "id"}}, "split": {"method": "group", "column": "e"}}},
    ),
    Case(
        "Split and leakage",
        "one group, in a split by group",
        lambda: rows(e=["p"] * N),
        "1 groups can't be split",
        7,
        spec={"data": {"columns": {"e": {"role": "id"}}, "split": {"method": "group", "column": "e"}}},
    ),
    Case(
        "Split and leakage",
        "a protected group with too few held-out rows",
        lambda: rows(e=["few" if i % 40 == 0 else "many" for i in range(N)]),
        "1 of 2 groups of 'e' have fewer than 30 held-out rows; the smallest has",
        7,
        spec={
            "problem": {"task": "binary", "target": "y", "feasibility": {"min_rows_per_group": 30}},
            **column("e", role="protected"),
        },
    ),
    Case(
        "Split and leakage",
        "a group in which all have one outcome",
        lambda: rows(e=["f" if i % 2 else "m" for i in range(N)], y=[0 if i % 2 else y for i, y in enumerate(_Y)]),
        "not measured for",
        4,
        whole=True,
        slow=True,
        spec={
            **column("e", role="protected"),
            "gates": {
                "groups": {
                    "type": "group_disparity",
                    "metric": "true_positive_rate_difference",
                    "by": ["e"],
                    "max": 0.2,
                    "min_group_size": 10,
                }
            },
        },
    ),
    Case(
        "Requests",
        "a category that no training row had",
        rows,
        'column="kind"} 1',
        how="answered as one never seen, and counted in `/metrics`",
        whole=True,
        slow=True,
        asked={"x": 0.5, "kind": SECRET},
    ),
    Case(
        "Size",
        "10,000 columns",
        lambda: rows(**{f"c{i}": _G.normal(size=N) for i in range(10_000)}),
        "",
        how="goes on",
        slow=True,
    ),
    Case(
        "Size",
        "a million categories",
        lambda: {"t": [f"t{i}" for i in range(10**6)], "x": np.resize(_X, 10**6), "y": np.resize(_Y, 10**6)},
        "t set aside: 800,000 of its 800,000 texts are distinct",
        how="set aside",
        slow=True,
    ),
)


def page() -> str:
    """``docs/bad-data.md``."""
    lines = [
        "# What becomes of bad data",
        "",
        "Made from `tests/bad_data.py`, whose cases are run by the tests: a fault in the data either stops the run, with one",
        "message that names column and count, or is handled and said. Never is a value of the data shown, and never a traceback.",
        "[Data](data.md) says how to declare what must hold.",
    ]
    for section in dict.fromkeys(case.section for case in CASES):
        lines += ["", f"## {section}", "", "| data | outcome | what is said |", "|---|---|---|"]
        for case in CASES:
            if case.section == section:
                outcome = f"stops, status {case.status}" if case.status else case.how
                said = case.says.replace("|", "\\|")
                lines.append(f"| {case.what} | {outcome} | {said or '-'} |")
    return "\n".join(lines) + "\n"
