from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import random
import struct
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.serving import arrow
from specml.serving.app import Args
from specml.serving.refusal import Refused
from specml.serving.tabular import ARROW, CSV, answered_as
from tests.bundles import probability
from tests.malformed import GOOD
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from pathlib import Path

    from specml.serving.service import Service
    from tests.unit.serving.conftest import Asked

PEOPLE = [
    GOOD,
    {**GOOD, "age": 25, "hours": None, "workclass": None},
    {**GOOD, "member": True, "workclass": 'a "b",\nc'},
]


def predict(service: Service, body: bytes, kind: str = CSV, accept: str = "*/*") -> Asked:
    return asyncio.run(ask(service, "POST", "/predict", body, {"content-type": kind, "accept": accept}))


def stream(table: pl.DataFrame, **options: Any) -> bytes:
    content = io.BytesIO()
    table.write_ipc_stream(content, **options)
    return content.getvalue()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    lines = csv.DictWriter(text, list(rows[0]))
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue().encode()


def test_csv_and_arrow_have_the_answers_of_json(service: Service) -> None:
    expected = json.loads(predict(service, json.dumps({"rows": PEOPLE}).encode(), "application/json").body)
    for body, kind in (
        (as_csv(PEOPLE), CSV),
        (as_csv(PEOPLE), "text/csv; charset=utf-8; header=present"),
        (b"\xef\xbb\xbf" + as_csv(PEOPLE).replace(b"\r\n", b"\n"), CSV),
        (stream(pl.DataFrame(PEOPLE)), ARROW),
        (stream(pl.DataFrame(PEOPLE), compat_level=pl.CompatLevel.oldest()), ARROW),
        (stream(pl.DataFrame(PEOPLE).with_columns(pl.col("workclass").cast(pl.Categorical))), ARROW),
    ):
        answer = predict(service, body, kind)
        assert answer.status == 200, (kind, answer.body)
        assert json.loads(answer.body)["predictions"] == expected["predictions"]


def test_the_answer_comes_as_it_is_asked_for(service: Service) -> None:
    """Called as `specml predict` calls the columns of a file, with the ids by which late labels find the rows."""
    answer = predict(service, as_csv(PEOPLE), accept="text/csv")
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["specml-bundle"].startswith("sha256:")
    found = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert list(found[0]) == ["id", "predicted", "probability_0", "probability_1"]
    assert [one["id"].rpartition("-")[2] for one in found] == ["0", "1", "2"]
    expected = [probability(one) for one in PEOPLE]
    assert [float(one["probability_1"]) for one in found] == pytest.approx(expected, rel=1e-6)
    raw = predict(service, json.dumps({"rows": PEOPLE}).encode(), "application/json", accept=ARROW).body
    table = pl.read_ipc_stream(io.BytesIO(raw))
    assert (table["probability_1"].dtype, table["predicted"].to_list()) == (pl.Float32, [1, 0, 1])
    assert table["probability_1"].to_list() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/html, text/csv;q=0.5, application/json", CSV),
        ("APPLICATION/JSON, text/csv", "application/json"),
        (ARROW, ARROW),
    ],
)
def test_which_answer_is_asked_for(accept: str, kind: str) -> None:
    assert answered_as(accept) == kind
    assert answered_as(None) == "application/json"


def test_what_law_obliges_to_tell_stands_in_every_row(bundle: Path) -> None:
    args = {"bundle": str(bundle), "notice": {"automated": "By a model alone, without a person."}}
    service = Args.model_validate(args).service("r1")
    found = list(csv.DictReader(io.StringIO(predict(service, as_csv(PEOPLE), accept=CSV).body.decode())))
    assert {one["notice_automated"] for one in found} == {"By a model alone, without a person."}
    service.close()


