"""This machine, by Ray Serve."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml import application, measurements, values
from specml.component import Block, Disagreement
from specml.errors import DeployFailed
from specml.kinds import Deployment, Target
from specml.targets.local.cluster import LOOPBACK, Cluster, alone, refuse_taken

if TYPE_CHECKING:
    from specml.releases import Release
    from specml.spec import Spec

STATE = ".specml"


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise PydanticCustomError("address", "must be an IP address, such as 127.0.0.1 or 0.0.0.0.") from None


class Tls(Block):
    """HTTPS, spoken by the HAProxy that stands in front of the replicas."""

    certificate: Annotated[str, Field(min_length=1)]
    """The file with the certificate, its chain and its key, one after the other in PEM; from the project's folder on.
    ``specml deploy`` reads it anew, and no connection breaks."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    """Where HTTPS is answered, at ``host``."""


class Local(Target):
    """A Ray Serve cluster of this machine's own, bound to loopback."""

    answers_grpc: ClassVar[bool] = True

    type: Literal["local"] = "local"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Where HTTP is answered, on 127.0.0.1."""
    host: Annotated[str, AfterValidator(_address)] = LOOPBACK
    """The address that is listened at beside 127.0.0.1: one of this machine's, or ``0.0.0.0`` for all. Any but loopback
    needs ``serving.auth``; without ``tls``, keys and rows travel there in clear."""
    tls: Tls | None = None
    """HTTPS at ``host``; plain HTTP then stays on 127.0.0.1."""

    @override
    def disagreements(self, spec: Spec) -> Iterator[Disagreement]:
        if spec.serving.auth is None and not ipaddress.ip_address(self.host).is_loopback:
            yield Disagreement(
                key=("host",),
                what=f"is {self.host}, not loopback, and the spec asks for no key: anyone who reaches it could ask.",
                hint='Say serving.auth: {type: bearer, tokens: "${secret:API_TOKENS}"}, or host: 127.0.0.1.',
            )
        grpc = spec.serving.grpc
        on_loopback = self.host in (LOOPBACK, "0.0.0.0")  # noqa: S104
        if self.tls is not None and on_loopback and self.tls.port in (self.port, grpc.port if grpc else 0):
            yield Disagreement(
                key=("tls", "port"),
                what=f"is {self.tls.port}, where HTTP or gRPC is answered.",
                hint=f"Name another port, such as {self.tls.port + 1 if self.tls.port < 65535 else 8443}.",
            )

    @override
    def emit(self, spec: Spec) -> dict[str, str]:
        text = application.config_text(self._config(spec), "The bundle's path is made absolute on deploy.")
        return {"serve.yaml": text}

    @override
    def in_words(self, spec: Spec) -> str:
        return (
            f"A release is served on this machine by Ray Serve: {application.in_words(spec)} "
            f"at {' and '.join(self._urls())}."
        )

    @override
    def deploy(self, spec: Spec, project: Path, release: Release, say: Callable[[str], None]) -> Deployment:
        state = project / STATE
        state.mkdir(parents=True, exist_ok=True)
        with alone(state):
            live = Cluster.read(state)
            answering = live.deployment() if live is not None else None
            config = self._resolved(spec, project, release, live)
            front = self._front(project)
            if live is not None and answering is not None and live.certificate and front == live.front:
                live.renew()
            same = live is not None and live.port == self.port and live.front == front
            asked = live is not None and application.asked(live.config) == application.asked(config)
            if answering is not None and same and asked:
                say(f"{spec.name} is live already with this bundle and these options: nothing to do.")
                return answering
            # Whatever can be found wrong is found before what is live is touched.
            _refuse_missing_gpus(spec)
            release.open()
            cpus = _logical_cpus(spec)
            _refuse_taken_grpc(spec, live)
            if live is not None and answering is not None and same and live.cpus >= cpus:
                if application.in_place(live.config, config):
                    say(f"Changing knobs of {spec.name} in place; no replica restarts.")
                else:
                    say(f"Changing what {spec.name} serves, replica by replica; it goes on answering.")
                return self._bring_up(live, spec, project, config, say)
            if live is None or live.port != self.port:
                refuse_taken(self.port)
            if live is not None:
                say("Stopping the server that was started before.")
                live.stop(state)
            refuse_taken(self.port)
            if self.tls is not None:
                refuse_taken(self.tls.port, "deployment.target.tls.port", self.host)
            elif self.host != LOOPBACK:
                refuse_taken(self.port, host=self.host)
            say(f"Starting a server for {spec.name} at {' and '.join(self._urls())} …")
            cluster = Cluster.new(self.port, cpus, front)
            cluster.write(state)
            try:
                return self._bring_up(cluster, spec, project, config, say)
            except BaseException:
                cluster.stop(state)
                raise

    @override
    def tune(self, spec: Spec, project: Path, say: Callable[[str], None]) -> Deployment:
        state = project / STATE
        with alone(state):
            live = Cluster.read(state)
            if live is None:
                raise DeployFailed("nothing is live.", where=spec.name, hint="`specml deploy` starts it.")
            live.answering()
            config = application.tuned(live.config, spec)
            return self._bring_up(live, spec, project, config, say)

    @override
    def status(self, spec: Spec, project: Path) -> Deployment | None:
        live = Cluster.read(project / STATE)
        return live.deployment() if live is not None else None

    @override
    def stop(self, spec: Spec, project: Path) -> bool:
        return self.end(project)

    def end(self, project: Path) -> bool:
        """Stop what was started for the project, whatever its spec says by now; False when nothing was running."""
        state = project / STATE
        if not state.exists():
            return False
        with alone(state):
            live = Cluster.read(state)
            return live is not None and live.stop(state)

    def _bring_up(
        self, cluster: Cluster, spec: Spec, project: Path, config: dict[str, Any], say: Callable[[str], None]
    ) -> Deployment:
        state = project / STATE
        if cluster.config:
            cluster.wanted = config
            cluster.write(state)
        cluster.launch(config, state, say, secrets={secret.name for _, secret in values.secrets(spec)})
        cluster.wanted = {}
        cluster.write(state)
        return cluster.answering()

    def _config(self, spec: Spec) -> dict[str, Any]:
        # HAProxy listens at `host`; what the replicas listen at themselves, gRPC too, never leaves this machine.
        args = application.ray_options(spec, host=self.host, grpc_host=LOOPBACK)
        return application.serve_config(spec, args, host=LOOPBACK, port=self.port, proxies="HeadOnly")

    def _front(self, project: Path) -> tuple[str, int, str]:
        """Where HAProxy listens beside loopback, where it speaks TLS there, and with which certificate.

        Raises:
            DeployFailed: the file holds no certificate and its key.
        """
        if self.tls is None:
            return self.host, 0, ""
        path = (project / self.tls.certificate).resolve()
        _refuse_no_certificate(path)
        return self.host, self.tls.port, str(path)

    def _urls(self) -> list[str]:
        host = f"[{self.host}]" if ":" in self.host else self.host
        here, there = f"http://{LOOPBACK}:{self.port}", f"http://{host}:{self.port}"
        return list(dict.fromkeys([here, f"https://{host}:{self.tls.port}" if self.tls is not None else there]))

    def _resolved(self, spec: Spec, project: Path, release: Release, live: Cluster | None) -> dict[str, Any]:
        config = self._config(spec)
        # The store's copy: the next run may replace the project's bundle while replicas start or restart.
        bundle, captures = str(release.bundle), str(project.resolve() / application.CAPTURES)
        known = live.args if live is not None else {}
        application.settle(spec, config, release, bundle=bundle, captures=captures, known=known)
        if costs := measurements.known(project, release.entry.bundle):
            config["applications"][0]["args"]["costs"] = costs  # after the revision: they are no other deployment
        return config


def _refuse_no_certificate(path: Path) -> None:
    import ssl

    try:
        # An encrypted key would ask whoever starts it for a password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
    except (OSError, ValueError) as error:
        raise DeployFailed(
            f"holds no certificate with its key: {getattr(error, 'reason', None) or error}.",
            where=str(path),
            hint="cat certificate.pem chain.pem key.pem > server.pem; the key is not encrypted.",
        ) from None


def _logical_cpus(spec: Spec) -> int:
    """What the cluster offers: while replicas are exchanged, the old ones still hold theirs."""
    return max(64, 2 * math.ceil(application.cpus(spec)))


def _refuse_taken_grpc(spec: Spec, live: Cluster | None) -> None:
    """Replicas share a port among them; that another server has it, they would not notice."""
    grpc = spec.serving.grpc
    if grpc is not None and (live is None or live.args.get("grpc", {}).get("port") != grpc.port):
        refuse_taken(grpc.port, "serving.grpc.port")


def _refuse_missing_gpus(spec: Spec) -> None:
    replicas = spec.serving.replicas
    found = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if replicas.min * replicas.gpus > found:
        raise DeployFailed(
            f"{replicas.min} replicas reserve {replicas.gpus:g} GPU each, this machine has {found}.",
            where="serving.replicas.gpus",
            hint="Deploy on the CPU: specml deploy serving.replicas.gpus=0",
        )
