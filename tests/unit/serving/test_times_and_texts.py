"""Times and raw texts through the packaged model: asked, explained, captured and watched as they are trained."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from specml.bundle import Contract, open_bundle, predict, write_bundle
from specml.candidates.logistic_regression import LogisticRegression
from specml.data import MISSING, Column, Design, iso, seconds, watched
from specml.features.date import Date
from specml.features.expression import Expression
from specml.features.text import Text
from specml.kinds import Training
from specml.preprocessing import Preprocessing
from specml.serving.capture import Capture
from specml.serving.client import _kind
from specml.serving.explanation import Explainer
from specml.serving.infer import metadata, read_infer
from specml.serving.openapi import openapi
from specml.serving.refusal import Refused
from specml.serving.request import Rows, named
from specml.serving.table import to_rows
from specml.stages import package
from specml.stages.chosen import Chosen, Member
from specml.stages.explore import describe
from specml.tables import layout
from specml.watch.judge import inputs
from tests.bundles import Trained

COLUMNS = (
    Column(name="at", kind="datetime", nullable=True, minimum=0.0, maximum=1.7e9),
    Column(name="built", kind="datetime", nullable=True, minimum=0.0, maximum=1.7e9),
    Column(name="text", kind="text", nullable=True),
)
ROWS: list[dict[str, Any]] = [
    {"at": "2024-05-01T13:00:00Z", "built": "2001-01-01", "text": "Free ENTRY! ä 😀"},
    {"at": "2024-05-01T15:00:00+02:00", "built": None, "text": ""},
    {},
]


def table(n: int = 300) -> pl.DataFrame:
    generator = np.random.default_rng(6)
    at = [datetime(2024, 1, 1) + timedelta(hours=int(h)) for h in generator.integers(0, 8000, n)]
    built = [
        None if i % 20 == 0 else datetime(2000, 1, 1) + timedelta(days=int(d))
        for i, d in enumerate(generator.integers(0, 8000, n))
    ]
    spam = generator.random(n) < 0.4
    text = [f"free entry {i % 7}" if one else ["call me", "see you", MISSING][i % 3] for i, one in enumerate(spam)]
    return pl.DataFrame({"at": at, "built": built, "text": text, "y": spam.astype(np.int64)})


@pytest.fixture(scope="module", params=["treated", "derived"])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    rows, candidate = table(), LogisticRegression()
    treatment: dict[str, Any] = {"at": Date(), "built": Date(since="2000-01-01"), "text": Text(words=(1, 2))}
    if request.param == "derived":
        treatment["age"] = Expression(expr="(at - built) / 86400", scale="standard")
        del treatment["built"]
    training = Training(candidate.prefers, rows["y"].to_numpy(), "binary")
    preprocessing = Preprocessing.fit(rows, COLUMNS, treatment, training)
    model = candidate.fit(Design(preprocessing.transform(rows), training.y, None, "binary", 2), seed=1, threads=1)
    native = None if preprocessing.derived else model.native()
    told = package.explanation((preprocessing,), native) if native else None
    contract = Contract(
        name="m",
        task="binary",
        target="y",
        inputs=COLUMNS,
        classes=(0, 1),
        threshold=0.5,
        candidate="c",
        explanation=told,
    )
    folder = tmp_path_factory.mktemp("made") / "bundle"
    write_bundle(
        folder,
        contract,
        package.build(contract, Chosen((Member(preprocessing, model),))),
        {"columns": {column.name: describe(watched(rows[column.name], column)) for column in COLUMNS}},
        design=package.build_design((preprocessing,)) if native else b"",
        native=native.content if native else b"",
    )
    return Trained(open_bundle(folder), preprocessing, model, rows)


def test_rows_of_a_request_are_those_of_the_table(made: Trained) -> None:
    rows = made.table.head(40)
    asked = [
        {"at": a.isoformat() + "Z", "built": b and b.date().isoformat(), "text": None if t == MISSING else t}
        for a, b, t in rows.select("at", "built", "text").rows()
    ]
    columns = named(asked, made.bundle.contract).columns
    got = predict(made.bundle.session(), columns)["probabilities"][:, 1]
    assert np.abs(got - made.model.predict(made.preprocessing.transform(rows))).max() < 1e-6
    again = to_rows(rows, {column.name: column.kind for column in COLUMNS})
    assert predict(made.bundle.session(), named(again, made.bundle.contract).columns)["label"].shape == (40,)


def test_an_explanation_adds_up_and_names_the_inputs_only(made: Trained) -> None:
    explainer = Explainer(made.bundle)
    explainer.warm_up()
    told = orjson.loads(explainer.body(orjson.dumps({"rows": ROWS}), "", max_rows=10))
    for one in told["explanations"]:
        assert {c["column"] for c in one["contributions"]} == {"at", "built", "text"}
        z = one["total"]
        p = z if told["space"] == "probability" else 1 / (1 + np.exp(-z))
        assert p == pytest.approx(one["prediction"]["probabilities"]["1"], abs=1e-5)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"at": "yesterday"}, r"rows\[0\].at is no time as in ISO 8601"),
        ({"at": 12}, r"rows\[0\].at is 12; the column takes a time as in ISO 8601"),
        ({"at": "2024-02-30"}, "is no time"),
        ({"text": 3}, "takes a text"),
        ({"text": ["a"]}, "takes a text"),
    ],
)
def test_what_is_no_time_or_text_is_refused(made: Trained, row: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        named([row], made.bundle.contract)


@pytest.mark.parametrize(
    "row", [{"at": None, "text": "x"}, {"at": "2024-01-01", "text": None}, {"at": "2024-01-01", "text": MISSING}]
)
def test_a_missing_value_is_refused_where_the_contract_wants_one(row: dict[str, Any]) -> None:
    strict = tuple(column.model_copy(update={"nullable": False}) for column in (COLUMNS[0], COLUMNS[2]))
    contract = Contract(name="m", task="regression", target="y", inputs=strict, candidate="c")
    with pytest.raises(Refused, match="this column always needs a value"):
        named([row], contract)


def test_tensors_take_seconds_and_texts(made: Trained) -> None:
    contract = made.bundle.contract
    assert [one["datatype"] for one in metadata(contract, "1")["inputs"]] == ["FP64", "FP64", "BYTES"]
    plain = named([{**ROWS[0], "text": "x" * 20_000}, {}], contract).columns
    tensors = [
        {"name": "at", "datatype": "FP64", "shape": [2], "data": [seconds(ROWS[0]["at"]), None]},
        {"name": "built", "datatype": "FP64", "shape": [2], "data": [seconds(ROWS[0]["built"]), None]},
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["x" * 20_000, None]},
    ]
    read = read_infer(orjson.dumps({"inputs": tensors}), None, contract, 10).rows.columns
    for name, values in plain.items():
        assert values.tolist() == pytest.approx(read[name].tolist(), nan_ok=True) if name != "text" else True
    assert read["text"].tolist() == plain["text"].tolist() == ["x" * 10_000, ""]


def test_the_interface_says_what_is_taken(made: Trained) -> None:
    told = openapi(
        made.bundle.contract, version="1", max_rows=5, max_body=9, explained_rows=0, secured=False, notice={}
    )
    row = told["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"][0][
        "properties"
    ]["rows"]
    schemas = row["items"]["properties"]
    assert {name: _kind(one) for name, one in schemas.items()} == {
        "at": "datetime",
        "built": "datetime",
        "text": "categorical",
    }
    assert seconds(schemas["at"]["examples"][0]) == 8.5e8
    assert iso(8.5e8) in schemas["at"]["examples"]


def test_captured_rows_are_watched_as_the_training_rows_are_described(made: Trained) -> None:
    taken = named(ROWS, made.bundle.contract)
    outputs = predict(made.bundle.session(), taken.columns)
    part: Any = SimpleNamespace(rows=taken, outputs=outputs, at=datetime(2024, 1, 1), requests=[("r", taken.n)])
    capture: Any = SimpleNamespace(_contract=made.bundle.contract, _bundle="b")
    kept = Capture._table(capture, [part])["inputs"].struct.unnest()
    assert kept["at"].dt.year().to_list() == [2024, 2024, None]
    assert kept["text"].to_list() == ["Free ENTRY! ä 😀", None, None]
    seen = inputs(kept, made.bundle.contract)
    assert seen["at"].to_list() == [seconds(ROWS[0]["at"]), seconds(ROWS[0]["at"]), None]
    assert seen["text"].to_list() == [15.0, None, None]  # its length; no profile holds a text


def _tensors(at: float, text: str = "x") -> bytes:
    return orjson.dumps(
        {
            "inputs": [
                {"name": "at", "datatype": "FP64", "shape": [1], "data": [at]},
                {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]},
            ]
        }
    )


def test_times_beyond_the_calendar_are_refused() -> None:
    contract = Contract.model_construct(name="m", task="binary", classes=(0, 1), inputs=COLUMNS)
    for at in (1e15, -1e15, 253402300801.0):
        with pytest.raises(Refused, match="years 1 to 9999") as refused:
            read_infer(_tensors(at), None, contract, 10)
        assert refused.value.http == 400
    assert read_infer(_tensors(seconds("9999-12-31T23:59:59.999999Z")), None, contract, 10).rows.n == 1
    with pytest.raises(Refused, match=r"rows\[1\]\.at lies beyond"):
        named([{}, {"at": "9999-12-31T23:59:59-05:00"}], contract)


def test_one_request_does_not_cost_others_their_captured_rows(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    contract = Contract.model_construct(name="m", task="regression", classes=(), inputs=COLUMNS, target="y")
    capture = Capture(tmp_path, contract, "b", flush=60)
    good = named([{"at": "2024-05-01"}], contract)
    far = Rows(1, {**good.columns, "at": np.array([1e15])})
    broken = Rows(1, {**good.columns, "built": np.array(["Zaphod"], dtype=object)})
    for name, rows in {"a": good, "far": far, "broken": broken, "c": good}.items():
        capture.offer(name, rows, {"prediction": np.array([1.0], dtype=np.float32)})
    capture.close()
    kept = pl.concat([pl.read_parquet(one) for one in tmp_path.glob("*.parquet")])
    assert kept["id"].to_list() == ["a-0", "far-0", "c-0"]
    assert kept["inputs"].struct.field("at")[1].year == 9999
    assert capture.dropped == 1
    assert "Zaphod" not in caplog.text


def test_times_beyond_the_calendar_are_told_as_its_ends() -> None:
    assert iso(1e15) == "9999-12-31T23:59:59Z"
    assert iso(-1e15) == "0001-01-01T00:00:00Z"
    dates = pl.Series("at", [0, 3_000_000], dtype=pl.Date)  # the year 10183
    found = layout._column("at", layout.Seen.of(dates), None, nullable=False)
    assert found.maximum == 253402300799.0


@pytest.mark.parametrize("blank", ["", "  ", "\t\n", MISSING, f" {MISSING}"])
def test_a_blank_in_a_request_is_missing_as_in_the_tables(blank: str) -> None:
    columns = (Column(name="text", kind="text", nullable=True), Column(name="kind", kind="categorical", nullable=True))
    contract = Contract.model_construct(name="m", task="regression", classes=(), inputs=columns)
    read = named([{"text": blank, "kind": blank}], contract)
    assert (read.columns["text"][0], read.columns["kind"][0]) == ("", MISSING)
    tensors = [{"name": c.name, "datatype": "BYTES", "shape": [1], "data": [blank]} for c in columns]
    read = read_infer(orjson.dumps({"inputs": tensors}), None, contract, 10).rows
    assert (read.columns["text"][0], read.columns["kind"][0]) == ("", MISSING)
    required = contract.model_copy(update={"inputs": tuple(c.model_copy(update={"nullable": False}) for c in columns)})
    with pytest.raises(Refused, match="missing"):
        read_infer(orjson.dumps({"inputs": tensors}), None, required, 10)
    for row in ({"text": blank, "kind": "a"}, {"text": "a", "kind": blank}):
        with pytest.raises(Refused, match="is missing"):
            named([row], required)
