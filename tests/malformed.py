"""Requests that must be refused: the same table for the application alone and for the live server."""

from __future__ import annotations

import json
import struct
from typing import Any

GOOD = {"age": 50, "hours": 10.5, "member": False, "workclass": "Private"}


def rows(**changes: Any) -> bytes:
    """A body with one row, changed."""
    return json.dumps({"rows": [{**GOOD, **changes}]}).encode()


def tensors(**changes: Any) -> dict[str, Any]:
    """A valid ``infer`` body with one row; ``age`` replaced by what is given."""
    age = {"name": "age", "shape": [1, 1], "datatype": "FP64", "data": [50.0], **changes}
    return {
        "inputs": [
            age,
            {"name": "hours", "shape": [1], "datatype": "FP32", "data": [10.5]},
            {"name": "member", "shape": [1, 1], "datatype": "BOOL", "data": [False]},
            {"name": "workclass", "shape": [1, 1], "datatype": "BYTES", "data": ["Private"]},
        ]
    }


def infer(**changes: Any) -> bytes:
    """``tensors`` as a body."""
    return json.dumps(tensors(**changes)).encode()


def binary(
    data: bytes, size: int | None = None, *, kind: str = "FP64", name: str = "age"
) -> tuple[bytes, dict[str, str]]:
    """An ``infer`` body whose input ``name`` has binary data, and its headers."""
    body = tensors()
    for tensor in body["inputs"]:
        if tensor["name"] == name:
            del tensor["data"]
            tensor["datatype"] = kind
            tensor["parameters"] = {"binary_data_size": len(data) if size is None else size}
    header = json.dumps(body).encode()
    return header + data, {"inference-header-content-length": str(len(header))}


PREDICT: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "JSON"),
    "no JSON": (b"age=50", 400, "JSON"),
    "cut off": (rows()[:-5], 400, "JSON"),
    "NaN": (b'{"rows": [{"age": NaN}]}', 400, "JSON"),
    "Infinity": (b'{"rows": [{"age": -Infinity}]}', 400, "JSON"),
    "1e400": (b'{"rows": [{"age": 1e400}]}', 400, "JSON"),
    "5,000 digits": (b'{"rows": [{"age": ' + b"9" * 5000 + b"}]}", 400, "JSON"),
    "no UTF-8": (b'{"rows": [{"workclass": "\xff\xfe"}]}', 400, "JSON"),
    "lone surrogate": (b'{"rows": [{"workclass": "\\ud800"}]}', 400, "JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + rows(), 400, "JSON"),
    "deep": (b'{"rows": ' + b"[" * 120 + b"]" * 120 + b"}", 422, "rows[0]"),
    "very deep": (b"[" * 4000 + b"]" * 4000, 400, "JSON"),
    "deep objects": (b'{"a":' * 1000 + b"1" + b"}" * 1000, 400, "deep"),
    "array": (b"[1]", 400, "array"),
    "null": (b"null", 400, "null"),
    "number": (b"1", 400, "number"),
    "key twice": (b'{"rows": [{"age": 1, "age": 2}]}', 400, "'age' stands twice"),
    "escaped key twice": (b'{"rows": [{"age": 1, "\\u0061ge": 2}]}', 400, "'age' stands twice"),
    "rows twice": (b'{"rows": [], "rows": []}', 400, "'rows' stands twice"),
    "colon hides key twice": (b'{"rows": [{"workclass": "a:b", "age": 1, "age": 2}]}', 400, "twice"),
    "no rows key": (b"{}", 422, '"rows"'),
    "strange key": (b'{"rows": [], "id": 1}', 422, "'id'"),
    "rows no list": (b'{"rows": {}}', 422, "list"),
    "no row": (b'{"rows": []}', 422, "empty"),
    "row no object": (b'{"rows": [[1]]}', 422, "rows[0]"),
    "unknown column": (rows(agee=1), 422, "Did you mean 'age'?"),
    "missing": (b'{"rows": [{"member": true}]}', 422, "rows[0].age is missing"),
    "null for required": (rows(age=None), 422, "rows[0].age is missing"),
    "null for required flag": (rows(member=None), 422, "rows[0].member is missing"),
    "text for a number": (rows(age="50"), 422, 'rows[0].age is "50"'),
    "true for a number": (rows(age=True), 422, "rows[0].age is true"),
    "1 for a flag": (rows(member=1), 422, "rows[0].member is 1"),
    "list for a number": (rows(age=[1]), 422, "rows[0].age is [1]"),
    "object for a text": (rows(workclass={}), 422, "rows[0].workclass is {}"),
    "too many rows": (json.dumps({"rows": [GOOD] * 51}).encode(), 413, "at most 50"),
}

