"""Requests that must be refused: one table for every transport, and what is done to a server besides asking it.

``PREDICT`` and ``INFER`` are bodies for the application. ``cases`` gives them as requests, with all that is wrong
outside a body; ``heavy`` those that are large, for a server with the default limits. ``RAW`` is what no HTTP library
sends, and ``survives`` asks all of it of a server at a port: each refused within seconds, and alive after each.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
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
    "columns null": (b'{"columns": null, "rows": [[1]]}', 422, "columns is no list"),
    "columns of numbers": (b'{"columns": [1], "rows": [[1]]}', 422, "columns is no list"),
    "columns of an object": (b'{"columns": {"age": 1}, "rows": [[1]]}', 422, "columns is no list"),
    "column twice": (b'{"columns": ["age", "age"], "rows": [[1, 2]]}', 422, "'age' stands twice"),
    "no such column": (b'{"columns": ["agee"], "rows": [[1]]}', 422, "agee"),
    "object beside columns": (b'{"columns": ["age"], "rows": [{"age": 1}]}', 422, "rows[0] is a JSON object"),
    "array without columns": (b'{"rows": [[1]]}', 422, "rows[0] is a JSON array"),
    "too few values": (b'{"columns": ["age", "hours"], "rows": [[1, 2], [1]]}', 422, "rows[1] has 1 values"),
    "too many values": (b'{"columns": ["age"], "rows": [[1, 2]]}', 422, "rows[0] has 2 values"),
    "text in an array": (b'{"columns": ["age", "member"], "rows": [["old", true]]}', 422, "rows[0].age"),
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
    "strange datatype": (infer(datatype="FP8"), {}, "datatype"),
    "datatype a list": (infer(datatype=["FP64"]), {}, "datatype"),
    "70000 for FP16": (infer(datatype="FP16", data=[70_000]), {}, "FP16"),
    "1e39 for FP32": (infer(datatype="FP32", data=[1e39]), {}, "FP32"),
    "1e39 for BF16": (infer(datatype="BF16", data=[1e39]), {}, "BF16"),
    "2^63 for INT64": (infer(datatype="INT64", data=[2**63]), {}, "INT64"),
    "2^64 for UINT64": (infer(datatype="UINT64", data=[2**64]), {}, "UINT64"),
    "true for INT64": (infer(datatype="INT64", data=[True]), {}, "INT64"),
    "1 for BOOL": (infer(datatype="BOOL", data=[1]), {}, "BOOL"),
    "1e400": (infer().replace(b"50.0", b"1e400"), {}, "JSON"),
    "NaN": (infer().replace(b"50.0", b"NaN"), {}, "JSON"),
    "5,000 digits": (infer().replace(b"50.0", b"9" * 5000), {}, "JSON"),
    "name no text": (infer(name=5), {}, "name"),
    "name a list": (infer(name=[]), {}, "name"),
    "name an object": (infer(name={}), {}, "name"),
    "name empty": (infer(name=""), {}, "not among"),
    "name with a NUL": (infer(name="age\0"), {}, "not among"),
    "name of 5,000 characters": (infer(name="a" * 5000), {}, "not among"),
    "key twice": (infer()[:-1] + b', "inputs": []}', {}, "twice"),
    "parameters no object": (infer()[:-1] + b', "parameters": [1]}', {}, "parameters"),
    "binary_data_output no flag": (infer()[:-1] + b', "parameters": {"binary_data_output": 1}}', {}, "true nor false"),
    "deep data": (infer(data=json.loads("[" * 120 + "]" * 120)), {}, "FP64"),
    "binary and no header length": (binary(b"\0" * 8)[0], {}, "JSON"),
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
    "rank 1,000": (infer(shape=[1] * 1000), {}, "shape"),
    "shape no list": (infer(shape=1), {}, "shape"),
    "shape empty": (infer(shape=[]), {}, "shape"),
    "shape of lists": (infer(shape=[[1]]), {}, "shape"),
    "float as a size": (infer(shape=[1.0]), {}, "shape"),
    "negative": (infer(shape=[-1, 1]), {}, "no row"),
    "negative columns": (infer(shape=[1, -1]), {}, "shape"),
    "-2^63 rows": (infer(shape=[-(2**63), 1]), {}, "no row"),
    "2^32 * 2^32": (infer(shape=[2**32, 2**32]), {}, "shape"),
    "2^64 rows": (infer(shape=[2**64, 1]), {}, "shape"),
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
    "output name no text": (json.dumps({**tensors(), "outputs": [{"name": 1}]}).encode(), {}, "name"),
    "binary_data no flag": (
        json.dumps({**tensors(), "outputs": [{"name": "label", "parameters": {"binary_data": "yes"}}]}).encode(),
        {},
        "true nor false",
    ),
    "header length no number": (infer(), {"inference-header-content-length": "x"}, "length"),
    "header length empty": (infer(), {"inference-header-content-length": ""}, "length"),
    "header length with a sign": (infer(), {"inference-header-content-length": "+5"}, "length"),
    "header length in hex": (infer(), {"inference-header-content-length": "0x10"}, "length"),
    "header length of 5,000 digits": (infer(), {"inference-header-content-length": "9" * 5000}, "length"),
    "header length inside the JSON": (infer(), {"inference-header-content-length": "10"}, "JSON"),
    "header length 0": (infer(), {"inference-header-content-length": "0"}, "JSON"),
    "header length negative": (infer(), {"inference-header-content-length": "-1"}, "length"),
    "header length huge": (infer(), {"inference-header-content-length": "99999999999"}, "Length"),
    "header length past the end": (infer(), {"inference-header-content-length": str(len(infer()) + 1)}, "Length"),
    "too few bytes": (*binary(b"\0" * 7), "bytes"),
    "too many bytes": (*binary(b"\0" * 9), "bytes"),
    "size past the end": (*binary(b"\0" * 8, 16), "binary_data_size"),
    "negative size": (*binary(b"\0" * 8, -8), "binary_data_size"),
    "size no number": (*binary(b"\0" * 8, True), "binary_data_size"),
    "size 2^63": (*binary(b"\0" * 8, 2**63), "binary_data_size"),
    "FP16 in 4 bytes": (*binary(b"\0" * 4, kind="FP16"), "bytes"),
    "BF16 in 4 bytes": (*binary(b"\0" * 4, kind="BF16"), "bytes"),
    "BF16 NaN for required": (*binary(b"\xc0\x7f", kind="BF16"), "missing in row 0"),
    "FP16 infinite": (*binary(b"\0\x7c", kind="FP16"), "infinite"),
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
    "thousands of texts": (*binary(struct.pack("<I", 0) * 2000, kind="BYTES", name="workclass"), "values"),
    "too few texts": (*binary(b"", kind="BYTES", name="workclass"), "values"),
    "text of 4 GiB": (*binary(b"\xff\xff\xff\xff", kind="BYTES", name="workclass"), "longer"),
}


JSON = {"content-type": "application/json"}
OCTETS = {"content-type": "application/octet-stream"}
MODEL = "/v2/models/census"


@dataclass(frozen=True)
class Case:
    """A request that is refused: with which status, and a word of the error."""

    name: str
    method: str
    path: str
    body: bytes | list[bytes] = b""
    """A list is a body that comes in chunks."""
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    status: int = 400
    told: str = ""


def cases(max_body: int) -> Iterator[Case]:
    """All that is refused by a server of the model "census" with ``max_rows: 50`` and this ``max_body``."""
    for name, (body, status, told) in PREDICT.items():
        yield Case(f"predict: {name}", "POST", "/predict", body, status=status, told=told)
    for name, (body, headers, told) in INFER.items():
        status = 413 if name == "2^63 rows" else 400
        yield Case(f"infer: {name}", "POST", f"{MODEL}/infer", body, {**OCTETS, **headers}, status, told)
    over, huge = b" " * (max_body + 1), {**JSON, "content-length": "99999999999"}
    parts = [b" " * (max_body // 3)] * 4
    for path in ("/predict", f"{MODEL}/infer"):
        yield Case(f"{path}: too large", "POST", path, over, status=413, told="larger")
        yield Case(f"{path}: too large, in chunks", "POST", path, parts, status=413, told="larger")
        yield Case(f"{path}: declared too large", "POST", path, b"", huge, 413, "larger")
        for encoding in ("gzip", "deflate", "br", "zstd", "nonsense", "gzip, gzip"):
            yield Case(f"{path}: {encoding}", "POST", path, rows(), {**JSON, "content-encoding": encoding}, 415)
        yield Case(f"{path}: form", "POST", path, rows(), {"content-type": "application/x-www-form-urlencoded"}, 415)
        yield Case(f"{path}: text", "POST", path, rows(), {"content-type": "text/plain; charset=utf-8"}, 415)
        yield Case(f"{path}: type of 5,000 characters", "POST", path, rows(), {"content-type": "x" * 5000}, 415)
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
            yield Case(f"{method} {path}", method, path, status=405, told="not answered here")
    yield Case("no type", "POST", "/predict", rows(), {}, 415)
    for path in ("/v2", "/v2/health/live", MODEL, f"{MODEL}/ready", "/openapi.json", "/metrics", "/healthz"):
        yield Case(f"POST {path}", "POST", path, rows(), status=405)
    lost = [
        *("/nothing", "//", "/v2/models", "/v2/models/", f"{MODEL}/", f"{MODEL}/versions", f"{MODEL}/versions/"),
        *("/v2/models/..%2f..%2fetc%2fpasswd/ready", "/v2/models/../../../etc/passwd", "/..%2f..%2fetc%2fpasswd"),
        *("/v2/models/%2e%2e/%2e%2e/etc/passwd", "/v2/models/..\\..\\windows/ready", "/v2/models/census%00/ready"),
        *("/v2/models/%ff%fe/ready", "/v2/models/%F0%9F%98%80", "/v2/models/census;a=b/ready", "/%", "/%zz", "/%00"),
        *("/v2/models/Census", f"{MODEL}/versions/1/ready", f"{MODEL}/versions/../ready", "/v2/models/${jndi:x}/ready"),
        *("/v2/models/" + "a" * 2000 + "/ready", "/v2/repository/index", f"{MODEL}/config", f"{MODEL}/stats", "/v3"),
    ]
    for path in lost:
        yield Case(f"GET {path[:60]}", "GET", path, status=404)
    for path in ("/v2/models/other/infer", f"{MODEL}/versions/1/infer", f"{MODEL}/versions/..%2f1/infer"):
        yield Case(f"POST {path}", "POST", path, infer(), status=404, told="there is no")


def heavy() -> Iterator[Case]:
    """Large bodies, of a server with the default limits; each would cost seconds or gigabytes if it were believed."""
    deep = 250_000
    bodies = {
        "arrays, 250,000 deep": b"[" * deep + b"]" * deep,
        "rows, 250,000 deep": b'{"rows": ' + b"[" * deep + b"]" * deep + b"}",
        "objects, 250,000 deep": b'{"a":' * deep + b"1" + b"}" * deep,
        "only the beginning, 250,000 deep": b"[" * deep,
        "a number of a million digits": b'{"rows": [{"age": ' + b"9" * 1_000_000 + b"}]}",
        "a fraction of a million digits": b'{"rows": [{"age": 0.' + b"9" * 1_000_000 + b"e999}]}",
        "a name of a million characters": b'{"rows": [{"' + b"a" * 1_000_000 + b'": 1}]}',
        "a million empty rows": b'{"rows": [' + b"{}," * 1_000_000 + b"{}]}",
        "a million zeros": b'{"rows": [' + b"0," * 1_000_000 + b"0]}",
        "a million keys": b'{"rows": [{' + b'"a":0,' * 1_000_000 + b'"a":0}]}',
        "one key, a thousand times": b'{"rows": [{' + b'"age":0,' * 1000 + b'"age":0}]}',
        "16 MB of spaces": b" " * 16_000_000,
        "16 MB of one text, unended": b'"' + b"a" * 16_000_000,
        "4 MB of quotes": b'"' * 4_000_000,
        "4 MB of backslashes": b'{"rows": [{"workclass": "' + b"\\" * 4_000_000,
        "16 MB of no UTF-8": b'{"rows": [{"workclass": "' + b"\xff" * 16_000_000 + b'"}]}',
    }
    for name, body in bodies.items():
        yield Case(f"predict: {name}", "POST", "/predict", body, status=0)
        if len(body) < 4_000_000:  # both read it by the same code; the large ones take time to send
            yield Case(f"infer: {name}", "POST", f"{MODEL}/infer", body, status=0)
    yield Case("texts, 4,000,000", "POST", f"{MODEL}/infer", *_texts(4_000_000), status=400)
    yield Case("texts, more than rows", "POST", f"{MODEL}/infer", *_texts(4_000_000, rows=10_000), status=400)
    many = json.dumps(tensors(shape=[10_001, 1], data=[0] * 10_001)).encode()
    yield Case("more rows than are taken", "POST", f"{MODEL}/infer", many, status=413)
    yield Case("18 MB", "POST", "/predict", b" " * 18_000_000, status=413)
    yield Case("18 MB in chunks", "POST", "/predict", [b" " * 1_000_000] * 18, status=413)


def _texts(n: int, rows: int = 1) -> tuple[bytes, dict[str, str]]:
    """A body with ``n`` empty texts, for so many rows as its shape says."""
    raw, headers = binary(struct.pack("<I", 0) * n, kind="BYTES", name="workclass")
    length = int(headers["inference-header-content-length"])
    body = json.loads(raw[:length])
    for tensor in body["inputs"]:
        tensor["shape"] = [rows, 1]
    header = json.dumps({"inputs": [body["inputs"][-1]]}).encode()
    return header + raw[length:], {**OCTETS, "inference-header-content-length": str(len(header))}


POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

RAW: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    "words": b"how do you do\r\n\r\n",
    "HTTP/x": b"GET /v2 HTTP/x\r\nHost: localhost\r\n\r\n",
    "lower case method": b"get /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in the path": b"GET /v2\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "space in the path": b"GET /v2 /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "header without a colon": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n",
    "NUL in a header": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n",
    "space before the colon": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX-A : b\r\n\r\n",
    "length no number": POST + b"Content-Length: x\r\n\r\n",
    "length negative": POST + b"Content-Length: -5\r\n\r\n",
    "length of 40 digits": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
    "length and chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked declared, but not": POST + b"Transfer-Encoding: chunked\r\n\r\n" + rows(),
    "chunk of no length": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunk of a negative length": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n",
    "chunk longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}{}\r\n0\r\n\r\n",
    "chunk of 2^64": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
    "unknown transfer encoding": POST + b"Transfer-Encoding: nonsense\r\n\r\n{}",
    "gzip transfer encoding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}
"""Bytes that are no valid request, by what is wrong. Refused with any 4xx, or by closing the connection."""

PATIENCE = 5.0
"""Seconds within which every refusal comes."""


def told(port: int, raw: bytes | list[bytes]) -> tuple[int, dict[str, str], bytes]:
    """What a server answers to raw bytes: status, headers and body; status 0 where it closes without a word."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as connection:
        with suppress(ConnectionError):  # it may answer and close before all is sent
            for part in [raw] if isinstance(raw, bytes) else raw:
                connection.sendall(part)
        got = b""
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                got += part
                head, _, rest = got.partition(b"\r\n\r\n")
                if rest and b"content-length: %d\r" % len(rest) in head.lower() + b"\r":
                    break
    head, _, body = got.partition(b"\r\n\r\n")
    if not head:
        return 0, {}, b""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def sent(case: Case) -> bytes | list[bytes]:
    """A case as the bytes of an HTTP request."""
    headers = {"Host": "127.0.0.1", **case.headers}
    chunked = isinstance(case.body, list)
    if chunked:
        headers["transfer-encoding"] = "chunked"
    elif case.body or case.method == "POST":
        headers.setdefault("content-length", str(len(case.body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{case.method} {case.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    if not isinstance(case.body, list):
        return head + case.body
    return [head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in case.body), b"0\r\n\r\n"]


def refuses(port: int, found: Iterator[Case], *, fronted: bool = False) -> None:
    """Make sure that each case is refused as it says, in time, with an error in JSON; and the server lives.

    ``fronted``: HAProxy stands before it, which refuses by itself, in HTML, what it does not pass on.
    """
    for case in found:
        began = time.monotonic()
        status, headers, body = told(port, sent(case))
        assert time.monotonic() - began < PATIENCE, case.name
        if fronted and body.startswith(b"<html><body><h1>400 "):
            lives(port, case.name)
            continue
        assert status == case.status or (case.status == 0 and 400 <= status < 500), (case.name, status, body[:200])
        assert headers["content-type"] == "application/json", case.name
        error = json.loads(body)["error"]
        assert case.told in error, (case.name, error)
        assert len(error) < 1000, case.name
        lives(port, case.name)


def lives(port: int, after: str) -> None:
    """Make sure that the server answers."""
    status, _, body = told(port, b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (status, json.loads(body)) == (200, {"live": True}), after


def survives(port: int) -> None:
    """Make sure that nothing that is no request, or only half of one, hurts the server."""
    for name, raw in RAW.items():
        status, _, _ = told(port, raw)
        assert status == 0 or 400 <= status < 500, (name, status)
        lives(port, name)
    for name, nuisance in NUISANCES.items():
        nuisance(port)
        lives(port, name)


def _begun(port: int, *parts: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    for part in parts:
        connection.sendall(part)
    return connection


def _slow(port: int) -> None:
    """A hundred clients that send their requests byte by byte."""
    request = POST + b"Content-Length: 100\r\n\r\n{"
    crowd = [_begun(port, request[:1]) for _ in range(100)]
    for byte in range(1, 8):
        for one in crowd:
            one.sendall(request[byte : byte + 1])
    lives(port, "a hundred slow clients")
    for one in crowd:
        with suppress(ConnectionError):
            one.sendall(request[8:])
    lives(port, "a hundred clients inside their bodies")
    for one in crowd:
        one.close()


def _gone(port: int) -> None:
    """Clients that leave inside head and body, and before their answer."""
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(rows()) + rows()
    for cut in (0, 1, 10, len(POST), len(whole) - len(rows()), len(whole) - 1, len(whole)):
        for _ in range(20):
            connection = _begun(port, whole[:cut])
            # Closed so, the server is told by a reset, as when a client's process dies.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def _deaf(port: int) -> None:
    """Clients that ask much and never read."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    crowd = [_begun(port) for _ in range(20)]
    for one in crowd:
        one.setblocking(False)
        with suppress(BlockingIOError, ConnectionError):
            for _ in range(200):
                one.sendall(ask)
    lives(port, "twenty clients that do not read")
    for one in crowd:
        one.close()


NUISANCES: dict[str, Callable[[int], None]] = {"slow": _slow, "gone": _gone, "deaf": _deaf}
"""What is done to a server besides asking it, by name."""

ENDLESS = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 65536
"""A header of 64 KiB; of what is in front depends whether a 4xx or a closed connection says that it is too long."""
