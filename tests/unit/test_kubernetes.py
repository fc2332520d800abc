"""The manifests of the target kubernetes, judged by the schemas of Kubernetes and KubeRay; and what is packed."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from specml import rollout, runtime
from specml.errors import DeployFailed
from specml.serving.app import Args
from specml.targets.kubernetes import OF_GRPC, Kubernetes, manifests
from tests.bundles import binary_bundle, release
from tests.conftest import spec_of
from tests.kubernetes import documents, problems

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec

AUTH = {"auth": {"tokens": "${secret:TOKENS}"}}


def served(serving: dict[str, Any] | None = None, **options: Any) -> Spec:
    target = {"type": "kubernetes", "image": "registry.example/models/census", **options}
    return spec_of(name="census", serving={**AUTH, **(serving or {})}, deployment={"target": target})


def emitted(spec: Spec) -> dict[str, dict[str, Any]]:
    """The manifests by kind."""
    found = [one for text in spec.deployment.target.emit(spec).values() for one in documents(text)]
    return {one["kind"]: one for one in found}


EVERYTHING: dict[str, Any] = {
    "serving": {"replicas": {"min": 2, "max": 8, "gpus": 0.5}},
    "base": "registry.example/cuda@sha256:" + "0" * 64,
    "namespace": "models",
    "pull_secret": "registry",
    "redis": "redis.models:6379",
    "memory": "3.5Gi",
}
GRPC: dict[str, Any] = {"grpc": {"port": 9001}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        EVERYTHING,
        {"serving": GRPC},
        {"serving": {"explain": None, "replicas": {"min": 1, "max": 3, "cpus": 0.5}}, "prometheus": None},
    ],
)
def test_kubernetes_and_kuberay_take_the_manifests(options: dict[str, Any]) -> None:
    spec = served(**options)
    assert list(spec.deployment.target.disagreements(spec)) == []
    found = emitted(spec)
    assert [problem for one in found.values() for problem in problems(one)] == []
    assert spec.deployment.target.emit(spec) == served(**options).deployment.target.emit(spec)
    assert {one["metadata"]["namespace"] for one in found.values()} == {options.get("namespace", "default")}


def test_the_schemas_refuse_what_is_wrong() -> None:
    good = emitted(served())["RayService"]
    for path, value in (
        (("spec", "rayClusterConfig", "authOptions", "mode"), "none"),
        (("spec", "rayClusterConfig", "headGroupSpec", "strange"), 1),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers"), "ray"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "strange"), True),
        (("spec", "serveConfigV2"), {"applications": []}),
    ):
        bad = deepcopy(good)
        inner = bad
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        assert problems(bad), path


def test_grpc_has_a_service_of_its_own() -> None:
    found = emitted(served({**GRPC, "replicas": {"min": 2, "max": 2, "gpus": 0.5}}, base="cuda", namespace="models"))
    config = YAML(typ="safe").load(found["RayService"]["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["grpc"] == {"port": 9001, "host": "0.0.0.0"}
    cluster = found["RayService"]["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(one["template"] for one in cluster["workerGroupSpecs"])]
    service = found["Service"]
    assert (service["metadata"]["name"], service["metadata"]["namespace"]) == ("census-grpc", "models")
    assert [(one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [(9001, "grpc")]
    chosen = service["spec"]["selector"].items()
    for template in templates:
        (container,) = template["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert (chosen <= template["metadata"]["labels"].items()) == ("grpc" in ports)
        assert ports.get("grpc", 9001) == 9001
        assert len(set(ports.values())) == len(ports)
    assert ["grpc" in one["spec"]["containers"][0]["ports"][-1]["name"] for one in templates] == [False, True, False]
    bare = emitted(served())
    assert "Service" not in bare
    assert "lifecycle" not in str(bare)


def test_a_head_names_the_port_of_http() -> None:
    # KubeRay looks there for the port of the Service that it makes, and some versions make none without.
    head = emitted(served())["RayService"]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "serve", "containerPort": 8000} in head["containers"][0]["ports"]


@pytest.mark.parametrize(
    ("http", "grpc", "ready"), [(200, True, True), (503, True, False), (200, False, False), (None, True, False)]
)
def test_a_pod_is_ready_when_it_answers_by_both(http: int | None, grpc: bool, ready: bool) -> None:
    model = emitted(served(GRPC))["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    *command, asks = model["containers"][0]["readinessProbe"]["exec"]["command"]
    assert command == ["python3", "-IS", "-c"]
    with socket.create_server(("127.0.0.1", 0)) as front, socket.create_server(("127.0.0.1", 0)) as replica:
        ports = front.getsockname()[1], replica.getsockname()[1]
        for closed, one in ((http is None, front), (not grpc, replica)):
            if closed:
                one.close()
        answering = threading.Thread(target=_answer, args=(front, http))
        answering.start()
        asks = asks.replace("8000", str(ports[0])).replace("9001", str(ports[1]))
        done = subprocess.run([sys.executable, "-IS", "-c", asks], capture_output=True, check=False)
        answering.join()
    assert (done.returncode == 0) == ready, done.stderr


def _answer(front: socket.socket, status: int | None) -> None:
    if status is not None:
        asked, _ = front.accept()
        with asked:
            assert asked.recv(1024).startswith(b"GET /-/healthz HTTP/1.0\r\n")
            asked.sendall(f"HTTP/1.0 {status} x\r\n\r\n".encode())


def test_what_grpc_imports_is_in_the_image() -> None:
    pins = {pin.partition("==")[0] for pin in runtime.pins(OF_GRPC)}
    read = [file for file in runtime.modules("specml.serving.app") if file.name in ("rpc.py", "messages.py")]
    assert len(read) == 2
    for name, brings in (("grpc", "grpcio"), ("google.protobuf", "protobuf"), ("psutil", "psutil")):
        assert any(f"import {name}" in file.read_text() or f"from {name}" in file.read_text() for file in read)
        assert brings in pins


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's own
def test_the_config_inside_is_what_ray_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = YAML(typ="safe").load(emitted(served())["RayService"]["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    args = Args.model_validate(config["applications"][0]["args"])
    assert args.bundle == "/srv/bundle"
    assert args.auth is not None
    assert {name: (key.env, key.digests) for name, key in args.auth.keys.items()} == {"tokens": ("TOKENS", ())}


@pytest.mark.parametrize(
    ("replicas", "pods"),
    [
        ({"min": 1, "max": 1}, manifests.Pods(1, 1.0, 0, 1, 1)),
        ({"min": 2, "max": 5, "cpus": 2}, manifests.Pods(1, 2.0, 0, 2, 5)),
        ({"min": 3, "max": 5, "gpus": 0.5}, manifests.Pods(2, 2.0, 1, 2, 3)),
        ({"min": 2, "max": 2, "gpus": 0.3}, manifests.Pods(3, 3.0, 1, 1, 1)),
        ({"min": 1, "max": 2, "gpus": 2}, manifests.Pods(1, 1.0, 2, 1, 2)),
    ],
)
def test_replicas_that_share_a_gpu_share_a_pod(replicas: dict[str, Any], pods: manifests.Pods) -> None:
    spec = served({"replicas": replicas}, base="cuda")
    assert manifests.pods(spec) == pods
    cluster = emitted(spec)["RayService"]["spec"]["rayClusterConfig"]
    model = cluster["workerGroupSpecs"][0]
    assert (model["minReplicas"], model["maxReplicas"]) == (pods.least, pods.most)
    assert json.loads(json.loads(model["rayStartParams"]["resources"])) == {"model": pods.replicas}
    limits = model["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == (str(pods.gpus) if pods.gpus else None)
    assert cluster.get("enableInTreeAutoscaling", False) == (pods.least != pods.most)


def test_every_key_is_read_from_the_secret() -> None:
    keys = {"shop": {"token": "${secret:SHOP_KEY}"}, "audit": {"token": "${secret:AUDIT_KEY}", "scopes": ["explain"]}}
    model = emitted(served({"auth": {"keys": keys}}))["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    told = {one["name"] for one in model["template"]["spec"]["containers"][0]["env"] if "valueFrom" in one}
    assert told == {"SHOP_KEY", "AUDIT_KEY"}


def test_pods_are_confined_and_hold_no_secret() -> None:
    cluster = emitted(served())["RayService"]["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(one["template"] for one in cluster["workerGroupSpecs"])]
    assert len(templates) == 3
    for template in templates:
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        told = {one["name"]: one for one in container["env"]}
        assert told["RAY_SERVE_ENABLE_HA_PROXY"]["value"] == "1"
        if template["metadata"]["labels"]["specml/part"] == "model":
            assert told["TOKENS"]["valueFrom"]["secretKeyRef"] == {"name": "census-secrets", "key": "TOKENS"}
        else:
            assert "TOKENS" not in told


@pytest.mark.parametrize(("prometheus", "grpc"), [("monitoring", []), (None, []), (None, [9001])])
def test_only_http_and_grpc_are_open_to_everyone(prometheus: str | None, grpc: list[int]) -> None:
    policy = emitted(served(GRPC if grpc else {}, prometheus=prometheus))["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"specml/name": "census"}}
    open_to_all = [one for one in policy["ingress"] if "from" not in one]
    assert [[port["port"] for port in one["ports"]] for one in open_to_all] == [[8000, *grpc]]
    others = [port["port"] for one in policy["ingress"] if "from" in one for port in one.get("ports", [])]
    assert others == [8265, *([8080] if prometheus else [])]
    assert all(one.get("to") for one in policy["egress"])  # no autoscaler, no Redis: only their own and names


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"serving": {"auth": None}}, [("serving", "auth")]),
        ({"serving": {"replicas": {"gpus": 1}}}, [("base",)]),
        ({"serving": {"grpc": {}}}, []),
        *(({"serving": {"grpc": {"port": port}}}, [("serving", "grpc", "port")]) for port in (443, 8000, 8080, 30_500)),
        ({"name": "1census"}, [("name",)]),
        ({"name": "c" * 41}, [("name",)]),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], keys: list[tuple[str, ...]]) -> None:
    spec = served(changes.get("serving")).model_copy(update={"name": changes.get("name", "census")})
    assert [one.key for one in spec.deployment.target.disagreements(spec)] == keys


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    binary_bundle(tmp_path / "artifacts/bundle")
    release(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_release_is_packed_and_the_commands_are_told(project: Path) -> None:
    spec, said = served(), list[str]()
    target = spec.deployment.target
    assert target.status(spec, project) is None
    live = rollout.go_live(spec, project, said.append)
    folder = project / ".specml/kubernetes" / live.release.folder.name
    build, secret, apply = live.deployment.commands
    tag = build.split()[3]
    assert re.fullmatch(f"registry.example/models/census:{live.release.folder.name}-[0-9a-f]{{8}}", tag)
    assert build == f"docker build -t {tag} {folder}/image && docker push {tag}"
    assert secret.startswith(
        """printf '%s\\n' "TOKENS=$TOKENS" | kubectl -n default create secret generic census-secrets"""
    )
    assert apply == f"kubectl -n default apply -f {folder}/manifests"
    texts = {path.name: path.read_text() for path in (folder / "manifests").iterdir()}
    assert not [problem for text in texts.values() for one in documents(text) for problem in problems(one)]
    assert texts["rayservice.yaml"].count(f"image: {tag}") == 3
    assert live.deployment.bundle in texts["rayservice.yaml"]
    (found,) = documents(texts["rayservice.yaml"])
    args = YAML(typ="safe").load(found["spec"]["serveConfigV2"])["applications"][0]["args"]
    assert (args["digest"], args["auth"]) == (live.deployment.bundle, {"keys": {"tokens": {"env": "TOKENS"}}})
    dockerfile = (folder / "image/Dockerfile").read_text()
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm\n" in dockerfile
    assert "USER 10001" in dockerfile
    lock = (folder / "image/requirements.txt").read_text()
    assert "ray==" in lock
    assert "torch" not in lock
    again = target.status(spec, project)
    assert again is not None
    assert (again.bundle, again.archive) == (live.deployment.bundle, str(folder))
    with pytest.raises(DeployFailed, match="no context"):
        target.stop(spec, project)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rollout.go_live(spec, project, said.append)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.sweep
def test_an_image_that_could_not_start_is_not_packed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specml.targets.kubernetes.SERVER", "specml.serving.auth")
    with pytest.raises(DeployFailed, match="the image's server does not start: ImportError"):
        rollout.go_live(served(), project, lambda _: None)
    assert not list((project / ".specml/kubernetes").glob("[0-9a-f]*"))


def test_without_kubectl_a_context_is_no_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    target = Kubernetes(image="x/y", context="there")
    assert target._client() is None
    with pytest.raises(DeployFailed, match="kubectl is not installed here"):
        target._refuse_no_kubectl(None)
