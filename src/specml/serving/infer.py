"""Tensors of the Open Inference Protocol v2, in JSON and in its binary extension.

https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from specml.data import MISSING, blank
from specml.serving.answer import refuse_not_finite
from specml.serving.refusal import Refused, did_you_mean
from specml.serving.request import Rows, beyond, most_values, read_object, text_array, too_many_rows

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.data import Column

NUMBERS: dict[str, Any] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
    "INT16": np.dtype("<i2"),
    "INT8": np.dtype("i1"),
    "UINT64": np.dtype("<u8"),
    "UINT32": np.dtype("<u4"),
    "UINT16": np.dtype("<u2"),
    "UINT8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""Datatypes that a numeric or boolean column takes, each cast to float64. BF16, unknown to numpy, is half an FP32."""

LARGEST = {"FP64": float(np.finfo("f8").max), "FP32": float(np.finfo("f4").max), "FP16": float(np.finfo("f2").max)}
LARGEST["BF16"] = float.fromhex("0x1.fep127")
"""The largest finite value of a datatype."""

HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Infer:
    """A request for tensors: its rows, and what it wants back."""

    rows: Rows
    id: str | None
    outputs: tuple[tuple[str, bool], ...]
    """Names of the outputs wanted, each with whether its data goes in the binary part."""


def read_infer(raw: bytes, header_length: str | None, contract: Contract, max_rows: int) -> Infer:
    """Parse an ``infer`` body; ``header_length`` is the value of Inference-Header-Content-Length.

    Raises:
        Refused: 400 for a request that breaks the protocol or the contract, 413 for too many rows.
    """
    header, binary = _split(raw, header_length)
    return requested(read_object(header, most_values(contract, max_rows)), binary, contract, max_rows)


def requested(body: dict[str, Any], binary: memoryview, contract: Contract, max_rows: int) -> Infer:
    """The request in ``body``, an object as the protocol has it in JSON, whose binary data follow it in ``binary``.

    Raises:
        Refused: as ``read_infer``.
    """
    identity = body.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Refused(400, "id is no string.")
    rows = _columns(body.get("inputs"), binary, contract, max_rows)
    return Infer(rows, identity, wanted(body, contract))


