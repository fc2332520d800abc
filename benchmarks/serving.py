"""specml's server beside FastAPI + onnxruntime by hand, plain Ray Serve, MLServer, LitServe and BentoML.

    python benchmarks/serving.py [--project DIR] [--rounds 5] [--seconds 2] [--systems specml fastapi …]
                                 [--peer NAME=PYTHON …] [--peers DIR] [--parts bare everything] [--json FILE] [--short]

``specml run`` makes a model (LightGBM, 200 trees, 30 numeric columns) in DIR, ``specml deploy`` serves it; every peer
serves the same trees, from a graph that takes the thirty columns as one tensor, which is quicker than the bundle's own
thirty. That each answers what the model answers is checked first. Then ``wrk`` (one thread; Debian's package) asks each
in turn, different rows each time: several rounds, and of each the ratio to FastAPI with one worker in the same round,
so that what else the machine does cancels. Printed are medians, in brackets the smallest and the largest; and the CPU
time that all processes of a server took for a request, which a busy machine changes least.

specml is asked in three places: through HAProxy (``specml``), at its replica's port (``direct``), and without Ray, as
an archive for a device serves it (``alone``); and in four forms: rows as arrays whose columns are named once, which is
what FastAPI and the others are asked, and the names; the thirty tensors of the Open Inference Protocol in JSON, and in
its binary extension; and rows as objects, beside a FastAPI that takes these too. With everything on, both sides check a
bearer token, count requests and keep each request and its answer.

FastAPI and Ray Serve run in this environment. The others get one each, made by pip in ``--peers`` (``~/.cache/specml``)
when it is lacking, unless ``--peer mlserver=PYTHON`` names one. What can't be had is said.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import psutil

from specml.serving.app import Args
from specml.targets.local.cluster import Cluster

SERVERS = Path(__file__).resolve().with_name("serving_peers")
COLUMNS = [f"f{place:02}" for place in range(30)]
PACKAGES = {name: (name, "onnxruntime", "uvloop", "httptools") for name in ("mlserver", "litserve", "bentoml")}
SPECML = ("specml", "direct", "alone")
SYSTEMS = (*SPECML, "fastapi", "fastapi-2", "ray", *PACKAGES)
ANCHOR = "fastapi"
PLAIN, TENSORS, BINARY, NAMED = FORMS = "json", "tensors", "binary", "named"
LOADS = [
    (rows, connections, form)
    for form in (PLAIN, TENSORS, NAMED)
    for rows, connections in ((1, 1), (1, 16), (1, 64), (100, 16))
]
LOADS += [(100, 16, BINARY)]
"""Rows in a request, connections, form."""
BARS = (
    *(("specml", 1, connections, PLAIN, wanted) for connections, wanted in ((1, 1.0), (16, 2.0), (64, 2.5))),
    *(("direct", 1, connections, PLAIN, wanted) for connections, wanted in ((1, 2.0), (16, 6.0), (64, 8.0))),
    ("specml", 100, 16, PLAIN, 2.0),
    ("specml", 100, 16, BINARY, 5.0),
)
LUA = """\
local requests, turn = {}, 0
function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local size = file:read("*n")
    if not size then break end
    file:read(1)
    requests[#requests + 1] = file:read(size)
  end
end
function request() turn = turn % #requests + 1; return requests[turn] end
function done(told, latency)
  local bad = told.errors
  print(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "bad": %d}', told.requests,
    told.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    bad.connect + bad.read + bad.write + bad.status + bad.timeout))