HEAD = b"age,hours,member,workclass\n"
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 422, "no row"),
    "only a header": (HEAD, 422, "no row"),
    "no number": (HEAD + b"1,1,true,a\nsome,1,true,a\n", 422, 'rows[1].age is "some"; the column takes a number.'),
    "infinite": (HEAD + b"inf,1,true,a\n", 422, 'rows[0].age is "inf"'),
    "digits with underscores": (HEAD + b"1_0,1,true,a\n", 422, 'rows[0].age is "1_0"'),
    "no boolean": (HEAD + b"1,1,perhaps,a\n", 422, "rows[0].member"),
    "missing": (HEAD + b",1,true,a\n", 422, "rows[0].age is missing"),
    "NaN is missing": (HEAD + b"nan,1,true,a\n", 422, "rows[0].age is missing"),
    "unknown column": (b"agee\n1\n", 422, "Did you mean 'age'?"),
    "a field too much": (HEAD + b"1,1,true,a,b\n", 422, "rows[0] has 5 fields, the header 4"),
    "a field too few": (HEAD + b"1,1,true,a\n1,1\n", 422, "rows[1] has 2 fields"),
    "a column twice": (b"age,age\n1,2\n", 400, "'age' stands twice"),
    "an open quote": (HEAD + b'1,1,true,"a\n', 400, "no CSV"),
    "text after a quote": (HEAD + b'1,1,true,"a"b\n', 400, "no CSV"),
    "no UTF-8": (HEAD + b"1,1,true,\xff\n", 400, "UTF-8"),
    "too many rows": (HEAD + b"1,1,true,a\n" * 51, 413, "51 rows"),
    "a NUL": (HEAD + b"1,1,true,a\0b\n", 200, ""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_csv_is_refused_by_place(name: str, service: Service) -> None:
    body, status, words = MALFORMED[name]
    answer = predict(service, body)
    assert answer.status == status, answer.body
    assert status == 200 or words in json.loads(answer.body)["error"]


def test_far_more_fields_than_rows_have_are_not_read(bundle: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle), "max_rows": 10}).service("r1")
    assert predict(service, HEAD + b"," * 1_000_000).status == 413
    assert predict(service, HEAD + b"\n" * 1_000_000).status == 413
    service.close()


def test_explain_takes_json_alone(service: Service) -> None:
    answer = predict(service, b"", "text/tab-separated-values")
    assert (answer.status, "application/json or text/csv or" in json.loads(answer.body)["error"]) == (415, True)


@pytest.mark.parametrize("endless", [float("inf"), float("-inf")])
def test_a_number_without_end_is_refused(service: Service, endless: float) -> None:
    table = pl.DataFrame({"age": [1.0, endless], "hours": [1.0, 2.0], "member": [True, False], "workclass": ["a", "b"]})
    answer = predict(service, stream(table), ARROW)
    told = "rows[1].age is infinite; the column takes a number."
    assert (answer.status, json.loads(answer.body)["error"]) == (422, told)


TABLE = pl.DataFrame(
    {
        "number": [1.5, None, float("nan"), -1e300],
        "byte": pl.Series([1, 2, None, 255], dtype=pl.UInt8),
        "flag": [True, None, False, True],
        "text": ["a", "longer than twelve bytes", None, "ü"],
        "category": pl.Series(["x", "y", None, "x"], dtype=pl.Categorical),
        "time": pl.Series([datetime(2026, 1, 1, 12, 30, 0, 500, tzinfo=UTC), None, None, None]),
        "nano": pl.Series([1, None, 3, 4], dtype=pl.Datetime("ns")),
        "day": pl.Series(["2026-01-01", None, None, "0001-01-01"]).str.to_date(),
        "nothing": pl.Series([None] * 4, dtype=pl.Null),
    }
)


@pytest.mark.parametrize("level", [pl.CompatLevel.oldest(), pl.CompatLevel.newest()])
def test_every_flat_type_is_read(level: pl.CompatLevel) -> None:
    rows = arrow.read(stream(TABLE, compat_level=level), 10_000, 100)
    assert rows[0] == {
        "number": 1.5,
        "byte": 1,
        "flag": True,
        "text": "a",
        "category": "x",
        "time": "2026-01-01T12:30:00.000500",
        "nano": "1970-01-01T00:00:00.000000",
        "day": "2026-01-01",
        "nothing": None,
    }
    assert set(rows[1].values()) == {None, 2, "longer than twelve bytes", "y"}
    assert rows[2]["number"] is None
    assert (rows[3]["number"], rows[3]["byte"], rows[3]["text"], rows[3]["day"]) == (-1e300, 255, "ü", "0001-01-01")


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
            st.none() | st.text(max_size=30),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=40, deadline=None)
