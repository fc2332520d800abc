"""Break a live server while it is asked, and count what its clients see: ``python -m tests.faults``.

A small project is deployed as a person would (`specml deploy`: Ray Serve, two replicas, HAProxy where it is installed)
and asked without pause over connections that are kept alive. Each answer is checked: status, the request's id, the
probability to the sixth digit, and the bundle that gave it. Then things die, are exchanged, or are asked too much; one
line tells each, and the exit status is 1 where something that is promised did not hold. What is counted (requests that
failed) is the same on any machine; what is timed is told as it was. See docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from specml.targets.local.cluster import Cluster
from tests.asking import Answered, Wanted
from tests.bundles import binary_bundle, release
from tests.conftest import specml

FAILPOINTS = Path(__file__).parent / "failpoints/serving"
SEED = 7
PATIENCE = 15.0
"""Seconds after which a client takes a request for lost."""

SPEC = """\
name: census
problem: {{task: binary, target: income}}
data: {{sources: {{people: {{type: csv, path: people.csv}}}}}}
candidates: {{line: logistic_regression}}
serving: {serving}
deployment: {{target: {{type: local, port: {port}}}}}
"""
SERVING = "{{replicas: {{min: 2, max: 2}}, grpc: {{port: {grpc}}}}}"

SLO = 0.5
"""Seconds within which an overloaded server answers what it accepts."""
OVERLOAD = 15.0
"""Seconds for which it is asked too much."""
OFFERED = 3.2
"""How many times as much as can be answered."""
WORK, ROWS = 20, 100
"""A request that takes some 20 ms: two cores ask three times as many, and refuse them, beside those that answer."""

ROLES = {
    "replica": ("ray::ServeReplica", ":model"),
    "explain": ("ray::ServeReplica", ":explain"),
    "controller": ("ray::ServeController", ""),
    "manager": ("ray::HAProxyManager", ""),
    "haproxy": ("haproxy", ""),
}
"""How the names of a server's processes begin and end."""


class Outcome(NamedTuple):
    """What became of one request."""

    began: float
    seconds: float
    status: int
    """0 where no answer came."""
    bundle: str
    wrong: str
    """What is not as it should be; empty when the answer is right."""
    after: float
    """What Retry-After says; 0 where it is not there."""


@dataclass
class Seen:
    """What the clients have seen in some time."""

    outcomes: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.wrong]

    @property
    def bundles(self) -> set[str]:
        return {one.bundle for one in self.outcomes if one.status == 200}

    def quantile(self, share: float) -> float:
        """Of the seconds that right answers took."""
        return _quantile([one.seconds for one in self.outcomes if not one.wrong], share)

    def __str__(self) -> str:
        told = f"{len(self.failed):,} of {len(self.outcomes):,} requests failed"
        if self.failed:
            reasons = Counter(one.wrong for one in self.failed)
            span = max(one.began + one.seconds for one in self.failed) - min(one.began for one in self.failed)
            told += f", within {span:.1f} s ({'; '.join(f'{count}: {what}' for what, count in reasons.most_common(3))})"
        return f"{told}; p50 {1000 * self.quantile(0.5):.1f} ms, p99 {1000 * self.quantile(0.99):.0f} ms"


class Connection:
    """One connection that is kept alive, as HTTP libraries keep it: looked at before it is used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer; whatever goes wrong closes the connection and is raised."""
        if self._writer is None or self._reader is None or self._reader.at_eof() or self._writer.is_closing():
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
            self._writer.write(head.encode() + body)
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            answer = await self._reader.readexactly(int(told.get("content-length", 0)))
        except BaseException:
            self.close()
            raise
        if told.get("connection", "").lower() == "close":
            self.close()
        return int(lines[0].split(" ")[1]), told, answer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


JSON = "Content-Type: application/json\r\n"


