"""The Ray cluster that ``deploy`` started for a project: launched, looked at, stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from specml import application, liveness
from specml.errors import DeployFailed
from specml.files import canonical_json, locked, write_atomic
from specml.kinds import Deployment

if TYPE_CHECKING:
    import psutil

LAUNCHER = "specml.serving.launch"
"""Starts the cluster; known by name only."""

MARK = "SPECML_SERVING"
"""An environment variable that every process of a cluster inherits: by its value they are found again,
whatever happened to the process that started them, and nobody else's ever are."""

PROJECT = "SPECML_PROJECT"
"""Likewise: the project's folder, so that a server whose record is lost can be traced to it."""

FOLDERS = "/tmp/specml-"  # noqa: S108 - mkdtemp completes it
"""How the folders of clusters begin. Unix sockets, which stand there, need short paths."""

LOOPBACK = "127.0.0.1"
CERTIFICATE = "certificate.pem"
"""Where HAProxy finds its certificate and key, in the cluster's folder; as ``serving.launch`` has it."""

PORTS = 500
"""Ports of a cluster's own, beside the one for HTTP."""

READY_WITHIN = 180.0
"""Seconds."""


@dataclass
class Cluster:
    """What ``deploy`` started, as ``.specml/serving.json`` remembers it."""

    mark: str
    folder: str
    """Ray's and HAProxy's files: removed on stop."""
    port: int
    ports: int
    """First of the ports of its own."""
    cpus: int
    """Logical CPUs that it offers."""
    address: str = ""
    """Where Ray answers; empty until it does."""
    config: dict[str, Any] = field(default_factory=dict)
    """The Ray Serve config that is live."""
    wanted: dict[str, Any] = field(default_factory=dict)
    """The one that it is being changed to; whoever was cut off while it did so does not know which is live by now."""
    host: str = LOOPBACK
    """The address that is listened at, beside loopback."""
    tls_port: int = 0
    """Where TLS is spoken at that address; 0: nowhere."""
    certificate: str = ""
    """The file with its certificate and key; absolute."""

    @classmethod
    def new(cls, port: int, cpus: int, front: tuple[str, int, str] = (LOOPBACK, 0, "")) -> Cluster:
        """A cluster that has no process yet; ``front`` as of the property."""
        # Open to this user alone, as mkdtemp makes it.
        folder = tempfile.mkdtemp(prefix=FOLDERS)
        host, tls_port, certificate = front
        mark = secrets.token_hex(16)
        return cls(mark, folder, port, free_block(), cpus, host=host, tls_port=tls_port, certificate=certificate)

    @property
    def front(self) -> tuple[str, int, str]:
        """Where HAProxy listens beside loopback, where it speaks TLS there, and with which certificate."""
        return self.host, self.tls_port, self.certificate

    @classmethod
    def read(cls, state: Path) -> Cluster | None:
        """The cluster of a project; None when it has none.

        Raises:
            DeployFailed: the record is none that ``write`` has written.
        """
        path = state / "serving.json"
        try:
            found = TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except FileNotFoundError:
            return None
        except ValidationError:
            found = None
        # What stands there is killed by its mark and removed by its folder: neither may be anything else's.
        ours = found is not None and found.mark and re.fullmatch(f"{FOLDERS}[^/.]+", found.folder)
        if found is None or not ours:
            raise DeployFailed(
                "is no record of a server.",
                where=str(path),
                hint=f"Remove it. A server that it told of bears {MARK} in its processes' environment.",
            )
        return found

    def write(self, state: Path) -> None:
        """Remember it, for this user's eyes only: digests of tokens are in it."""
        write_atomic(state / "serving.json", canonical_json(asdict(self)), mode=0o600)

    @property
    def args(self) -> dict[str, Any]:
        """What the live application was built with; empty before it was."""
        with contextlib.suppress(LookupError, TypeError, ValueError):
            return dict(self.config["applications"][0]["args"])
        return {}

    def launch(
        self, config: dict[str, Any], state: Path, say: Callable[[str], None], *, secrets: Collection[str] = ()
    ) -> None:
        """Bring ``config`` up: in a new cluster, or in the place of what is live.

        ``secrets``: environment variables that the servers have no business with.

        Raises:
            DeployFailed: it did not get ready. In a running cluster, what was live before is live again.
        """
        log = (state / "serve.log").resolve()
        wanted = {
            "folder": self.folder,
            "log": str(log),
            "ports": self.ports,
            "cpus": self.cpus,
            "host": self.host,
            "tls_port": self.tls_port,
            "certificate": self.certificate,
            "address": self.address,
            "config": config,
            "previous": self.config or None,
            "seconds": READY_WITHIN,
        }
        # Of the tokens, the servers know digests. Another user's Ray settings are not passed on either.
        environment = {
            name: value for name, value in os.environ.items() if name not in secrets and not name.startswith("RAY_")
        }
        launcher = subprocess.Popen(
            [sys.executable, "-m", LAUNCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, MARK: self.mark, PROJECT: str(state.parent.resolve())},
            cwd=self.folder,
            start_new_session=True,
        )
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        failed = ""
        try:
            with launcher.stdin as stdin:
                stdin.write(json.dumps(wanted))
            for line in launcher.stdout:
                told = json.loads(line)
                self.address = told.get("address", self.address)
                failed = told.get("failed", failed)
                if "say" in told:
                    say(told["say"])
        finally:
            launcher.stdout.close()
            if launcher.poll() is None and sys.exc_info()[0] is not None:
                launcher.kill()
            status = launcher.wait()
        if failed or status:
            raise DeployFailed(
                f"the server did not start: {failed or f'its launcher ended with status {status}'}.",
                hint=f"Ray's messages are in {log}.",
            )
        self.config = config

    def renew(self) -> None:
        """Let HAProxy take its certificate as the file holds it now; connections go on.

        Raises:
            DeployFailed: it does not take it.
        """
        name = f"{self.folder}/{CERTIFICATE}"
        pem = "\n".join(line for line in Path(self.certificate).read_text().splitlines() if line.strip())
        told = self._ask_haproxy(f"set ssl cert {name} <<\n{pem}\n\n")
        told += self._ask_haproxy(f"commit ssl cert {name}\n")
        if "Success" not in told:
            raise DeployFailed(f"HAProxy does not take the certificate: {told.strip()[:200]}", where=self.certificate)

    def _ask_haproxy(self, command: str) -> str:
        path = next(Path(self.folder).glob("*/admin.sock"), None)  # in a folder that Ray calls by its node
        if path is None:
            raise DeployFailed("HAProxy does not run now.", hint="It is started again by itself: deploy again.")
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(30)
            admin.connect(str(path))
            admin.sendall(command.encode())
            with admin.makefile() as answer:
                return answer.read()

    def processes(self) -> list[psutil.Process]:
        """Every process that bears the mark."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def stop(self, state: Path) -> bool:
        """Kill what bears the mark and remove its files; False when nothing ran."""
        import psutil

        ran = False
        if "capture" in self.args:
            self._drain()
        until = time.monotonic() + 30
        while processes := self.processes():
            ran = True
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=0.05)  # one that nobody reaps stays listed, but bears no mark
            if time.monotonic() > until:
                left = ", ".join(str(process.pid) for process in processes)
                raise DeployFailed(f"the server's processes {left} can't be killed.")
        shutil.rmtree(self.folder, ignore_errors=True)
        (state / "serving.json").unlink(missing_ok=True)
        return ran

    def _drain(self) -> None:
        """Let the replicas write the rows that they have captured, for some seconds."""
        import psutil

        replicas = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if any("ServeReplica" in part for part in process.cmdline()[:1]):
                    process.terminate()
                    replicas.append(process)
        psutil.wait_procs(replicas, timeout=10)

    def deployment(self) -> Deployment | None:
        """What answers now, as told by every replica; None when nothing does."""
        url = f"http://127.0.0.1:{self.port}"
        found = liveness.replicas(url, application.revision(self.config))
        if found is None and self.wanted:
            found = liveness.replicas(url, application.revision(self.wanted))
            if found is not None:
                self.config, self.wanted = self.wanted, {}
        if found is None:
            return None
        bundle, devices = found
        grpc = self.args.get("grpc")
        return Deployment(
            url=url,
            bundle=bundle,
            replicas=len(devices),
            devices=tuple(devices.values()),
            unguarded=self.beyond_loopback(),
            knobs=application.knobs(self.config),
            grpc=(f"{grpc['host']}:{grpc['port']}",) if grpc else (),
        )

    def answering(self) -> Deployment:
        """What answers now.

        Raises:
            DeployFailed: nothing does.
        """
        deployment = self.deployment()
        if deployment is None:
            raise DeployFailed(f"nothing answers at port {self.port}.", hint="`specml deploy` starts it again.")
        return deployment

    def beyond_loopback(self) -> tuple[str, ...]:
        """Listening sockets of its processes that are not bound to loopback, and what guards them."""
        import psutil

        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN and not _loopback(connection.laddr.ip):
                        name = process.name()
                        guard = "Ray's RPC, guarded by its token"
                        if name == "haproxy":
                            speaks = "HTTPS" if connection.laddr.port == self.tls_port else "HTTP in clear"
                            guard = f"{speaks}, guarded by {'its keys' if 'auth' in self.args else 'nothing'}"
                        found.add(f"port {connection.laddr.port} of {name} ({process.pid}): {guard}")
        return tuple(sorted(found))


def servers() -> dict[tuple[str, str], list[psutil.Process]]:
    """The processes of every server that this user may see, by the project's folder and the mark."""
    import psutil

    found: dict[tuple[str, str], list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            variables = process.environ()
            if MARK in variables and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault((variables.get(PROJECT, ""), variables[MARK]), []).append(process)
    return found


def strays(project: Path) -> list[Cluster]:
    """Servers of ``project`` that its record does not tell of: nothing else finds them.

    Raises:
        DeployFailed: the record is none that ``write`` has written.
    """
    live, here = Cluster.read(project / ".specml"), str(project.resolve())
    found = []
    for (folder, mark), processes in servers().items():
        if folder == here and (live is None or live.mark != mark):
            found.append(Cluster(mark, _folder_of(processes), port=0, ports=0, cpus=0))
    return found


def _folder_of(processes: list[psutil.Process]) -> str:
    """The folder of their cluster; where they don't tell it, one that is nowhere."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            folder = str(process.environ().get("RAY_AUTH_TOKEN_PATH", "")).rpartition("/")[0]
            if re.fullmatch(f"{FOLDERS}[^/.]+", folder):
                return folder
    return f"{FOLDERS}unknown"


def alone(state: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other deploys and stops of the same project waiting."""
    return locked(state / "serving.lock")


def refuse_taken(port: int, where: str = "deployment.target.port", host: str = LOOPBACK) -> None:
    """Make sure that the port can be bound at ``host``; ``where``: the key that says it.

    Raises:
        DeployFailed: another process listens there, or the address is not this machine's.
    """
    try:
        _bind(port, host)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise DeployFailed(f"{host} is no address of this machine.", where="deployment.target.host") from None
        if error.errno == errno.EACCES:
            raise DeployFailed(f"port {port} is not open to this user.", where=where) from None
        raise DeployFailed(
            f"port {port} of {host} is taken by another process.",
            where=where,
            hint=f"Choose another: specml deploy {where}={port + 1 if port < 65535 else port - 1}",
        ) from None


def free(port: int) -> bool:
    """Whether a server could listen at the port of 127.0.0.1."""
    try:
        _bind(port, LOOPBACK)
    except OSError:
        return False
    return True


def _bind(port: int, host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def free_block() -> int:
    """First of ``PORTS`` ports below the ephemeral ones that no other cluster seems to use."""
    blocks = list(range(20_000, 32_000, PORTS))
    start = secrets.randbelow(len(blocks))
    for base in blocks[start:] + blocks[:start]:
        if all(free(base + offset) for offset in (0, 1, 2, 3, 4, 10, 11, 12, 13)):
            return base
    raise DeployFailed("no block of free ports was found between 20000 and 32000.")


def _loopback(address: str) -> bool:
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"
