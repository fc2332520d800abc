"""The target ray on a real cluster of two nodes that wants a token: deployed, asked, updated, rolled back, stopped."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from specml import rollout
from specml.cluster import nodes
from specml.errors import DeployFailed
from specml.load import load
from tests.bundles import binary_bundle, probability, release
from tests.conftest import specml
from tests.servers import free_port
from tests.two_nodes import two_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from specml.cluster.dashboard import Dashboard

pytestmark = pytest.mark.sweep

SPEC = """\
name: census
problem: {{task: binary, target: income}}
data: {{sources: {{people: {{type: csv, path: people.csv}}}}}}
candidates: {{line: logistic_regression}}
serving:
  replicas: {{min: 2, max: 2}}
  explain: null
  auth: {{tokens: "${{secret:API_TOKENS}}"}}
  grpc: {{port: {grpc}}}
deployment:
  target:
    type: ray
    address: http://127.0.0.1:{dashboard}
    token: "${{secret:RAY_TOKEN}}"
    host: 127.0.0.1
    port: {port}
    nodes: head
"""


KEY = "one that nobody guesses"


@dataclass
class There:
    """A project, and the cluster that it is served on."""

    folder: Path
    port: int
    grpc: int
    cluster: Dashboard

    def run(self, *arguments: str, status: int = 0) -> str:
        done = specml(*arguments, folder=self.folder, status=status, **self.environment)
        return f"{done.stdout}{done.stderr}"

    def packs(self, weight: float) -> str:
        digest = binary_bundle(self.folder / "artifacts/bundle", weight=weight)
        release(self.folder)
        return digest

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_TOKEN": self.cluster.token, "API_TOKENS": KEY}

    @property
    def live(self) -> Any:
        return json.loads(specml("status", "--json", folder=self.folder, **self.environment).stdout)["live"]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    port, grpc = free_port(), free_port()
    with two_nodes(cpus=4) as nodes:
        project = tmp_path_factory.mktemp("census")
        (project / "spec.yaml").write_text(SPEC.format(dashboard=nodes.dashboard, port=port, grpc=grpc))
        yield There(project, port, grpc, nodes.cluster)


ROW = {"age": 50, "hours": 40.0, "member": True, "workclass": "Private"}


class Calls:
    """Triton's client of gRPC, on a connection of its own."""

    def __init__(self, port: int, key: str = KEY) -> None:
        from tritonclient import grpc

        self._headers = {"authorization": f"Bearer {key}"}
        # Clients share the connections of equal channels unless they are told not to.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._client = grpc.InferenceServerClient(f"127.0.0.1:{port}", channel_args=options)
        self._inputs = []
        for name, kind, value in (
            ("age", "FP64", np.float64(ROW["age"])),
            ("hours", "FP64", np.float64(ROW["hours"])),
            ("member", "BOOL", np.bool_(ROW["member"])),
            ("workclass", "BYTES", ROW["workclass"]),
        ):
            tensor = grpc.InferInput(name, [1, 1], kind)
            tensor.set_data_from_numpy(np.array([[value]], dtype=object if kind == "BYTES" else None))
            self._inputs.append(tensor)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def infer(self) -> tuple[str, float]:
        """The version of the model that answers, and its probability."""
        answer = self._client.infer("census", self._inputs, headers=self._headers, client_timeout=30)
        return answer.get_response().model_version, float(answer.as_numpy("probabilities")[0, 1])


