"""A real Ray cluster of two nodes on this machine, which wants a token; one node can be lost."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specml.cluster.dashboard import Dashboard
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# Written as `ray start` does, the file tells jobs which of the machine's clusters is theirs.
NODES = """\
import sys
from pathlib import Path
from ray.cluster_utils import Cluster

folder, port, cpus = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
node = {"num_cpus": cpus, "object_store_memory": 80 * 2**20}
head = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port, "temp_dir": folder}
two = Cluster(initialize_head=True, head_node_args={**node, **head, "dashboard_agent_listen_port": port + 1})
Path(folder, "ray_current_cluster").write_text(two.address)
second = two.add_node(**node, dashboard_agent_listen_port=port + 2)
print("up", flush=True)
for wanted in sys.stdin:
    if wanted == "lose\\n":
        two.remove_node(second, allow_graceful=False)
    else:
        second = two.add_node(**node, dashboard_agent_listen_port=port + 2)
    print(wanted, end="", flush=True)
two.shutdown()
"""


@dataclass
class TwoNodes:
    """The cluster."""

    dashboard: int
    """The port of its dashboard."""
    token: str
    process: subprocess.Popen[str]

    @property
    def cluster(self) -> Dashboard:
        return Dashboard(f"http://127.0.0.1:{self.dashboard}", self.token)

    def lose(self) -> None:
        """Kill the second node, with what runs on it."""
        self._do("lose")

    def mend(self) -> None:
        """Start another second node."""
        self._do("mend")

    def _do(self, what: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{what}\n"


@contextlib.contextmanager
def two_nodes(cpus: int) -> Iterator[TwoNodes]:
    """The cluster, up while the block runs; each node with so many CPUs."""
    dashboard, token = free_port(), secrets.token_hex(32)
    folder = tempfile.mkdtemp(prefix="ray-")  # sockets stand there, whose paths are short
    started = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    # One machine: its processes keep to 127.0.0.1.
    started |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
    started["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (
        (Path(folder) / "nodes.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", NODES, folder, str(dashboard), str(cpus)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, **started},
        ) as nodes,
    ):  # fmt: skip
        try:
            assert nodes.stdout is not None
            assert nodes.stdout.readline() == "up\n", (Path(folder) / "nodes.log").read_text()[-2000:]
            yield TwoNodes(dashboard, token, nodes)
        finally:
            assert nodes.stdin is not None
            nodes.stdin.close()
            nodes.wait(60)
            shutil.rmtree(folder, ignore_errors=True)