class Load:
    """Clients that ask without end, each on a connection of its own.

    Args:
        weights: by bundle, the weight that its answers are made with; an answer of any other bundle is wrong.
        pause: mean seconds between an answer and the next question.
    """

    def __init__(self, port: int, weights: dict[str, float], *, clients: int = 16, pause: float = 0.01) -> None:
        self._port, self._weights, self._pause = port, weights, pause
        self.outcomes: list[Outcome] = []
        self._asked = 0
        self._until = math.inf
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self._random = random.Random(SEED)

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._until = 0.0
        await asyncio.gather(*self._tasks)

    def since(self, moment: float) -> Seen:
        return Seen([one for one in self.outcomes if one.began >= moment])

    async def _run(self) -> None:
        connection = Connection(self._port)
        while time.monotonic() < self._until:
            self.outcomes.append(await self.ask(connection))
            await asyncio.sleep(self._random.expovariate(1 / self._pause) if self._pause else 0)
        connection.close()

    async def ask(self, connection: Connection) -> Outcome:
        """One request with one row that no other request has."""
        self._asked += 1
        age, identity, began = self._asked % 5000 / 100 + 0.003, f"faults-{id(self)}-{self._asked}", time.monotonic()
        body = b'{"rows": [{"age": %.3f, "hours": 10.5, "member": false, "workclass": "Private"}]}' % age
        status, told = 0, {}
        bundle = ""
        try:
            async with asyncio.timeout(PATIENCE):
                status, told, raw = await connection.ask(
                    "POST", "/predict", body, f"{JSON}X-Request-Id: {identity}\r\n"
                )
            answer = json.loads(raw) if status == 200 else {}
            bundle = answer.get("bundle", "")
            wrong = "" if status == 200 else f"status {status}"
            if status == 200:
                wrong = self._wrong(answer, age, identity)
        except TimeoutError:
            wrong = f"no answer in {PATIENCE:g} s"
        except asyncio.IncompleteReadError as error:
            wrong = "the connection ended within an answer" if error.partial or error.expected else "no answer"
        except OSError as error:
            wrong = f"the connection broke ({type(error).__name__})"
        return Outcome(began, time.monotonic() - began, status, bundle, wrong, float(told.get("retry-after", 0)))

    def _wrong(self, answer: dict[str, Any], age: float, identity: str) -> str:
        if answer["id"] != identity:
            return "another request's id"
        if answer["bundle"] not in self._weights:
            return "a bundle that was never to be served"
        z = self._weights[answer["bundle"]] * (age - 40) + 0.105 + 1
        if abs(answer["predictions"][0]["probability"] - 1 / (1 + math.exp(-z))) > 1e-6:
            return "a wrong probability"
        return ""


