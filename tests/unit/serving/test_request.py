from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specml.bundle import Contract
from specml.data import MISSING, category
from specml.serving.infer import read_infer
from specml.serving.refusal import Refused
from specml.serving.request import read_object, read_rows
from tests.bundles import COLUMNS
from tests.malformed import INFER, PREDICT, binary, tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.serving.conftest import Asked

CONTRACT = Contract(name="census", task="binary", target="income", inputs=COLUMNS, classes=(0, 1), candidate="by_hand")

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("case", PREDICT)
def test_a_malformed_predict_is_refused_with_a_reason(case: str, post: Callable[..., Asked]) -> None:
    body, status, told = PREDICT[case]
    answer = post("/predict", body)
    assert answer.status == status, answer.body
    assert told in json.loads(answer.body)["error"]


@pytest.mark.parametrize("case", INFER)
def test_a_malformed_infer_is_refused_with_a_reason(case: str, post: Callable[..., Asked]) -> None:
    body, headers, told = INFER[case]
    answer = post("/v2/models/census/infer", body, {"content-type": "application/octet-stream", **headers})
    assert answer.status == (413 if case == "2^63 rows" else 400), answer.body
    assert told in json.loads(answer.body)["error"]


def test_values_reach_the_graph_in_its_types() -> None:
    rows = [
        {"age": 50, "hours": None, "member": True, "workclass": 1},
        {"age": 0.5, "hours": 3, "member": False, "workclass": 1.0},
        {"age": -7, "member": False, "workclass": True},
        {"age": 10**18, "member": False},
    ]
    read = read_rows(json.dumps({"rows": rows}).encode(), CONTRACT, 10)
    assert read.n == 4
    np.testing.assert_array_equal(read.columns["age"], [50.0, 0.5, -7.0, 1e18])
    np.testing.assert_array_equal(read.columns["hours"], [np.nan, 3.0, np.nan, np.nan])
    np.testing.assert_array_equal(read.columns["member"], [1.0, 0.0, 0.0, 0.0])
    assert read.columns["workclass"].tolist() == ["1", "1", "true", MISSING]
    assert all(array.dtype == np.float64 for name, array in read.columns.items() if name != "workclass")


