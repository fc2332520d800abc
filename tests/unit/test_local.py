from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from ruamel.yaml import YAML

from specml import liveness, rollout
from specml.bundle import RELEASE
from specml.contradictions import all_of
from specml.errors import DeployFailed, GateRefused
from specml.targets.local import Local, _refuse_taken_grpc
from specml.targets.local.cluster import MARK, Cluster
from tests.bundles import binary_bundle, release
from tests.conftest import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec


def served(**serving: Any) -> Spec:
    return spec_of(serving=serving, deployment={"target": {"type": "local", "port": 8123}})


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's own
def test_the_config_is_what_ray_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    spec = served(auth={"tokens": "${secret:TOKENS}"}, batching={"max_wait": "5ms"})
    (name, text), *more = Local(port=8123).emit(spec).items()
    assert (name, more) == ("serve.yaml", [])
    config = YAML(typ="safe").load(text)
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    assert config["http_options"] == {"host": "127.0.0.1", "port": 8123}
    assert application["import_path"] == "specml.serving.app:build"
    assert application["args"]["bundle"] == "artifacts/bundle"
    assert application["args"]["batching"] == {"max_batch_size": 256}
    assert application["deployments"][0]["user_config"]["batching"] == {"max_wait": 0.005, "max_queue": None}
    assert application["args"]["auth"] == {"keys": {"tokens": {"env": "TOKENS"}}}
    assert text == Local(port=8123).emit(spec)["serve.yaml"]


def test_its_args_are_what_the_application_takes() -> None:
    from specml.serving.app import Args

    config = YAML(typ="safe").load(Local().emit(served(auth={"tokens": "${secret:TOKENS}"}))["serve.yaml"])
    Args.model_validate(config["applications"][0]["args"])


def test_grpc_is_answered_where_the_spec_says() -> None:
    args = YAML(typ="safe").load(Local().emit(served(grpc={"port": 9001}))["serve.yaml"])["applications"][0]["args"]
    assert args["grpc"] == {"port": 9001, "host": "127.0.0.1"}
    assert "grpc" not in YAML(typ="safe").load(Local().emit(served())["serve.yaml"])["applications"][0]["args"]


@pytest.mark.parametrize("port", [8123, 9001])
def test_tls_has_a_port_of_its_own(port: int) -> None:
    target = {"type": "local", "port": 8123, "tls": {"certificate": "c.pem", "port": port}}
    (found,) = spec_of(serving={"grpc": {"port": 9001}}, deployment={"target": target}).contradictions()
    assert (found.key, found.what) == (
        ("deployment", "target", "tls", "port"),
        f"is {port}, where HTTP or gRPC is answered.",
    )


def test_a_grpc_port_that_somebody_listens_at_is_refused() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = served(grpc={"port": taken.getsockname()[1]})
        with pytest.raises(DeployFailed, match="taken by another process") as caught:
            _refuse_taken_grpc(spec, None)
    assert caught.value.where == "serving.grpc.port"


@pytest.mark.parametrize(
    ("grpc", "target", "what"),
    [
        ({"port": 8000}, "local", "is 8000, where HTTP is answered."),
        ({"port": 8000}, {"type": "ray", "address": "http://10.0.0.5:8265"}, "is 8000, where HTTP is answered."),
        ({}, "edge", "an archive for the target edge answers HTTP alone"),
    ],
)
def test_grpc_where_it_can_t_be_answered_is_a_contradiction(grpc: dict[str, Any], target: Any, what: str) -> None:
    (found,) = all_of(spec_of(serving={"grpc": grpc}, deployment={"target": target}))
    assert found.key[:2] == ("serving", "grpc")
    assert what in found.what


@pytest.mark.parametrize(
    ("replicas", "key", "other"),
    [
        ({"min": 2, "max": 2}, "num_replicas", "autoscaling_config"),
        ({"min": 1, "max": 3}, "autoscaling_config", "num_replicas"),
    ],
)
def test_replicas_are_fixed_or_scaled(replicas: dict[str, int], key: str, other: str) -> None:
    config = YAML(typ="safe").load(Local().emit(served(replicas=replicas))["serve.yaml"])
    model, explain = config["applications"][0]["deployments"]
    assert key in model
    assert other not in model
    assert (explain["name"], explain["num_replicas"]) == ("explain", 1)


def test_what_explains_can_be_left_out() -> None:
    (application,) = YAML(typ="safe").load(Local().emit(served(explain=None))["serve.yaml"])["applications"]
    assert [one["name"] for one in application["deployments"]] == ["model"]
    assert "explain" not in application["args"]


def deploy(spec: Spec, project: Path) -> list[str]:
    said: list[str] = []
    rollout.go_live(spec, project, said.append)
    return said


def test_without_a_bundle_there_is_nothing_to_deploy(tmp_path: Path) -> None:
    with pytest.raises(DeployFailed, match="no bundle to serve"):
        deploy(served(), tmp_path)