class Calls:
    """Callers of gRPC that ask without end, each on a connection of its own."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self._port, self._clients = port, clients
        self._stopped = threading.Event()
        self._threads: list[asyncio.Future[None]] = []
        self.answered = 0
        self.failed: Counter[str] = Counter()

    def __str__(self) -> str:
        failed = f" ({dict(self.failed)})" if self.failed else ""
        return f"{self.failed.total()} of {self.answered + self.failed.total():,} gRPC calls failed{failed}"

    async def __aenter__(self) -> Calls:
        self._threads = [asyncio.ensure_future(asyncio.to_thread(self._run)) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await asyncio.gather(*self._threads)

    def _run(self) -> None:
        import grpc

        from specml.serving.messages import SERVICE, message

        asked = message("ModelInferRequest")(model_name="census")
        for name, kind, contents in (
            ("age", "FP64", {"fp64_contents": [50.0]}),
            ("hours", "FP64", {"fp64_contents": [10.5]}),
            ("member", "BOOL", {"bool_contents": [False]}),
            ("workclass", "BYTES", {"bytes_contents": [b"Private"]}),
        ):
            asked.inputs.add(name=name, datatype=kind, shape=[1, 1], contents=contents)
        raw = asked.SerializeToString()
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            while not self._stopped.wait(0.004):
                try:
                    infer(raw, timeout=PATIENCE)
                    self.answered += 1
                except grpc.RpcError as error:
                    self.failed[f"{error.code().name}: {error.details()}"] += 1


@dataclass
class Asked:
    """What became of what one process asked."""

    asked: list[Answered]
    seconds: float

    @property
    def ended(self) -> float:
        """When the last question was due."""
        return min(one.due for one in self.asked) + self.seconds

    @property
    def times(self) -> list[float]:
        """Seconds of the right answers, from when they were asked for."""
        return [one.seconds - one.lag for one in self.asked if one.status == 200]

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return sum(one.status == 200 and one.due + one.seconds <= self.ended for one in self.asked) / self.seconds

    @property
    def offered(self) -> float:
        """Questions a second."""
        return len(self.asked) / self.seconds


@dataclass
class Verdict:
    """Whether what is promised holds, and what was seen."""

    holds: bool
    told: str


@dataclass
class Bench:
    """A live server that is to be broken."""

    folder: Path
    port: int
    weights: dict[str, float] = field(default_factory=dict)
    clients: int = 16
    pause: float = 0.01
    seconds: float = 60.0
    """How long replicas are killed."""
    minutes: float = 2.0
    """How long the soak lasts."""
    grpc: int = 0
    """The port where gRPC is answered."""

    def deploy(self) -> None:
        """Make the project and serve it."""
        self.folder.mkdir(parents=True)
        self.grpc = free_port()
        (self.folder / "spec.yaml").write_text(SPEC.format(port=self.port, serving=SERVING.format(grpc=self.grpc)))
        self.weights = {self.bundle(0.05): 0.05}
        specml("deploy", folder=self.folder, **self.environment)

    @property
    def order(self) -> Path:
        """The file by which a replica's session is broken."""
        return self.folder / "break"

    @property
    def environment(self) -> dict[str, str]:
        before = os.environ.get("PYTHONPATH")
        return {"PYTHONPATH": f"{FAILPOINTS}:{before}" if before else str(FAILPOINTS), "SPECML_BREAK": str(self.order)}

    def bundle(self, weight: float, **more: Any) -> str:
        """Put a bundle of that weight into the project, admitted; returns its digest."""
        made = binary_bundle(self.folder / "artifacts/bundle", weight=weight, **more)
        release(self.folder)
        return made

    @property
    def live(self) -> str:
        """The digest of the bundle that is served."""
        return str(self.cluster.args["digest"])

    @property
    def cluster(self) -> Cluster:
        found = Cluster.read(self.folder / ".specml")
        assert found is not None
        return found

    def processes(self, role: str) -> list[psutil.Process]:
        begin, end = ROLES[role]
        found = []
        for process in self.cluster.processes():
            with contextlib.suppress(psutil.Error):
                name = " ".join(process.cmdline()[:1])
                if role == "haproxy":
                    name = process.name()
                if name.startswith(begin) and name.endswith(end) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return sorted(found, key=lambda one: one.create_time())

    async def kill(self, role: str) -> float:
        """Kill the oldest process of a role; returns when."""
        async with asyncio.timeout(60):
            while not (found := await asyncio.to_thread(self.processes, role)):
                await asyncio.sleep(0.1)
        found[0].send_signal(signal.SIGKILL)
        return time.monotonic()

    def load(self, **options: Any) -> Load:
        return Load(self.port, self.weights, **{"clients": self.clients, "pause": self.pause, **options})

    async def specml(self, *arguments: str) -> tuple[int, str]:
        """Run the command line beside the load; returns its status and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "specml", *arguments, cwd=self.folder, env={**os.environ, **self.environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    def _up(self) -> int:
        """How many replicas HAProxy sends requests to."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.cluster.ports + 1}/stats;csv", timeout=5) as answer:
            table = list(csv.DictReader(io.StringIO(answer.read().decode().removeprefix("# "))))
        servers = [one for one in table if one["svname"].startswith("SERVE_REPLICA") and one["bck"] == "0"]
        return sum(one["status"].startswith("UP") for one in servers)

    async def up(self) -> int:
        try:
            return await asyncio.to_thread(self._up)
        except OSError:
            return 0

    async def whole(self, since: float, replicas: int = 2, patience: float = 60.0) -> float:
        """Wait until that many replicas are asked, after fewer were; returns the seconds from ``since``."""
        lost = False
        while time.monotonic() - since < patience:
            up = await self.up()
            lost = lost or up < replicas or time.monotonic() - since > 3
            if lost and up >= replicas:
                return time.monotonic() - since
            await asyncio.sleep(0.1)
        return math.inf

    # The faults

    async def replicas(self) -> Verdict:
        """A replica is killed every 5 s."""
        async with self.load() as load:
            began = time.monotonic()
            await asyncio.sleep(min(5.0, self.seconds))
            steady = load.since(began)
            kills, struck = 0, time.monotonic()
            until = struck + self.seconds
            while time.monotonic() < until:
                struck = await self.kill("replica")
                kills += 1
                await asyncio.sleep(max(0.0, min(struck + 5, until) - time.monotonic()))
            back = await self.whole(struck)
            await asyncio.sleep(1)
        seen = load.since(began)
        return Verdict(
            bool(seen.outcomes) and not seen.failed and back <= 15,
            f"{kills} kills: {seen} (undisturbed {1000 * steady.quantile(0.99):.0f} ms); both back after {back:.1f} s",
        )

    async def controller(self) -> Verdict:
        """Ray Serve's controller is killed, and then a replica, which only a controller replaces."""
        return await self._struck("controller", then_a_replica=True)

    async def haproxy(self) -> Verdict:
        """HAProxy is killed."""
        return await self._struck("haproxy", within=12.0, then_a_replica=True)

    async def manager(self) -> Verdict:
        """The process that looks after HAProxy is killed."""
        return await self._struck("manager", within=12.0, then_a_replica=True)

    async def _struck(self, role: str, *, within: float = 0.0, then_a_replica: bool = False) -> Verdict:
        """Kill one process; requests may fail for ``within`` seconds."""
        async with self.load() as load:
            await asyncio.sleep(2)
            struck = await self.kill(role)
            await asyncio.sleep(max(8.0, within + 3))
            seen, back = load.since(struck - 1), 0.0
            if then_a_replica:
                second = await self.kill("replica")
                back = await self.whole(second)
                await asyncio.sleep(2)
                later = load.since(second)
        away = max((one.began + one.seconds - struck for one in seen.failed), default=0.0)
        anew = bool(self.processes(role))
        told = f"{seen}; away for {away:.1f} s" if within else str(seen)
        if then_a_replica:
            told += (
                f"; then a replica: {len(later.failed)} of {len(later.outcomes):,} failed, replaced after {back:.1f} s"
            )
        holds = away <= within and anew and not (then_a_replica and (later.failed or back > 15))
        return Verdict(holds, told if anew else f"{told}; no {role} was started anew")

    async def explain(self) -> Verdict:
        """What explains is killed: predictions don't notice."""
        body = b'{"rows": [{"age": 50, "hours": 10.5, "member": false, "workclass": "Private"}]}'
        statuses: Counter[int] = Counter()
        async with self.load() as load:
            connection, struck = Connection(self.port), await self.kill("explain")
            back = math.inf
            while time.monotonic() < struck + 60 and back == math.inf:
                status, _, _ = await connection.ask("POST", "/explain", body, JSON)
                statuses[status] += 1
                if status == 200 and time.monotonic() > struck + 0.5:
                    back = time.monotonic() - struck
                await asyncio.sleep(0.2)
            connection.close()
        seen = load.since(0)
        others = {status: count for status, count in statuses.items() if status != 200}
        return Verdict(
            bool(seen.outcomes) and not seen.failed and not others and back <= 30,
            f"{seen}; /explain answered again after {back:.1f} s; other statuses: {others or 'none'}",
        )

    async def update(self) -> Verdict:
        """Another bundle is deployed."""
        weight = -self.weights[self.live]
        self.weights[self.bundle(weight)] = weight
        return await self._exchanged("deploy")

    async def rollback(self) -> Verdict:
        """The bundle before is brought back."""
        return await self._exchanged("rollback")

    async def _exchanged(self, *command: str) -> Verdict:
        before, idle, calls = self.live, Connection(self.port), Calls(self.grpc)
        async with self.load() as load, calls:
            began = time.monotonic()
            assert not (await load.ask(idle)).wrong
            status, told = await self.specml(*command)
            done = time.monotonic()
            await asyncio.sleep(12)  # the old replicas end after that
            late = await load.ask(idle)  # on a connection that was not used all the while
        idle.close()
        seen, after = load.since(began), load.since(done)
        after.outcomes.append(late)
        wanted = {before, self.live}
        holds = status == 0 and not seen.failed and not late.wrong and seen.bundles == wanted == {*wanted, before}
        holds = holds and len(wanted) == 2 and after.bundles == {self.live} and not calls.failed
        told = told.strip().splitlines()[-1] if status else ""
        idly = f"; a connection that was idle all the while: {late.wrong}" if late.wrong else ""
        return Verdict(
            holds,
            f"{seen}, in {done - began:.0f} s; {calls}; {len(seen.bundles)} bundles answered{idly} {told}".strip(),
        )

    async def bad(self) -> Verdict:
        """A bundle that was altered, and one that no replica can start with: what is live goes on."""
        before, model = self.live, self.folder / "artifacts/bundle/model.onnx"
        self.bundle(0.01)
        good = model.read_bytes()
        model.write_bytes(good[:-1])
        async with self.load() as load:
            altered, _ = await self.specml("deploy")
            wrong = json.loads(json.dumps(self.cluster.config))
            wrong["applications"][0]["args"]["digest"] = "sha256:0"
            wrong["applications"][0]["deployments"][0]["user_config"]["revision"] = "wrong"
            cluster, refused = self.cluster, False
            try:
                await asyncio.to_thread(cluster.launch, wrong, self.folder / ".specml", lambda _: None)
            except Exception as error:
                refused = "deployed was sha256:0" in str(error)
            await asyncio.sleep(1)
        model.write_bytes(good)
        seen = load.since(0)
        holds = altered != 0 and refused and not seen.failed and seen.bundles == {before}
        return Verdict(holds, f"{seen}; both refused: {altered != 0 and refused}; {len(seen.bundles)} bundle answered")

    async def poison(self) -> Verdict:
        """Among good rows: one on which the model raises, one that breaks the contract, one that is no JSON."""
        bad = {b"13": 422, b'"x"': 422, b"{": 400}
        row = b'{"rows": [{"age": %b, "hours": 10.5, "member": false, "workclass": "Private"}]}'
        ages = [b"%.2f" % (20 + i / 7) for i in range(56)]
        alone = Connection(self.port)
        expected = {}
        for age in ages:
            _, _, raw = await alone.ask("POST", "/predict", row % age, JSON)
            expected[age] = json.loads(raw)["predictions"]
        alone.close()
        connections = [Connection(self.port) for _ in range(64)]
        counts: Counter[str] = Counter()
        for turn in range(50):
            asked = [*ages, *(list(bad) * 3)[:8]]
            random.Random(turn).shuffle(asked)
            answers = await asyncio.gather(
                *(one.ask("POST", "/predict", row % age, JSON) for one, age in zip(connections, asked, strict=True))
            )
            for age, (status, _, raw) in zip(asked, answers, strict=True):
                right = (
                    (status, json.loads(raw)["predictions"]) == (200, expected[age])
                    if age in expected
                    else status == bad[age]
                )
                counts[f"{'good' if age in expected else 'bad'} {'as it should' if right else f'not ({status})'}"] += 1
        for one in connections:
            one.close()
        told = "; ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
        return Verdict(set(counts) == {"good as it should", "bad as it should"}, f"64 at a time: {told}")

    async def session(self) -> Verdict:
        """The session of one replica raises from some moment on: it is replaced."""
        async with self.load() as load:
            await asyncio.sleep(1)
            before = {one.pid for one in await asyncio.to_thread(self.processes, "replica")}
            struck = time.monotonic()
            self.order.touch()
            while not (taken := list(self.folder.glob("break.*"))) and time.monotonic() < struck + 10:
                await asyncio.sleep(0.05)
            pid = int(taken[0].suffix[1:]) if taken else 0
            back = math.inf
            while time.monotonic() < struck + 90 and back == math.inf:
                now = {one.pid for one in await asyncio.to_thread(self.processes, "replica")}
                if pid not in now and len(now) >= 2 and await self.up() >= 2:
                    back = time.monotonic() - struck
                await asyncio.sleep(0.2)
            await asyncio.sleep(1)
        for one in taken:
            one.unlink()
        seen = load.since(0)
        return Verdict(pid in before and back < 60 and not seen.failed, f"{seen}; replaced after {back:.1f} s")

    async def overload(self) -> Verdict:
        """Three times as many requests as two replicas can answer, whether answers come or not."""
        before = self.live
        self.weights[self.bundle(0.03, work=WORK)] = 0.03
        status, told = await self.specml("deploy", f"serving.slo={1000 * SLO:g}ms")
        assert status == 0, told
        await self._asked(connections=8, seconds=2)
        peak = (await self._asked(connections=8, seconds=10)).rate
        held = [one for role in ("replica", "haproxy") for one in await asyncio.to_thread(self.processes, role)]
        sizes = [self._memory(held)]
        over = asyncio.create_task(self._asked(connections=512, seconds=OVERLOAD, rate=OFFERED * peak))
        while not over.done():
            await asyncio.sleep(0.5)
            sizes.append(self._memory(held))
        found = over.result()
        after = await self._asked(connections=64, seconds=10, rate=0.5 * peak)
        sizes.append(self._memory(held))
        status, told = await self.specml("rollback")
        assert (status, self.live) == (0, before), told
        late = [one for one in after.asked if one.status != 200 or one.seconds - one.lag > SLO]
        back = max((one.due - found.ended for one in late), default=0.0)
        others = Counter(one.status for one in found.asked if one.predictions > 0 or not _expected(one))
        refused = [one.seconds - one.lag for one in found.asked if one.status == 429]
        grown, p99 = max(sizes) - sizes[0], _quantile(found.times, 0.99)
        told = [
            f"{ROWS} rows each: {found.offered:.0f} a second asked, {found.rate:.0f} answered of {peak:.0f}",
            f"99 % asked within {1000 * _quantile([one.lag for one in found.asked], 0.99):.0f} ms of their time",
            f"{_in_ms(found.times)} of {1000 * SLO:.0f} promised",
            f"{len(refused):,} told to come back, {_in_ms(refused)}",
            f"{others.total()} failed otherwise {dict(others) or ''}".strip(),
            f"{sizes[0]:.0f} MB before, {max(sizes):.0f} at most, {sizes[-1]:.0f} after",
            f"of {len(after.asked):,} at half of that {len(late)} late or refused, the last {back:.1f} s after the end",
        ]
        holds = found.offered >= 3 * peak and found.rate >= 0.9 * peak and p99 <= SLO and bool(refused)
        return Verdict(holds and not others and grown < 100 and back <= 5, "; ".join(told))

    async def _asked(self, **options: Any) -> Asked:
        """Ask from a process of its own, so that who asks does not hold up who counts."""
        rows = [{"age": 20.5 + i / 4, "hours": 10.5, "member": i % 2 == 0, "workclass": "Private"} for i in range(ROWS)]
        wanted = Wanted(self.port, json.dumps({"rows": rows}), **options)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.asking", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate(wanted.json().encode())
        return Asked([Answered(*one) for one in json.loads(told)], wanted.seconds)

    @staticmethod
    def _memory(processes: list[psutil.Process]) -> float:
        """In MB."""
        return sum(process.memory_info().rss for process in processes) / 2**20

    async def scaling(self) -> Verdict:
        """One replica becomes two while it is asked without pause, and one again when nobody asks."""
        cluster, before = self.cluster, self.cluster.config
        config = json.loads(json.dumps(before))
        model = config["applications"][0]["deployments"][0]
        model["user_config"]["revision"] = "scaling"
        model.pop("num_replicas")
        model["autoscaling_config"] = {
            "min_replicas": 1,
            "max_replicas": 2,
            "policy": {"policy_function": "specml.serving.scaling:replicas"},
            "metrics_interval_s": 1.0,
            "look_back_period_s": 4.0,
            "upscale_delay_s": 2.0,
            "downscale_delay_s": 4.0,
        }
        state, heavy = self.folder / ".specml", {"connections": 16, "seconds": 30}
        async with self.load(clients=1, pause=0.5) as load:
            await asyncio.to_thread(cluster.launch, config, state, lambda _: None)
            alone = await self._count(1)
            busy = asyncio.create_task(self._asked(**heavy))
            two = await self._count(2)
            answered = await busy
            again = await self._count(1)
            await asyncio.to_thread(cluster.launch, before, state, lambda _: None)
        seen, others = load.since(0), Counter(one.status for one in answered.asked if not _expected(one))
        return Verdict(
            max(alone, two, again) < math.inf and two < heavy["seconds"] and not seen.failed and not others,
            f"{seen}; of those who make the load, {answered.rate:.0f} a second, {others.total()} failed;"
            f" two replicas after {two:.0f} s of it, one {again:.0f} s after its end",
        )

    async def _count(self, wanted: int, patience: float = 60.0) -> float:
        """Seconds until there are so many replicas, by HAProxy and by their processes: a new HAProxy tells what was."""
        began = time.monotonic()
        while time.monotonic() < began + patience:
            if {await self.up(), len(await asyncio.to_thread(self.processes, "replica"))} == {wanted}:
                return time.monotonic() - began
            await asyncio.sleep(0.2)
        return math.inf

    async def soak(self) -> Verdict:
        """Nothing happens, for long: memory and descriptors stay."""
        async with self.load() as load:
            began, until = time.monotonic(), time.monotonic() + 60 * self.minutes
            warm = began + min(300.0, 20 * self.minutes)
            samples: dict[str, list[tuple[float, float, int]]] = {}
            while time.monotonic() < until:
                await asyncio.sleep(min(5.0, 2 * self.minutes))
                for role in ("replica", "haproxy", "controller"):
                    for process in await asyncio.to_thread(self.processes, role):
                        if time.monotonic() > warm:
                            told = time.monotonic(), process.memory_info().rss / 2**20, process.num_fds()
                            samples.setdefault(f"{role} {process.pid}", []).append(told)
        seen = load.since(0)
        slopes = {name: 60 * _slope([(at, size) for at, size, _ in taken]) for name, taken in samples.items()}
        descriptors = {name: max(n for *_, n in taken) - min(n for *_, n in taken) for name, taken in samples.items()}
        grows = max(slope for name, slope in slopes.items() if not name.startswith("controller"))
        told = ", ".join(f"{name} {samples[name][-1][1]:.0f} MB {slope:+.2f}/min" for name, slope in slopes.items())
        return Verdict(
            not seen.failed and grows < 1 and max(descriptors.values()) <= self.clients,
            f"{seen}; {told}; descriptors differ by {max(descriptors.values())}",
        )


