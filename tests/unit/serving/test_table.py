from __future__ import annotations

import http.server
import json
import shlex
import threading
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from specml.bundle import Contract
from specml.errors import DataCheckFailed, SpecmlError
from specml.kinds import Deployment
from specml.serving import client
from specml.serving.announce import announcement, curl_line, example_row
from specml.serving.client import Client
from specml.serving.request import named
from specml.serving.table import to_rows, with_predictions
from tests.bundles import COLUMNS

CONTRACT = Contract(name="census", task="binary", target="income", inputs=COLUMNS, classes=(0, 1), candidate="by_hand")
KINDS = {column.name: column.kind for column in COLUMNS}


def test_rows_have_the_models_columns_in_its_types() -> None:
    table = pl.DataFrame(
        {
            "id": [1, 2, 3],
            "workclass": [1.0, 2.0, None],
            "member": ["Yes", "0", "TRUE"],
            "hours": [float("nan"), float("inf"), 3.5],
            "age": ["50", "7.5", "1e1"],
        }
    )
    assert to_rows(table, KINDS) == [
        {"age": 50.0, "hours": None, "member": True, "workclass": "1"},
        {"age": 7.5, "hours": None, "member": False, "workclass": "2"},
        {"age": 10.0, "hours": 3.5, "member": True, "workclass": None},
    ]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pl.Series([1.0, 2.5, float("nan"), float("inf"), None]), ["1", "2.5", None, None, None]),
        (pl.Series([7, None]), ["7", None]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series(["02139", "__missing__", "1.0"]), ["02139", None, "1.0"]),
        (pl.Series(["a", None], dtype=pl.Categorical), ["a", None]),
        (pl.Series([date(2026, 11, 23)]), ["2026-11-23"]),
        (pl.Series([Decimal("1.50")]), ["1.50"]),
    ],
)
def test_a_category_is_called_as_in_training(values: pl.Series, names: list[str | None]) -> None:
    table = pl.DataFrame({"workclass": values})
    assert [row["workclass"] for row in to_rows(table, KINDS)] == names


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("age", pl.Series([date(2026, 11, 23)]), "not a number"),
        ("age", pl.Series([[1.0]]), "not a number"),
        ("age", pl.Series([{"a": 1}]), "not a number"),
        ("age", pl.Series([b"\xff"]), "not a number"),
        ("age", pl.Series([timedelta(1)]), "not a number"),
        ("member", pl.Series([[True]]), "not true or false"),
        ("workclass", pl.Series([b"\xff\xfe"]), "not categories"),
        ("workclass", pl.Series([{"a": 1}]), "not categories"),
    ],
)
def test_a_column_of_an_odd_type_is_refused_by_name(column: str, values: pl.Series, told: str) -> None:
    with pytest.raises(DataCheckFailed, match=told) as refusal:
        to_rows(pl.DataFrame({column: values}), KINDS)
    assert refusal.value.where == column


def test_flags_are_numbers_and_a_missing_flag_is_missing() -> None:
    table = pl.DataFrame({"age": [True, False, None], "member": [1.0, float("nan"), 0.0]})
    assert to_rows(table, KINDS) == [
        {"age": 1.0, "member": True},
        {"age": 0.0, "member": None},
        {"age": None, "member": False},
    ]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [("age", "old", "row 2 has 'old', not a number"), ("member", "maybe", "not true or false")],
)
def test_a_value_that_cannot_be_read_is_named(column: str, value: str, told: str) -> None:
    table = pl.DataFrame({column: ["1", value]})
    with pytest.raises(DataCheckFailed, match=told):
        to_rows(table, KINDS)


def test_a_file_of_other_columns_is_refused() -> None:
    with pytest.raises(DataCheckFailed, match="none of the model's columns"):
        to_rows(pl.DataFrame({"x": [1]}), KINDS)


def test_predictions_stand_beside_the_rows_under_free_names() -> None:
    table = pl.DataFrame({"id": [1, 2], "predicted": ["a", "b"]})
    answered = with_predictions(
        table,
        [
            {"id": "a-0", "label": "no", "probabilities": {"no": 0.75, "yes": 0.25}},
            {"id": "a-1", "label": "yes", "probabilities": {"no": 0.5, "yes": 0.5}},
        ],
    )
    assert answered.to_dict(as_series=False) == {
        "id": [1, 2],
        "predicted": ["a", "b"],
        "predicted_": ["no", "yes"],
        "probability_no": [0.75, 0.5],
        "probability_yes": [0.25, 0.5],
        "id_": ["a-0", "a-1"],
    }


def test_the_example_row_is_one_that_the_model_takes() -> None:
    assert named([example_row(CONTRACT)], CONTRACT).n == 1


def test_the_curl_line_survives_a_shell() -> None:
    odd = CONTRACT.model_copy(update={"inputs": (COLUMNS[3].model_copy(update={"categories": ('it\'s "$HOME"',)}),)})
    words = shlex.split(curl_line("http://127.0.0.1:1", odd))
    assert json.loads(words[words.index("-d") + 1]) == {"rows": [{"workclass": 'it\'s "$HOME"'}]}


def test_the_announcement_says_how_to_ask_and_stop() -> None:
    live = Deployment(
        "http://127.0.0.1:1", "sha256:" + "a" * 64, 2, ("CPUExecutionProvider",) * 2, ("port 5 of x (7): a token",)
    )
    told = announcement(live, CONTRACT, release=3, token_variable="TOKENS")
    assert "2 replicas on CPU" in told
    assert "${TOKENS%%,*}" in told
    assert "specml stop" in told
    assert "1 socket (a token)" in told


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers what the test has put down, in turn; a status of 0 hangs up."""

    answers: list[tuple[int, dict[str, Any]]] = []
    seen: list[Any] = []

    def do_POST(self) -> None:
        self.seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status, body = self.answers.pop(0)
        if not status:
            return
        self.send_response(status)
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


def predict(answers: list[tuple[int, dict[str, Any]]], rows: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(Scripted, "answers", answers)
    monkeypatch.setattr(Scripted, "seen", [])
    monkeypatch.setattr(client, "MOST_ROWS", 2)
    with http.server.HTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            return list(Client(f"http://127.0.0.1:{server.server_port}").predict([{"x": i} for i in range(rows)], 10))
        finally:
            server.shutdown()
            thread.join()


def test_the_client_sends_parts_and_asks_again_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (200, {"id": "a", "predictions": [{"label": 0}, {"label": 1}]}),
        (429, {"error": "full"}),
        (0, {}),
        (503, {}),
        (200, {"id": "b", "predictions": [{"label": 2}]}),
    ]
    told = [{"id": "a-0", "label": 0}, {"id": "a-1", "label": 1}, {"id": "b-0", "label": 2}]
    assert predict(answers, 3, monkeypatch) == told
    assert Scripted.answers == []


def test_the_client_names_the_rows_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecmlError, match=r"rows 3 to 3:\n.*refuses \(422\): no"):
        predict([(200, {"id": "a", "predictions": [{}, {}]}), (422, {"error": "no"})], 3, monkeypatch)