def test_the_word_for_missing_is_a_missing_value() -> None:
    required = CONTRACT.model_copy(update={"inputs": (*COLUMNS[:3], COLUMNS[3].model_copy(update={"nullable": False}))})
    with pytest.raises(Refused, match="workclass is missing"):
        read_rows(json.dumps({"rows": [{"age": 1, "member": True, "workclass": MISSING}]}).encode(), required, 10)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "a"),
        (1, "1"),
        (1.0, "1"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (-0.0, "0"),
        (float("nan"), MISSING),
    ],
)
def test_a_category_has_one_text(value: Any, expected: str) -> None:
    assert category(value) == expected


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_an_object_without_duplicates_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert read_object(json.dumps(value).encode(), 10_000) == value


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=5), st.data())
def test_no_duplicate_is_ever_overlooked(value: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    again = data.draw(JSON)
    doubled = json.dumps(value)[:-1] + f", {json.dumps(key)}: {json.dumps(again)}}}"
    nested = data.draw(st.sampled_from([doubled, f'{{"a": [{doubled}]}}', f'{{"a:b": {{"c": {doubled}}}}}']))
    with pytest.raises(Refused, match="twice"):
        read_object(nested.encode(), 10_000)


@pytest.mark.parametrize("value", [b"[],", b"{},", b"0,", b'"",', b'"\\"",', b'"a:b",', b'{"a":1},', b"[[[]]],"])
def test_a_body_of_millions_of_values_costs_little(value: bytes) -> None:
    start = b'{"rows":[{"c":":","x":['
    raw = start + value * ((16_777_216 - len(start) - 10) // len(value)) + b"0]}]}"
    began = time.process_time()
    for read in (lambda: read_rows(raw, CONTRACT, 10_000), lambda: read_infer(raw, None, CONTRACT, 10_000)):
        assert _status(read) == 413
    assert time.process_time() - began < 3


@given(
    st.recursive(
        st.booleans() | st.text('",[{:\\\n\u00e9'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('",[{'), inner),
    )
)
def test_values_are_counted_outside_of_texts(value: Any) -> None:
    def count(node: Any) -> int:
        parts = list(node.values() if isinstance(node, dict) else node if isinstance(node, list) else [])
        return isinstance(node, (dict, list)) + max(0, len(parts) - 1) + sum(map(count, parts))

    body = {"a": value}
    for raw in (json.dumps(body).encode(), orjson.dumps(body)):
        assert read_object(raw, count(body)) == body
        with pytest.raises(Refused, match="more than"):
            read_object(raw, count(body) - 1)


def test_a_text_may_hold_any_number_of_commas_and_brackets() -> None:
    odd = "[{,:" * 100_000
    read = read_rows(json.dumps({"rows": [{"age": 1, "member": True, "workclass": odd}]}).encode(), CONTRACT, 10)
    assert read.columns["workclass"].tolist() == [odd]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for read in (
        lambda: read_rows(raw, CONTRACT, 10),
        lambda: read_infer(raw, None, CONTRACT, 10),
        lambda: read_infer(*_headed(binary(raw)), CONTRACT, 10),
        lambda: read_infer(*_headed(binary(raw, kind="BYTES", name="workclass")), CONTRACT, 10),
    ):
        assert _status(read) in range(400, 500)


def _status(read: Callable[[], object]) -> int:
    """Of the refusal; 499 where nothing is refused."""
    try:
        read()
    except Refused as refusal:
        return refusal.http
    return 499


def _headed(made: tuple[bytes, dict[str, str]]) -> tuple[bytes, str]:
    return made[0], made[1]["inference-header-content-length"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("FP64", 1.5), ("FP32", 1.5), ("INT64", -3), ("INT32", -3), ("INT16", -3), ("INT8", -3), ("UINT64", 3),
     ("UINT32", 3), ("UINT16", 3), ("UINT8", 3), ("BOOL", True)],
)  # fmt: skip
def test_every_datatype_becomes_float64(kind: str, value: Any) -> None:
    from specml.serving.infer import NUMBERS

    raw, headers = binary(np.array([value], dtype=NUMBERS[kind]).tobytes(), kind=kind)
    by_bytes = read_infer(raw, headers["inference-header-content-length"], CONTRACT, 10)
    from tests.malformed import infer

    by_json = read_infer(infer(datatype=kind, data=[[value]]), None, CONTRACT, 10)
    for read in (by_bytes, by_json):
        assert read.rows.columns["age"].dtype == np.float64
        assert read.rows.columns["age"].tolist() == [float(value)]


def half(kind: str, values: list[float]) -> bytes:
    """Values of two bytes each."""
    if kind == "FP16":
        return np.array(values, dtype="<f2").tobytes()
    return (np.array(values, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize("kind", ["FP16", "BF16"])
def test_floats_of_two_bytes_are_taken(kind: str) -> None:
    body, headers = binary(half(kind, [-2.5]), kind=kind)
    read = read_infer(body, headers["inference-header-content-length"], CONTRACT, 10)
    assert read.rows.columns["age"].tolist() == [-2.5]
    told = json.dumps(tensors(datatype=kind, data=[0.5])).encode()
    assert read_infer(told, None, CONTRACT, 10).rows.columns["age"].tolist() == [0.5]


@pytest.mark.parametrize(("kind", "value"), [("INT64", 2**63 - 1), ("INT64", -(2**63)), ("UINT64", 2**64 - 1)])
def test_the_ends_of_a_datatype_fit_it(kind: str, value: int) -> None:
    told = json.dumps(tensors(datatype=kind, data=[value])).encode()
    assert read_infer(told, None, CONTRACT, 10).rows.columns["age"].tolist() == [float(value)]
