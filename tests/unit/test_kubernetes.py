"""The manifests of the target kubernetes, judged by the schemas of Kubernetes and KubeRay; and what is packed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from specml import rollout
from specml.errors import DeployFailed
from specml.serving.app import Args
from specml.targets.kubernetes import Kubernetes, manifests
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


@pytest.mark.parametrize(
    "options",
    [{}, EVERYTHING, {"serving": {"explain": None, "replicas": {"min": 1, "max": 3, "cpus": 0.5}}, "prometheus": None}],
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


@pytest.mark.parametrize("prometheus", ["monitoring", None])
def test_only_http_is_open_to_everyone(prometheus: str | None) -> None:
    policy = emitted(served(prometheus=prometheus))["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"specml/name": "census"}}
    open_to_all = [one for one in policy["ingress"] if "from" not in one]
    assert [[port["port"] for port in one["ports"]] for one in open_to_all] == [[8000]]
    others = [port["port"] for one in policy["ingress"] if "from" in one for port in one.get("ports", [])]
    assert others == [8265, *([8080] if prometheus else [])]
    assert all(one.get("to") for one in policy["egress"])  # no autoscaler, no Redis: only their own and names


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"serving": {"auth": None}}, [("serving", "auth")]),
        ({"serving": {"replicas": {"gpus": 1}}}, [("base",)]),
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