def test_what_polars_writes_is_read_back(rows: list[tuple[Any, ...]]) -> None:
    kinds = {"a": pl.Float64, "b": pl.Int64, "c": pl.Boolean, "d": pl.String}
    table = pl.DataFrame(rows, schema=kinds, orient="row")
    assert arrow.read(stream(table), 10_000, 100) == table.to_dicts()


def test_a_stream_of_pyarrow_is_read() -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    words = pa.array(["a", "b", None]).dictionary_encode()
    table = pa.table({"word": words, "half": pa.array([1, 2, None], pa.float16()), "long": pa.array(["a", "", "b"])})
    content = io.BytesIO()
    with pa.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert arrow.read(content.getvalue(), 10_000, 100) == table.to_pylist()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no stream"),
        (b"ARROW1\0\0", 400, "no stream"),
        (stream(TABLE, compression="zstd"), 400, "compressed"),
        (stream(TABLE)[:-100], 400, "no stream"),
        (stream(TABLE.clear()), 422, "no row"),
        (stream(pl.concat([TABLE] * 30)), 413, "120 rows"),
        (stream(pl.DataFrame({"list": [[1]]})), 400, "'list' has an Arrow type that is not read"),
        (stream(pl.DataFrame({"bytes": [b"a"]})), 400, "'bytes' has an Arrow type"),
    ],
)
def test_what_is_no_flat_stream_is_refused(body: bytes, status: int, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        arrow.read(body, 10_000, 100)
    assert refusal.value.http == status
    assert words in str(refusal.value)


def test_views_of_the_same_bytes_are_bounded() -> None:
    """A text of a megabyte that a thousand rows share would be a gigabyte."""
    view = struct.pack("<i4sii", 1_000_000, b"xxxx", 0, 0)
    with pytest.raises(Refused) as refusal:
        arrow._viewed(memoryview(view * 100), [memoryview(b"x" * 1_000_000)], 100, arrow._Room(arrow.MOST_TEXT))
    assert refusal.value.http == 413


def fuzz(seed: int, count: int) -> None:
    """Altered streams: refused or read, and nothing else."""
    chosen = random.Random(seed)
    whole = [stream(TABLE, compat_level=level) for level in (pl.CompatLevel.oldest(), pl.CompatLevel.newest())]
    for number in range(count):
        raw = bytearray(whole[number % 2])
        for _ in range(chosen.randint(1, 4)):
            at = chosen.randrange(len(raw))
            if chosen.random() < 0.3:
                struct.pack_into("<i", raw, min(at, len(raw) - 4), chosen.choice([-1, 2**31 - 1, 0, 2**20]))
            raw[at] = chosen.choice([0, 1, 127, 128, 255, chosen.randrange(256)])
        with contextlib.suppress(Refused):
            arrow.read(bytes(raw), 10_000, 100)


def test_buffers_of_the_same_bytes_are_bounded() -> None:
    places, data, room = memoryview(struct.pack("<2i", 0, 6)), memoryview(b"twelve"), arrow._Room(11)
    assert arrow._texts(places, data, "<i4", 1, room) == ["twelve"]
    with pytest.raises(Refused, match="more than 11 bytes"):
        arrow._texts(places, data, "<i4", 1, room)


def test_dictionaries_are_bounded() -> None:
    body = stream(pl.DataFrame({"x": pl.Series(["a", "b", "c", "c"], dtype=pl.Categorical)}))
    assert len(arrow.read(body, 4, 10)) == 4
    with pytest.raises(Refused, match="dictionaries hold more than 2 values") as refused:
        arrow.read(body, 2, 10)
    assert refused.value.http == 413


def test_an_altered_stream_is_read_or_refused() -> None:
    fuzz(seed=1, count=1500)


@pytest.mark.sweep
def test_many_altered_streams_are_read_or_refused() -> None:
    fuzz(seed=int.from_bytes(b"people"), count=200_000)


def test_where_polars_is_not_installed_arrow_is_read_but_not_written(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = stream(pl.DataFrame(PEOPLE))
    monkeypatch.setitem(sys.modules, "polars", None)
    assert predict(service, body, ARROW).status == 200
    answer = predict(service, body, ARROW, accept=ARROW)
    assert (answer.status, "text/csv" in json.loads(answer.body)["error"]) == (406, True)
