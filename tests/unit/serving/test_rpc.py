"""gRPC, asked by Triton's client as it is and by calls made by hand, of one replica in a process of its own."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from specml.errors import DeployFailed
from specml.serving.app import Args
from specml.serving.auth import salted
from specml.serving.messages import FIELDS, PACKAGE, SERVICE, message
from specml.serving.rpc import Rpc
from tests.bundles import probability
from tests.malformed import GOOD
from tests.servers import alone, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PEOPLE = [
    {"age": 25.0, "hours": 40.0, "member": 0.0, "workclass": "Private"},
    {"age": 61.0, "hours": None, "member": 1.0, "workclass": "Ünknown"},
]
KINDS = {"age": "FP64", "hours": "FP64", "member": "FP64", "workclass": "BYTES"}
NOTICE = {"contest": "office@example.org"}


class Served:
    """A replica that answers gRPC."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.url, self.process = f"127.0.0.1:{port}", process
        self.call("ServerLive", {}, wait_for_ready=True)

    def call(self, name: str, asked: Any, /, **more: Any) -> Any:
        """One call; ``asked`` is a message's fields, or raw bytes."""
        raw = asked if isinstance(asked, bytes) else message(f"{name}Request")(**asked).SerializeToString()
        with grpc.insecure_channel(self.url, options=[("grpc.max_send_message_length", -1)]) as channel:
            answer = channel.unary_unary(f"/{SERVICE}/{name}")(raw, timeout=10, **more)
        return message(f"{name}Response").FromString(answer)

    def refused(self, name: str, asked: Any, /, **more: Any) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(name, asked, **more)
        return caught.value


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    port = free_port()
    with alone(bundle, max_rows=50, max_body=10_000, grpc={"port": port}, notice=NOTICE) as (_, process):
        yield Served(port, process)


@pytest.fixture(scope="module")
def guarded(bundle: Path) -> Iterator[Served]:
    digest = f"salt${salted('a-token-of-a-test', 'salt')}"
    port, auth = free_port(), {"keys": {"web": {"env": "NOT_SET", "digests": [digest]}}}
    with alone(bundle, grpc={"port": port}, auth=auth) as (_, process):
        yield Served(port, process)


def test_the_messages_are_those_of_the_protocol() -> None:
    """As Triton has them, which adds messages of its own but changes none."""
    theirs = service_pb2.DESCRIPTOR
    for path in FIELDS:
        outer, _, name = path.rpartition(".")
        found = theirs.message_types_by_name[outer or name]
        found = found.nested_types_by_name[name] if outer else found
        ours = message(path).DESCRIPTOR

        def told(one: Any) -> set[Any]:
            return {
                (
                    *(field.name, field.number, field.type, field.is_repeated, field.is_packed),
                    field.message_type and field.message_type.full_name,
                    field.containing_oneof and field.containing_oneof.name,
                )
                for field in one.fields
            }

        assert told(ours) == told(found), path
    methods = theirs.services_by_name["GRPCInferenceService"].methods_by_name
    assert f"{PACKAGE}.GRPCInferenceService" == SERVICE
    assert {path.removesuffix("Request") for path in FIELDS if path.endswith("Request")} <= set(methods)