end
"""
SPEC = """\
spec: 1
name: bench
problem: {{task: binary, target: y, feasibility: {{learning_curve: false}}}}
data: {{sources: {{rows: {{type: csv, path: rows.csv}}}}}}
candidates: {{trees: {{type: lightgbm, n_estimators: 200, early_stopping: 0}}}}
serving: {{explain: null, replicas: {{min: 1, max: 1}}{auth}}}
deployment: {{target: {{type: local, port: {port}}}}}
{monitoring}"""
TOKEN = secrets.token_hex(16)


@dataclass(frozen=True)
class Asked:
    """Something that answers at a port."""

    system: str
    port: int
    token: str = ""
    processes: tuple[psutil.Process, ...] = ()
    """All that are the server."""

    def cpu(self) -> float:
        """CPU seconds that they have taken."""
        taken = 0.0
        for one in self.processes:
            with contextlib.suppress(psutil.Error):
                told = one.cpu_times()
                taken += told.user + told.system
        return taken

    def parts(self, X: np.ndarray, form: str) -> tuple[str, dict[str, str], bytes]:
        """Path, headers and body of a request for the rows ``X`` [n, 30]."""
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if form == NAMED:
            body = {"rows": [dict(zip(COLUMNS, row, strict=True)) for row in X.tolist()]}
            return "/named" if self.system.startswith("fastapi") else "/predict", headers, orjson.dumps(body)
        if form == PLAIN and self.system in SPECML:
            return "/predict", headers, orjson.dumps({"columns": COLUMNS, "rows": X.tolist()})
        if self.system not in (*SPECML, "mlserver"):
            return "/predict", headers, orjson.dumps({"rows": X.tolist()})
        n, tensors, binary = len(X), [], b""
        if self.system == "mlserver":
            tensors = [{"name": "rows", "shape": [n, 30], "datatype": "FP32", "data": X.ravel().tolist()}]
            return "/v2/models/bench/infer", headers, orjson.dumps({"inputs": tensors})
        for name, values in zip(COLUMNS, X.T, strict=True):
            tensor: dict[str, Any] = {"name": name, "shape": [n, 1], "datatype": "FP64"}
            if form == BINARY:
                tensor["parameters"] = {"binary_data_size": 8 * n}
                binary += values.astype("<f8").tobytes()
            else:
                tensor["data"] = values.tolist()
            tensors.append(tensor)
        wanted = {"name": "probabilities", "parameters": {"binary_data": form == BINARY}}
        head = orjson.dumps({"inputs": tensors, "outputs": [wanted]})
        if form == BINARY:
            headers |= {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return "/v2/models/bench/infer", headers, head + binary

    def raw(self, X: np.ndarray, form: str) -> bytes:
        """The whole request as it goes over the wire."""
        path, headers, body = self.parts(X, form)
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def answer(self, X: np.ndarray, form: str) -> np.ndarray:
        """The probability of the positive class [n] that it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        path, headers, body = self.parts(X, form)
        connection.request("POST", path, body, headers)
        told = connection.getresponse()
        raw = told.read()
        connection.close()
        if told.status != 200:
            raise OSError(f"{self.system} answers {told.status}: {raw[:200]!r}")
        if form == BINARY:
            start = int(told.headers["inference-header-content-length"])
            return np.frombuffer(raw[start:], "<f4").reshape(-1, 2)[:, 1]
        body = orjson.loads(raw)
        if "outputs" in body:
            return np.array(body["outputs"][0]["data"]).reshape(len(X), -1)[:, -1]
        return np.array([one["probability"] if isinstance(one, dict) else one for one in body["predictions"]])


@dataclass
class Figures:
    """What ``wrk`` told of one system under one load, round by round."""

    per_second: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Microseconds a request."""
    bad: int = 0


Measured = dict[tuple[int, int, str], dict[str, Figures]]


def say(text: str) -> None:
    """Progress, beside what is printed."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """A port where nothing listens, nor at the two after it."""
    while True:
        with contextlib.ExitStack() as held:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                for offset in (1, 2):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
                return port


def made_project(folder: Path) -> None:
    """A project with its bundle, and the graph for the peers beside it."""
    if not (folder / "artifacts/release/release.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(7)
        X = draw.normal(size=(6000, len(COLUMNS)))
        signal_ = X[:, :10] @ draw.normal(size=10) + X[:, 0] * X[:, 1] + np.sin(3 * X[:, 2])
        y = (signal_ + draw.normal(size=len(X)) > 0).astype(int)
        rows = {name: X[:, place].round(6) for place, name in enumerate(COLUMNS)}
        pl.DataFrame({**rows, "y": y}).write_csv(folder / "rows.csv")
        (folder / "spec.yaml").write_text(SPEC.format(port=8000, auth="", monitoring=""))
        say("Making the model …")
        specml(folder, "run", "--no-deploy", "--quiet")
    one_tensor(folder / "artifacts/bundle/model.onnx", folder / "rows.onnx")


def one_tensor(bundle: Path, target: Path) -> None:
    """The bundle's graph with one float32 input ``rows`` [n, 30] in the place of thirty of its own."""
    import onnx

    model = onnx.load(bundle)
    graph = model.graph
    joined, cast, *kept = graph.node
    assert list(joined.input) == COLUMNS, "the graph takes its columns in another order"
    assert cast.op_type == "Cast", "the graph does something else with its columns"
    del graph.node[:], graph.input[:]
    graph.node.extend([onnx.helper.make_node("Identity", ["rows"], [cast.output[0]]), *kept])
    graph.input.append(onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [None, len(COLUMNS)]))
    onnx.save(model, target)


