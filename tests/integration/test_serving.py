"""The real thing: Ray Serve and HAProxy started by `specml deploy`, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from specml import ledger
from specml.cli import exit_status
from tests import faults, malformed
from tests.bundles import binary_bundle, probability, release
from tests.conftest import ROOT, specml
from tests.malformed import GOOD, rows
from tests.servers import certificate
from tests.transports import Running, request, running
from tests.unit.serving.test_transports import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.serve, pytest.mark.slow]

SPEC = """\
name: census
problem: {{task: binary, target: income}}
data: {{sources: {{people: {{type: csv, path: people.csv}}}}}}
candidates: {{line: logistic_regression}}
serving: {serving}
deployment: {{target: {{type: local, port: {port}{more}}}}}
"""

TOKENS = "a-first-long-token-of-a-test,another-long-token-of-a-test"
WEB = "a-key-that-only-predicts"


@dataclass
class Live:
    """A project whose bundle is live."""

    folder: Path
    port: int
    told: str
    """What `specml deploy` printed."""
    grpc: int = 0
    """The port of gRPC, where it is answered."""

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / ".specml/serving.json").read_text())
        return found

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        told = {"content-type": "application/json"} if headers is None else headers
        connection.request(method, path, body, told, encode_chunked=not isinstance(body, (bytes, type(None))))
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        kind = answer.headers.get("content-type", "")
        return answer.status, json.loads(raw) if kind.startswith("application/json") else raw, answer.headers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def project(folder: Path, serving: str = "{max_rows: 50, max_body: 10000}", more: str = "") -> Live:
    folder.mkdir()
    port = free_port()
    (folder / "spec.yaml").write_text(SPEC.format(port=port, serving=serving, more=more))
    binary_bundle(folder / "artifacts/bundle")
    release(folder)
    return Live(folder, port, "")


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SPECML_SERVING") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    grpc = free_port()
    serving = f"{{max_rows: 50, max_body: 10000, grpc: {{port: {grpc}}}}}"
    made = project(tmp_path_factory.mktemp("live") / "census", serving)
    made.grpc = grpc
    try:
        made.told = specml("deploy", folder=made.folder).stdout
        yield made
    finally:
        specml("stop", folder=made.folder)


@pytest.fixture(scope="module")
def guarded(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A second project, live at the same time, that wants keys and speaks TLS to the outside."""
    web = '{token: "${secret:CENSUS_WEB}", scopes: [predict]}'
    serving = f'{{replicas: {{min: 1, max: 1}}, auth: {{tokens: "${{secret:CENSUS_TOKENS}}", keys: {{web: {web}}}}}}}'
    tls = f", host: 0.0.0.0, tls: {{certificate: localhost.pem, port: {free_port()}}}"
    made = project(tmp_path_factory.mktemp("guarded") / "census", serving, tls)
    certificate(made.folder, "localhost")
    try:
        made.told = specml("deploy", folder=made.folder, CENSUS_TOKENS=TOKENS, CENSUS_WEB=WEB).stdout
        yield made
    finally:
        specml("stop", folder=made.folder)


def test_tritonclient_reads_the_metadata_and_infers(live: Live) -> None:
    from tritonclient import http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{live.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("census")
    told = client.get_model_metadata("census")
    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in told["inputs"]] == [
        ("age", "FP64", [-1, 1]),
        ("hours", "FP64", [-1, 1]),
        ("member", "FP64", [-1, 1]),
        ("workclass", "BYTES", [-1, 1]),
    ]
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    people = [
        {"age": 25.0, "hours": 40.0, "member": 0.0, "workclass": "Private"},
        {"age": 61.0, "hours": np.nan, "member": 1.0, "workclass": "Ünknown"},
    ]
    expected = [probability({**row, "hours": np.nan_to_num(row["hours"])}) for row in people]
    for binary in (True, False):
        inputs = []
        for name, kind in (("age", "FP64"), ("hours", "FP64"), ("member", "FP64"), ("workclass", "BYTES")):
            values = np.array([[row[name]] for row in people], dtype=np.float64 if kind == "FP64" else object)
            tensor = triton.InferInput(name, list(values.shape), kind)
            if binary:
                tensor.set_data_from_numpy(values)
            elif name == "hours":  # JSON has no NaN: leave the column out
                continue
            else:
                tensor.set_data_from_numpy(values, binary_data=False)
            inputs.append(tensor)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
        answer = client.infer("census", inputs, outputs=wanted, request_id="seven")
        assert answer.get_response()["id"] == "seven"
        found = answer.as_numpy("probabilities")
        if not binary:
            expected = [probability({**row, "hours": 0.0}) for row in people]
        np.testing.assert_allclose(found[:, 1], expected, rtol=1e-5)
        assert [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")] == [
            "1",
            "1",
        ]
    client.close()