INFER: dict[str, tuple[bytes, dict[str, str], str]] = {
    "no inputs": (b"{}", {}, "inputs"),
    "empty inputs": (b'{"inputs": []}', {}, "inputs"),
    "inputs no list": (b'{"inputs": 1}', {}, "inputs"),
    "input no object": (b'{"inputs": [1]}', {}, "inputs"),
    "unknown input": (infer(name="agee"), {}, "Did you mean 'age'?"),
    "missing input": (json.dumps({"inputs": tensors()["inputs"][1:]}).encode(), {}, "'age' is missing"),
    "input twice": (json.dumps({"inputs": [*tensors()["inputs"], tensors()["inputs"][0]]}).encode(), {}, "twice"),
    "id no text": (json.dumps({**tensors(), "id": 5}).encode(), {}, "id"),
    "no datatype": (infer(datatype=None), {}, "datatype"),
    "texts for numbers": (infer(datatype="BYTES", data=["50"]), {}, "datatype"),
    "strange datatype": (infer(datatype="FP16"), {}, "datatype"),
    "number in BYTES": (
        b'{"inputs": [{"name": "workclass", "shape": [1], "datatype": "BYTES", "data": [5]}]}',
        {},
        "texts",
    ),
    "float for INT64": (infer(datatype="INT64", data=[1.5]), {}, "INT64"),
    "true for FP64": (infer(data=[True]), {}, "FP64"),
    "text for FP64": (infer(data=["a"]), {}, "FP64"),
    "300 for UINT8": (infer(datatype="UINT8", data=[300]), {}, "UINT8"),
    "-1 for UINT64": (infer(datatype="UINT64", data=[-1]), {}, "UINT64"),
    "null for required": (infer(data=[None]), {}, "missing in row 0"),
    "no shape": (infer(shape=None), {}, "shape"),
    "rank 3": (infer(shape=[1, 1, 1]), {}, "shape"),
    "two columns": (infer(shape=[1, 2], data=[1, 2]), {}, "shape"),
    "negative": (infer(shape=[-1, 1]), {}, "no row"),
    "no row": (infer(shape=[0, 1], data=[]), {}, "no row"),
    "true as a size": (infer(shape=[True, 1]), {}, "shape"),
    "2^63 rows": (infer(shape=[2**63, 1]), {}, "at most"),
    "other rows": (infer(shape=[2, 1], data=[1, 2]), {}, "rows"),
    "too few values": (infer(data=[]), {}, "values"),
    "too many values": (infer(data=[1, 2]), {}, "values"),
    "data no list": (infer(data=1), {}, "list"),
    "no data": (infer(data=None), {}, "list"),
    "shared memory": (infer(parameters={"shared_memory_region": "x"}), {}, "shared memory"),
    "unknown output": (
        json.dumps({**tensors(), "outputs": [{"name": "labels"}]}).encode(),
        {},
        "Did you mean 'label'?",
    ),
    "output twice": (json.dumps({**tensors(), "outputs": [{"name": "label"}] * 2}).encode(), {}, "twice"),
    "outputs no list": (json.dumps({**tensors(), "outputs": 3}).encode(), {}, "outputs"),
    "classification": (
        json.dumps({**tensors(), "outputs": [{"name": "label", "parameters": {"classification": 2}}]}).encode(),
        {},
        "not understood",
    ),
    "header length no number": (infer(), {"inference-header-content-length": "x"}, "length"),
    "header length negative": (infer(), {"inference-header-content-length": "-1"}, "length"),
    "header length huge": (infer(), {"inference-header-content-length": "99999999999"}, "Length"),
    "header length past the end": (infer(), {"inference-header-content-length": str(len(infer()) + 1)}, "Length"),
    "too few bytes": (*binary(b"\0" * 7), "bytes"),
    "too many bytes": (*binary(b"\0" * 9), "bytes"),
    "size past the end": (*binary(b"\0" * 8, 16), "binary_data_size"),
    "negative size": (*binary(b"\0" * 8, -8), "binary_data_size"),
    "size no number": (*binary(b"\0" * 8, True), "binary_data_size"),
    "bytes left over": (*binary(b"\0" * 8, 0), "bytes"),
    "infinite": (*binary(struct.pack("<d", float("inf"))), "infinite"),
    "NaN for required": (*binary(struct.pack("<d", float("nan"))), "missing in row 0"),
    "text longer than its data": (
        *binary(struct.pack("<I", 4_000_000_000) + b"a", kind="BYTES", name="workclass"),
        "longer",
    ),
    "text cut off": (*binary(b"\1\0", kind="BYTES", name="workclass"), "length"),
    "text no UTF-8": (*binary(struct.pack("<I", 1) + b"\xff", kind="BYTES", name="workclass"), "UTF-8"),
    "too many texts": (*binary(struct.pack("<I", 0) * 3, kind="BYTES", name="workclass"), "values"),
}