def test_tritonclient_reads_the_metadata_and_infers(served: Served) -> None:
    client = triton.InferenceServerClient(served.url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("census")
    server = client.get_server_metadata()
    assert (server.name, list(server.extensions)) == ("specml", ["binary_tensor_data"])
    told = client.get_model_metadata("census", as_json=True)
    assert [(one["name"], one["datatype"], one["shape"]) for one in told["inputs"]] == [
        (name, kind, ["-1", "1"]) for name, kind in KINDS.items()
    ]
    version = told["versions"][0]
    assert client.is_model_ready("census", version)
    inputs = []
    for name, kind in KINDS.items():
        values = [[np.nan if row[name] is None else row[name]] for row in PEOPLE]
        tensor = triton.InferInput(name, [2, 1], kind)
        tensor.set_data_from_numpy(np.array(values, dtype=np.float64 if kind == "FP64" else object))
        inputs.append(tensor)
    wanted = [triton.InferRequestedOutput(name) for name in ("label", "probabilities")]
    answer = client.infer("census", inputs, outputs=wanted, request_id="seven", model_version=version)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "census", version)
    assert response.parameters["contest"].string_param == NOTICE["contest"]
    assert [one.name for one in response.outputs] == ["label", "probabilities"]
    expected = [probability({**row, "hours": row["hours"] or 0.0}) for row in PEOPLE]
    np.testing.assert_allclose(answer.as_numpy("probabilities")[:, 1], expected, rtol=1e-5)
    assert answer.as_numpy("label").tolist() == [b"1", b"1"]
    with pytest.raises(InferenceServerException, match="there is no model 'other'") as caught:
        client.infer("other", inputs)
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    client.close()


