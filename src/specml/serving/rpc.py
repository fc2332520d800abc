"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService`` in front of the same ``Service`` as HTTP.

Each call is admitted as the request of its path over HTTP would be (``ModelInfer`` as ``POST /v2/models/NAME/infer``),
with the call's metadata as its headers, and answered by the same code; a refusal's HTTP status becomes one of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import orjson

from specml.errors import DeployFailed
from specml.serving.answer import refuse_not_finite
from specml.serving.infer import LARGEST, NUMBERS, Infer, datatype, requested, to_bytes
from specml.serving.messages import SERVICE, message
from specml.serving.refusal import Refused
from specml.serving.request import most_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import grpc

    from specml.bundle import Contract
    from specml.serving.routes import Reply
    from specml.serving.service import Service

GRACE = 5.0
"""Seconds that calls in flight have when the server stops."""

CONNECTION = 5.0
"""Seconds, within a tenth, after which a client is asked, between two calls, to connect anew: connections spread over
replicas that came later, and leave one that goes. No call fails by it, and it takes a client a millisecond or two."""

LEAVING = 1.1 * CONNECTION + 0.5
"""Seconds until nobody is connected to a server that takes no new connections."""

SCANNED = 65_536
"""Bytes from which a message's values are counted before it is parsed; smaller ones can't hold many."""

STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The status of gRPC for an HTTP status."""

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Which field of ``InferTensorContents`` holds the values of a datatype; FP16 and BF16 have none."""


