"""The real kubectl rolls releases out, before an API server that is ours: it stores what the schemas of Kubernetes and
KubeRay let pass, and says of a RayService what KubeRay would. No cluster runs here."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ruamel.yaml import YAML

from specml import application, rollout
from specml.errors import DeployFailed
from specml.targets import kubernetes
from tests.bundles import binary_bundle, release
from tests.conftest import spec_of
from tests.kubernetes import problems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from specml.spec import Spec

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the path"),
]

KINDS = {
    ("", "v1"): [("pods", "Pod"), ("services", "Service")],
    ("ray.io", "v1"): [("rayservices", "RayService"), ("rayclusters", "RayCluster")],
    ("networking.k8s.io", "v1"): [("networkpolicies", "NetworkPolicy")],
    ("policy", "v1"): [("poddisruptionbudgets", "PodDisruptionBudget")],
    ("monitoring.coreos.com", "v1"): [("podmonitors", "PodMonitor"), ("prometheusrules", "PrometheusRule")],
}


def _at(group: tuple[str, str]) -> str:
    return "/apis/{}/{}".format(*group) if group[0] else f"/api/{group[1]}"


@dataclass
class Server:
    """What an API server would keep, by kind and name; and KubeRay, in so far as it makes a cluster of each release."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    works: bool = True
    """Whether the pods of a new release come up."""
    port: int = 0

    def discovery(self, path: str) -> dict[str, Any] | None:
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            versions = [(name, {"groupVersion": f"{name}/{of}", "version": of}) for name, of in KINDS if name]
            groups = [{"name": name, "versions": [of], "preferredVersion": of} for name, of in versions]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if path == "/openapi/v3":
            return {"paths": {at[1:]: {"serverRelativeURL": f"/openapi/v3{at}"} for at in map(_at, KINDS)}}
        for (group, version), kinds in KINDS.items():
            at = _at((group, version))
            if path == at:
                one = {"namespaced": True, "verbs": ["get", "list", "patch", "delete", "create"]}
                listed = [{**one, "name": name, "singularName": name[:-1], "kind": kind} for name, kind in kinds]
                of = f"{group}/{version}".lstrip("/")
                return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": of, "resources": listed}
            if path == f"/openapi/v3{at}":  # kubectl asks whether the server validates what is applied
                checks = {"parameters": [{"name": "fieldValidation", "in": "query"}]}
                paths = {
                    f"{at}/namespaces/{{namespace}}/{name}/{{name}}": {
                        "patch": {
                            **checks,
                            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
                        }
                    }
                    for name, kind in kinds
                }
                return {"openapi": "3.0.0", "info": {"title": "x", "version": "1"}, "paths": paths}
        return None

    def apply(self, kind: str, name: str, given: dict[str, Any]) -> list[str]:
        if wrong := problems(given):
            return wrong
        before = self.objects.get((kind, name), {})
        self.objects[kind, name] = {**given, "status": before.get("status", {})}
        if kind == "rayservices":
            self._reconcile(name, given)
        return []

    def _reconcile(self, name: str, given: dict[str, Any]) -> None:
        spec = given["spec"]["rayClusterConfig"]
        cluster = f"{name}-{hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:5]}"
        status = self.objects["rayservices", name]["status"]
        if not self.works:
            told = {name: {"status": "DEPLOYING", "message": "Failed: ErrImagePull no such image"}}
            status["pendingServiceStatus"] = {"rayClusterName": cluster, "applicationStatuses": told}
            return
        self.objects["rayclusters", cluster] = {"kind": "RayCluster", "apiVersion": "ray.io/v1", "spec": spec}
        applications = {name: {"status": "RUNNING"}}
        status["activeServiceStatus"] = {"rayClusterName": cluster, "applicationStatuses": applications}
        status["pendingServiceStatus"] = {}

    @property
    def active(self) -> str:
        """The cluster that answers for ``census``."""
        return str(self.objects["rayservices", "census"]["status"]["activeServiceStatus"]["rayClusterName"])

    def healthz(self) -> dict[str, Any]:
        """What its replicas would tell."""
        service = self.objects["rayservices", "census"]["spec"]
        (application,) = YAML(typ="safe").load(service["serveConfigV2"])["applications"]
        revision = application["deployments"][0]["user_config"]["revision"]
        told = {"replica": "one", "device": "CPUExecutionProvider", "revision": revision}
        return {**told, "bundle": application["args"]["digest"]}

    def listed(self, selector: str) -> list[dict[str, Any]]:
        wanted = dict(one.split("=") for one in selector.split(","))
        cluster = self.objects.get(("rayclusters", wanted.get("ray.io/cluster", "")))
        if cluster is None:
            return []
        count = cluster["spec"]["workerGroupSpecs"][0]["replicas"]
        pod = {"kind": "Pod", "apiVersion": "v1", "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        return [{**pod, "metadata": {"name": f"pod-{place}", "namespace": "models"}} for place in range(count)]


class Api(BaseHTTPRequestHandler):
    """Carries HTTP to ``keeps``."""

    keeps: Server

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _refuse(self, status: int, reason: str, message: str) -> None:
        told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        self._answer(status, {**told, "reason": reason, "message": message})

    def _named(self) -> tuple[str, str]:
        parts = urlsplit(self.path).path.split("/namespaces/models/")[-1].split("/")
        return parts[0], parts[1] if len(parts) > 1 else ""

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        if (found := self.keeps.discovery(path.path)) is not None:
            self._answer(200, found)
            return
        if path.path == "/healthz":
            self._answer(200, self.keeps.healthz())
            return
        if "/namespaces/models/" not in path.path:
            self._refuse(404, "NotFound", f"nothing at {path.path}")
            return
        kind, name = self._named()
        if not name:
            items = self.keeps.listed(parse_qs(path.query)["labelSelector"][0])
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        elif (kind, name) in self.keeps.objects:
            self._answer(200, self.keeps.objects[kind, name])
        else:
            self._refuse(404, "NotFound", f"{kind} {name} not found")

    def do_PATCH(self) -> None:
        given = YAML(typ="safe").load(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["content-type"].startswith("application/merge-patch"):
            before = self.keeps.objects[self._named()]
            given = {**before, "spec": {**before["spec"], **given["spec"]}}
            del given["status"]
        else:
            assert self.headers["content-type"].startswith("application/apply-patch")
        wrong = self.keeps.apply(*self._named(), given)
        if wrong:
            self._refuse(422, "Invalid", "; ".join(wrong))
        else:
            self._answer(200, self.keeps.objects[self._named()])

    def do_DELETE(self) -> None:
        if self.keeps.objects.pop(self._named(), None) is None:
            self._refuse(404, "NotFound", "none")
        else:
            self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Api,), {"keeps": made})) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        cluster = {"name": "there", "cluster": {"server": f"http://127.0.0.1:{http.server_port}"}}
        context = {"name": "there", "context": {"cluster": "there", "user": "me"}}
        told = {"kind": "Config", "apiVersion": "v1", "clusters": [cluster], "contexts": [context]}
        (tmp_path / "kubeconfig").write_text(json.dumps({**told, "users": [{"name": "me", "user": {}}]}))
        made.port = http.server_port
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps there what it has discovered
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setattr(kubernetes, "PAUSE", 0.1)
        yield made
        http.shutdown()
        thread.join()


