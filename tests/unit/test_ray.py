"""What the target ray emits, refuses and says; a real cluster answers in tests/integration/test_ray_cluster.py."""

from __future__ import annotations

import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from specml.bundle import open_bundle
from specml.cluster import nodes, survey
from specml.cluster.dashboard import Dashboard
from specml.errors import DeployFailed
from specml.targets import ray
from tests.bundles import binary_bundle
from tests.conftest import spec_of
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.spec import Spec

AUTH = {"auth": {"tokens": "${secret:TOKENS}"}}


def there(*, serving: dict[str, Any] | None = None, **options: Any) -> Spec:
    target = {"type": "ray", "address": "http://10.0.0.5:8265", **options}
    return spec_of(name="census", serving=AUTH if serving is None else serving, deployment={"target": target})


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's own
def test_the_config_is_what_ray_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    from specml.serving.app import Args

    spec = there(nodes="head", port=8100)
    (name, text), *more = spec.deployment.target.emit(spec).items()
    assert (name, more) == ("serve.yaml", [])
    config = YAML(typ="safe").load(text)
    ServeDeploySchema.model_validate(config)
    Args.model_validate(config["applications"][0]["args"])
    assert (config["proxy_location"], config["http_options"]) == ("HeadOnly", {"host": "0.0.0.0", "port": 8100})
    assert "TOKENS" in text
    assert text == there(nodes="head", port=8100).deployment.target.emit(spec)["serve.yaml"]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, []),
        ({"serving": {}}, [("host",)]),
        ({"serving": {}, "host": "127.0.0.1"}, []),
    ],
)
def test_nobody_without_a_token_is_let_in_from_elsewhere(options: dict[str, Any], keys: list[tuple[str]]) -> None:
    spec = there(**options)
    assert [one.key for one in spec.deployment.target.disagreements(spec)] == keys


@pytest.mark.parametrize(("shared", "wrong"), [(True, 0), (False, 1)])
def test_captured_rows_need_a_folder_that_all_nodes_see(shared: bool, wrong: int) -> None:
    spec = there(shared=shared).model_copy(update={"monitoring": spec_of(monitoring={"capture": {}}).monitoring})
    assert len(list(spec.deployment.target.disagreements(spec))) == wrong


def test_a_package_is_named_for_its_content_and_holds_the_bundle(tmp_path: Path) -> None:
    digest = binary_bundle(tmp_path / "bundle")
    with zipfile.ZipFile(BytesIO(nodes.packed(tmp_path / "bundle"))) as packed:
        packed.extractall(tmp_path / "node")
    assert open_bundle(tmp_path / "node/bundle").digest == digest
    assert (tmp_path / "node/survey.py").exists()
    assert nodes.named(digest) == nodes.named(digest) != nodes.named("sha256:other")


def node(**changes: Any) -> dict[str, Any]:
    """What the survey says of this very machine, but for ``changes``."""
    asked = {"packages": [*nodes.SAME, *nodes.ONNXRUNTIMES], "settings": ["PATH"], "folder": ""}
    return {"node": "10.0.0.6", "cpus": 4.0, **survey.look(asked), **changes}


def test_a_node_like_this_machine_will_do() -> None:
    nodes.refuse(node(), nodes.Needs(""))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"versions": {"specml": "", "ray": "2.60.0"}}, r"it has specml not at all \(here "),
        ({"versions": {"specml": "0.0.1", "ray": "1.0"}}, r"specml 0\.0\.1 \(here .*\) and ray 1\.0"),
    ],
)
def test_another_specml_on_a_node_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DeployFailed, match=told) as error:
        nodes.refuse(node(**changes), nodes.Needs(""))
    assert error.value.where == "node 10.0.0.6"
    assert "pip install specml==" in error.value.hint


GRPC = {**AUTH, "grpc": {"port": 9001}}