class Rpc:
    """A gRPC server in front of a service; several processes may listen at one port, and share its connections.

    One in each process: it ends all that the process has at the port.

    Args:
        host: the address to listen at.
        port: 0 for any free one.
        calls: most calls at a time; beyond, RESOURCE_EXHAUSTED.
        max_body: as that of the service.
    """

    def __init__(self, service: Service, *, host: str, port: int, calls: int, max_body: int) -> None:
        self._service, self._host, self.port, self._calls = service, host, port, calls
        self._max_body = max_body
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen, if this one doesn't yet.

        Raises:
            DeployFailed: somebody else does.
        """
        if self._server is not None:
            return
        import grpc

        options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", self._max_body),
            # What is compressed could be far larger than it looks.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.max_connection_age_ms", int(1000 * CONNECTION)),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=self._calls)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(partial(self._answer, answer)) for name, answer in self._answers()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            await self._server.stop(None)
            raise DeployFailed(f"{address} can't be listened at.", where="serving.grpc.port") from None
        await self._server.start()

    async def stop(self) -> None:
        """Take no more connections, wait until clients have gone to others, and let what is left finish.

        gRPC's own way would fail calls: those that are sent before their client has heard of the end are dropped, and
        end in CANCELLED, which no client tries again. A connection that is being made in the moment when the listener
        closes is refused: UNAVAILABLE, which clients that wait to be ready try again.
        """
        if self._server is None:
            return
        until = time.monotonic() + LEAVING
        try:
            await asyncio.to_thread(self._close)
            while await asyncio.to_thread(self._connected) and time.monotonic() < until:
                await asyncio.sleep(0.1)
        finally:
            await self._server.stop(GRACE)

    def _close(self) -> None:
        """Stop listening, so that the kernel gives new connections to others at this port; gRPC can't without stopping.

        It says "Closing acceptor" in the log.
        """
        for one in self._sockets(listening=True):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(one)) as listener:
                listener.shutdown(socket.SHUT_RD)

    def _connected(self) -> bool:
        return bool(self._sockets(listening=False))

    def _sockets(self, *, listening: bool) -> list[int]:
        """The descriptors of this process's sockets at the port, those that listen or those that are connected."""
        import psutil

        found = psutil.Process().net_connections("tcp")
        kind = psutil.CONN_LISTEN if listening else psutil.CONN_ESTABLISHED
        return [one.fd for one in found if one.laddr and one.laddr.port == self.port and one.status == kind]

    def _answers(self) -> Iterator[tuple[str, Callable[[bytes, dict[str, str]], Any]]]:
        yield "ServerLive", partial(self._told, "ServerLive", lambda _: "/v2/health/live")
        yield "ServerReady", partial(self._ready, "ServerReady", lambda _: "/v2/health/ready")
        yield "ModelReady", partial(self._ready, "ModelReady", lambda asked: f"{_model(asked)}/ready")
        yield "ServerMetadata", partial(self._told, "ServerMetadata", lambda _: "/v2")
        yield "ModelMetadata", partial(self._told, "ModelMetadata", _model)
        yield "ModelInfer", self._infer

    async def _answer(self, answer: Callable[..., Any], raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """The answer of one call; a refusal becomes its status."""
        headers = {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        headers = {"content-type": "application/octet-stream", **_passed(headers)}
        try:
            reply: Reply = await answer(raw, headers)
        except Refused as refusal:
            reply = self._service.refuse(refusal)
        if reply.status == 200:
            return reply.body
        import grpc

        context.set_code(grpc.StatusCode[STATUS.get(reply.status, "UNKNOWN")])
        context.set_details(orjson.loads(reply.body)["error"])
        if seconds := reply.headers.get("retry-after", ""):
            context.set_trailing_metadata((("retry-after", seconds), ("grpc-retry-pushback-ms", f"{seconds}000")))
        return b""

    async def _told(
        self, name: str, path: Callable[[Any], str], raw: bytes, headers: dict[str, str], **more: Any
    ) -> Reply:
        """The reply of a path over HTTP as the message of the call ``name``."""
        from specml.serving.routes import Reply

        asked = _parsed(f"{name}Request", raw)
        route = self._service.admit("GET", path(asked), headers)
        reply = await self._service.answer(route, b"", headers)
        if reply.status != 200:
            return reply
        answer = message(f"{name}Response")
        told = orjson.loads(reply.body)
        known = {field.name for field in answer.DESCRIPTOR.fields}
        return Reply(200, answer(**{key: value for key, value in told.items() if key in known}).SerializeToString())

    async def _ready(self, name: str, path: Callable[[Any], str], raw: bytes, headers: dict[str, str]) -> Reply:
        """Whether it is: a replica that goes down is not, which is an answer and no error."""
        from specml.serving.routes import Reply

        try:
            return await self._told(name, path, raw, headers)
        except Refused as refusal:
            if refusal.http != 503:
                raise
        return Reply(200, message(f"{name}Response")(ready=False).SerializeToString())

    async def _infer(self, raw: bytes, headers: dict[str, str]) -> Reply:
        service = self._service
        # Who may not ask is told so before a byte is read.
        service.admit("POST", f"/v2/models/{service.contract.name}/infer", headers)
        typed = False

        def read(body: bytes, _: Mapping[str, str]) -> Infer:
            nonlocal typed
            asked = read_message(body, service.contract, service.max_rows)
            service.route(f"{_model(asked, 'model_')}/infer")
            typed = not asked.raw_input_contents
            return infer_of(asked, service.contract, service.max_rows)

        def write(request: Infer, outputs: Mapping[str, np.ndarray], **told: Any) -> tuple[bytes, dict[str, str]]:
            return write_message(request, outputs, typed=typed, **told), {}

        return await service.answer(service.inferring(f"/{SERVICE}/ModelInfer", read, write), raw, headers)


def read_message(raw: bytes, contract: Contract, max_rows: int) -> Any:
    """A ``ModelInferRequest``.

    Raises:
        Refused: 400 for what is none, 413 for one of far more values than so many rows have.
    """
    most = most_values(contract, max_rows)
    if len(raw) > SCANNED and _more_values(memoryview(raw), message("ModelInferRequest").DESCRIPTOR, most):
        raise Refused(413, f"the message holds more than {most} values. Send the rows in parts.")
    return _parsed("ModelInferRequest", raw)


def infer_of(asked: Any, contract: Contract, max_rows: int) -> Infer:
    """What a ``ModelInferRequest`` asks for.

    Raises:
        Refused: as ``infer.read_infer``.
    """
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise Refused(400, f"there are {len(asked.inputs)} inputs and {len(raw)} raw_input_contents.")
    if raw:
        inputs = [_raw(one, part) for one, part in zip(asked.inputs, raw, strict=True)]
    else:
        inputs = [_typed(one, max_rows) for one in asked.inputs]
    body = {
        "id": asked.id or None,
        "parameters": _parameters(asked.parameters),
        "inputs": inputs,
        "outputs": [{"name": one.name, "parameters": _parameters(one.parameters)} for one in asked.outputs],
    }
    return requested(body, memoryview(b"".join(raw)), contract, max_rows)


def write_message(
    request: Infer,
    outputs: Mapping[str, np.ndarray],
    *,
    typed: bool,
    model: str,
    version: str,
    identity: str,
    notice: dict[str, str],
) -> bytes:
    """The ``ModelInferResponse``, with typed contents or raw ones; else as ``infer.write_infer``.

    Raises:
        Refused: 422; a row has no finite answer.
    """
    refuse_not_finite(outputs)
    answer: Any = message("ModelInferResponse")(
        model_name=model, model_version=version, id=identity if request.id is None else request.id
    )
    for name, text in notice.items():
        answer.parameters[name].string_param = text
    for name, _ in request.outputs:
        array = outputs[name]
        told = answer.outputs.add(name=name, datatype=datatype(array), shape=array.shape)
        if not typed:
            answer.raw_output_contents.append(to_bytes(array))
        elif array.dtype == object:
            told.contents.bytes_contents.extend(text.encode() for text in array.ravel())
        else:
            getattr(told.contents, CONTENTS[told.datatype]).extend(array.ravel().tolist())
    raw: bytes = answer.SerializeToString()
    return raw


def _parsed(name: str, raw: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message(name).FromString(raw)
    except DecodeError:
        pass
    raise Refused(400, f"the message is no {name}.")


def _passed(metadata: dict[str, str]) -> dict[str, str]:
    """Of a call's metadata what HTTP has, too."""
    return {name: metadata[name] for name in ("authorization", "x-request-id") if name in metadata}


def _model(asked: Any, prefix: str = "") -> str:
    """The path of the model that a message names."""
    name, version = getattr(asked, f"{prefix}name"), getattr(asked, f"{prefix}version")
    return f"/v2/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _raw(tensor: Any, part: bytes) -> dict[str, Any]:
    if tensor.HasField("contents"):
        raise Refused(400, f"the input {tensor.name[:80]!r} has contents beside raw_input_contents.")
    return _told_of(tensor, {**_parameters(tensor.parameters), "binary_data_size": len(part)})


def _typed(tensor: Any, max_rows: int) -> dict[str, Any]:
    """A tensor with its values as JSON would have them."""
    body = _told_of(tensor, _parameters(tensor.parameters))
    known, name = {*NUMBERS, *LARGEST, "BYTES"}, tensor.name[:80]
    if tensor.datatype not in known:
        return {**body, "data": []}  # refused by its datatype
    if tensor.datatype not in CONTENTS:
        raise Refused(400, f"the input {name!r} has the datatype {tensor.datatype}, which raw_input_contents holds.")
    filled = [(field.name, values) for field, values in tensor.contents.ListFields()]
    if [field for field, _ in filled] != [CONTENTS[tensor.datatype]]:
        raise Refused(400, f"the input {name!r} needs its values in contents.{CONTENTS[tensor.datatype]} alone.")
    ((_, values),) = filled
    if len(values) > max_rows:  # no list is made of what is refused anyway
        raise Refused(400, f"the input {name!r} has {len(values)} values; its shape can't say so many.")
    return {**body, "data": _texts(values, name) if tensor.datatype == "BYTES" else list(values)}


def _told_of(tensor: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape[:3]),
        "parameters": parameters,
    }


def _texts(values: Any, name: str) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        pass
    raise Refused(400, f"the input {name!r} has a text that is not UTF-8.")


def _parameters(given: Any) -> dict[str, Any]:
    return {name: getattr(one, one.WhichOneof("parameter_choice") or "bool_param") for name, one in given.items()}


def _more_values(raw: memoryview, kind: Any, most: int) -> bool:
    """Whether a message of a kind holds more than ``most`` fields and values, in it and the messages within.

    Each costs some hundred bytes once it is parsed, and takes two here. Where the bytes are no message, the count ends.
    """
    waiting, count = [(raw, kind)], 0
    while waiting and count <= most:
        part, of = waiting.pop()
        for field, content in _fields(part):
            inner = of.fields_by_number.get(field)
            count += 1
            if content is not None and inner is not None:
                if inner.message_type is not None:
                    waiting.append((content, inner.message_type))
                elif inner.is_packed:
                    count += _packed(inner, content)
            if count > most:
                break
    return count > most


def _packed(field: Any, content: memoryview) -> int:
    """How many numbers stand one after the other: those without a fixed size end in a byte below 0x80."""
    size = {field.TYPE_DOUBLE: 8, field.TYPE_FLOAT: 4}.get(field.type)
    return len(content) // size if size else int(np.count_nonzero(np.frombuffer(content, np.uint8) < 0x80))


def _fields(raw: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """The fields of a message on the wire: number, and the content of those that have a length."""
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        size = {0: 0, 1: 8, 5: 4, 3: 0, 4: 0}.get(key & 7)
        if key & 7 == 0:
            _, place = _varint(raw, place)
        if key & 7 == 2:
            size, place = _varint(raw, place)
        if size is None or size > len(raw) - place:
            return
        yield key >> 3, raw[place : place + size] if key & 7 == 2 else None
        place += size


def _varint(raw: memoryview, place: int) -> tuple[int, int]:
    """A number and where it ends; past the end of the bytes it is one that fits nowhere."""
    value = shift = 0
    while place < len(raw) and shift < 70:
        byte = raw[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    return 1 << 70, len(raw)
