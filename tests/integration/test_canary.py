"""What a spec does not keep of people is in no byte of what specml makes, says or serves, also when a run fails."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import random
import shutil
import socket
import subprocess
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml.targets.local.cluster import Cluster
from tests.conftest import EXAMPLES, specml

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "a-key-of-the-test-that-stands-in-no-file-at-all"
FORGOTTEN = ("canary-undeclared", "canary-dropped", "canary-hashed", KEY)
SOURCE = "data/applications.csv"


def contents(raw: bytes) -> Iterator[str]:
    """What a reader may find in a file: its bytes, and what they decode to as Parquet, gzip or zlib."""
    yield raw.decode("latin-1")
    if raw[:4] == b"PAR1":
        yield from texts(pl.read_parquet(io.BytesIO(raw)))
    if raw[:2] == b"\x1f\x8b":
        yield from contents(gzip.decompress(raw))
    if raw[:1] == b"\x78":
        try:
            yield zlib.decompress(raw).decode("latin-1")
        except zlib.error:
            return


def texts(table: pl.DataFrame) -> Iterator[str]:
    for column in table.get_columns():
        yield column.name
        yield from map(str, column.unique().to_list())


def holding(folder: Path, wanted: str, *, leave: frozenset[str] = frozenset()) -> list[str]:
    """The files below ``folder`` in whose name or content ``wanted`` stands."""
    found = []
    for path in sorted(one for one in folder.rglob("*") if one.is_file() and not one.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if name not in leave and (wanted in name or any(wanted in one for one in contents(path.read_bytes()))):
            found.append(name)
    return found


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    rows = pl.DataFrame({"x": [{"inside": f"canary-{i}"} for i in range(50)]})
    rows.write_parquet(tmp_path / "object-without-a-suffix", compression="zstd")
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"a canary-7 in a log"))
    (tmp_path / "packed").write_bytes(zlib.compress(b"canary-7"))
    (tmp_path / "plain.json").write_text('{"a": "canary-7"}')
    (tmp_path / "other").write_text("nothing")
    assert holding(tmp_path, "canary-7") == ["log.gz", "object-without-a-suffix", "packed", "plain.json"]


def free_port() -> int:
    """One that no outgoing connection is given while the model trains: those begin at 32768 (Linux)."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Project:
    """The example under the rule gdpr, its people replaced by canaries; remembers all that specml says."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        leave = shutil.ignore_patterns("artifacts", "metrics", "plots", ".specml", ".dvc", "dvc.lock")
        shutil.copytree(EXAMPLES / "loans", folder, ignore=leave)
        self.folder = folder
        self.said: list[str] = []
        (folder / "spec.yaml").write_text(
            (folder / "spec.yaml").read_text() + f"deployment: {{target: {{type: local, port: {self.port}}}}}\n"
        )
        number = pl.int_range(pl.len()).cast(pl.String)
        rows = pl.read_csv(folder / SOURCE).with_columns(
            customer=pl.lit("canary-hashed-") + number,
            name=pl.lit("canary-dropped-") + number,
            email=pl.lit("canary-undeclared-") + number,
        )
        rows.write_csv(folder / SOURCE)
        self.rows = rows

    def specml(self, *arguments: str, status: int | None = 0, key: str = KEY) -> subprocess.CompletedProcess[str]:
        done = specml(*arguments, folder=self.folder, status=status, LOANS_KEY=key)
        self.said += [done.stdout, done.stderr]
        return done

    def ask(self, path: str, body: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        raw = answer.read().decode()
        connection.close()
        self.said.append(raw)
        return answer.status, json.loads(raw)

    def nowhere(self, *wanted: str) -> None:
        for canary in wanted:
            assert holding(self.folder, canary, leave=frozenset({SOURCE})) == []
            assert [said for said in self.said if canary in said] == []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """After `specml run`, which also serves it."""
    made = Project(tmp_path_factory.mktemp("people") / "loans")
    try:
        made.specml("run")
        yield made
    finally:
        made.specml("stop")


@pytest.mark.slow
@pytest.mark.serve
def test_a_run_a_server_and_its_captures_hold_none_of_it(project: Project) -> None:
    row = {"income": 30000, "amount": 5000, "years_employed": 3, "housing": "rent"}
    status, answer = project.ask("/predict", {"rows": [row]})
    assert status == 200
    assert answer["notice"]["human_review"].startswith("Ask for a person")
    assert answer["notice"]["contest"] == "privacy@bank.example"
    inputs = [
        {"name": name, "datatype": "BYTES" if name == "housing" else "FP64", "shape": [1, 1], "data": [value]}
        for name, value in row.items()
    ]
    status, answer = project.ask("/v2/models/loans/infer", {"inputs": inputs})
    assert (status, set(answer["parameters"])) == (200, {"automated_decision", "human_review", "contest"})
    status, answer = project.ask("/explain", {"rows": [row]})
    assert (status, set(answer["notice"])) == (200, {"automated_decision", "human_review", "contest"})
    for name in ("name", "email", "customer"):
        status, answer = project.ask("/predict", {"rows": [{**row, name: "canary-dropped"}]})
        assert status == 422
        assert name in answer["error"]
    captured = project.folder / ".specml/captures"
    until = time.monotonic() + 30
    while not list(captured.glob("*/*.parquet")) and time.monotonic() < until:
        time.sleep(0.2)
    assert holding(captured, "rent")
    project.specml("watch", "--once")
    project.specml("status")
    project.specml("report")
    project.specml("render")
    project.specml("plan")
    record = json.loads((project.folder / ".specml/serving.json").read_bytes())
    servers = Cluster(**record).processes()
    assert servers
    assert not any(KEY in str(process.environ()) for process in servers), "no server needs the key"
    assert holding(Path(record["folder"]), "canary-") == []
    project.nowhere(*FORGOTTEN)


@pytest.mark.slow
@pytest.mark.serve
def test_what_is_kept_is_found_by_the_same_search(project: Project) -> None:
    import hashlib
    import hmac

    hashed = hmac.new(KEY.encode(), b"canary-hashed-17", hashlib.sha256).hexdigest()
    cached = [name for name in holding(project.folder, hashed) if name.startswith(".dvc/cache/files/")]
    assert len(cached) == 1
    assert "artifacts/ingest/applications.parquet" in holding(project.folder, hashed)
    assert holding(project.folder, "canary-dropped-17") == [SOURCE]
    # Columns for gates only are in no file that a training stage reads, and not in the bundle.
    (train,) = (pl.read_parquet(project.folder / f"artifacts/prepare/{part}.parquet") for part in ("train",))
    assert {"sex", "age"}.isdisjoint(train.columns)
    assert holding(project.folder / "artifacts/bundle", "sex") == []


@pytest.mark.slow
@pytest.mark.serve
@pytest.mark.sweep
def test_runs_that_fail_say_none_of_it(project: Project) -> None:
    good = (project.folder / SOURCE).read_text()
    lines = good.splitlines()
    cells = lines[1].split(",")
    faults = {
        "a quotation mark without its twin": (",".join([*cells[:2], '"canary-undeclared', *cells[3:]]), 6, KEY),
        "a value that is no number": (",".join([*cells[:5], "canary-hashed", *cells[6:]]), 6, KEY),
        "a cell too many": (lines[1] + ",canary-undeclared", 6, KEY),
        "no key": (lines[2], 1, ""),
    }
    try:
        for line, status, key in faults.values():
            (project.folder / SOURCE).write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
            project.specml("run", "--until", "prepare", status=status, key=key)
            told = "".join(project.said)
            assert "canary-" not in told
            assert holding(project.folder / ".specml", "canary-") == []
        assert "LOANS_KEY is not set" in told
    finally:
        (project.folder / SOURCE).write_text(good)