def test_grpc_is_answered_by_every_replica(live: Live) -> None:
    assert f"By gRPC: 127.0.0.1:{live.grpc}" in live.told
    before = {name: series["specml_rows_total"] for name, series in metrics(live).items()}
    for _ in range(64):  # a connection stays with the replica that took it
        with Calls(live) as calls:
            assert calls.infer() == pytest.approx(probability(GOOD), rel=1e-5)
    after = {name: series["specml_rows_total"] for name, series in metrics(live).items()}
    assert sum(after.values()) - sum(before.values()) == 64
    assert all(after[name] > before[name] for name in after)


class Calls:
    """Triton's client on a connection of its own."""

    def __init__(self, live: Live) -> None:
        from tritonclient import grpc

        # Clients share the connections of equal channels unless they are told not to.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._client = grpc.InferenceServerClient(f"127.0.0.1:{live.grpc}", channel_args=options)
        self._inputs = []
        for name, kind, value in (("age", "FP64", 50.0), ("hours", "FP64", 10.5), ("member", "BOOL", False)):
            tensor = grpc.InferInput(name, [1, 1], kind)
            tensor.set_data_from_numpy(np.array([[value]], dtype=np.float64 if kind == "FP64" else bool))
            self._inputs.append(tensor)
        tensor = grpc.InferInput("workclass", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([["Private"]], dtype=object))
        self._inputs.append(tensor)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def infer(self) -> float:
        return float(self._client.infer("census", self._inputs).as_numpy("probabilities")[0, 1])


def test_the_printed_curl_line_works_as_pasted(live: Live) -> None:
    line = next(line.strip() for line in live.told.splitlines() if line.strip().startswith("curl "))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["model"] == "census"
    row = json.loads(re.search(r"-d '(.*)'", line)[1])["rows"][0]  # type: ignore[index]
    assert answer["predictions"][0]["probability"] == pytest.approx(probability(row), rel=1e-5)
    assert answer["predictions"][0]["label"] == 1


def metrics(live: Live) -> dict[str, dict[str, float]]:
    """Values by replica and series, from as many answers as it takes to meet both."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(50):
        _, raw, _ = live.ask("GET", "/metrics")
        series = {}
        for line in raw.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                series[name.split("{")[0] + ("" if "le=" not in name else name[name.index("le=") :])] = float(value)
        replica = re.search(rb'replica="([^"]+)"', raw)
        assert replica
        found[replica[1].decode()] = series
        if len(found) == 2:
            break
    return found


def test_two_replicas_answer_and_requests_share_batches(live: Live) -> None:
    before = metrics(live)
    with ThreadPoolExecutor(32) as pool:
        bodies = [json.dumps({"rows": [{**GOOD, "age": i}]}) for i in range(600)]
        answers = list(pool.map(lambda body: live.ask("POST", "/predict", body.encode()), bodies))
    assert all(status == 200 for status, _, _ in answers)
    for i, (_, answer, _) in enumerate(answers):
        assert answer["predictions"][0]["probability"] == pytest.approx(probability({**GOOD, "age": i}), rel=1e-4)
    after = metrics(live)
    assert len(after) == 2
    rows_of = {name: after[name]["specml_rows_total"] - before[name]["specml_rows_total"] for name in after}
    assert sum(rows_of.values()) == 600
    assert min(rows_of.values()) > 100, rows_of
    assert (
        sum(after[name]["specml_shared_batches_total"] - before[name]["specml_shared_batches_total"] for name in after)
        > 0
    )


def test_nothing_malformed_hurts(live: Live) -> None:
    malformed.refuses(live.port, malformed.cases(max_body=10_000), fronted=True)
    malformed.survives(live.port)
    # HAProxy answers that one before it knows of a frontend, whose error files it therefore does not take.
    status, _, _ = live.ask("GET", "/v2", headers={"x-long": "x" * 65536})
    assert status == 400


def direct(live: Live) -> list[int]:
    """The ports at which the replicas answer HTTP themselves."""
    first = live.record["ports"]
    found = {port for name, _, port in listening(live) if "haproxy" not in name}
    return sorted(port for port in found if first + 10 <= port < first + 256)


def test_rays_replicas_speak_the_fast_path_and_answer_as_the_application_does(live: Live, tmp_path: Path) -> None:
    """Should this fail with a new Ray: its replicas' servers no longer take what uvicorn calls ``auto``."""
    binary_bundle(tmp_path / "bundle")
    status, told, _ = live.ask("GET", "/healthz")
    assert (status, told["fast_path"]) == (200, True)
    ports = direct(live)
    assert len(ports) == 2
    with running(tmp_path / "bundle", "asgi", max_rows=50, max_body=10_000) as plain:
        for port in ports:
            replica = Running(port, plain.service, plain.server)
            assert replica.ask(request("GET", "/healthz"))[0].body["fast_path"]
            for name, (raw, _) in CASES.items():
                assert replica.ask(raw) == plain.ask(raw), name
        proxy = Running(live.port, plain.service, plain.server)
        for name, (raw, expected) in CASES.items():
            if name not in ("not HTTP", "two lengths", "length and chunks", "upgrade", "HTTP/1.0 keep-alive"):
                found, same = proxy.ask(raw)[0], plain.ask(raw)[0]
                assert (found.status, found.body) == (expected, same.body), name


