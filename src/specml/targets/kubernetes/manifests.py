"""The manifests of a spec: what Kubernetes, KubeRay and Prometheus are asked for. Pure."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml import application
from specml.files import GENERATED

if TYPE_CHECKING:
    from specml.spec import Spec
    from specml.targets.kubernetes import Kubernetes

OURS = "specml"
NAME, COMPONENT = f"{OURS}/name", f"{OURS}/part"
"""Labels by which policies and queries find pods; KubeRay sets those that Kubernetes recommends."""

PORT, DASHBOARD, GCS, METRICS, AGENT = 8000, 8265, 6379, 8080, 52365
"""Of HTTP; of Ray's dashboard, which the operator asks; of Ray's state; its counters; its agent, asked by probes."""
OTHERS = (8404, 8500, 9101, 9500)
"""Ports of pods that HAProxy and Ray's own proxy take."""
RANGES = (range(10_002, 20_000), range(30_000, 31_001), range(40_000, 41_001))
"""Of Ray's workers, and of replicas, which Ray hands out."""
BUNDLE = "/srv/bundle"
USER = 10001
OBJECT_STORE = 80_000_000
"""Bytes; Ray wants at least 75 MiB, and requests never go through it."""
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
HEAD_CPUS = "500m"
EXPLAIN_CPUS = 1
READY = """\
import socket
with socket.create_connection(("127.0.0.1", {http}), 2) as http:
    http.sendall(b"GET /-/healthz HTTP/1.0\\r\\n\\r\\n")
    assert b" 200 " in http.recv(64)
socket.create_connection(("127.0.0.1", {grpc}), 2).close()
"""
"""Whether a pod answers HTTP, which its HAProxy may pass on to other pods, and gRPC, which a replica in it must."""
H2C = "kubernetes.io/h2c"
"""How an ingress is told of HTTP/2 without TLS, which gRPC is here."""
LEAVING = 15
"""Seconds between the end of a pod in the Service of gRPC and that of its processes: some until every node knows of it,
and ``serving.rpc.LEAVING`` until connections have gone to others."""
IDLE = 120
"""Seconds after which a pod without a replica goes."""


@dataclass(frozen=True)
class Pods:
    """How replicas are laid out on pods."""

    replicas: int
    """On each pod: several where they share a GPU."""
    cpus: float
    gpus: int
    """Whole ones, of each pod: Kubernetes knows no fractions."""
    least: int
    most: int


def pods(spec: Spec) -> Pods:
    """The pods of the replicas that predict."""
    wanted = spec.serving.replicas
    each = max(1, math.floor(1 / wanted.gpus)) if 0 < wanted.gpus < 1 else 1
    gpus = math.ceil(wanted.gpus * each - 1e-9)
    return Pods(each, wanted.cpus * each, gpus, math.ceil(wanted.min / each), math.ceil(wanted.max / each))


def taken(port: int) -> str:
    """What a port of a pod is for, when it can't be gRPC's; else empty."""
    if port < 1024:
        return "which pods without privileges may not listen at"
    if port == PORT:
        return "where HTTP is answered"
    fixed = (DASHBOARD, GCS, METRICS, AGENT, *OTHERS)
    return "which Ray takes in every pod" if port in fixed or any(port in one for one in RANGES) else ""


def grpc_service(spec: Spec) -> str:
    """The name of the Service for gRPC."""
    return f"{spec.name}-grpc"


def secret(spec: Spec, target: Kubernetes) -> str:
    """The name of the Secret that holds the tokens."""
    return target.secret or f"{spec.name}-secrets"


def variables(spec: Spec) -> tuple[str, ...]:
    """The environment variables that hold keys, sorted."""
    named = spec.serving.auth.named.values() if spec.serving.auth is not None else ()
    return tuple(sorted({key.token.name for key in named}))