@pytest.mark.parametrize("nodes_with_http", ["every", "head"])
def test_grpc_is_answered_by_each_replica_at_the_address_of_its_node(nodes_with_http: str) -> None:
    spec = there(serving=GRPC, host="0.0.0.0", url="https://models.example", nodes=nodes_with_http)
    config = YAML(typ="safe").load(spec.deployment.target.emit(spec)["serve.yaml"])["applications"][0]
    assert config["args"]["grpc"] == {"port": 9001, "host": "0.0.0.0"}
    assert list(spec.contradictions()) == []
    live = {"config": config, "replicas": 3, "nodes": {"10.0.0.7": True, "10.0.0.6": True, "10.0.0.8": False}}
    assert ray._answering_grpc(live) == ("10.0.0.6:9001", "10.0.0.7:9001")
    config["args"]["grpc"]["host"] = "::1"
    assert ray._answering_grpc(live) == ("[::1]:9001",)


def test_a_port_is_looked_at_where_a_replica_could_run_and_none_of_ours_listens() -> None:
    before = {"config": {"args": {"grpc": {"port": 9001}}}, "nodes": {"10.0.0.6": False}}
    spec = there(serving=GRPC)
    target = spec.deployment.target
    needs = nodes.Needs("", **target._port_of_grpc(spec, {}))  # type: ignore[attr-defined]
    assert (needs.listen, needs.held) == (("0.0.0.0", 9001), frozenset())
    for node_, wanted in (
        (node(listens=""), needs),
        (node(listens="EADDRINUSE", cpus=0.0), needs),  # a head that takes no replica
        (node(listens="EADDRINUSE"), nodes.Needs("", **target._port_of_grpc(spec, before))),  # type: ignore[attr-defined]
    ):
        nodes.refuse(node_, wanted)
    before["config"]["args"]["grpc"]["port"] = 9002  # type: ignore[index,call-overload]
    other = nodes.Needs("", **target._port_of_grpc(spec, before))  # type: ignore[attr-defined]
    for listens, told, hint in (
        ("EADDRINUSE", r"on node 10\.0\.0\.6, port 9001 of 0\.0\.0\.0 is taken", "serving.grpc.port=9002"),
        ("EACCES", "is not open to Ray's user", "serving.grpc.port=9002"),
        ("EADDRNOTAVAIL", r"0\.0\.0\.0 is no address of it", "host: 0.0.0.0"),
    ):
        with pytest.raises(DeployFailed, match=told) as error:
            nodes.refuse(node(listens=listens), other)
        assert (error.value.where, hint in error.value.hint) == ("serving.grpc.port", True)


def test_a_node_tells_why_it_could_not_listen() -> None:
    asked = {"packages": [], "settings": [], "folder": ""}
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        found = [survey.look({**asked, "listen": [host, port]})["listens"] for host in ("127.0.0.1", "0.0.0.0")]
    assert found == ["EADDRINUSE", "EADDRINUSE"]
    assert survey.look({**asked, "listen": ["127.0.0.1", port]})["listens"] == ""
    assert survey.look({**asked, "listen": ["192.0.2.1", port]})["listens"] == "EADDRNOTAVAIL"
    assert survey.look({**asked, "listen": None})["listens"] == ""


def test_a_node_that_lacks_a_package_is_refused_with_what_brings_it() -> None:
    needs = nodes.Needs("", packages=("pyarrow",), extra="cluster")
    found = node()
    nodes.refuse({**found, "versions": {**found["versions"], "pyarrow": "1"}}, needs)
    with pytest.raises(DeployFailed, match="it has no pyarrow") as error:
        nodes.refuse({**found, "versions": {**found["versions"], "pyarrow": ""}}, needs)
    assert "pip install 'specml[cluster]==" in error.value.hint


def test_a_node_without_the_shared_disk_is_refused(tmp_path: Path) -> None:
    found = survey.look({"packages": [], "settings": [], "folder": str(tmp_path)})["bundle"]
    with pytest.raises(DeployFailed, match="sees the bundle none"):
        nodes.refuse(node(bundle=found), nodes.Needs("", bundle="sha256:1"))