def test_releases_come_and_go(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = {"type": "kubernetes", "image": "registry.example/census", "context": "there", "namespace": "models"}
    serving = {"auth": {"tokens": "${secret:TOKENS}"}, "replicas": {"min": 2, "max": 2}, "grpc": {}}
    spec = spec_of(name="census", serving=serving, deployment={"target": target})
    project, said = tmp_path / "project", list[str]()

    def judged(weight: float) -> str:
        digest = binary_bundle(project / "artifacts/bundle", weight=weight)
        release(project)
        return digest

    first = judged(0.05)
    assert spec.deployment.target.status(spec, project) is None
    live = rollout.go_live(spec, project, said.append)
    assert (live.deployment.bundle, live.deployment.replicas) == (first, 2)
    assert live.deployment.url == "http://census-serve-svc.models:8000"
    assert live.deployment.grpc == ("census-grpc.models:8001",)
    assert any("docker build -t registry.example/census:" in line for line in said)
    assert {kind for kind, _ in server.objects} == {name for kinds in KINDS.values() for name, _ in kinds} - {"pods"}

    second = judged(0.07)
    assert rollout.go_live(spec, project, said.append).deployment.bundle == second
    assert rollout.roll_back(spec, project, "", "", said.append)[1].deployment.bundle == first

    judged(0.09)
    server.works = False
    monkeypatch.setattr(kubernetes, "READY_WITHIN", 1.0)
    with pytest.raises(DeployFailed, match="ErrImagePull"):
        rollout.go_live(spec, project, said.append)
    server.works = True
    template = server.objects["rayservices", "census"]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    assert template["metadata"]["annotations"]["specml/bundle"] == first  # asked for again
    found = spec.deployment.target.status(spec, project)
    assert found is not None
    assert found.bundle == first

    assert spec.deployment.target.stop(spec, project) is True
    assert {kind for kind, _ in server.objects} == {"rayclusters"}
    assert spec.deployment.target.stop(spec, project) is False


def test_knobs_change_in_the_cluster_that_is_there(server: Server, tmp_path: Path) -> None:
    where = {"context": "there", "namespace": "models", "url": f"http://127.0.0.1:{server.port}"}
    target = {"type": "kubernetes", "image": "registry.example/census", **where}

    def spec(**serving: Any) -> Spec:
        auth = {"tokens": "${secret:TOKENS}"}
        return spec_of(name="census", serving={"auth": auth, **serving}, deployment={"target": target})

    def deployed(**serving: Any) -> tuple[dict[str, str], str]:
        deployment = rollout.go_live(spec(**serving), project, lambda _: None).deployment
        return application.beside(deployment.knobs, spec()), server.active

    project = tmp_path / "project"
    binary_bundle(project / "artifacts/bundle")
    release(project)
    beside, cluster = deployed()
    assert beside == {}
    assert deployed(slo="2s") == ({"serving.slo": "2s"}, cluster)
    wanted = spec(slo="3s", max_rows=7)
    tuned = wanted.deployment.target.tune(wanted, project, lambda _: None)
    assert application.beside(tuned.knobs, spec()) == {"serving.slo": "3s", "serving.max_rows": "7"}
    found = spec().deployment.target.status(spec(), project)
    assert found == tuned
    assert (found.devices, server.active) == (("CPUExecutionProvider",), cluster)
    assert deployed() == ({}, cluster)
    beside, other = deployed(max_body=4096)
    assert other != cluster


def test_what_nobody_sees_is_not_tuned(server: Server, tmp_path: Path) -> None:
    target = {"type": "kubernetes", "image": "registry.example/census", "context": "there"}
    spec = spec_of(name="census", serving={"auth": {"tokens": "${secret:T}"}}, deployment={"target": target})
    with pytest.raises(DeployFailed, match="can't be seen from here") as refusal:
        spec.deployment.target.tune(spec, tmp_path, lambda _: None)
    assert refusal.value.where == "deployment.target.url"


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path, server: Server) -> None:
    target = {"type": "kubernetes", "image": "registry.example/census", "context": "nowhere"}
    spec = spec_of(name="census", serving={"auth": {"tokens": "${secret:T}"}}, deployment={"target": target})
    with pytest.raises(DeployFailed, match=r'kubectl get failed: .*context "nowhere"'):
        spec.deployment.target.status(spec, tmp_path)
