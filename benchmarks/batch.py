"""A table scored on this machine and by Ray Data, on the same cores: rows a second, and that the answers are the same.

    python benchmarks/batch.py [--rows 3000000] [--cpus 2] [--rounds 3]

A project trains a boosted tree on 20,000 rows of the table of ``scale.py``. Its target ``batch`` then scores a Parquet
file of so many rows by processes of this machine, and again by Ray Data on a cluster of one node that is started here
with as many CPUs; both in turn, so many rounds. Told are medians and ranges of the wall time of the whole ``specml
deploy``, and of rows a second from the first file of answers to the last, which leaves starting out. The disk must
hold about four times the table.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from scale import made, written

SPEC = """\
spec: 1
name: batch
problem: {task: binary, target: y}
data:
  sources: {rows: {type: parquet, path: train.parquet}}
  columns: {id: {role: id}, sex: {role: protected}}
candidates:
  trees: {type: lightgbm}
deployment:
  target: {type: batch, input: incoming, keep: [id]}
"""
CLUSTER = """\
import sys
from ray.cluster_utils import Cluster

one = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": int(sys.argv[1]), "object_store_memory": 500 * 2**20, "include_dashboard": True,
        "dashboard_host": "127.0.0.1", "dashboard_port": int(sys.argv[2]), "temp_dir": sys.argv[3],
    },
)
with open(f"{sys.argv[3]}/ray_current_cluster", "w") as file:
    file.write(one.address)
print("up", flush=True)
sys.stdin.read()
one.shutdown()
"""


def specml(folder: Path, *arguments: str, **environment: str) -> float:
    """Run the command; returns the seconds that it took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "specml", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - start


def rate(folder: Path) -> float:
    """Rows a second, from the first file of answers to the last."""
    files = sorted(folder.glob("live/*/part-*.parquet"), key=lambda one: one.stat().st_mtime_ns)
    rows = sum(pl.scan_parquet(one).select(pl.len()).collect().item() for one in files[1:])
    return rows / (files[-1].stat().st_mtime - files[0].stat().st_mtime)


def digest(folder: Path) -> str:
    """Of all answers."""
    found = hashlib.sha256()
    for one in sorted(folder.glob("live/*/*")):
        found.update(one.name.encode())
        found.update(one.read_bytes())
    return found.hexdigest()


def main() -> None:
    """Measure, and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=3_000_000)
    arguments.add_argument("--cpus", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=3)
    told = arguments.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(prefix="ray-") as sockets:
        folder = Path(name)
        (folder / "spec.yaml").write_text(SPEC)
        made(0, 20_000).write_parquet(folder / "train.parquet")
        (folder / "few").mkdir()
        made(20_000, 1000).drop("y").write_parquet(folder / "few/rows.parquet")
        specml(folder, "run", "deployment.target.input=few")
        (folder / "incoming").mkdir()
        written(folder / "incoming/rows.parquet", told.rows)
        same = ("deploy", "-q", f"deployment.target.workers={told.cpus}")
        started = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
        started["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(told.cpus), str(port), sockets],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **started},
        ) as cluster:  # fmt: skip
            assert cluster.stdout is not None
            cluster.stdout.readline()
            where = f'deployment.target.cluster={{address: "http://127.0.0.1:{port}", token: "${{secret:RAY_TOKEN}}"}}'
            walls: dict[str, list[float]] = {"here": [], "there": []}
            rates: dict[str, list[float]] = {"here": [], "there": []}
            digests = set()
            for _ in range(told.rounds):
                for side, more in (("here", ()), ("there", (where,))):
                    walls[side].append(
                        specml(folder, *same, f"deployment.target.output={side}", *more, RAY_TOKEN=token)
                    )
                    rates[side].append(rate(folder / side))
                    digests.add(digest(folder / side))
                    shutil.rmtree(folder / side)
            assert cluster.stdin is not None
            cluster.stdin.close()
            cluster.wait()
        assert len(digests) == 1
    print(f"{told.rows:,} rows, {told.cpus} cores, load {os.getloadavg()[0]:.1f}; the answers are the same bytes")
    print(f"{'':18}{'deploy, s':>24}{'rows a second':>34}")
    for side, named in (("here", "on this machine"), ("there", "by Ray Data")):
        print(f"{named:18}{spread(walls[side], '.1f'):>24}{spread(rates[side], ',.0f'):>34}")
    times, speeds = (
        [there / here for here, there in zip(both["here"], both["there"], strict=True)] for both in (walls, rates)
    )
    print(f"{'ratio':18}{spread(times, '.2f'):>24}{spread(speeds, '.2f'):>34}")


def spread(values: list[float], form: str) -> str:
    """The median and the range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