def _expected(one: Answered) -> bool:
    """Whether an overloaded server may answer so: with what it was asked, or when to come back."""
    return one.status == 200 or (one.status == 429 and one.after >= 1)


def _quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))] if times else math.nan


def _in_ms(times: list[float]) -> str:
    return f"p50 {1000 * _quantile(times, 0.5):.0f} ms, p99 {1000 * _quantile(times, 0.99):.0f} ms"


def _slope(points: list[tuple[float, float]]) -> float:
    """By least squares, a second."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 2 else 0.0


FAULTS: dict[str, Callable[[Bench], Awaitable[Verdict]]] = {
    "replicas": Bench.replicas,
    "controller": Bench.controller,
    "haproxy": Bench.haproxy,
    "manager": Bench.manager,
    "explain": Bench.explain,
    "update": Bench.update,
    "rollback": Bench.rollback,
    "bad": Bench.bad,
    "poison": Bench.poison,
    "session": Bench.session,
    "scaling": Bench.scaling,
    "overload": Bench.overload,
    "soak": Bench.soak,
}


def free_port() -> int:
    """Below those that outgoing connections are given."""
    while True:
        port = random.SystemRandom().randrange(12_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def main() -> int:
    """Break what was named, one line each; 1 when a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="Which; all without any.")
    parser.add_argument("--seconds", type=float, default=60.0, help="How long replicas are killed, one every 5 s.")
    parser.add_argument("--minutes", type=float, default=2.0, help="How long the soak lasts.")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--pause", type=float, default=0.01, help="Mean seconds between an answer and the next question."
    )
    told = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    bench = Bench(
        folder / "census",
        free_port(),
        clients=told.clients,
        pause=told.pause,
        seconds=told.seconds,
        minutes=told.minutes,
    )
    failed = []
    try:
        bench.deploy()
        for name in told.faults or FAULTS:
            began = time.monotonic()
            verdict = asyncio.run(FAULTS[name](bench))
            failed += [] if verdict.holds else [name]
            state = "ok" if verdict.holds else "FAILED"
            print(f"{name:10} {time.monotonic() - began:6.1f} s  {state}: {verdict.told}", flush=True)
    finally:
        specml("stop", folder=bench.folder)
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