def test_the_examples_of_the_documentation_work(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = (Path(__file__).parents[3] / "docs/serving.md").read_text()
    section = told.partition("## The Open Inference Protocol")[2].partition("\n## ")[0]
    examples = [one.partition("```")[0] for one in section.split("```python\n")[1:]]
    assert len(examples) == 2
    grpc_port = free_port()
    with alone(bundle, grpc={"port": grpc_port}) as (http_port, process):
        Served(grpc_port, process)
        for example in examples:
            exec(example.replace(":8000", f":{http_port}").replace(":8001", f":{grpc_port}"), {})
    expected = [probability({"age": 39, "member": True}), probability({"age": 61, "member": False})]
    for line in capsys.readouterr().out.splitlines():
        assert [float(one) for one in line.rpartition("[")[2].strip("]").split()] == pytest.approx(expected, rel=1e-5)


def typed(**changes: Any) -> dict[str, Any]:
    """A valid request with typed contents; ``age`` replaced by what is given."""
    age = {"name": "age", "shape": [1, 1], "datatype": "FP64", "contents": {"fp64_contents": [50.0]}, **changes}
    return {
        "model_name": "census",
        "inputs": [
            age,
            {"name": "hours", "shape": [1], "datatype": "FP32", "contents": {"fp32_contents": [10.5]}},
            {"name": "member", "shape": [1, 1], "datatype": "BOOL", "contents": {"bool_contents": [False]}},
            {"name": "workclass", "shape": [1], "datatype": "BYTES", "contents": {"bytes_contents": [b"Private"]}},
        ],
    }


def raw(**changes: Any) -> dict[str, Any]:
    """The same with raw contents; parts of the request replaced by what is given."""
    inputs = [{key: value for key, value in one.items() if key != "contents"} for one in typed()["inputs"]]
    parts = [struct.pack("<d", 50.0), struct.pack("<f", 10.5), b"\0", struct.pack("<I", 7) + b"Private"]
    return {"model_name": "census", "inputs": inputs, "raw_input_contents": parts, **changes}


NUMBERS = [
    *(("INT8", "int_contents"), ("INT16", "int_contents"), ("INT32", "int_contents"), ("INT64", "int64_contents")),
    *(("UINT8", "uint_contents"), ("UINT32", "uint_contents"), ("UINT64", "uint64_contents")),
    *(("FP32", "fp32_contents"), ("FP64", "fp64_contents")),
]


@pytest.mark.parametrize(("kind", "contents"), NUMBERS)
def test_typed_contents_are_answered_with_typed_contents(kind: str, contents: str, served: Served) -> None:
    answer = served.call("ModelInfer", typed(datatype=kind, contents={contents: [50]}))
    probabilities, label = answer.outputs
    assert list(probabilities.shape) == [1, 2]
    assert probabilities.contents.fp32_contents[1] == pytest.approx(probability(GOOD), rel=1e-5)
    assert list(label.contents.bytes_contents) == [b"1"]
    assert not answer.raw_output_contents


def test_raw_contents_are_answered_with_raw_contents(served: Served) -> None:
    answer = served.call("ModelInfer", raw(id="é", outputs=[{"name": "probabilities"}]))
    assert (answer.id, len(answer.outputs)) == ("é", 1)
    (part,) = answer.raw_output_contents
    assert np.frombuffer(part, "<f4")[1] == pytest.approx(probability(GOOD), rel=1e-5)
    assert not answer.outputs[0].HasField("contents")


def test_a_call_is_named_by_its_metadata(served: Served) -> None:
    assert served.call("ModelInfer", raw(), metadata=[("x-request-id", "row-9")]).id == "row-9"


INPUTS, PARTS = raw()["inputs"], raw()["raw_input_contents"]
EMPTY = {"name": "age", "shape": [1, 1], "datatype": "FP64"}
MALFORMED: dict[str, tuple[Any, str, str]] = {
    "no message": (b"\xff\xff\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
    "JSON": (b'{"inputs": []}', "INVALID_ARGUMENT", "no ModelInferRequest"),
    "text no UTF-8": (b"\x0a\x01\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
    "nothing": (b"", "NOT_FOUND", "no model ''"),
    "no inputs": ({"model_name": "census"}, "INVALID_ARGUMENT", "inputs"),
    "no model": (raw(model_name="other"), "NOT_FOUND", "no model 'other'"),
    "traversal": (raw(model_name="../census"), "NOT_FOUND", "no model"),
    "a path as a model": (raw(model_name="census/versions/1"), "NOT_FOUND", "no model"),
    "no version": (raw(model_version="1"), "NOT_FOUND", "no version '1'"),
    "unknown input": (typed(name="agee"), "INVALID_ARGUMENT", "Did you mean 'age'?"),
    "input twice": (raw(inputs=[INPUTS[0], *INPUTS[:3]]), "INVALID_ARGUMENT", "twice"),
    "missing input": (raw(inputs=INPUTS[:2], raw_input_contents=PARTS[:2]),
                      "INVALID_ARGUMENT", "'member' is missing"),
    "fewer parts than inputs": (raw(raw_input_contents=[b""]), "INVALID_ARGUMENT", "raw_input_contents"),
    "more parts than inputs": (raw(raw_input_contents=[b""] * 5), "INVALID_ARGUMENT", "raw_input_contents"),
    "too few bytes": (raw(raw_input_contents=[b"\0" * 7, *PARTS[1:]]), "INVALID_ARGUMENT", "bytes"),
    "raw and typed": (raw(inputs=typed()["inputs"]), "INVALID_ARGUMENT", "beside raw_input_contents"),
    "no contents": ({**typed(), "inputs": [EMPTY]}, "INVALID_ARGUMENT", "fp64_contents"),
    "contents of another type": (typed(contents={"fp32_contents": [1]}), "INVALID_ARGUMENT", "fp64_contents"),
    "contents of two types": (
        typed(contents={"fp64_contents": [1], "fp32_contents": [1]}), "INVALID_ARGUMENT", "alone"),
    "FP16 typed": (typed(datatype="FP16", contents={}), "INVALID_ARGUMENT", "raw_input_contents"),
    "strange datatype": (typed(datatype="FP8"), "INVALID_ARGUMENT", "datatype"),
    "texts for numbers": (typed(datatype="BYTES", contents={"bytes_contents": [b"5"]}), "INVALID_ARGUMENT", "datatype"),
    "300 for UINT8": (typed(datatype="UINT8", contents={"uint_contents": [300]}), "INVALID_ARGUMENT", "UINT8"),
    "infinite": (typed(contents={"fp64_contents": [float("inf")]}), "INVALID_ARGUMENT", "infinite"),
    "NaN for required": (typed(contents={"fp64_contents": [float("nan")]}), "INVALID_ARGUMENT", "missing in row 0"),
    "too many values": (typed(contents={"fp64_contents": [1, 2]}), "INVALID_ARGUMENT", "values"),
    "many too many values": (typed(contents={"fp64_contents": [1] * 100}), "INVALID_ARGUMENT", "values"),
    "no shape": (typed(shape=[]), "INVALID_ARGUMENT", "shape"),
    "rank 3": (typed(shape=[1, 1, 1]), "INVALID_ARGUMENT", "shape"),
    "negative": (typed(shape=[-1, 1]), "INVALID_ARGUMENT", "no row"),
    "2^63 - 1 rows": (typed(shape=[2**63 - 1, 1]), "RESOURCE_EXHAUSTED", "at most"),
    "2^32 * 2^32": (typed(shape=[2**32, 2**32]), "INVALID_ARGUMENT", "shape"),
    "unknown output": (raw(outputs=[{"name": "labels"}]), "INVALID_ARGUMENT", "Did you mean 'label'?"),
    "output twice": (raw(outputs=[{"name": "label"}] * 2), "INVALID_ARGUMENT", "twice"),
    "classification": (
        raw(outputs=[{"name": "label", "parameters": {"classification": {"int64_param": 2}}}]),
        "INVALID_ARGUMENT", "not understood"),
    "shared memory": (
        typed(parameters={"shared_memory_region": {"string_param": "x"}}), "INVALID_ARGUMENT", "shared memory"),
    "binary size with typed contents": (
        typed(parameters={"binary_data_size": {"int64_param": 8}}), "INVALID_ARGUMENT", "binary_data_size"),
    "parameter without a value": (
        raw(parameters={"binary_data_output": {}}) | {"inputs": []}, "INVALID_ARGUMENT", "raw_input_contents"),
    "too large": (raw(raw_input_contents=[b"\0" * 10_001] * 4), "RESOURCE_EXHAUSTED", "larger than max"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_call_is_refused_with_a_reason(case: str, served: Served) -> None:
    asked, code, told = MALFORMED[case]
    error = served.refused("ModelInfer", asked)
    assert error.code().name == code, error
    assert told in error.details()
    assert len(error.details()) < 1000


def test_what_is_not_of_the_protocol_is_told_so(served: Served) -> None:
    assert served.refused("ModelMetadata", {"name": "other"}).code() is grpc.StatusCode.NOT_FOUND
    assert served.refused("ModelReady", {"name": "census", "version": "1"}).code() is grpc.StatusCode.NOT_FOUND
    client = triton.InferenceServerClient(served.url)
    for ask in (client.get_model_repository_index, lambda: client.get_model_config("census")):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    client.close()


def test_nothing_compressed_is_unpacked(served: Served) -> None:
    before = served.process.memory_info().rss
    bomb = message("ModelInferRequest")(raw_input_contents=[b"\0" * 60_000_000]).SerializeToString()
    assert len(gzip.compress(bomb[:1_000_000])) < 10_000
    error = served.refused("ModelInfer", bomb, compression=grpc.Compression.Gzip)
    assert error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert served.process.memory_info().rss - before < 20_000_000


def test_only_who_has_the_token_is_answered(guarded: Served) -> None:
    assert guarded.call("ServerLive", {}).live
    assert guarded.call("ServerReady", {}).ready
    for name, asked in (
        ("ServerMetadata", {}),
        ("ModelMetadata", {"name": "x"}),
        ("ModelInfer", raw()),
        ("ModelInfer", b"\xff"),
    ):
        for metadata in ([], [("authorization", "Bearer another-token-of-a-test")]):
            error = guarded.refused(name, asked, metadata=metadata)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, name
            assert "authorization" in error.details().lower()
    allowed = [("authorization", "Bearer a-token-of-a-test")]
    assert guarded.call("ModelInfer", raw(), metadata=allowed).model_name == "census"
    assert guarded.refused("ModelInfer", b"\xff", metadata=allowed).code() is grpc.StatusCode.INVALID_ARGUMENT


def part(field: int, content: bytes) -> bytes:
    """A field with a length, as it is on the wire."""
    size, length = len(content), b""
    while size > 0x7F:
        size, length = size >> 7, length + bytes([size & 0x7F | 0x80])
    return bytes([field << 3 | 2]) + length + bytes([size]) + content


def test_nothing_large_is_believed(bundle: Path) -> None:
    """Megabytes of parts that take two bytes each, and hundreds once they are parsed."""
    port, n = free_port(), 800_000
    cases = {
        "inputs": part(5, b"") * n,
        "outputs": part(6, b"") * n,
        "raw parts": part(7, b"") * n,
        "parameters": b"".join(part(4, part(1, b"%06x" % key)) for key in range(150_000)),
        "sizes of a shape": part(5, part(3, b"\1" * 5 * n)),
        "flags": part(5, part(5, part(1, b"\1" * 5 * n))),
        "numbers": part(5, part(5, part(7, b"\0" * 5 * n))),
        "texts": part(5, part(5, part(8, b"") * n)),
        "unknown fields": b"\xa8\x06\x01" * n,
        "groups": b"\xab\x06" * n,
    }
    with alone(bundle, grpc={"port": port}) as (_, process):
        served = Served(port, process)
        before = process.memory_info().rss
        for name, asked in cases.items():
            error = served.refused("ModelInfer", asked)
            assert error.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), (name, error)
            assert process.memory_info().rss - before < 100_000_000, name
        assert served.call("ModelInfer", raw()).model_name == "census"


def test_a_model_going_down_is_not_ready(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    service.close()

    async def main() -> list[Any]:
        rpc = Rpc(service, host="127.0.0.1", port=0, calls=10, max_body=10_000)
        await rpc.start()
        asked = [("ServerLive", {}), ("ServerReady", {}), ("ModelReady", {"name": "census"})]
        try:
            served = await asyncio.to_thread(Served, rpc.port, psutil.Process())
            answers = [await asyncio.to_thread(served.call, *one) for one in asked]
            error = await asyncio.to_thread(served.refused, "ModelInfer", raw())
        finally:
            await rpc.stop()
        return [answers[0].live, answers[1].ready, answers[2].ready, error.code().name, dict(error.trailing_metadata())]

    *found, trailing = asyncio.run(main())
    assert found == [True, False, False, "UNAVAILABLE"]
    assert (trailing["retry-after"], trailing["grpc-retry-pushback-ms"]) == ("1", "1000")


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    import asyncio

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        args = Args.model_validate({"bundle": str(bundle), "grpc": {"port": taken.getsockname()[1]}})
        service = args.service("r1")
        rpc = args.rpc(service)
        assert rpc is not None
        with pytest.raises(DeployFailed, match="can't be listened at"):
            asyncio.run(rpc.start())
        service.close()


def test_no_call_fails_when_one_of_two_servers_at_a_port_stops(
    served: Served, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that call all the while are led to the other one before it ends."""
    monkeypatch.setattr("specml.serving.rpc.CONNECTION", 0.5)
    service = Args(bundle=str(bundle)).service("r1")
    stopped, failures, answered = threading.Event(), list[str](), Counter[int]()

    def calling(number: int) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(served.url, options=own) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ServerLive")
            while not stopped.wait(0.001):
                try:
                    call(b"", timeout=10)
                    answered[number] += 1
                except grpc.RpcError as error:
                    failures.append(str(error))

    answer, mine = service.answer, Counter[str]()

    async def counted(route: Any, *of: Any) -> Any:
        mine[route.name] += 1
        return await answer(route, *of)

    monkeypatch.setattr(service, "answer", counted)

    async def main(pool: ThreadPoolExecutor) -> None:
        port = int(served.url.rpartition(":")[2])
        rpc = Rpc(service, host="127.0.0.1", port=port, calls=10, max_body=10_000)
        await rpc.start()
        try:
            for number in range(8):
                pool.submit(calling, number)
            await asyncio.sleep(0.5)
            await rpc.stop()
            before = answered.total()
            await asyncio.sleep(0.2)
            assert answered.total() > before
        finally:
            stopped.set()

    with ThreadPoolExecutor(8) as pool:
        asyncio.run(main(pool))
    service.close()
    assert failures == []
    assert 0 < mine.total() < answered.total()
    assert min(answered[number] for number in range(8)) > 50
