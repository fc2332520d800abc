"""The target ray on a real cluster of two nodes that wants a token: deployed, asked, updated, rolled back, stopped."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
serving: {{replicas: {{min: 2, max: 2}}, explain: null}}
deployment:
  target:
    type: ray
    address: http://127.0.0.1:{dashboard}
    token: "${{secret:RAY_TOKEN}}"
    host: 127.0.0.1
    port: {port}
    nodes: head
"""


@dataclass
class There:
    """A project, and the cluster that it is served on."""

    folder: Path
    port: int
    cluster: Dashboard

    def run(self, *arguments: str, status: int = 0) -> str:
        done = specml(*arguments, folder=self.folder, status=status, RAY_TOKEN=self.cluster.token)
        return f"{done.stdout}{done.stderr}"

    def packs(self, weight: float) -> str:
        digest = binary_bundle(self.folder / "artifacts/bundle", weight=weight)
        release(self.folder)
        return digest

    @property
    def live(self) -> Any:
        return json.loads(specml("status", "--json", folder=self.folder, RAY_TOKEN=self.cluster.token).stdout)["live"]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    port = free_port()
    with two_nodes(cpus=4) as nodes:
        project = tmp_path_factory.mktemp("census")
        (project / "spec.yaml").write_text(SPEC.format(dashboard=nodes.dashboard, port=port))
        yield There(project, port, nodes.cluster)


ROW = {"age": 50, "hours": 40.0, "member": True, "workclass": "Private"}


@contextlib.contextmanager
def asked_all_the_while(port: int) -> Iterator[list[Any]]:
    """Ask without a pause; yields what was answered: a bundle, or an error."""
    answers: list[Any] = []
    ended, url = threading.Event(), f"http://127.0.0.1:{port}/predict"

    def ask() -> None:
        body = json.dumps({"rows": [ROW]}).encode()
        while not ended.is_set():
            request = urllib.request.Request(url, body, {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answers.append(json.load(answer)["bundle"])
            except OSError as error:
                answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_a_release_on_two_nodes(there: There) -> None:
    first = there.packs(0.05)
    assert "nothing is live" in there.run("status")
    assert "asks for a token" in specml("status", "deployment.target.token=null", folder=there.folder, status=9).stderr
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

    before = {one["actor_id"] for one in model["replicas"]}
    with asked_all_the_while(there.port) as answers:
        told = there.run("tune", "serving.slo=2s", "serving.max_rows=7")
        assert "taken over by 2 replicas" in told
        assert "serving.max_rows  10000 → 7" in told
        assert "serving.slo is 2s, in the spec 1s" in there.run("status")
        assert "in place; no replica restarts" in there.run("deploy")
    assert set(answers) == {first}
    model = there.cluster.serve()["applications"]["census"]["deployments"]["model"]
    assert {one["actor_id"] for one in model["replicas"]} == before
    assert len(there.cluster.jobs(specml="census")) == 1

    second = there.packs(0.07)
    with asked_all_the_while(there.port) as answers:
        assert "release 2" in there.run("deploy")
    assert set(answers) == {first, second}
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
    monkeypatch.setenv("RAY_TOKEN", there.cluster.token)
    loaded = load(there.folder)
    with asked_all_the_while(there.port) as answers, pytest.raises(DeployFailed, match="deployed was sha256"):
        rollout.go_live(loaded.spec, loaded.folder, print)
    assert set(answers) == {before["bundle"]}
    until = time.monotonic() + 120  # a replica of the two had gone for the one that did not start
    while there.live != before and time.monotonic() < until:
        time.sleep(1)
    assert there.live == before
    assert len(there.cluster.jobs(specml="census")) == 1


def test_stopped_the_cluster_goes_on(there: There) -> None:
    assert "census: stopped." in there.run("stop")
    assert there.live is None
    assert there.cluster.jobs(specml="census") == {}
    assert there.cluster.serve()["applications"] == {}
    assert "nothing was running" in there.run("stop")