@contextlib.contextmanager
def asked_all_the_while(port: int, grpc: int = 0) -> Iterator[list[Any]]:
    """Ask without a pause; yields what was answered: a bundle, by gRPC a model's version, or an error."""
    answers: list[Any] = []
    ended, url = threading.Event(), f"http://127.0.0.1:{port}/predict"

    def ask() -> None:
        body = json.dumps({"rows": [ROW]}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        while not ended.is_set():
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
                    answers.append(json.load(answer)["bundle"])
            except OSError as error:
                answers.append(error)

    def call() -> None:
        from tritonclient.utils import InferenceServerException

        with Calls(grpc) as calls:
            while not ended.wait(0.004):
                try:
                    answers.append(calls.infer()[0])
                except InferenceServerException as error:
                    answers.append(error)

    threads = [threading.Thread(target=one) for one in (ask, ask, *([call] * 4 if grpc else []))]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def listening(processes: set[int]) -> Iterator[tuple[int, str, int]]:
    """Where the processes listen: process, address and port."""
    for pid in processes:
        for one in psutil.Process(pid).net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                yield pid, one.laddr.ip, one.laddr.port


def test_a_release_on_two_nodes(there: There) -> None:
    first = there.packs(0.05)
    assert "nothing is live" in there.run("status")
    assert "asks for a token" in specml("status", "deployment.target.token=null", folder=there.folder, status=9).stderr
    with socket.create_server(("127.0.0.1", there.grpc), reuse_port=True):
        told = there.run("deploy", status=9)
    assert f"on node 127.0.0.1, port {there.grpc} of 127.0.0.1 is taken by another process." in told
    assert there.cluster.serve()["applications"] == {}
    told = there.run("deploy")
    assert "2 of 2 nodes were started with other settings" in told
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in told
    assert f"census is live at http://127.0.0.1:{there.port} (2 replicas on CPU, release 1" in told
    assert (there.live["bundle"], there.live["replicas"]) == (first, 2)
    model = there.cluster.serve()["applications"]["census"]["deployments"]["model"]
    assert len({one["node_id"] for one in model["replicas"]}) == 2
    assert "nothing to do" in there.run("deploy")

    (there.folder / "row.jsonl").write_text(json.dumps(ROW) + "\n")
    answer = json.loads(there.run("predict", "row.jsonl", "-q"))
    assert answer["probability_1"] == pytest.approx(probability(ROW), abs=1e-6)
    assert f"gRPC      127.0.0.1:{there.grpc}" in there.run("status")
    processes = {one["pid"] for one in model["replicas"]}
    found_at = {(pid, address) for pid, address, port in listening(processes) if port == there.grpc}
    assert found_at == {(pid, "::ffff:127.0.0.1") for pid in processes}  # on each node, as gRPC says 127.0.0.1
    with Calls(there.grpc) as calls:
        version, found = calls.infer()
    assert found == pytest.approx(probability(ROW), abs=1e-6)
    with Calls(there.grpc, key="another, of nobody") as calls, pytest.raises(Exception, match="UNAUTHENTICATED"):
        calls.infer()

    before = {one["actor_id"] for one in model["replicas"]}
    with asked_all_the_while(there.port, there.grpc) as answers:
        told = there.run("tune", "serving.slo=2s", "serving.max_rows=7")
        assert "taken over by 2 replicas" in told
        assert "serving.max_rows  10000 → 7" in told
        assert "serving.slo is 2s, in the spec 1s" in there.run("status")
        assert "in place; no replica restarts" in there.run("deploy")
    assert set(answers) == {first, version}
    model = there.cluster.serve()["applications"]["census"]["deployments"]["model"]
    assert {one["actor_id"] for one in model["replicas"]} == before
    assert len(there.cluster.jobs(specml="census")) == 1

    second = there.packs(0.07)
    with asked_all_the_while(there.port, there.grpc) as answers:
        assert "release 2" in there.run("deploy")
        time.sleep(12)  # the old replicas end after that
    with Calls(there.grpc) as calls:
        newer, found = calls.infer()
    assert newer != version
    assert found == pytest.approx(probability(ROW, weight=0.07), abs=1e-6)
    assert set(answers) == {first, second, version, newer}  # and no error
    assert len(there.cluster.jobs(specml="census")) == 1  # the package of the first is let go

    told = there.run("rollback", "--reason", "a test")
    assert "rolled back from release 2 to release 1" in told
    assert there.live["bundle"] == first


def test_a_bundle_that_is_another_on_the_way_takes_no_traffic(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    before = there.live
    there.packs(0.09)
    other = there.folder / "other"
    binary_bundle(other, weight=0.5)
    packed = nodes.packed
    monkeypatch.setattr(nodes, "packed", lambda _: packed(other))
    for name, value in there.environment.items():
        monkeypatch.setenv(name, value)
    loaded = load(there.folder)
    with (
        asked_all_the_while(there.port, there.grpc) as answers,
        pytest.raises(DeployFailed, match="deployed was sha256"),
    ):
        rollout.go_live(loaded.spec, loaded.folder, print)
    assert set(answers) == {before["bundle"], before["bundle"][7:19]}
    until = time.monotonic() + 120  # a replica of the two had gone for the one that did not start
    while there.live != before and time.monotonic() < until:
        time.sleep(1)
    assert there.live == before
    assert len(there.cluster.jobs(specml="census")) == 1


def test_a_port_that_is_taken_after_the_look_at_the_nodes_ends_the_deploy(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = there.live
    there.packs(0.11)
    monkeypatch.setattr(nodes, "refuse", lambda *_: None)
    for name, value in there.environment.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        loaded = load(there.folder, (f"serving.grpc.port={port}",))
        with (
            asked_all_the_while(there.port, there.grpc) as answers,
            pytest.raises(DeployFailed, match=f"127.0.0.1:{port} can't be listened at"),
        ):
            rollout.go_live(loaded.spec, loaded.folder, print)
    assert set(answers) == {before["bundle"], before["bundle"][7:19]}
    until = time.monotonic() + 120
    while there.live != before and time.monotonic() < until:
        time.sleep(1)
    assert there.live == before


def test_stopped_the_cluster_goes_on(there: There) -> None:
    assert "census: stopped." in there.run("stop")
    assert there.live is None
    assert there.cluster.jobs(specml="census") == {}
    assert there.cluster.serve()["applications"] == {}
    assert "nothing was running" in there.run("stop")