def specml(folder: Path, *arguments: str, **environment: str) -> None:
    """Run a command of specml."""
    told = subprocess.run(
        [sys.executable, "-m", "specml", *arguments],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if told.returncode:
        sys.exit(f"specml {arguments[0]} ended in {told.returncode}:\n{told.stderr[-2000:]}")


@contextlib.contextmanager
def process(name: str, command: list[str], port: int, log: Path) -> Iterator[int]:
    """A server of a peer, from when it listens until it is ended with all that it started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SERVERS)}
    with log.open("ab") as file:
        started = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=log.parent, start_new_session=True
        )
    try:
        until = time.monotonic() + 90
        while not listening(port):
            if started.poll() is not None or time.monotonic() > until:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise OSError(f"{name} does not start: {(last or ['it says nothing'])[0][:200]}")
            time.sleep(0.1)
        yield started.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(10)
                break


def tree(number: int) -> tuple[psutil.Process, ...]:
    """A process and all that it has started."""
    first = psutil.Process(number)
    return first, *first.children(recursive=True)


def listening(port: int) -> bool:
    """Whether something does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def ours(project: Path, *, everything: bool) -> Iterator[list[Asked]]:
    """The server of the project in its three places."""
    port, told = free_port(), {"auth": "", "monitoring": ""}
    if everything:
        told = {
            "auth": ', auth: {type: bearer, tokens: "${secret:BENCH_TOKEN}"}',
            "monitoring": "monitoring: {capture: {share: 1.0}}\n",
        }
    (project / "spec.yaml").write_text(SPEC.format(port=port, **told))
    say("Starting specml …")
    specml(project, "run", "--quiet", BENCH_TOKEN=TOKEN)
    token = TOKEN if everything else ""
    try:
        record = json.loads((project / ".specml/serving.json").read_text())
        direct = next(one for one in range(record["ports"] + 10, record["ports"] + 30) if healthy(one))
        (application,) = record["config"]["applications"]
        knobs = application["deployments"][0]["user_config"]
        args = Args.model_validate(application["args"]).with_knobs(knobs).model_dump_json()
        alone = subprocess.Popen(
            [sys.executable, "-m", "specml.serving.alone"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert alone.stdin
        assert alone.stdout
        alone.stdin.write(args + "\n")
        alone.stdin.flush()
        apart = json.loads(alone.stdout.readline())["port"]
        cluster = tuple(Cluster.read(project / ".specml").processes())
        yield [
            Asked("specml", port, token, cluster),
            Asked("direct", direct, token, cluster),
            Asked("alone", apart, token, tree(alone.pid)),
        ]
        alone.stdin.close()
        alone.wait(30)
    finally:
        specml(project, "stop")


def healthy(port: int) -> bool:
    """Whether a replica answers there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def pythons(options: argparse.Namespace) -> dict[str, str]:
    """The Python of each peer that was asked for, its environment made when it is lacking."""
    found = dict.fromkeys(("fastapi", "fastapi-2", "ray"), sys.executable)
    found |= {name: str(Path(python).absolute()) for name, _, python in (one.partition("=") for one in options.peer)}
    for name, packages in PACKAGES.items():
        if name not in options.systems or name in found:
            continue
        folder = options.peers / name
        python = folder / "bin/python"
        if not python.exists():
            say(f"Making an environment for {name} in {folder} …")
            try:
                subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
                pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
                subprocess.run(pip, check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                shutil.rmtree(folder, ignore_errors=True)
                print(f"{name} can't be had: {(error.stderr or '').strip().splitlines()[-1:]}", flush=True)
                continue
        found[name] = str(python)
    return {name: python for name, python in found.items() if name in options.systems}


def versions(peers: dict[str, str]) -> str:
    """What was measured."""
    told = []
    for name in ("onnxruntime", "uvicorn", "fastapi", "ray", *PACKAGES):
        python = peers.get(name, sys.executable)
        if name in PACKAGES and name not in peers:
            continue
        ask = f"from importlib.metadata import version; print(version({name!r}))"
        if name == "onnxruntime":  # of which there is another distribution for GPUs
            ask = "import onnxruntime; print(onnxruntime.__version__)"
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False).stdout.strip()
        told.append(f"{name} {found}")
    return ", ".join([f"Python {platform.python_version()}", *told])


def others(
    held: contextlib.ExitStack, project: Path, peers: dict[str, str], log: Path, *, everything: bool
) -> Iterator[Asked]:
    """The peers, each as soon as it listens; one that does not start is told."""
    for name, python in peers.items():
        if everything and name != ANCHOR:
            continue
        port, system = free_port(), name.partition("-")[0]
        command = [python, str(SERVERS / f"with_{system}.py"), str(project), str(port)]
        if system == "fastapi":
            command.append("2" if name == "fastapi-2" else "1")
        if everything:
            command += [TOKEN, str(log.parent)]
        say(f"Starting {name} …")
        try:
            number = held.enter_context(process(name, command, port, log))
            asked = checked(Asked(name, port, TOKEN if everything else ""), project)
            yield replace(asked, processes=tree(number))
        except OSError as error:
            print(error, flush=True)


def checked(asked: Asked, project: Path) -> Asked:
    """The same, once it answers what the model answers.

    Raises:
        OSError: it answers something else, or nothing within a minute.
    """
    X = rows(100, 0)
    wanted = session(project / "rows.onnx").run(["probabilities"], {"rows": X})[0][:, 1]
    for form in FORMS:
        if not takes(asked.system, form):
            continue
        until = time.monotonic() + 60
        while True:
            try:
                found = asked.answer(X, form)
                break
            except (OSError, http.client.HTTPException):
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
        if not np.allclose(found, wanted, atol=1e-5):
            raise OSError(f"{asked.system} answers something else than the model")
    return asked


def takes(system: str, form: str) -> bool:
    """Whether a system is asked in this form."""
    return form == PLAIN or system in SPECML or (form == NAMED and system == ANCHOR)


def rows(n: int, number: int) -> np.ndarray:
    """Rows of the table's kind, float32 [n, 30], with six decimals."""
    return np.random.default_rng(number).normal(size=(n, len(COLUMNS))).round(6).astype(np.float32)


def session(graph: Path) -> Any:
    """The graph on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def in_process(project: Path) -> dict[int, tuple[float, float]]:
    """Microseconds of a call of the model alone, of 1 and 100 rows: the bundle's graph, and that of one tensor."""
    bundle, joined = session(project / "artifacts/bundle/model.onnx"), session(project / "rows.onnx")
    found = {}
    for n in (1, 100):
        X = rows(n, 1)
        columns = {name: np.ascontiguousarray(X[:, [place]], np.float64) for place, name in enumerate(COLUMNS)}
        found[n] = (
            quickest(lambda feed=columns: bundle.run(["probabilities"], feed)),
            quickest(lambda feed={"rows": X}: joined.run(["probabilities"], feed)),
        )
    return found


def quickest(call: Callable[[], Any]) -> float:
    """Microseconds of a call, the best of many times in a row."""
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            call()
        best = min(best, (time.perf_counter() - began) / 100)
    return 1e6 * best


def written(asked: Asked, n: int, form: str, folder: Path) -> Path:
    """A file of requests for ``wrk``: 256 of one row, 32 of a hundred, all different."""
    file = folder / f"{asked.system}-{n}-{form}"
    if not file.exists():
        with file.open("wb") as target:
            for number in range(256 if n == 1 else 32):
                raw = asked.raw(rows(n, number + 1), form)
                target.write(f"{len(raw)}\n".encode() + raw)
    return file


def wrk(asked: Asked, file: Path, script: Path, connections: int, seconds: float) -> dict[str, float]:
    """One measurement."""
    before = asked.cpu()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script)]
    command += [f"http://127.0.0.1:{asked.port}", "--", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(told.strip().splitlines()[-1])
    return {**found, "cpu": 1e6 * (asked.cpu() - before) / max(1, found["requests"])}


def measure(systems: list[Asked], folder: Path, options: argparse.Namespace) -> Measured:
    """Ask every system in turn, round after round."""
    script = folder / "requests.lua"
    script.write_text(LUA)
    found: Measured = {}
    loads = [one for one in LOADS if one[2] in options.forms]
    for asked in systems:  # warm up
        wrk(asked, written(asked, 1, PLAIN, folder), script, 16, 1)
    for number in range(options.rounds):
        say(f"Round {number + 1} of {options.rounds} …")
        for load in loads:
            n, connections, form = load
            there = [one for one in systems if takes(one.system, form) or one.system == ANCHOR]
            turn = number % len(there)
            told = {}
            for asked in there[turn:] + there[:turn]:
                # What takes tensors is compared with the anchor's JSON: it has nothing better.
                own = form if takes(asked.system, form) else PLAIN
                told[asked.system] = wrk(asked, written(asked, n, own, folder), script, connections, options.seconds)
            for system, one in told.items():
                kept = found.setdefault(load, {}).setdefault(system, Figures())
                per_second = one["requests"] / one["seconds"]
                kept.per_second.append(per_second)
                if ANCHOR in told:
                    kept.ratio.append(per_second / (told[ANCHOR]["requests"] / told[ANCHOR]["seconds"]))
                kept.p50.append(one["p50"])
                kept.p99.append(one["p99"])
                kept.cpu.append(one["cpu"])
                kept.bad += int(one["bad"])
    return found


def table(title: str, found: Measured) -> None:
    """Print one part."""
    head = f"{'':24}{'system':12}{'× FastAPI':>10} {'(least to most)':17}"
    print(f"\n{title}\n{head}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}  bad")
    for (n, connections, form), by_system in found.items():
        load = f"{n} row{'s' * (n > 1)}, {form}, c={connections}"
        for system, one in by_system.items():
            ratio = (
                f"{statistics.median(one.ratio):10.2f} ({min(one.ratio):.2f} to {max(one.ratio):.2f})"
                if one.ratio
                else ""
            )
            told = [statistics.median(values) for values in (one.per_second, one.p50, one.p99, one.cpu)]
            figures = f"{told[0]:9.0f}{told[1]:9.2f}{told[2]:9.2f}{told[3]:9.0f}"
            print(f"{load:24}{system:12}{ratio:28}{figures}  {one.bad or ''}")
            load = ""


def bars(found: Measured) -> None:
    """Print what the issue wants, and what was found."""
    print("\nwanted")
    for system, n, connections, form, wanted in BARS:
        one = found.get((n, connections, form), {}).get(system)
        if one is None or not one.ratio:
            continue
        ratio = statistics.median(one.ratio)
        what = f"{system}, {n} row{'s' * (n > 1)}, {form}, c={connections}"
        print(f"{what:36} ≥ {wanted:.1f}  {ratio:6.2f}  {'met' if ratio >= wanted else 'NOT MET'}")
    alone = found.get((1, 1, PLAIN), {})
    if {"specml", ANCHOR} <= alone.keys():
        ours_, theirs = (statistics.median(alone[one].p50) for one in ("specml", ANCHOR))
        told = "met" if ours_ <= theirs else "NOT MET"
        print(f"{'specml, p50 of 1 row, c=1, ms':36} ≤ {theirs:.2f} {ours_:6.2f}  {told}")


def distance(project: Path, found: Measured) -> None:
    """Print how far HTTP is from the model."""
    print("\nthe model alone in process, one thread, best of 20 times 100 calls")
    for n, (bundle, joined) in in_process(project).items():
        print(
            f"{n:>4} rows: {bundle:6.1f} µs a call of the bundle's graph ({1e6 / bundle:,.0f} calls/s), "
            f"{joined:6.1f} µs with one tensor ({1e6 / joined:,.0f})"
        )
        for load, by_system in found.items():
            if load[0] == n and load[1] >= 16:
                share = {name: statistics.median(one.per_second) * bundle / 1e6 for name, one in by_system.items()}
                told = ", ".join(f"{name} {100 * value:.0f} %" for name, value in share.items() if name in SPECML)
                print(f"           of these, {load[2]}, c={load[1]}: {told}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, help="where the model is made, and kept for another time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--parts", nargs="+", choices=("bare", "everything"), default=("bare", "everything"))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache/specml/peers", metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    parser.add_argument("--short", action="store_true", help="one round of a second each, specml and FastAPI only")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    if options.short:
        options.rounds, options.seconds, options.systems = 1, 1, (*SPECML, ANCHOR)
    everything: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as made:
        project = (options.project or Path(made) / "bench").resolve()
        made_project(project)
        peers = pythons(options)
        print(f"{versions(peers)}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        for part in options.parts:
            folder = Path(made) / part
            folder.mkdir()
            with contextlib.ExitStack() as held:
                systems = list(others(held, project, peers, folder / "log", everything=part == "everything"))
                if set(SPECML) & set(options.systems):
                    ours_ = held.enter_context(ours(project, everything=part == "everything"))
                    systems = [checked(one, project) for one in ours_ if one.system in options.systems] + systems
                everything[part] = measure(systems, folder, options)
            table({"bare": "Bare", "everything": "With auth, metrics and capture"}[part], everything[part])
            if part == "bare":
                bars(everything[part])
        distance(project, everything[options.parts[0]])
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    if options.json:
        told = {
            part: {
                " ".join(map(str, load)): {name: vars(one) for name, one in of.items()} for load, of in found.items()
            }
            for part, found in everything.items()
        }
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