def test_settings_that_ray_has_read_otherwise_are_named_with_what_to_type() -> None:
    wanted = dict(ray.application.RAY_SETTINGS)
    assert list(ray._unset([node(settings=wanted)])) == []
    first, second = ray._unset([node(settings=wanted), node(settings={**wanted, "RAY_SERVE_ENABLE_HA_PROXY": ""})])
    assert first.startswith("1 of 2 nodes")
    assert second == "  export RAY_SERVE_ENABLE_HA_PROXY=1"


def test_too_few_cpus_are_told() -> None:
    (line,) = ray._scarce(there(serving={**AUTH, "replicas": {"min": 3, "max": 3}}), {"CPU": 2.0})
    assert line == "Replicas reserve 4 CPUs, the cluster has 2 now: they wait until it has more."


def test_others_on_the_cluster_are_left_as_they_are() -> None:
    mine = {"import_path": "specml.serving.app:build", "args": {}}
    replicas = [
        {"state": "RUNNING", "node_ip": "10.0.0.6"},
        {"state": "STOPPING", "node_ip": "10.0.0.6"},
        {"state": "STOPPING", "node_ip": "10.0.0.7"},
        {"state": "STARTING", "node_ip": None},
    ]
    serve = {
        "applications": {
            "census": {"deployed_app_config": mine, "deployments": {"model": {"replicas": replicas}}},
            "declared": {"deployed_app_config": {"name": "declared"}, "route_prefix": "/other"},
            "by_code": {"deployed_app_config": None, "route_prefix": "/"},
        }
    }
    spec = there()
    assert ray._others(spec, serve) == [{"name": "declared"}]
    assert ray._ours(spec, serve) == {"config": mine, "replicas": 1, "nodes": {"10.0.0.6": True, "10.0.0.7": False}}
    with pytest.raises(DeployFailed, match="'by_code' answers at / there"):
        spec.deployment.target._refuse_others(spec, serve)  # type: ignore[attr-defined]


def test_an_application_of_the_same_name_that_is_not_ours_is_left_alone() -> None:
    serve = {"applications": {"census": {"deployed_app_config": {"import_path": "others:app"}, "route_prefix": "/x"}}}
    with pytest.raises(DeployFailed, match="that is not specml's"):
        there().deployment.target._refuse_others(there(), serve)  # type: ignore[attr-defined]
    assert ray._ours(there(), serve) == {}


def test_ray_serve_at_another_port_is_told() -> None:
    serve = {"applications": {"x": {"route_prefix": "/x"}}, "http_options": {"host": "0.0.0.0", "port": 9000}}
    with pytest.raises(DeployFailed, match="runs there at") as error:
        there().deployment.target._refuse_others(there(), serve)  # type: ignore[attr-defined]
    assert "deployment.target.port=9000" in error.value.hint


@pytest.fixture
def answers() -> Iterator[Callable[[int, bytes], str]]:
    """A server that gives one answer to everything; called with it, the fixture tells its address."""
    servers: list[HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Answers))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"Unauthorized", "asks for a token"),
        (403, b"Forbidden", "does not know this token"),
        (200, b"<html>", "no JSON: it is no Ray dashboard"),
        (500, b"Traceback\nValueError: worse", r"refuses GET /api/version \(500\): ValueError: worse"),
    ],
)
def test_what_is_no_cluster_of_ours_is_told(
    status: int, body: bytes, told: str, answers: Callable[[int, bytes], str]
) -> None:
    with pytest.raises(DeployFailed, match=told) as error:
        Dashboard(answers(status, body)).version()
    assert error.value.where == "deployment.target.address"


def test_another_ray_is_refused(answers: Callable[[int, bytes], str]) -> None:
    with pytest.raises(DeployFailed, match=r"the cluster has Ray 2\.9\.0"):
        nodes.refuse_version(Dashboard(answers(200, b'{"ray_version": "2.9.0"}')))


def test_nobody_at_the_address_is_told() -> None:
    with pytest.raises(DeployFailed, match="no Ray dashboard answers"):
        Dashboard(f"http://127.0.0.1:{free_port()}").version()
