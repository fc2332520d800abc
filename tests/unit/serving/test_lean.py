"""What is read fast is what is read closely: the same rows, or the same refusal."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.bundle import open_bundle
from specml.serving.infer import HEADER_LENGTH, Infer, read_infer
from specml.serving.lean import HEADERS, Reader, Unusual
from specml.serving.refusal import Refused
from specml.serving.request import Rows, read_rows
from tests.malformed import GOOD, INFER, PREDICT, infer, rows, tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from specml.bundle import Contract


@pytest.fixture(scope="module")
def contract(bundle: Path) -> Contract:
    return open_bundle(bundle).contract


@pytest.fixture(scope="module")
def numbers(contract: Contract) -> Contract:
    """Without a column of texts."""
    return contract.model_copy(update={"inputs": contract.inputs[:3]})


def told(read: Callable[[], Rows | Infer]) -> Any:
    """Of what was read or refused, all that counts."""
    try:
        found = read()
    except Refused as refusal:
        return refusal.http, str(refusal)
    of, rest = (found.rows, (found.id, found.outputs)) if isinstance(found, Infer) else (found, None)
    return of.n, {name: (str(one.dtype), one.tolist()) for name, one in sorted(of.columns.items())}, rest


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # NaN is NaN


value = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 200), st.floats(-1e6, 1e6), st.sampled_from(["Private", "", "a:b", "1"])
)
row = st.one_of(
    st.fixed_dictionaries({"age": st.integers(0, 99), "hours": value, "member": st.booleans(), "workclass": value}),
    st.dictionaries(st.sampled_from([*GOOD, "agee"]), value, max_size=5),
    value,
)


@settings(deadline=None, max_examples=80)
@given(body=st.one_of(st.fixed_dictionaries({"rows": st.lists(row, max_size=4)}), st.dictionaries(st.text(), row)))
def test_rows(contract: Contract, body: Any) -> None:
    raw = json.dumps(body).encode()
    assert same(told(lambda: Reader(contract, 3).rows(raw)), told(lambda: read_rows(raw, contract, 3)))


@settings(deadline=None, max_examples=80)
@given(
    columns=st.one_of(st.permutations(list(GOOD)), st.lists(st.sampled_from([*GOOD, "agee"]), max_size=5), value),
    rows=st.lists(st.one_of(st.lists(value, min_size=4, max_size=4), st.lists(value, max_size=5), value), max_size=4),
    numeric=st.lists(st.tuples(st.floats(0, 9), value, st.booleans()), min_size=1, max_size=3),
)
def test_rows_of_arrays(contract: Contract, numbers: Contract, columns: Any, rows: Any, numeric: Any) -> None:
    plain = numbers.model_copy(update={"inputs": numbers.inputs[:2]})
    for of, body in (
        (contract, {"columns": columns, "rows": rows}),
        (numbers, {"columns": ["age", "hours", "member"], "rows": numeric}),
        (numbers, {"rows": [one[::-1] for one in numeric], "columns": ["member", "hours", "age"]}),
        (plain, {"columns": ["age", "hours"], "rows": [list(one[:2]) for one in numeric]}),
        (plain, {"columns": ["hours", "age"], "rows": [[one[1], one[0]] for one in numeric]}),
        (plain, {"columns": ["age", "hours"], "rows": [[one[0], [one[1]]] for one in numeric]}),
        (plain, {"columns": ["age", "hours"], "rows": [[[one[0]], [one[0]]] for one in numeric]}),
        (plain, {"columns": ["age", "hours"], "rows": [[one[0], {}] for one in numeric]}),
    ):
        raw = json.dumps(body).encode()
        assert same(told(lambda: Reader(of, 3).rows(raw)), told(lambda: read_rows(raw, of, 3)))  # noqa: B023


@settings(deadline=None, max_examples=80)
@given(
    bodies=st.lists(
        st.one_of(
            st.tuples(st.just("objects"), st.lists(row, min_size=1, max_size=2)),
            st.tuples(st.just("arrays"), st.lists(st.tuples(st.floats(0, 9), value), min_size=1, max_size=2)),
            st.tuples(st.just("turned"), st.lists(st.tuples(value, st.floats(0, 9)), min_size=1, max_size=2)),
            st.tuples(st.just("raw"), st.sampled_from([one for one, _, _ in PREDICT.values()])),
        ),
        min_size=1,
        max_size=4,
    ),
    alike=st.booleans(),
)
def test_several_together_are_each_by_itself(contract: Contract, numbers: Contract, bodies: Any, alike: bool) -> None:
    plain = numbers.model_copy(update={"inputs": numbers.inputs[:2]})
    forms = {
        "objects": lambda told: json.dumps({"rows": told}).encode(),
        "arrays": lambda told: json.dumps({"columns": ["age", "hours"], "rows": told}).encode(),
        "turned": lambda told: json.dumps({"rows": told, "columns": ["hours", "age"]}).encode(),
        "raw": lambda told: told,
    }
    raws = [forms[bodies[0][0] if alike and form != "raw" != bodies[0][0] else form](body) for form, body in bodies]
    for of in (contract, numbers, plain):
        reader = Reader(of, 3)
        try:
            found, counts = reader.together(raws)
        except Unusual:
            continue
        assert sum(counts) == found.n
        for place, raw in enumerate(raws):
            start = sum(counts[:place])
            part = functools.partial(found.part, start, start + counts[place])
            assert same(told(part), told(functools.partial(read_rows, raw, of, 3)))


@pytest.mark.parametrize(
    "raws",
    [
        (b'{"rows": [{"age": 1, "hours": 2}]}', b'{"rows": [{"age": 1, "age": 2}]}'),
        (b'{"columns": ["age", "hours"], "rows": [[1, 2]]}', b'{"columns": ["hours", "age"], "rows": [[1, 2]]}'),
        (b'{"columns": ["age", "hours"], "rows": [[1, 2]]}', b'{"columns": ["age", "hours"], "rows": [[1, true]]}'),
        (b'{"columns": ["age", "hours"], "rows": [[1, 2]]}', b'{"columns": ["age", "hours"], "rows": [["1", 2]]}'),
        (b'{"columns": ["age", "hours"], "rows": [[1, 2]]}', b'{"rows": [[9]], "rows": [[1, 2]], "columns": [1]}'),
        (b'{"rows": [{"age": 1, "hours": 2}', b'{"age": 1, "hours": 2}]}'),
    ],
)
def test_what_is_wrong_with_one_is_not_lost_among_several(numbers: Contract, raws: tuple[bytes, ...]) -> None:
    plain = numbers.model_copy(update={"inputs": numbers.inputs[:2]})
    for order in (raws, raws[::-1]):
        with pytest.raises(Unusual):
            Reader(plain, 3).together(list(order))


def test_arrays_are_what_objects_are(contract: Contract) -> None:
    objects = [GOOD, {**GOOD, "age": None, "hours": 1}]
    arrays = {"columns": list(GOOD)[::-1], "rows": [list(one.values())[::-1] for one in objects]}
    reader = Reader(contract, 3)
    assert same(
        told(lambda: reader.rows(json.dumps(arrays).encode())),
        told(lambda: reader.rows(json.dumps({"rows": objects}).encode())),
    )


shape = st.sampled_from([[1], [2], [1, 1], [2, 1], [True, 1], [2, True], [], [0], None, [1, 2]])
kind = st.sampled_from(["FP64", "FP32", "FP64", "BOOL", "BYTES", "INT32", None, 5])
tensor = st.fixed_dictionaries(
    {"name": st.sampled_from(["age", "hours", "member", "workclass", "agee"]), "shape": shape, "datatype": kind},
    optional={"data": st.one_of(value, st.lists(value, max_size=3)), "parameters": value},
)


def usual_tensors(n: int) -> st.SearchStrategy[list[Any]]:
    """Of ``n`` rows; ``hours`` may hold anything."""
    kinds = {"age": st.floats(0, 9), "hours": value, "member": st.floats(0, 1), "workclass": st.just("a")}
    made = [
        st.fixed_dictionaries(
            {
                "name": st.just(name),
                "shape": st.just([n, 1]),
                "datatype": st.just("BYTES" if name == "workclass" else "FP64"),
                "data": st.lists(values, min_size=n, max_size=n),
            }
        )
        for name, values in kinds.items()
    ]
    return st.tuples(*made).map(list)


usual = st.integers(1, 2).flatmap(usual_tensors)


@settings(deadline=None, max_examples=80)
@given(
    inputs=st.one_of(usual, usual.flatmap(st.permutations), st.lists(tensor, max_size=4)),
    more=st.dictionaries(
        st.sampled_from(["id", "outputs", "parameters"]),
        value | st.lists(st.fixed_dictionaries({"name": st.sampled_from(["label", "labell"])}), max_size=2),
    ),
)
def test_tensors(contract: Contract, numbers: Contract, inputs: Any, more: Any) -> None:
    raw = json.dumps({"inputs": inputs, **more}).encode()
    for one in (contract, numbers):
        fast, close = Reader(one, 3), functools.partial(read_infer, raw, None, one, 3)
        assert same(told(functools.partial(fast.infer, raw, {})), told(close))


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 4),
    kinds=st.lists(st.sampled_from(["FP32", "FP64"]), min_size=3, max_size=3),
    names=st.permutations(["age", "hours", "member"]),
    count=st.integers(1, 3),
    values=st.lists(st.sampled_from([0.0, 1.5, float("nan"), float("inf")]), min_size=12, max_size=12),
    more=st.dictionaries(st.sampled_from(["id", "outputs", "strange"]), st.sampled_from(["a", "a:b", None, []])),
    wrong=st.integers(-1, 1),
)
def test_binary_tensors(
    numbers: Contract, n: int, kinds: Any, names: Any, count: int, values: Any, more: Any, wrong: int
) -> None:
    reader, parts, inputs = Reader(numbers, 3), [], []
    for place, name in enumerate(names[:count]):
        part = np.array(values[place * n : place * n + n], {"FP32": "<f4", "FP64": "<f8"}[kinds[place]]).tobytes()
        parts.append(part)
        parameters = {"binary_data_size": len(part)}
        inputs.append({"name": name, "shape": [n, 1], "datatype": kinds[place], "parameters": parameters})
    header = json.dumps({"inputs": inputs, **more}).encode()
    raw = header + b"".join(parts)[: len(b"".join(parts)) + min(wrong, 0) or None] + b"x" * max(wrong, 0)
    length = str(len(header))
    expected = told(lambda: read_infer(raw, length, numbers, 3))
    for _ in range(2):  # the second time its header is known
        assert same(told(lambda: reader.infer(raw, {HEADER_LENGTH: length})), expected)


def test_what_is_malformed_is_refused_alike(contract: Contract, numbers: Contract) -> None:
    for one in (contract, numbers):
        reader = Reader(one, 50)
        for raw, _, _ in PREDICT.values():
            assert same(told(lambda: reader.rows(raw)), told(lambda: read_rows(raw, one, 50)))  # noqa: B023
        for raw, headers, _ in INFER.values():
            length = headers.get(HEADER_LENGTH)
            expected = told(lambda: read_infer(raw, length, one, 50))  # noqa: B023
            assert same(told(lambda: reader.infer(raw, headers)), expected)  # noqa: B023


def test_the_usual_is_usual(contract: Contract, numbers: Contract) -> None:
    """Else the tests above would compare the close look with itself."""
    reader = Reader(contract, 50)
    assert reader.together([rows()])[0].blocked == ("age", "hours", "member")
    assert reader.together([json.dumps({"rows": [{"age": 1, "member": True}] * 3}).encode()])[1] == [3]
    plain = numbers.model_copy(update={"inputs": numbers.inputs[:2]})
    listed = b'{"columns": ["age", "hours"], "rows": [[1, null]]}'
    assert Reader(plain, 50)._plainly_numbers(listed)
    assert Reader(plain, 50).together([listed] * 3)[1] == [1, 1, 1]
    body = tensors()
    for one in body["inputs"]:
        one |= {"shape": [1, 1], "datatype": "BYTES" if one["name"] == "workclass" else "FP64"}
        one["data"] = [0.5] if one["datatype"] == "FP64" else one["data"]
    assert reader._tensors(json.dumps(body).encode()).rows.block is not None
    asked = {**body, "id": "a", "outputs": [{"name": "label", "parameters": {"binary_data": True}}]}
    assert reader._tensors(json.dumps(asked).encode()).outputs == (("label", True),)
    with pytest.raises(Unusual):
        reader._tensors(infer())  # a flag as BOOL


def test_outputs_that_are_nested_too_deep_are_refused_alike(numbers: Contract) -> None:
    raw = b'{"inputs": [], "outputs": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert same(told(lambda: Reader(numbers, 3).infer(raw, {})), told(lambda: read_infer(raw, None, numbers, 3)))
    assert told(lambda: read_infer(raw, None, numbers, 3))[0] == 400


def test_headers_are_remembered_but_not_without_end(numbers: Contract) -> None:
    reader = Reader(numbers, 3)
    inputs = [
        {"name": name, "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}
        for name in ("age", "hours", "member")
    ]
    for number in range(3 * HEADERS):
        header = json.dumps({"inputs": inputs, "id": str(number)}).encode() + b" " * number
        found = reader.infer(header + bytes(24), {HEADER_LENGTH: str(len(header))})
        assert found.id == str(number)
    assert len(reader._plans) == 1  # what differs is the id
    for number in range(3 * HEADERS):
        header = json.dumps({"inputs": inputs, "outputs": []}).encode() + b" " * number
        reader.infer(header + bytes(24), {HEADER_LENGTH: str(len(header))})
    assert len(reader._plans) == HEADERS
