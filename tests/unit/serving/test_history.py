"""The rows before a row, as a request brings them along, as tensors and as the rows of a file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.bundle import open_bundle, read_contract
from specml.cli.predict import command, rows_of
from specml.data import Column, PastRows
from specml.errors import DataCheckFailed
from specml.serving.app import Args
from specml.serving.client import told
from specml.serving.explanation import Explainer
from specml.serving.refusal import Refused
from specml.serving.request import most_values, named
from tests.bundles import binary_bundle, probability
from tests.malformed import GOOD, tensors
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.bundle import Contract


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("history") / "bundle"
    binary_bundle(made, looks_back=True)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Callable[[str, str, Any], tuple[int, Any]]]:
    service = Args.model_validate({"bundle": str(folder), "max_rows": 50}).service("r1")

    def one(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        asked = asyncio.run(ask(service, method, path, b"" if body is None else json.dumps(body).encode()))
        return asked.status, json.loads(asked.body)

    yield one
    service.close()


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"hours": 40}],
        [{"hours": 1.5}, {"hours": 40}],
        [{"hours": 1.5}, {"hours": None}],
        [{"age": 3, "at": "2024-01-01", "person": 7}],
        [{"at": "2024-01-01", "person": 7}, {"at": "2024-01-01", "hours": 5, "person": 7}],
        [{"hours": 40, "workclass": "?"}] * 30,
        [{"hours": "not read"}, {"hours": 2}],
    ],
)
def test_a_row_brings_the_rows_before_it_along(server: Any, history: list[Any]) -> None:
    row = {**GOOD, "history": history}
    status, answer = server("POST", "/predict", {"rows": [GOOD, row]})
    assert status == 200, answer
    found = [one["probability"] for one in answer["predictions"]]
    assert found == pytest.approx([probability(GOOD), probability({**GOOD, "history": history[-1:]})], rel=1e-5)


@pytest.mark.parametrize(
    "row",
    [
        {"at": "2024-01-02", "person": 7, "history": [{"at": "2024-01-01", "person": 7, "hours": 40}]},
        {"at": "2024-01-02", "person": "7", "history": [{"at": "2024-01-01T23:59", "person": 7.0, "hours": 40}]},
        {"at": None, "person": None, "history": [{"at": "2024-01-01", "person": 7, "hours": 40}]},
        {"at": "2024-01-02", "person": 7, "hours@-1": 40},
        {"at": "2024-01-02", "person": True},
    ],
)
def test_a_row_says_when_it_is_and_of_which_group(server: Any, row: dict[str, Any]) -> None:
    status, answer = server("POST", "/predict", {"rows": [GOOD, {**GOOD, **row}]})
    assert status == 200, answer
    before = [{"hours": 40}] if {"history", "hours@-1"} & row.keys() else []
    expected = probability({**GOOD, "history": before})
    assert answer["predictions"][1]["probability"] == pytest.approx(expected, rel=1e-5)


def test_what_was_is_a_column_like_another(server: Any) -> None:
    expected = pytest.approx(probability({**GOOD, "history": [{"hours": 40}]}), rel=1e-5)
    assert (
        server("POST", "/predict", {"rows": [{**GOOD, "hours@-1": 40}]})[1]["predictions"][0]["probability"] == expected
    )
    body = tensors()
    body["inputs"].append({"name": "hours@-1", "shape": [1, 1], "datatype": "FP64", "data": [40.0]})
    assert server("POST", "/v2/models/census/infer", body)[1]["outputs"][0]["data"][1] == expected
    contract = server("GET", "/v2/models/census")[1]
    assert contract["history"] == {"rows": 1, "columns": ["hours"], "time": "at", "by": ["person"]}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"history": 3}, "rows[0].history is a JSON number, not a list of rows."),
        ({"history": [[1]]}, "rows[0].history[-1] is a JSON array, not an object."),
        ({"history": [{}, {"hors": 3}]}, "rows[0].history[-1].hors is no column of this model. Did you mean 'hours'?"),
        ({"history": [{}, {"hours": "x"}]}, 'rows[0].history[-1].hours is "x"; the column takes a number.'),
        ({"history": [{"hours": True}]}, "rows[0].history[-1].hours is true; the column takes a number."),
        ({"history": [], "hours@-1": 3}, "rows[0] has history and 'hours@-1'"),
        ({"hours@-2": 3}, "rows[0].hours@-2 is no column of this model."),
        ({"hours@-1": "x"}, 'rows[0].hours@-1 is "x"; the column takes a number.'),
        ({"persn": 1}, "rows[0].persn is no column of this model. Did you mean 'person'?"),
        ({"at": "soon"}, "rows[0].at is no time"),
        ({"person": [1]}, "rows[0].person is a JSON array, which names no person."),
        ({"at": "2024-01-01", "history": [{"at": "2024-01-01"}]}, "rows[0].history holds a row that is no earlier"),
        ({"person": 1, "history": [{"person": "2"}]}, "rows[0].history[-1].person is another than elsewhere"),
        ({"person": "01", "history": [{"person": 1}]}, "rows[0].history[-1].person is another than elsewhere"),
    ],
)
def test_what_is_no_history_is_told_by_its_place(server: Any, changed: Any, says: str) -> None:
    status, answer = server("POST", "/predict", {"rows": [{**GOOD, **changed}]})
    assert (status, answer["error"][: len(says)]) == (422, says)


@pytest.fixture(scope="module")
def long(folder: Path) -> Contract:
    """A contract of three rows, which takes the time of the row itself as well."""
    contract = open_bundle(folder).contract
    assert contract.history is not None
    at = Column(name="at", kind="datetime", nullable=True)
    history = contract.history.model_copy(update={"rows": 3})
    return contract.model_copy(update={"inputs": (*contract.inputs, at), "history": history})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"history": [{"at": "2024-01-02"}, {}, {"at": "2024-01-01"}]}, "rows[0].history[-1].at is earlier than in"),
        ({"history": [{"at": "2024-01-02"}], "at": "2024-01-02"}, "rows[0].history holds a row that is no earlier"),
        ({"history": [{"at": "2024-01-02T10:00:00+02:00"}], "at": "2024-01-02T08:00:00Z"}, "rows[0].history holds"),
        ({"history": [{"person": 1}, {"person": 2}]}, "rows[0].history[-1].person is another than elsewhere"),
        ({"history": [{"at": "soon"}]}, "rows[0].history[-1].at is no time"),
        ({"history": [{"at": [1]}]}, "rows[0].history[-1].at is a JSON array, no time."),
        ({"history": [{"at": 3.5}, {"at": 3}]}, "rows[0].history[-1].at is earlier"),
    ],
)
def test_a_history_in_no_order_is_refused(long: Contract, changed: Any, says: str) -> None:
    with pytest.raises(Refused) as refusal:
        named([{**GOOD, **changed}], long)
    assert (refusal.value.http, refusal.value.what[: len(says)]) == (422, says)


NAMES = st.sampled_from(["hours", "age", "at", "person", "history", "hours@-1", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-9, 9) | st.sampled_from(["2024-01-01", "", "a"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=4) | VALUES, max_size=5) | VALUES)
def test_anything_else_is_refused_or_taken(long: Contract, history: Any) -> None:
    try:
        read = named([{**GOOD, "history": history}], long)
    except Refused as refusal:
        answer = refusal.what
    else:
        answer = f"rows[0] {read.columns['hours@-1'].shape}"
    assert answer.startswith("rows[0]")


def test_only_what_counts_is_looked_at(long: Contract) -> None:
    history = [{"at": "2025-01-01", "person": "other"}, {}, {"at": "2024-01-01", "hours": 2.5}, {"at": "2024-01-01"}]
    columns = named([{**GOOD, "history": history, "at": "2024-01-01T00:00:01"}], long).columns
    assert np.isnan(columns["hours@-1"][0])


def test_a_model_that_looks_back_at_nothing_takes_no_history(post: Callable[..., Any]) -> None:
    answer = post("/predict", json.dumps({"rows": [{**GOOD, "history": []}]}).encode())
    assert (answer.status, b"rows[0].history is no column" in answer.body) == (422, True)


def test_more_values_than_a_history_has_are_refused(server: Any, folder: Path) -> None:
    most = most_values(read_contract(folder), 50)
    status, answer = server("POST", "/predict", {"rows": [{**GOOD, "history": [{"hours": 1}] * most}]})
    assert (status, "more than" in answer["error"]) == (413, True)


def test_openapi_says_how_many_rows_of_which_columns(server: Any) -> None:
    document = server("GET", "/openapi.json")[1]
    asked = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    row = asked["oneOf"][0]["properties"]["rows"]["items"]["properties"]
    assert "of the same person before this one, by at, oldest first. Of more than 1" in row["history"]["description"]
    assert row["history"]["items"]["properties"]["hours"]["type"] == ["number", "null"]
    assert asked["examples"][0]["rows"][0]["history"] == [{"hours": 50.0}]
    assert server("POST", "/predict", asked["examples"][0])[0] == 200
    kinds, most, history = told(document)
    assert (kinds["hours@-1"], most) == ("numeric", 50)
    assert history == PastRows(rows=1, columns=("hours",), time="at", by=("person",))
    assert (row["at"]["description"][:17], row["person"]["description"][:8]) == ("When the row is: ", "Of which")
    assert not {"history", "at", "person"} & kinds.keys()


def test_an_explanation_names_what_was(folder: Path) -> None:
    explainer = Explainer(open_bundle(folder))
    explainer.warm_up()
    row = {**GOOD, "history": [{"hours": 90}]}
    (found,) = json.loads(explainer.body(json.dumps({"rows": [row]}).encode(), "", max_rows=1))["explanations"]
    assert {one["column"] for one in found["contributions"]} == {"age", "hours", "member", "workclass", "hours@-1"}
    assert found["total"] == pytest.approx(probability(row), abs=1e-5)


def test_rows_of_a_file_have_the_others_as_their_history(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "days.csv"
    file.write_text(
        "at,person,age,hours,member,workclass\n"
        "2024-01-03,1,50,,false,\n2024-01-01,1,50,40,false,\n2024-01-02,2,50,7,false,\n2024-01-02,1,50,20,false,\n"
    )
    done = CliRunner().invoke(command, [str(file), "--bundle", str(folder)])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert "hours@-1" not in rows[0]
    before = [[{"hours": 20}], [], [], [{"hours": 40}]]
    for row, history in zip(rows, before, strict=True):
        asked = {"age": 50, "hours": row["hours"], "member": False, "history": history}
        assert float(row["probability_1"]) == pytest.approx(probability(asked), rel=1e-5)
    (tmp_path / "bare.csv").write_text("person,age,hours\n1,50,4\n")
    done = CliRunner().invoke(command, [str(tmp_path / "bare.csv"), "--bundle", str(folder)])
    assert isinstance(done.exception, DataCheckFailed)
    assert "no column 'at'" in str(done.exception)


@pytest.mark.parametrize("name", ["days.csv", "days.jsonl"])
def test_groups_of_a_file_are_what_is_written(folder: Path, tmp_path: Path, name: str) -> None:
    rows = [
        {"at": f"2024-01-0{day}", "person": person, "age": 50, "hours": hours, "member": False, "workclass": "x"}
        for day, person, hours in ((1, "01", 10), (1, "1", 80), (2, "01", 20), (2, "1", 70))
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows) if name.endswith("jsonl") else lines) + "\n")
    done = CliRunner().invoke(command, [str(tmp_path / name), "--bundle", str(folder)])
    assert done.exit_code == 0, done.output
    read = [json.loads(line) for line in done.stdout.splitlines()] if name.endswith("jsonl") else None
    answered = read or list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["person"] for row in answered] == ["01", "1", "01", "1"]
    for row, sent, before in zip(answered, rows, ([], [], [{"hours": 10}], [{"hours": 80}]), strict=True):
        assert float(row["probability_1"]) == pytest.approx(probability({**sent, "history": before}), rel=1e-5)


def test_groups_that_are_numbers_to_the_model_are_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("day,shop,item\n2024-01-01,7,07\n")
    history = PastRows(rows=1, columns=("item",), time="day", by=("shop", "item"))
    read = rows_of(tmp_path / "rows.csv", None, {"shop": "numeric", "item@-1": "numeric"}, history)
    assert read.select("shop", "item").row(0) == (7, 7)


@pytest.mark.parametrize(
    ("line", "says"),
    [("2024-01-02, ,50", "1 rows have no person, by which the rows before"), (",2,50", "1 rows have no at, by which")],
)
def test_rows_of_a_file_that_have_no_place_are_told(folder: Path, tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "days.csv").write_text(f"at,person,age\n2024-01-01,1,50\n{line}\n")
    done = CliRunner().invoke(command, [str(tmp_path / "days.csv"), "--bundle", str(folder)])
    assert isinstance(done.exception, DataCheckFailed)
    assert says in str(done.exception)


def test_columns_of_a_file_are_read_for_what_the_model_looks_back_at(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("zip,day,other\n02139,25.11.2026,26.11.2026\n")
    history = PastRows(rows=1, columns=("zip",), time="day")
    read = rows_of(tmp_path / "rows.csv", None, {"zip@-1": "categorical"}, history)
    assert read.to_dicts() == [{"zip": "02139", "day": datetime(2026, 11, 25), "other": "26.11.2026"}]