def test_a_body_that_never_comes_holds_up_nobody(live: Live) -> None:
    slow = socket.create_connection(("127.0.0.1", live.port))
    slow.sendall(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    assert live.ask("POST", "/predict", rows())[0] == 200
    slow.close()
    assert live.ask("POST", "/predict", rows())[0] == 200


def outside() -> str:
    """An address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    pytest.skip("this machine has only loopback")


def listening(live: Live) -> list[tuple[str, str, int]]:
    found = []
    for process in marked(live.record["mark"]):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.append((process.name(), connection.laddr.ip, connection.laddr.port))
    return found


def test_http_is_refused_from_outside(live: Live) -> None:
    address = outside()
    ports = {port for name, _, port in listening(live) if "haproxy" in name} | {live.port}
    assert len(ports) >= 3
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=5).close()


def test_what_listens_beyond_loopback_is_told_and_asks_for_the_token(live: Live) -> None:
    import grpc

    beyond = [one for one in listening(live) if not one[1].startswith(("127.", "::ffff:127."))]
    status = json.loads(specml("status", "--json", folder=live.folder).stdout)["live"]
    assert sorted(int(told.split()[1]) for told in status["unguarded"]) == sorted(port for _, _, port in beyond)
    method = "/ray.serve.ASGIService/HandleRequest"
    for name, _, port in beyond:
        assert name.startswith("ray::"), beyond
        code = call(f"{outside()}:{port}", method)
        assert code == grpc.StatusCode.UNAUTHENTICATED, (name, port, code)
    gcs = live.record["address"]
    nodes = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
    assert call(gcs, nodes) == grpc.StatusCode.UNAUTHENTICATED
    token = (Path(live.record["folder"]) / "token").read_text()
    assert call(gcs, nodes, token) == grpc.StatusCode.OK


def test_no_socket_answers_as_a_dashboard_or_takes_jobs(live: Live) -> None:
    """Whatever listens: Ray's API for jobs runs code for whoever it answers (CVE-2023-48022)."""
    ports = {port for _, _, port in listening(live)}
    assert live.port in ports
    for port in sorted(ports):
        for method, path in (("GET", "/api/version"), ("GET", "/api/jobs/"), ("POST", "/api/jobs/")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request(method, path, b'{"entrypoint": "true"}' if method == "POST" else None)
                answer = connection.getresponse()
                # Ray's figures about its own processes are answered at one port, by whatever path they are asked.
                assert answer.status >= 400 or answer.read().startswith(b"# HELP"), (port, path, answer.status)
            connection.close()


@pytest.mark.sweep
def test_nothing_that_was_asked_is_in_any_log(live: Live) -> None:
    canary = "c4n4ry-of-a-person"
    bodies = [rows(workclass=canary), rows(age=canary), rows(**{canary: 1}), canary.encode(), rows(workclass=[canary])]
    for kind in ("application/json", "text/csv", f"text/{canary}"):
        for body in bodies:
            live.ask("POST", "/predict", body, {"content-type": kind, "authorization": canary, "cookie": canary})
            live.ask("POST", "/v2/models/census/infer", body, {"content-type": kind})
            live.ask("POST", "/explain", body, {"content-type": kind})
    for path in (f"/predict?name={canary}", f"/{canary}", f"/v2/models/{canary}", f"/v2/health/live?{canary}"):
        assert live.ask("GET", path)[0] in (200, 404, 405)
    with ThreadPoolExecutor(8) as pool:  # Ray keeps up to 1,000 lines of a log to itself
        list(pool.map(lambda _: live.ask("GET", "/v2/health/live"), range(2500)))
    logs = [live.folder / ".specml/serve.log", *Path(live.record["folder"]).rglob("*.log")]
    logs += [*Path(live.record["folder"]).rglob("*.out"), *Path(live.record["folder"]).rglob("*.err")]
    assert any("serve" in log.parts for log in logs)
    assert not [log for log in logs if log.is_file() and canary.encode() in log.read_bytes()]


def call(address: str, method: str, token: str = "") -> Any:
    import grpc

    with grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(method)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            return asked.with_call(b"", metadata=metadata, timeout=10)[1].code()
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]


def test_the_clusters_folder_is_closed_to_others(live: Live) -> None:
    folder = Path(live.record["folder"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert (live.folder / ".specml/serving.json").stat().st_mode & 0o777 == 0o600


def test_predict_gives_the_same_from_the_server_and_from_the_bundle(live: Live) -> None:
    people = "id,age,hours,member,workclass\n" + "".join(
        f"{i},{20 + i % 60},{'' if i % 5 == 0 else i % 40},{('false', 'true')[i % 2]},{('Private', '1', '?')[i % 3]}\n"
        for i in range(120)
    )
    (live.folder / "new.csv").write_text(people)
    served = specml("predict", "new.csv", folder=live.folder)
    alone = specml("predict", "new.csv", "--bundle", "artifacts/bundle", "-o", "out.csv", "-q", folder=live.folder)
    assert alone.stderr == ""
    # A server's answers have an id of their own, by which late labels find them.
    rows = list(csv.DictReader(io.StringIO(served.stdout)))
    ids = [row.pop("id_") for row in rows]
    assert len(set(ids)) == 120
    assert rows == list(csv.DictReader(io.StringIO((live.folder / "out.csv").read_text())))
    answered = list(csv.DictReader(io.StringIO(served.stdout)))
    assert [row["id"] for row in answered] == [str(i) for i in range(120)]
    assert float(answered[2]["probability_1"]) == pytest.approx(
        probability({"age": 22, "hours": 2, "member": False, "workclass": None}), rel=1e-5
    )


def replicas(live: Live, deployment: str) -> list[psutil.Process]:
    """Ray Serve names its processes by application and deployment."""
    return [one for one in marked(live.record["mark"]) if f":{deployment}" in " ".join(one.cmdline())]


def test_explain_gives_the_same_from_the_server_and_from_the_bundle(live: Live) -> None:
    people = [{**GOOD, "age": 20 + i, "hours": None if i % 3 else i} for i in range(20)]
    (live.folder / "why.jsonl").write_text("".join(json.dumps(one) + "\n" for one in people))
    served = specml("explain", "why.jsonl", "--live", "--json", "--top", "3", folder=live.folder)
    alone = specml("explain", "why.jsonl", "--json", "--top", "3", folder=live.folder)
    one, other = json.loads(served.stdout), json.loads(alone.stdout)
    assert one.pop("id") != other.pop("id")
    assert one == other
    for person, told in zip(people, one["explanations"], strict=True):
        assert told["total"] == pytest.approx(probability(person), abs=1e-5)
    status, told, _ = live.ask("POST", "/explain", rows())
    assert (status, len(told["explanations"][0]["contributions"])) == (200, 4)


def test_a_question_that_is_malformed_is_refused_by_explain(live: Live) -> None:
    for name, (body, status, words) in malformed.PREDICT.items():
        if name != "too many rows":
            found, told, _ = live.ask("POST", "/explain", body)
            assert (found, words in told["error"]) == (status, True), name
    few = json.dumps({"rows": [{"age": 1, "member": True}] * 101}).encode()
    assert live.ask("POST", "/explain", few)[0] == 413
    assert live.ask("POST", "/explain", b" " * 10_001)[0] == 413
    assert live.ask("GET", "/explain")[0] == 405
    assert live.ask("POST", "/explain", rows(), {"content-type": "text/csv"})[0] == 415
    assert live.ask("POST", "/explain", json.dumps({"rows": [GOOD], "class": 7}).encode())[0] == 422


def test_predict_goes_on_while_explain_is_busy(live: Live) -> None:
    """More questions than may wait: some are told to come back, every other request is answered."""
    whole = json.dumps({"rows": [{"age": 30 + i % 40, "member": True} for i in range(100)]}).encode()
    with Load(live, clients=2) as load, ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(live.ask, "POST", "/explain", whole) for _ in range(60)]
        answers = [one.result() for one in asked]
    assert load.failures == []
    assert len(load.answers) > 10
    statuses = [status for status, _, _ in answers]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 4
    assert all(headers["retry-after"] for status, _, headers in answers if status == 429)
    assert live.ask("POST", "/explain", rows())[0] == 200


def niceness(process: psutil.Process) -> list[int]:
    """Of each thread, as Linux tells it: the 17th number after the name, which may hold anything."""
    texts = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    return [int(text.rpartition(")")[2].split()[16]) for text in texts]


def test_what_explains_runs_apart_and_comes_after_what_predicts(live: Live) -> None:
    predicting, explaining = replicas(live, "model"), replicas(live, "explain")
    assert (len(predicting), len(explaining)) == (2, 1)
    assert max(niceness(explaining[0])) >= max(niceness(predicting[0])) + 10
    for one in predicting:
        loaded = " ".join(mapped.path for mapped in one.memory_maps())
        assert "onnxruntime" in loaded
        assert not re.search(r"lightgbm|libtorch|sklearn", loaded)


def test_deploying_again_changes_nothing(live: Live) -> None:
    before = {process.pid for process in marked(live.record["mark"])}
    began = time.monotonic()
    done = specml("deploy", folder=live.folder)
    assert "nothing to do" in done.stderr
    assert time.monotonic() - began < 10
    assert {process.pid for process in marked(live.record["mark"])} == before


def test_what_is_refused_leaves_what_is_live_alone(live: Live) -> None:
    before = {process.pid for process in marked(live.record["mark"])}
    release(live.folder, admitted=False, gates={"auc": "refused"})
    done = specml("deploy", folder=live.folder, status=4)
    release(live.folder)
    assert "refused by auc" in done.stderr
    assert live.ask("POST", "/predict", rows())[0] == 200
    assert {process.pid for process in marked(live.record["mark"])} == before


def test_a_taken_port_is_told_in_one_line(live: Live, tmp_path: Path) -> None:
    other = project(tmp_path / "other")
    done = specml("deploy", f"deployment.target.port={live.port}", folder=other.folder, status=9)
    assert f"port {live.port}" in done.stderr
    assert "deployment.target.port=" in done.stderr
    assert not (other.folder / ".specml/serving.json").exists()


def test_two_projects_live_side_by_side(live: Live, guarded: Live) -> None:
    assert live.ask("POST", "/predict", rows())[0] == 200
    assert guarded.ask("GET", "/v2/health/ready")[0] == 200
    assert not {port for _, _, port in listening(live)} & {port for _, _, port in listening(guarded)}


def test_every_route_but_health_wants_a_token(guarded: Live) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/healthz"):
        assert guarded.ask("GET", path)[0] == 200
    asked = [("GET", "/"), ("GET", "/v2"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v2/models/census")]
    asked += [("POST", "/predict"), ("POST", "/v2/models/census/infer"), ("GET", "/nothing"), ("POST", "/explain")]
    for method, path in asked:
        for token in (None, "Bearer wrong", "Bearer ", "Basic a-first-long-token-of-a-test", "Bearer \xff"):
            told = {"content-type": "application/json"} | ({"authorization": token} if token else {})
            status, answer, headers = guarded.ask(method, path, rows() if method == "POST" else None, told)
            assert (status, headers["www-authenticate"]) == (401, "Bearer"), (path, token)
            assert "Authorization: Bearer" in answer["error"]
    for token in TOKENS.split(","):
        told = {"content-type": "application/json", "authorization": f"Bearer {token}"}
        assert guarded.ask("POST", "/predict", rows(), told)[0] == 200
        assert guarded.ask("POST", "/explain", rows(), told)[0] == 200


def test_a_key_is_good_for_its_scopes(guarded: Live) -> None:
    told = {"content-type": "application/json", "authorization": f"Bearer {WEB}"}
    assert guarded.ask("POST", "/predict", rows(), told)[0] == 200
    for method, path in (("GET", "/metrics"), ("GET", "/openapi.json"), ("POST", "/explain")):
        status, answer, _ = guarded.ask(method, path, rows() if method == "POST" else None, told)
        assert (status, "'web' lacks the scope" in answer["error"]) == (403, True), path


def over_tls(live: Live, address: str, path: str, key: str = "") -> tuple[int, Any]:
    """Asked by a client that trusts the project's certificate alone, and the name in it."""
    context = ssl.create_default_context(cafile=str(live.folder / "localhost.pem"))
    plain = socket.create_connection((address, live.record["tls_port"]), timeout=30)
    with context.wrap_socket(plain, server_hostname="localhost") as secure:
        bearer = f"Authorization: Bearer {key}\r\n" if key else ""
        head = f"POST {path} HTTP/1.1\r\nHost: models.example\r\nContent-Type: application/json\r\n{bearer}"
        secure.sendall(f"{head}Content-Length: {len(rows())}\r\nConnection: close\r\n\r\n".encode() + rows())
        answer = http.client.HTTPResponse(secure)
        answer.begin()
        return answer.status, json.loads(answer.read())


def test_the_outside_is_answered_over_tls_and_by_key_alone(guarded: Live) -> None:
    address = outside()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, guarded.port), timeout=5).close()
    assert over_tls(guarded, address, "/predict")[0] == 401
    status, answer = over_tls(guarded, address, "/predict", WEB)
    assert (status, answer["predictions"][0]["label"]) == (200, 1)
    told = json.loads(specml("status", "--json", folder=guarded.folder).stdout)["live"]["unguarded"]
    (https,) = (one for one in told if "haproxy" in one)
    assert f"port {guarded.record['tls_port']} of haproxy" in https
    assert https.endswith("HTTPS, guarded by its keys")
    everywhere = [one for one in listening(guarded) if not one[1].startswith(("127.", "::ffff:127."))]
    assert {port for name, _, port in everywhere if not name.startswith("ray::")} == {guarded.record["tls_port"]}


@pytest.mark.sweep
def test_keys_and_certificates_are_renewed_without_a_failed_request(guarded: Live) -> None:
    """With the overlap that the page tells: the new key and the old one, then the new one alone."""
    old, new = TOKENS.partition(",")[0], "the-key-that-takes-its-place"
    two = ("serving.replicas.min=2", "serving.replicas.max=2")
    specml("deploy", *two, folder=guarded.folder, CENSUS_TOKENS=TOKENS, CENSUS_WEB=WEB)

    def asks(key: str) -> int:
        told = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        return int(guarded.ask("POST", "/predict", rows(), told)[0])

    before = ssl.get_server_certificate(("127.0.0.1", guarded.record["tls_port"]))
    with Load(guarded, key=old) as load:
        specml("deploy", *two, folder=guarded.folder, CENSUS_TOKENS=f"{new},{old}", CENSUS_WEB=WEB)
        assert [asks(old), asks(new)] == [200, 200]
        certificate(guarded.folder, "localhost")
        done = specml("deploy", *two, folder=guarded.folder, CENSUS_TOKENS=f"{new},{old}", CENSUS_WEB=WEB)
        assert "nothing to do" in done.stderr
    assert load.failures == []
    assert len(load.answers) > 10
    assert ssl.get_server_certificate(("127.0.0.1", guarded.record["tls_port"])) != before
    assert over_tls(guarded, "127.0.0.1", "/predict", new)[0] == 200
    with Load(guarded, key=new) as load:
        specml("deploy", *two, folder=guarded.folder, CENSUS_TOKENS=new, CENSUS_WEB=WEB)
    assert load.failures == []
    assert [asks(old), asks(new), asks(WEB)] == [401, 200, 200]


def test_the_tokens_are_nowhere_in_clear(guarded: Live) -> None:
    for token in TOKENS.split(","):
        for process in marked(guarded.record["mark"]):
            assert token not in " ".join(process.cmdline())
            assert token not in str(process.environ())
        for folder in (guarded.folder, Path(guarded.record["folder"])):
            for file in folder.rglob("*"):
                if file.is_file():
                    assert token.encode() not in file.read_bytes(), file
    assert "$" in guarded.record["config"]["applications"][0]["args"]["auth"]["keys"]["tokens"]["digests"][0]
    line = next(line.strip() for line in guarded.told.splitlines() if line.strip().startswith("curl "))
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True, env={**os.environ, "CENSUS_TOKENS": TOKENS}
    )
    assert json.loads(done.stdout)["model"] == "census"


def test_stop_leaves_nothing(guarded: Live) -> None:
    record = guarded.record
    assert marked(record["mark"])
    assert "stopped" in specml("stop", folder=guarded.folder).stdout
    assert not marked(record["mark"])
    assert not Path(record["folder"]).exists()
    assert not (guarded.folder / ".specml/serving.json").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", guarded.port)).close()
    assert "nothing was running" in specml("stop", folder=guarded.folder).stdout
    assert "nothing is live" in specml("status", folder=guarded.folder).stdout


class Load:
    """Clients that ask without pause and remember every answer that is not right."""

    def __init__(self, live: Live, clients: int = 4, key: str = "") -> None:
        self._live, self.stopped = live, threading.Event()
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.answers: list[tuple[str, float]] = []
        self.failures: list[object] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                status, answer, _ = self._live.ask("POST", "/predict", rows(), self._headers)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                continue
            if status == 200:
                self.answers.append((answer["bundle"], answer["predictions"][0]["probability"]))
            else:
                self.failures.append((status, answer))


def test_knobs_change_while_it_answers_and_no_replica_restarts(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    def run(verb: str, *arguments: str) -> str:
        assert exit_status([verb, str(live.folder), *arguments]) == 0
        return "".join(capsys.readouterr())

    def up() -> tuple[set[str], set[int]]:
        found = [one for one in marked(live.record["mark"]) if "ServeReplica" in "".join(one.cmdline()[:1])]
        return set(metrics(live)), {one.pid for one in found}

    def asked() -> tuple[set[int], float]:
        people = json.dumps({"rows": [GOOD] * 51}).encode()
        began = time.perf_counter()
        return {live.ask("POST", "/predict", people)[0] for _ in range(6)}, (time.perf_counter() - began) / 6

    before, (refused, _) = up(), asked()
    with Load(live) as load, ThreadPoolExecutor(1) as pool:
        calling = pool.submit(called, live, load.stopped)
        knobs = ("serving.max_rows=60", "serving.batching.max_wait=300ms", "serving.rate_limit.rows=1e9")
        told = json.loads(run("tune", *knobs, "--json"))
        time.sleep(0.5)
        load.stopped.set()
        assert calling.result()
    taken, seconds = asked()
    assert (refused, taken, seconds > 0.25) == ({413}, {200}, True)
    assert told["changed"]["serving.max_rows"] == {"from": "50", "to": "60"}
    assert told["live"]["replicas"] == 2
    assert "serving.batching.max_wait is 300ms, in the spec 0ms" in run("status")
    with Load(live) as again:
        assert "in place; no replica restarts" in run("deploy")
        time.sleep(0.5)
    assert asked()[0] == {413}
    assert (load.failures, again.failures) == ([], [])
    assert len(load.answers) > 4
    assert up() == before
    *_, record, _ = (one for one in ledger.verify(live.folder).records if one.event == "tune")
    assert record.facts["changed"]["serving.max_rows"] == {"from": "50", "to": "60"}


def called(live: Live, stopped: threading.Event) -> list[float]:
    """The answers of calls over one connection until it is stopped; a failed one raises."""
    answers = []
    with Calls(live) as calls:
        while not stopped.is_set():
            answers.append(calls.infer())
            time.sleep(0.002)
    return answers


def test_a_new_bundle_takes_over_without_a_failed_request(live: Live) -> None:
    old = json.loads(specml("status", "--json", folder=live.folder).stdout)["live"]["bundle"]
    new = binary_bundle(live.folder / "artifacts/bundle", weight=-0.05, looks_back=True)
    release(live.folder)
    with Load(live) as load, ThreadPoolExecutor(2) as pool:
        calling = [pool.submit(called, live, load.stopped) for _ in range(2)]
        done = specml("deploy", folder=live.folder)
        time.sleep(1)
        load.stopped.set()
    assert "replica by replica" in done.stderr
    assert load.failures == []
    answered = [round(found, 4) for one in calling for found in one.result()]
    assert set(answered) == {round(probability(GOOD, weight=weight), 4) for weight in (0.05, -0.05)}
    assert {bundle for bundle, _ in load.answers} == {old, new}
    for bundle, found in load.answers:
        assert found == pytest.approx(probability(GOOD, weight=0.05 if bundle == old else -0.05), rel=1e-5)
    told = json.loads(specml("status", "--json", folder=live.folder).stdout)
    assert (told["live"]["bundle"], told["live"]["replicas"]) == (new, 2)
    assert told["bundle_in_project"] == new
    brought = {**GOOD, "history": [{"hours": 90}, {"hours": 40.0}]}
    _, answer, _ = live.ask("POST", "/predict", json.dumps({"rows": [brought]}).encode())
    assert answer["predictions"][0]["probability"] == pytest.approx(probability(brought, weight=-0.05), rel=1e-5)
    (live.folder / "days.csv").write_text(
        "at,person,age,hours,member\n2024-01-02,a,50,10,false\n2024-01-01,a,50,40,false\n2024-01-01,b,50,90,false\n"
    )
    first = next(csv.DictReader(io.StringIO(specml("predict", "days.csv", folder=live.folder).stdout)))
    expected = probability({"age": 50, "hours": 10, "member": False, "history": [{"hours": 40}]}, weight=-0.05)
    assert float(first["probability_1"]) == pytest.approx(expected, rel=1e-5)


def test_a_bundle_that_does_not_start_leaves_the_old_one_live(live: Live) -> None:
    before = json.loads(specml("status", "--json", folder=live.folder).stdout)["live"]["bundle"]
    model = live.folder / "artifacts/bundle/model.onnx"
    good = model.read_bytes()
    manifest = live.folder / "artifacts/bundle/manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told))  # another digest
    model.write_bytes(good[:-1])
    release(live.folder)
    done = specml("deploy", folder=live.folder, status=None)
    model.write_bytes(good)
    assert done.returncode != 0
    assert "altered or cut short" in done.stderr
    assert json.loads(specml("status", "--json", folder=live.folder).stdout)["live"]["bundle"] == before
    assert live.ask("POST", "/predict", rows())[0] == 200


@pytest.mark.sweep
def test_what_fails_in_the_replicas_is_taken_back(live: Live) -> None:
    """A replica refuses a bundle whose digest is not the deployed one: here the config itself is wrong."""
    from specml.errors import DeployFailed
    from specml.targets.local.cluster import Cluster

    state = live.folder / ".specml"
    cluster = Cluster.read(state)
    assert cluster is not None
    wrong = json.loads(json.dumps(cluster.config))
    wrong["applications"][0]["args"]["digest"] = "sha256:0"
    wrong["applications"][0]["deployments"][0]["user_config"]["revision"] = "wrong"
    said: list[str] = []
    with Load(live, clients=2) as load, pytest.raises(DeployFailed, match="deployed was sha256:0"):
        cluster.launch(wrong, state, said.append)
    assert "Going back to what was live before …" in said
    assert load.failures == []
    assert Cluster.read(state) == cluster
    assert live.ask("POST", "/predict", rows())[0] == 200


def test_no_request_fails_when_a_replica_is_killed(live: Live) -> None:
    """Also those that it was answering; more, and worse, with `python -m tests.faults`."""
    _, told, _ = live.ask("POST", "/predict", rows())
    found = told["predictions"][0]["probability"]
    weight = min((0.05, -0.05), key=lambda one: abs(probability(GOOD, weight=one) - found))
    bench = faults.Bench(live.folder, live.port, {told["bundle"]: weight}, clients=8, pause=0.02, seconds=1)
    verdict = asyncio.run(bench.replicas())
    assert verdict.holds, verdict.told


def test_haproxy_is_as_it_should_be(live: Live) -> None:
    """Ray writes its configuration: a new Ray may write another, which the edits miss."""
    (path,) = Path(live.record["folder"]).glob("*/haproxy.cfg")
    lines = [line.strip() for line in path.read_text().splitlines()]
    for line in ("retry-on conn-failure empty-response 503", "option redispatch 1", "retries 10"):
        assert line in lines
    assert all(line.startswith("bind 127.0.0.1:") for line in lines if line.startswith("bind"))
    told = [line.split()[1:] for line in lines if line.startswith("errorfile")]
    assert {(status, Path(file).name) for status, file in told} == {
        ("400", "400.http"), ("408", "408.http"), ("502", "503.http"), ("503", "503.http"), ("504", "503.http")
    }  # fmt: skip
    assert any(line.startswith("http-request set-header x-request-id") for line in lines)
    assert any(line.startswith("http-request wait-for-body") for line in lines)
    assert any(line.startswith("server SERVE_PROXY_ACTOR") and line.endswith("backup") for line in lines)


@pytest.mark.sweep
def test_what_is_promised_of_faults_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--seconds", "20", "--minutes", "1"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.sweep
def test_doctor_and_clean_leave_a_live_server_alone(live: Live) -> None:
    before = {process.pid for process in marked(live.record["mark"])}
    found = json.loads(specml("doctor", "--json", folder=live.folder).stdout)
    assert found["healthy"], [one for one in found["findings"] if one["state"] == "wrong"]
    told = specml("clean", "--all", "--artifacts", "--yes", folder=live.folder, status=1).stderr
    assert f"a server is live here, at port {live.port}" in told
    assert "server process" not in specml("clean", folder=live.folder).stdout
    shutil.move(live.folder / "artifacts", live.folder / "away")
    answered = specml("explain", "--live", "--row", json.dumps(GOOD), folder=live.folder).stdout
    shutil.move(live.folder / "away", live.folder / "artifacts")
    assert answered.startswith("row 1: ")
    assert {process.pid for process in marked(live.record["mark"])} == before
    assert live.ask("POST", "/predict", rows())[0] == 200
    assert json.loads(specml("status", "--json", folder=live.folder).stdout)["live"]["replicas"] == 2


@pytest.mark.sweep
def test_an_interrupted_deploy_leaves_nothing_and_the_next_goes_live(tmp_path: Path) -> None:
    made = project(tmp_path / "cut", "{replicas: {min: 1, max: 1}, explain: null}")
    here = str(made.folder.resolve())
    command = [sys.executable, "-m", "specml", "deploy"]
    with subprocess.Popen(command, cwd=made.folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cut:
        until = time.monotonic() + 60
        while not serving_for(here):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(2)
        cut.send_signal(signal.SIGINT)
        _, said = cut.communicate(timeout=30)
    assert (cut.returncode, "Traceback" in said) == (130, False), said
    until = time.monotonic() + 10
    while serving_for(here) and time.monotonic() < until:
        time.sleep(0.1)
    assert not serving_for(here)
    try:
        specml("deploy", folder=made.folder)
        assert made.ask("POST", "/predict", rows())[0] == 200
    finally:
        specml("stop", folder=made.folder)


def serving_for(folder: str) -> list[int]:
    """The processes of servers of the project in ``folder``."""
    from specml.targets.local.cluster import servers

    return [process.pid for (project, _), found in servers().items() if project == folder for process in found]
