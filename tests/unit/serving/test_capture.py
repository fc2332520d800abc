"""What is kept of the requests: all of it, off their path, in whole files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import polars as pl
import pytest

from specml.bundle import open_bundle
from specml.serving.app import Args
from specml.serving.capture import Capture, request_id, row_ids
from specml.serving.request import Rows, named
from specml.watch.stream import read
from tests.bundles import regression_bundle
from tests.malformed import GOOD, rows, tensors
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from pathlib import Path

    from specml.bundle import Bundle

OUTPUTS = {
    "label": np.array(["1", "0"], dtype=object),
    "probabilities": np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32),
}


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


def kept(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(one) for one in sorted(folder.glob("*.parquet"))])


def two(opened: Bundle) -> Rows:
    return named([GOOD, {"age": 20, "member": False}], opened.contract)


def test_the_rows_kept_are_the_rows_sent_and_answered(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    service = Args.model_validate({"bundle": str(bundle), "capture": {"folder": str(folder)}}).service("r1")

    async def asked() -> list[Any]:
        bodies = [
            json.dumps(
                {"rows": [GOOD | {"age": 20 + i}, {"age": 50, "member": False, "workclass": None, "hours": None}]}
            ).encode()
            for i in range(200)
        ]
        headers = {"content-type": "application/json"}
        return await asyncio.gather(
            *(
                ask(service, "POST", "/predict", body, {**headers, "x-request-id": f"case-{i}"})
                for i, body in enumerate(bodies)
            ),
            ask(service, "POST", "/v2/models/census/infer", orjson.dumps({**tensors(), "id": "tensor"})),
            ask(service, "POST", "/predict", rows(age="old")),
        )

    answers = asyncio.run(asked())
    metrics = asyncio.run(ask(service, "GET", "/metrics")).body.decode()
    assert "specml_capture_dropped_rows_total" in metrics
    service.close()
    assert answers[-1].status == 422
    table = kept(folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert set(table["bundle"]) == {open_bundle(bundle).digest}
    assert table.schema["time"] == pl.Datetime("us", "UTC")
    found = {row["id"]: row for row in table.to_dicts()}
    assert len(found) == table.height == 401
    assert found["tensor-0"]["inputs"] == GOOD
    for i, answer in enumerate(answers[:200]):
        told = json.loads(answer.body)
        assert told["id"] == f"case-{i}"
        first, second = found[f"case-{i}-0"], found[f"case-{i}-1"]
        assert first["inputs"] == {**GOOD, "age": 20.0 + i}
        assert second["inputs"] == {"age": 50.0, "hours": None, "member": False, "workclass": None}
        for row, prediction in zip((first, second), told["predictions"], strict=True):
            assert row["outputs"]["label"] == str(prediction["label"])
            assert np.float32(row["outputs"]["probabilities"][1]) == np.float32(prediction["probability"])


def test_nothing_is_kept_unless_it_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle)}).service("r1")
    answer = asyncio.run(ask(service, "POST", "/predict", rows()))
    assert len(json.loads(answer.body)["id"]) == 32
    assert "capture" not in asyncio.run(ask(service, "GET", "/metrics")).body.decode()
    service.close()


def test_a_regression_is_kept(tmp_path: Path) -> None:
    regression_bundle(tmp_path / "b")
    service = Args.model_validate(
        {"bundle": str(tmp_path / "b"), "capture": {"folder": str(tmp_path / "kept")}}
    ).service("r1")
    asyncio.run(ask(service, "POST", "/predict", b'{"rows": [{"area": 50}, {"area": 0.05}]}'))
    service.close()
    table = kept(tmp_path / "kept")
    assert table["outputs"].struct.field("prediction").to_list() == [100.0, np.float32(0.1)]


@pytest.mark.parametrize("wanted", ["", "a b", 'x"y', "a,b", "x" * 101, "é", "a\nb", None])
def test_an_ill_formed_id_is_not_taken(wanted: str | None) -> None:
    assert request_id(wanted) != wanted
    assert len(request_id(wanted)) == 32
    assert request_id("order/17:a") == "order/17:a"


def test_columns_may_be_called_as_they_like(opened: Bundle, tmp_path: Path) -> None:
    odd = {"age": "^.*$", "hours": "*", "member": "0", "workclass": "^a"}
    inputs = tuple(one.model_copy(update={"name": odd[one.name]}) for one in opened.contract.inputs)
    contract = opened.contract.model_copy(update={"inputs": inputs})
    capture = Capture(tmp_path, contract, opened.digest, flush=60)
    capture.offer("r", named([{odd[name]: value for name, value in GOOD.items()}], contract), one_output())
    capture.close()
    assert kept(tmp_path)["inputs"].to_list() == [{odd[name]: value for name, value in GOOD.items()}]


def one_output() -> dict[str, np.ndarray]:
    return {name: array[:1] for name, array in OUTPUTS.items()}


def test_a_full_queue_drops_rows_and_counts_them(opened: Bundle, tmp_path: Path) -> None:
    capture = Capture(tmp_path, opened.contract, opened.digest, flush=60, queue_rows=11)
    began = time.perf_counter()
    for i in range(10):
        capture.offer(f"r{i}", two(opened), OUTPUTS)
    assert time.perf_counter() - began < 1
    assert capture.dropped == 10
    capture.close()
    assert capture.rows == 10
    assert sorted(kept(tmp_path)["id"]) == sorted(name for i in range(5) for name in row_ids(f"r{i}", 2))
    capture.offer("late", two(opened), OUTPUTS)
    assert capture.dropped == 12


def test_a_disk_that_fails_keeps_rows_waiting(opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specml.serving import capture as module

    real, broken = module.write_atomic, True

    def write(path: Path, content: bytes) -> None:
        if broken:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(module, "write_atomic", write)
    capture = Capture(tmp_path, opened.contract, opened.digest, flush=0.02)
    capture.offer("a", two(opened), OUTPUTS)
    time.sleep(0.2)
    assert capture.rows == 0
    broken = False
    capture.offer("b", two(opened), OUTPUTS)
    capture.close()
    assert (capture.rows, capture.dropped) == (4, 0)
    assert set(kept(tmp_path)["id"]) == {"a-0", "a-1", "b-0", "b-1"}


def test_a_share_is_the_same_choice_everywhere(opened: Bundle, tmp_path: Path) -> None:
    names = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        capture = Capture(folder, opened.contract, opened.digest, share=0.25)
        for i in range(400):
            capture.offer(f"r{i}", two(opened), OUTPUTS)
        capture.close()
        names.append(set(kept(folder)["id"]))
        assert capture.dropped == 0
    assert names[0] == names[1]
    assert 120 < len(names[0]) < 280


def test_a_segment_only_grows_and_is_closed_when_it_is_full(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specml.serving import capture as module

    monkeypatch.setattr(module, "SEGMENT_ROWS", 6)
    capture = Capture(tmp_path, opened.contract, opened.digest, flush=0.05)
    seen: dict[str, list[str]] = {}
    for i in range(12):
        capture.offer(f"r{i:02}", two(opened), OUTPUTS)
        time.sleep(0.06)
        for segment in tmp_path.glob("*.parquet"):
            ids = read(segment)["id"].to_list()
            before = seen.get(segment.name, [])
            assert ids[: len(before)] == before
            seen[segment.name] = ids
    capture.close()
    ids = kept(tmp_path)["id"].to_list()
    assert ids == [name for i in range(12) for name in row_ids(f"r{i:02}", 2)]
    assert 3 <= len(list(tmp_path.glob("*.parquet"))) <= 5


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from specml.bundle import open_bundle
from specml.serving.capture import Capture
from specml.serving.request import named
from tests.malformed import GOOD
from tests.unit.serving.test_capture import OUTPUTS
opened = open_bundle(Path({bundle!r}))
capture = Capture(Path({folder!r}), opened.contract, opened.digest, flush=0.005)
for i in range(100_000):
    capture.offer(f"r{{i}}", named([GOOD, GOOD], opened.contract), OUTPUTS)
    if capture.rows > 200:
        print("writing", flush=True)
    time.sleep(0.0005)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_files(bundle: Path, tmp_path: Path) -> None:
    from tests.conftest import ROOT

    code = WRITER.format(root=str(ROOT), bundle=str(bundle), folder=str(tmp_path / "kept"))
    for delay in (0.0, 0.013, 0.031):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert kept(tmp_path / "kept").height > 200


def test_the_server_deletes_what_is_older_than_the_retention(opened: Bundle, tmp_path: Path) -> None:
    old, recent = "20200101T000000000000Z-r0.parquet", "29990101T000000000000Z-r0.parquet"
    mine, other = tmp_path / "captures" / "0123456789ab", tmp_path / "captures" / "ba9876543210"
    for folder in (mine, other):
        folder.mkdir(parents=True)
        for name in (old, recent, "notes.parquet"):
            (folder / name).write_bytes(b"rows")
            os.utime(folder / name, (0, 0))
    capture = Capture(mine, opened.contract, opened.digest, flush=0.05, retention=2.0)
    capture.offer("first", two(opened), OUTPUTS)
    until = time.monotonic() + 20
    while not capture.rows and time.monotonic() < until:
        time.sleep(0.02)
    (first,) = {one.name for one in mine.glob("*.parquet")} - {old, recent, "notes.parquet"}
    while (mine / first).exists() and time.monotonic() < until:
        time.sleep(0.05)
    # A segment that was deleted is not written again with the next rows.
    capture.offer("second", two(opened), OUTPUTS)
    capture.close()
    assert {one.name for one in other.iterdir()} == {recent, "notes.parquet"}
    (second,) = {one.name for one in mine.glob("*.parquet")} - {recent, "notes.parquet"}
    assert set(pl.read_parquet(mine / second)["id"]) == {"second-0", "second-1"}


def test_without_a_retention_the_server_deletes_nothing(opened: Bundle, tmp_path: Path) -> None:
    old = tmp_path / "20200101T000000000000Z-r0.parquet"
    old.write_bytes(b"rows")
    capture = Capture(tmp_path, opened.contract, opened.digest, flush=0.05)
    capture.offer("first", two(opened), OUTPUTS)
    capture.close()
    assert old.exists()
