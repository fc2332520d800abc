"""What the nodes of a cluster have: a job of the cluster looks, and what would not do is refused by name."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import time
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import liveness
from specml.cluster.survey import MARK
from specml.errors import DeployFailed

if TYPE_CHECKING:
    from specml.cluster.dashboard import Dashboard

SURVEY = Path(__file__).with_name("survey.py")
SAME = ("specml", "ray")
"""What each node must have in the version of here."""
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")
"""Of these each node must have one."""
SURVEYED_WITHIN = 120.0
"""Seconds."""
PAUSE = 0.5


@dataclass(frozen=True)
class Needs:
    """What nodes must have beside the versions of here."""

    folder: str
    """Of a bundle, where a node sees it: absolute, or as the package of the job brings it."""
    bundle: str = ""
    """Its digest, where every node must see it; empty where none is asked."""
    unseen: str = ""
    """What to do where one sees another bundle, or none."""
    packages: tuple[str, ...] = ()
    """Of any version."""
    extra: str = ""
    """Of specml, which brings them."""
    settings: tuple[str, ...] = ()
    """Variables whose values are to be told."""
    listen: tuple[str, int] | None = None
    """Address and port that each node must be able to listen at, by ``key``, where it has ``cpus`` for what would."""
    key: str = ""
    cpus: float = 0.0
    held: frozenset[str] = frozenset()
    """Addresses of nodes where what is replaced listens there already, and shares."""


def refuse_version(cluster: Dashboard) -> None:
    """Make sure that the cluster's Ray is the one of here.

    Raises:
        DeployFailed: it is another one, or no cluster answers.
    """
    if (there := cluster.version()) != (here := version("ray")):
        raise DeployFailed(
            f"the cluster has Ray {there}, this specml is made for Ray {here}.",
            where=f"{cluster.key}.address",
            hint=f"Start the cluster with ray=={here}.",
        )


def look(
    cluster: Dashboard, package: str, needs: Needs, metadata: dict[str, str], *, stay: bool
) -> tuple[str, dict[str, Any]]:
    """Look at every node; returns the job that did, and what it found: ``nodes`` and the cluster's ``resources``.

    ``package`` is one of ``packed`` that the cluster has already, ``metadata`` are the job's, ``stay`` says whether it
    goes on then, so that the cluster keeps the package.

    Raises:
        DeployFailed: nodes lack what they need.
    """
    asked = {
        "packages": [*SAME, *ONNXRUNTIMES, *needs.packages],
        "settings": sorted(needs.settings),
        "folder": needs.folder,
        "listen": needs.listen,
        "stay": stay,
    }
    job = cluster.submit(
        {
            "entrypoint": f"exec python {SURVEY.name} {shlex.quote(json.dumps(asked))}",
            "runtime_env": {"working_dir": f"gcs://{package}"},
            "metadata": metadata,
        }
    )
    try:
        found = _found(cluster, job)
        for node in found["nodes"]:
            refuse(node, needs)
    except BaseException:
        with contextlib.suppress(DeployFailed):
            cluster.end(job)
        raise
    return job, found


def refuse(node: dict[str, Any], needs: Needs) -> None:
    """Make sure that a node has what it needs.

    Raises:
        DeployFailed: it has not.
    """
    where, has = f"node {node['node']}", node["versions"]
    here = {name: version(name) for name in SAME}
    wrong = [f"{name} {has[name] or 'not at all'} (here {here[name]})" for name in here if has[name] != here[name]]
    if wrong:
        what = f"it has {' and '.join(wrong)}; what runs there is what is installed there."
        hint = f"Install there: pip install specml=={here['specml']} ray[serve]=={here['ray']}"
        raise DeployFailed(what, where=where, hint=hint)
    if not any(has[name] for name in ONNXRUNTIMES):
        raise DeployFailed("it has no onnxruntime.", where=where, hint="Install specml there, with what it needs.")
    if lacking := [name for name in needs.packages if not has[name]]:
        hint = f"Install there: pip install 'specml[{needs.extra}]=={here['specml']}'"
        raise DeployFailed(f"it has no {' and no '.join(lacking)}.", where=where, hint=hint)
    if needs.bundle and node["bundle"] != needs.bundle:
        what = f"it sees the bundle {node['bundle']} in the project's folder."
        raise DeployFailed(what, where=where, hint=needs.unseen)
    if needs.listen is not None and node["listens"] and node["node"] not in needs.held and node["cpus"] >= needs.cpus:
        host, port = needs.listen
        other = f"Choose another: specml deploy {needs.key}={port + 1 if port < 65535 else port - 1}"
        why, hint = {
            "EADDRINUSE": (f"port {port} of {host} is taken by another process", other),
            "EACCES": (f"port {port} is not open to Ray's user", other),
            "EADDRNOTAVAIL": (f"{host} is no address of it", "Say deployment.target.host: 0.0.0.0, for all of each."),
        }.get(node["listens"], (f"{host}:{port} can't be listened at ({node['listens']})", other))
        raise DeployFailed(f"on {where}, {why}.", where=needs.key, hint=hint)


def named(bundle: str) -> str:
    """A package's name, the same for the same content: the survey, and the bundle of this digest if one is named."""
    return f"_ray_pkg_{sha256(f'{bundle} {sha256(SURVEY.read_bytes()).hexdigest()}'.encode()).hexdigest()[:40]}.zip"


def packed(bundle: Path | None) -> bytes:
    """The survey as a package of a cluster, with the bundle in a folder ``bundle`` where there is one to bring."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(SURVEY, SURVEY.name)
        if bundle is not None:
            for file in sorted(bundle.rglob("*")):
                if file.is_file():
                    archive.write(file, f"bundle/{file.relative_to(bundle).as_posix()}")
    return raw.getvalue()


def _found(cluster: Dashboard, job: str) -> dict[str, Any]:
    until = time.monotonic() + SURVEYED_WITHIN
    while time.monotonic() < until:
        status, message = cluster.status(job)
        logs = cluster.logs(job) if status != "PENDING" else ""
        for line in logs.splitlines():
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        if status in ("FAILED", "STOPPED"):
            raise DeployFailed(f"its nodes can't be looked at: {liveness.reason([message, logs])}", where=job)
        time.sleep(PAUSE)
    raise DeployFailed(f"its nodes can't be looked at: no word within {SURVEYED_WITHIN:g} s.", where=job)