def write_infer(
    request: Infer, outputs: dict[str, np.ndarray], *, model: str, version: str, identity: str, notice: dict[str, str]
) -> tuple[bytes, dict[str, str]]:
    """The body of the answer and its headers; ``identity`` names a request that has no id of its own.

    ``notice`` becomes the answer's parameters, which the protocol leaves to servers.

    Raises:
        Refused: 422; a row has no finite answer.
    """
    refuse_not_finite(outputs)
    told: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, as_binary in request.outputs:
        array = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype(array), "shape": list(array.shape)}
        if as_binary:
            parts.append(to_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = array.ravel().tolist() if array.dtype == object else np.ascontiguousarray(array).ravel()
        told.append(tensor)
    body: dict[str, Any] = {
        "id": identity if request.id is None else request.id,
        "model_name": model,
        "model_version": version,
        "outputs": told,
    }
    if notice:
        body["parameters"] = notice
    header = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return header, {"content-type": "application/json"}
    return b"".join([header, *parts]), {
        "content-type": "application/octet-stream",
        HEADER_LENGTH: str(len(header)),
    }


def metadata(contract: Contract, version: str) -> dict[str, Any]:
    """What the protocol tells about the model.

    Beyond it, what a row is told of those before it, and when nothing is decided: the label is then empty.
    """
    outputs = [
        {
            "name": name,
            "datatype": "FP32" if dtype == "float32" else "BYTES",
            "shape": [-1, len(contract.classes)] if name == "probabilities" else [-1],
        }
        for name, dtype in contract.outputs().items()
    ]
    inputs = [
        {"name": column.name, "datatype": "BYTES" if column.tensor == "string" else "FP64", "shape": [-1, 1]}
        for column in contract.inputs
    ]
    told: dict[str, Any] = {
        "name": contract.name,
        "versions": [version],
        "platform": "onnx_onnxruntime",
        "inputs": inputs,
        "outputs": outputs,
    }
    if contract.abstain_band:
        told |= {"abstain_band": list(contract.abstain_band)}
    return told | ({"history": contract.history.model_dump(mode="json")} if contract.history else {})


def datatype(array: np.ndarray) -> str:
    """The protocol's name for an output's dtype."""
    return (
        "BYTES" if array.dtype == object else {"float32": "FP32", "float64": "FP64", "int64": "INT64"}[array.dtype.name]
    )


def column_of(tensor: dict[str, Any], column: Column, n: int) -> np.ndarray:
    """The values of one tensor of ``n`` rows, in JSON.

    Raises:
        Refused: 400.
    """
    if _rows(tensor, column.name) != n:
        raise Refused(400, f"the input {column.name!r} has not {n} rows, as others have.")
    return _tensor(tensor, column, n, memoryview(b""))[0]


def _columns(tensors: Any, binary: memoryview, contract: Contract, max_rows: int) -> Rows:
    if not isinstance(tensors, list) or not tensors:
        raise Refused(400, 'the body needs "inputs": a list of tensors.')
    known = {column.name: column for column in contract.inputs}
    columns: dict[str, np.ndarray] = {}
    n = -1
    for tensor in tensors:
        name = _name(tensor, set(known), "inputs")
        if name in columns:
            raise Refused(400, f"the input {name!r} is given twice.")
        rows = _rows(tensor, name)
        if rows > max_rows:
            raise too_many_rows(rows, max_rows)
        if n not in (-1, rows):
            raise Refused(400, f"the input {name!r} has {rows} rows, those before it have {n}.")
        n = rows
        columns[name], binary = _tensor(tensor, known[name], n, binary)
    if binary:
        raise Refused(400, f"{len(binary)} bytes follow the last tensor.")
    for column in contract.inputs:
        if column.name not in columns:
            if not column.nullable:
                raise Refused(400, f"the input {column.name!r} is missing.")
            columns[column.name] = _all_missing(column, n)
    return Rows(n, columns)


def _split(raw: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return raw, memoryview(b"")
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
        raise Refused(400, "Inference-Header-Content-Length is no length.")
    length = int(header_length)
    if length > len(raw):
        raise Refused(400, f"Inference-Header-Content-Length is {length}, the body has {len(raw)} bytes.")
    return raw[:length], memoryview(raw)[length:]


def _name(tensor: Any, known: set[str], where: str) -> str:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise Refused(400, f"every entry of {where} is an object with a name.")
    name: str = tensor["name"]
    if name not in known:
        raise Refused(400, f"{name[:80]!r} is not among the {where} of this model.{did_you_mean(name, known)}")
    return name


def _rows(tensor: dict[str, Any], name: str) -> int:
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or any(type(size) is not int for size in shape)
        or shape[1:] not in ([], [1])
    ):
        raise Refused(400, f"the input {name!r} needs the shape [rows] or [rows, 1].")
    if shape[0] < 1:
        raise Refused(400, f"the input {name!r} has the shape {shape}: it holds no row.")
    return int(shape[0])


def _tensor(tensor: dict[str, Any], column: Column, n: int, binary: memoryview) -> tuple[np.ndarray, memoryview]:
    """The column's values, and what is left of the binary part."""
    kind = tensor.get("datatype")
    texts = column.tensor == "string"
    allowed = {"BYTES"} if texts else set(NUMBERS)
    if not isinstance(kind, str) or kind not in allowed:
        raise Refused(
            400,
            f"the input {column.name!r} has the datatype {str(kind)[:20]!r}; it takes {', '.join(sorted(allowed))}.",
        )
    parameters = tensor.get("parameters") or {}
    if not isinstance(parameters, dict) or any(key.startswith("shared_memory") for key in parameters):
        raise Refused(
            400, f"the parameters of the input {column.name!r} are not understood; shared memory is not offered."
        )
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if type(size) is not int or not 0 <= size <= len(binary) or "data" in tensor:
            raise Refused(400, f"the input {column.name!r} has a binary_data_size that does not fit its data.")
        part, binary = binary[:size], binary[size:]
        array = _texts_from_bytes(part, n, column.name) if texts else _numbers_from_bytes(part, n, column.name, kind)
    else:
        array = _from_json(tensor.get("data"), column, n, kind)
    if texts:  # a blank is a missing value
        array = _objects([MISSING if blank(text) else text for text in array.tolist()], n, column.name)
    _refuse_missing(array, column)
    if column.kind == "datetime" and (row := beyond(array)) is not None:
        raise Refused(400, f"the input {column.name!r} lies beyond the years 1 to 9999 in row {row}.")
    return (text_array(array.tolist()) if column.kind == "text" else array), binary


def _numbers_from_bytes(part: memoryview, n: int, name: str, kind: str) -> np.ndarray:
    dtype = NUMBERS[kind]
    if len(part) != n * dtype.itemsize:
        raise Refused(400, f"the input {name!r} has {len(part)} bytes; {n} {kind} values are {n * dtype.itemsize}.")
    if kind == "BOOL":
        return np.asarray(np.frombuffer(part, dtype=np.uint8) != 0, dtype=np.float64)
    if kind == "BF16":
        return np.asarray((np.frombuffer(part, dtype=dtype).astype("<u4") << 16).view("<f4"), dtype=np.float64)
    return np.asarray(np.frombuffer(part, dtype=dtype), dtype=np.float64)


def _texts_from_bytes(part: memoryview, n: int, name: str) -> np.ndarray:
    raw = bytes(part)
    texts: list[str] = []
    position = 0
    try:
        while position < len(raw) and len(texts) <= n:
            (length,) = struct.unpack_from("<I", raw, position)
            position += 4
            if length > len(raw) - position:
                raise Refused(400, f"the input {name!r} has a text that is longer than its data.")
            texts.append(raw[position : position + length].decode())
            position += length
    except struct.error:
        raise Refused(400, f"the input {name!r} ends inside a length.") from None
    except UnicodeDecodeError:
        raise Refused(400, f"the input {name!r} has a text that is not UTF-8.") from None
    return _objects(texts, n, name)


def _from_json(data: Any, column: Column, n: int, kind: str) -> np.ndarray:
    if not isinstance(data, list):
        raise Refused(400, f"the input {column.name!r} needs its data as a list.")
    if data and all(type(part) is list and len(part) == 1 for part in data):
        data = [part[0] for part in data]
    if kind == "BYTES":
        if not set(map(type, data)) <= {str, type(None)}:
            raise Refused(400, f"the data of the input {column.name!r} are not all texts.")
        return _objects([MISSING if value is None else value for value in data], n, column.name)
    wanted: set[type] = {bool} if kind == "BOOL" else {int, float} if kind in LARGEST else {int}
    if not set(map(type, data)) <= wanted | {type(None)}:
        raise Refused(400, f"the data of the input {column.name!r} are not all {kind} values.")
    if len(data) != n:
        raise Refused(400, f"the input {column.name!r} has {len(data)} values; its shape says {n}.")
    array = np.array([np.nan if value is None else value for value in data], dtype=np.float64)
    if kind != "BOOL" and not _fit(data, array, kind):
        raise Refused(400, f"the data of the input {column.name!r} do not all fit {kind}.")
    return array


def _fit(data: list[Any], array: np.ndarray, kind: str) -> bool:
    """Whether a datatype has all of ``data``, which ``array`` holds as float64."""
    if kind in LARGEST:  # what is infinite is refused with its place
        return not np.any((np.abs(array) > LARGEST[kind]) & np.isfinite(array))
    limits, whole = np.iinfo(NUMBERS[kind]), [value for value in data if value is not None]
    return not whole or (min(whole) >= limits.min and max(whole) <= limits.max)


def _objects(texts: list[str], n: int, name: str) -> np.ndarray:
    if len(texts) != n:
        raise Refused(400, f"the input {name!r} does not have the {n} values that its shape says.")
    array = np.empty(n, dtype=object)
    array[:] = texts
    return array


def _refuse_missing(array: np.ndarray, column: Column) -> None:
    if column.tensor != "string" and np.isinf(array).any():
        raise Refused(400, f"the input {column.name!r} has an infinite value in row {int(np.isinf(array).argmax())}.")
    missing = array == MISSING if column.tensor == "string" else np.isnan(array)
    if not column.nullable and missing.any():
        raise Refused(
            400,
            f"the input {column.name!r} is missing in row {int(missing.argmax())}; this column always needs a value.",
        )


def _all_missing(column: Column, n: int) -> np.ndarray:
    if column.tensor == "string":
        return _objects([MISSING if column.kind == "categorical" else ""] * n, n, column.name)
    return np.full(n, np.nan)


def wanted(body: dict[str, Any], contract: Contract) -> tuple[tuple[str, bool], ...]:
    """The outputs that a body asks for, each with whether its data goes in the binary part; unless told, all.

    Raises:
        Refused: 400.
    """
    known = list(contract.outputs())
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise Refused(400, "parameters is no object.")
    as_binary = _flag(parameters, "binary_data_output", default=False)
    asked = body.get("outputs")
    if asked is None or asked == []:
        return tuple((name, as_binary) for name in known)
    if not isinstance(asked, list):
        raise Refused(400, "outputs is no list.")
    wanted: dict[str, bool] = {}
    for output in asked:
        name = _name(output, set(known), "outputs")
        if name in wanted:
            raise Refused(400, f"the output {name!r} is asked for twice.")
        options = output.get("parameters") or {}
        if not isinstance(options, dict) or options.keys() & {"classification", "shared_memory_region"}:
            raise Refused(400, f"the parameters of the output {name!r} are not understood.")
        wanted[name] = _flag(options, "binary_data", default=as_binary)
    return tuple(wanted.items())


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refused(400, f"the parameter {name} is neither true nor false.")
    return value


def to_bytes(array: np.ndarray) -> bytes:
    """An output's values as the protocol has them in bytes; before each text stands its length."""
    if array.dtype != object:
        return np.ascontiguousarray(array).tobytes()
    texts = [value.encode() for value in array.ravel()]
    return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))