def test_a_bundle_that_no_gate_has_judged_is_not_served(tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle", weight=1.0)
    with pytest.raises(GateRefused, match="never released") as refusal:
        deploy(served(), tmp_path)
    assert "specml run" in refusal.value.hint
    release(tmp_path)
    binary_bundle(tmp_path / "artifacts/bundle", weight=2.0)  # made anew, not judged anew
    with pytest.raises(GateRefused, match="never released"):
        deploy(served(), tmp_path)
    assert not (tmp_path / ".specml/serving.json").exists()


def test_a_refused_bundle_is_not_served_and_its_gates_are_named(tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle")
    release(tmp_path, admitted=False, gates={"auc": "refused", "parity": "holds", "disparity": "not measured"})
    with pytest.raises(GateRefused, match=r"refused by auc \(refused\), disparity \(not measured\);"):
        deploy(served(), tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"admitted": true, "bundle": "sha256:0", "gates": 3}'])
def test_a_broken_release_admits_nothing(content: str, tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle")
    release(tmp_path)
    (tmp_path / RELEASE).write_text(content)
    with pytest.raises(GateRefused, match="no release"):
        deploy(served(), tmp_path)


@pytest.mark.parametrize(("tokens", "told"), [(None, "is not set"), ("short", "fewer than 16")])
def test_weak_tokens_are_refused(
    tokens: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary_bundle(tmp_path / "artifacts/bundle")
    release(tmp_path)
    if tokens is None:
        monkeypatch.delenv("TOKENS", raising=False)
    else:
        monkeypatch.setenv("TOKENS", tokens)
    with pytest.raises(DeployFailed, match=told) as refusal:
        deploy(served(auth={"tokens": "${secret:TOKENS}"}), tmp_path)
    assert tokens is None or tokens not in str(refusal.value)


def test_more_gpus_than_there_are_are_refused(tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle")
    release(tmp_path)
    with pytest.raises(DeployFailed, match="reserve 500 GPU each"):
        deploy(served(replicas={"gpus": 500}), tmp_path)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle")
    release(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        spec = spec_of(deployment={"target": {"type": "local", "port": port}})
        with pytest.raises(DeployFailed, match=f"port {port} of 127.0.0.1 is taken"):
            deploy(spec, tmp_path)
    assert not (tmp_path / ".specml/serving.json").exists()


def test_stop_kills_what_bears_the_mark_and_nothing_else(tmp_path: Path) -> None:
    ours = Cluster.new(8123, 4)
    ours.write(tmp_path)
    sleeper = [sys.executable, "-c", "import subprocess, sys; subprocess.run(['sleep', '60'])"]
    mine = subprocess.Popen(sleeper, env={**os.environ, MARK: ours.mark}, start_new_session=True)
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "another"})
    try:
        assert ours.stop(tmp_path)
        assert not psutil.pid_exists(mine.pid)
        assert other.poll() is None
        assert ours.processes() == []
        assert not (tmp_path / "serving.json").exists()
    finally:
        other.kill()
        other.wait()
        mine.kill()


def test_a_record_of_dead_processes_is_cleared_away(tmp_path: Path) -> None:
    """As after a restart of the machine: the process numbers of then may be anybody's now."""
    state = tmp_path / ".specml"
    state.mkdir()
    gone = Cluster.new(8123, 4)
    gone.write(state)
    spec = served()
    assert spec.deployment.target.status(spec, tmp_path) is None
    assert spec.deployment.target.stop(spec, tmp_path) is False
    assert list(state.glob("serving.json")) == []


GOOD = {"mark": "m", "folder": "/tmp/specml-x", "port": 1, "ports": 2, "cpus": 3}


@pytest.mark.parametrize(
    "content",
    ["", "{", "{}", "[]", "null", '"x"', "\xff", json.dumps({**GOOD, "port": "1"}), json.dumps({**GOOD, "mark": ""}),
     json.dumps({**GOOD, "folder": "/home"}), json.dumps({**GOOD, "folder": "/tmp/specml-x/../../home"})],
)  # fmt: skip
def test_a_broken_record_is_told_and_touches_nothing(content: str, tmp_path: Path) -> None:
    state = tmp_path / ".specml"
    state.mkdir()
    (state / "serving.json").write_bytes(content.encode("latin-1"))
    spec = served()
    for ask in (
        lambda: spec.deployment.target.status(spec, tmp_path),
        lambda: spec.deployment.target.stop(spec, tmp_path),
    ):
        with pytest.raises(DeployFailed, match="no record of a server"):
            ask()
    assert (state / "serving.json").exists()


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = Cluster("m", "/tmp/specml-x", 1, 2, 3, "127.0.0.1:7", {"applications": [{"args": {"slo": 1}}]})
    made.write(tmp_path)
    assert Cluster.read(tmp_path) == made
    assert made.args == {"slo": 1}


def test_after_a_change_that_was_cut_off_whichever_is_live_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(revision: str) -> dict[str, Any]:
        return {
            "applications": [{"args": {}, "deployments": [{"name": "model", "user_config": {"revision": revision}}]}]
        }

    monkeypatch.setattr("specml.application.knobs", lambda _: {})
    live = "old"
    monkeypatch.setattr(
        "specml.liveness.replicas", lambda _, asked: ("sha256:b", {"one": "CPU"}) if asked == live else None
    )
    made = Cluster("m", "/tmp/specml-x", 1, 2, 3, "127.0.0.1:7", config("old"), wanted=config("new"))
    assert made.deployment() is not None
    assert (made.config, made.wanted) == (config("old"), config("new"))
    live = "new"
    assert made.deployment() is not None
    assert (made.config, made.wanted) == (config("new"), {})
    live = "another"
    assert made.deployment() is None


def test_another_server_at_the_port_is_no_deployment(tmp_path: Path) -> None:
    import http.server
    import threading

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"replica": "x", "bundle": "y", "device": "z", "revision": "w"}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made = Cluster.new(server.server_port, 4)
        try:
            assert liveness.healthz(f"http://127.0.0.1:{server.server_port}") is not None
            assert made.deployment() is None
        finally:
            server.shutdown()
            thread.join()
            made.stop(tmp_path)