def written(
    spec: Spec, target: Kubernetes, config: dict[str, Any], *, tag: str, told: dict[str, str]
) -> dict[str, str]:
    """The manifests by file name. ``told``: facts of the release, which pods are annotated with."""
    files = {
        "rayservice.yaml": [_rayservice(spec, target, config, tag, told)],
        "network.yaml": [_policy(spec, target)],
        "disruption.yaml": [_disruption(spec, target)],
    }
    if spec.serving.grpc is not None:
        files["grpc.yaml"] = [_grpc(spec, target, spec.serving.grpc.port)]
    if target.prometheus is not None:
        files["monitoring.yaml"] = [_monitor(spec, target), _rules(spec, target)]
    return {name: _text(documents) for name, documents in files.items()}


def _text(documents: list[dict[str, Any]]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.representer.ignore_aliases = lambda *_: True
    text = io.StringIO()
    text.write(f"# {GENERATED} What a release adds comes in on deploy.\n")
    yaml.dump_all(documents, text)
    return text.getvalue()


def _object(kind: str, api: str, spec: Spec, target: Kubernetes, content: dict[str, Any]) -> dict[str, Any]:
    labels = {NAME: spec.name, "app.kubernetes.io/managed-by": OURS}
    about = {"name": spec.name, "namespace": target.namespace, "labels": labels}
    return {"apiVersion": api, "kind": kind, "metadata": about, "spec": content}


def _rayservice(
    spec: Spec, target: Kubernetes, config: dict[str, Any], tag: str, told: dict[str, str]
) -> dict[str, Any]:
    from ruamel.yaml.scalarstring import LiteralScalarString

    image = f"{target.image}:{tag}"
    cluster: dict[str, Any] = {
        "rayVersion": _ray(),
        # Every process of Ray asks the others for a token, which the operator makes.
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", **_start()},  # noqa: S104
            "template": _pod(spec, target, "head", image, told),
        },
        "workerGroupSpecs": _workers(spec, target, image, told),
    }
    if _scales(spec):
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {
            "idleTimeoutSeconds": IDLE,
            # Its container is the operator's to lay out: what it writes where is not ours to know.
            "securityContext": {**_confined(), "readOnlyRootFilesystem": False},
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
        }
    if target.redis is not None:
        cluster["gcsFaultToleranceOptions"] = {"redisAddress": target.redis}
    content = {
        "serveConfigV2": LiteralScalarString(serve_config(config)),
        # A change of the pods starts a second cluster, and the first one answers until that is ready. Knobs change
        # ``serveConfigV2`` alone, which KubeRay hands to the cluster that is there.
        "upgradeStrategy": {"type": "NewCluster"},
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": cluster,
    }
    return _object("RayService", "ray.io/v1", spec, target, content)


def serve_config(config: dict[str, Any]) -> str:
    """Ray Serve's config as a RayService holds it."""
    from ruamel.yaml import YAML

    serve = io.StringIO()
    YAML().dump(config, serve)
    return serve.getvalue()


def _workers(spec: Spec, target: Kubernetes, image: str, told: dict[str, str]) -> list[dict[str, Any]]:
    """A group of pods for replicas that predict and one for those that explain: neither takes the other's place."""
    layout = pods(spec)
    groups = [("model", layout.least, layout.most, math.ceil(layout.cpus), layout.replicas)]
    if (explain := spec.serving.explain) is not None:
        groups.append(("explain", explain.replicas, explain.replicas, EXPLAIN_CPUS, 1))
    return [
        {
            "groupName": name,
            "replicas": least,
            "minReplicas": least,
            "maxReplicas": most,
            "rayStartParams": {
                "num-cpus": str(cpus),
                **({"num-gpus": str(layout.gpus)} if name == "model" and layout.gpus else {}),
                "resources": f'"{{\\"{name}\\": {places}}}"',
                **_start(),
            },
            "template": _pod(spec, target, name, image, told),
        }
        for name, least, most, cpus, places in groups
    ]


def _start() -> dict[str, str]:
    return {"object-store-memory": str(OBJECT_STORE), "metrics-export-port": str(METRICS)}


def _scales(spec: Spec) -> bool:
    return pods(spec).least != pods(spec).most


def _pod(spec: Spec, target: Kubernetes, part: str, image: str, told: dict[str, str]) -> dict[str, Any]:
    autoscaler = part == "head" and _scales(spec)
    content: dict[str, Any] = {
        # Only the autoscaler in the head's pod asks Kubernetes for anything.
        "automountServiceAccountToken": autoscaler,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Longer than replicas take to answer what they have begun.
        "terminationGracePeriodSeconds": 60,
        "containers": [_container(spec, target, part, image)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        ],
    }
    if part == "model" and pods(spec).most > 1:
        content["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {NAME: spec.name, COMPONENT: part}},
            }
        ]
    if target.pull_secret is not None:
        content["imagePullSecrets"] = [{"name": target.pull_secret}]
    about: dict[str, Any] = {"labels": {NAME: spec.name, COMPONENT: part}}
    if told:
        about["annotations"] = {f"{OURS}/{name}": value for name, value in sorted(told.items())}
    return {"metadata": about, "spec": content}


def _container(spec: Spec, target: Kubernetes, part: str, image: str) -> dict[str, Any]:
    from ruamel.yaml.scalarstring import LiteralScalarString

    # Not every KubeRay makes the Service for HTTP where the head's container does not name its port.
    ports = {"metrics": METRICS, "serve": PORT} | ({"gcs": GCS, "dashboard": DASHBOARD} if part == "head" else {})
    ready = _probe(DASHBOARD, "/api/gcs_healthz") if part == "head" else _probe(PORT, "/-/healthz")
    more: dict[str, Any] = {}
    if part == "model" and (grpc := spec.serving.grpc) is not None:
        ports["grpc"] = grpc.port
        asks = LiteralScalarString(READY.format(http=PORT, grpc=grpc.port))
        ready = {"exec": {"command": ["python3", "-IS", "-c", asks]}, **_timeout()}
        more["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(LEAVING)]}}}
    return {
        "name": f"ray-{part}",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(spec, target, part),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": _resources(spec, target, part),
        "securityContext": _confined(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
        # KubeRay's own probes want wget in the image.
        "startupProbe": {**_probe(AGENT, "/api/local_raylet_healthz"), "periodSeconds": 5, "failureThreshold": 60},
        "livenessProbe": {**_probe(AGENT, "/api/local_raylet_healthz"), "periodSeconds": 10, "failureThreshold": 12},
        "readinessProbe": {**ready, "periodSeconds": 5, "failureThreshold": 2},
        **more,
    }


def _environment(spec: Spec, target: Kubernetes, part: str) -> list[dict[str, Any]]:
    plain = {**application.RAY_SETTINGS, "HOME": "/tmp", "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0"}  # noqa: S108
    names: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(plain.items())]
    kept = secret(spec, target)
    for variable in variables(spec) if part == "model" else ():
        names.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": kept, "key": variable}}})
    return names


def _resources(spec: Spec, target: Kubernetes, part: str) -> dict[str, Any]:
    layout = pods(spec)
    cpus = {"head": HEAD_CPUS, "model": f"{layout.cpus:g}", "explain": str(EXPLAIN_CPUS)}[part]
    gpus = {"nvidia.com/gpu": str(layout.gpus)} if part == "model" and layout.gpus else {}
    # A limit on CPUs would hold a replica back while the node has nothing else to do; one on memory keeps others safe.
    return {"requests": {"cpu": cpus, "memory": target.memory, **gpus}, "limits": {"memory": target.memory, **gpus}}


def _confined() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _probe(port: int, path: str) -> dict[str, Any]:
    return {"httpGet": {"port": port, "path": path}, **_timeout()}


def _timeout() -> dict[str, int]:
    return {"timeoutSeconds": 5}


def _policy(spec: Spec, target: Kubernetes) -> dict[str, Any]:
    """What Ray binds to every interface is open to the service's own pods only; to others, HTTP, and gRPC if any."""
    grpc = [spec.serving.grpc.port] if spec.serving.grpc is not None else []
    ours = {"podSelector": {"matchLabels": {NAME: spec.name}}}
    everywhere: dict[str, Any] = {"namespaceSelector": {}}
    arriving: list[dict[str, Any]] = [
        {"from": [ours]},
        {"ports": _ports(PORT, *grpc)},
        {"from": [{**everywhere, "podSelector": {"matchLabels": OPERATOR}}], "ports": _ports(DASHBOARD)},
    ]
    if target.prometheus is not None:
        namespace = {"matchLabels": {"kubernetes.io/metadata.name": target.prometheus}}
        arriving.append({"from": [{"namespaceSelector": namespace}], "ports": _ports(METRICS)})
    leaving: list[dict[str, Any]] = [
        {"to": [ours]},
        {"to": [everywhere], "ports": [{"protocol": "UDP", "port": 53}, *_ports(53)]},
    ]
    if _scales(spec):
        leaving.append({"ports": _ports(443, 6443)})  # of Kubernetes itself, which no selector names
    if target.redis is not None:
        leaving.append({"ports": _ports(int(target.redis.rpartition(":")[2]))})
    content = {
        "podSelector": {"matchLabels": {NAME: spec.name}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": arriving,
        "egress": leaving,
    }
    return _object("NetworkPolicy", "networking.k8s.io/v1", spec, target, content)


def _ports(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _disruption(spec: Spec, target: Kubernetes) -> dict[str, Any]:
    """A node that is drained takes one replica's pod after the other."""
    selector = {"matchLabels": {NAME: spec.name, COMPONENT: "model"}}
    return _object("PodDisruptionBudget", "policy/v1", spec, target, {"maxUnavailable": 1, "selector": selector})


def _grpc(spec: Spec, target: Kubernetes, port: int) -> dict[str, Any]:
    """A Service beside KubeRay's own, which has one port, that of HTTP.

    It takes every pod that is ready: while a release is exchanged for another, both answer.
    """
    content = {
        "selector": {NAME: spec.name, COMPONENT: "model"},
        "ports": [{"name": "grpc", "port": port, "targetPort": "grpc", "appProtocol": H2C}],
    }
    made = _object("Service", "v1", spec, target, content)
    return {**made, "metadata": {**made["metadata"], "name": grpc_service(spec)}}


def _monitor(spec: Spec, target: Kubernetes) -> dict[str, Any]:
    content = {
        "selector": {"matchLabels": {NAME: spec.name}},
        "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}],
        "podTargetLabels": [NAME, COMPONENT],
    }
    return _object("PodMonitor", "monitoring.coreos.com/v1", spec, target, content)


def _rules(spec: Spec, target: Kubernetes) -> dict[str, Any]:
    of = f'application="{spec.name}", deployment="model"'
    healthy = f"sum(ray_serve_deployment_replica_healthy{{{of}}})"
    # Exporters differ in whether a counter's name ends so.
    starts = f'{{__name__=~"ray_serve_deployment_replica_starts(_total)?", {of}}}'
    least = spec.serving.replicas.min
    rules = [
        _rule("NoReplica", f"({healthy} or vector(0)) < 1", "1m", "critical", f"No replica of {spec.name} answers."),
        _rule("FewReplicas", f"{healthy} < {least}", "10m", "warning", f"Fewer than {least} replicas are healthy."),
        _rule(
            "ReplicasFail",
            f"sum(increase({starts}[30m])) > {3 * spec.serving.replicas.max}",
            "5m",
            "warning",
            f"Replicas of {spec.name} are started again and again.",
        ),
    ]
    return _object(
        "PrometheusRule", "monitoring.coreos.com/v1", spec, target, {"groups": [{"name": spec.name, "rules": rules}]}
    )


def _rule(name: str, expr: str, lasting: str, severity: str, summary: str) -> dict[str, Any]:
    return {
        "alert": f"Specml{name}",
        "expr": expr,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }


def _ray() -> str:
    from importlib.metadata import version

    return version("ray")
