"""The project's own copies of the rows go when their time limit has come; nothing else does."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from specml import repro
from specml.files import write_atomic
from specml.load import load
from specml.watch.copies import forget_rows
from specml.watch.live import watch
from tests.conftest import EXAMPLES

if TYPE_CHECKING:
    from pathlib import Path

ROWS = (
    "artifacts/ingest/people.parquet",
    "artifacts/prepare/train.parquet",
    "artifacts/prepare/test.parquet",
    "artifacts/prepare/quarantine.parquet",
)
OTHERS = ("artifacts/prepare/layout.json", "artifacts/bundle/model.onnx", "data/people.parquet")


def record(path: str, content: bytes) -> str:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return f"- path: {path}\n  hash: md5\n  md5: {digest}\n  size: {len(content)}\n"


def keep(folder: Path, content: bytes, age: float) -> Path:
    """An object of DVC's cache."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    older(path, age)
    return path


def older(path: Path, age: float) -> None:
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    repro.set_up(tmp_path)
    for name in (*ROWS, *OTHERS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_old_copies_go_and_nothing_else(folder: Path) -> None:
    for name in (*ROWS, *OTHERS):
        older(folder / name, 100)
    assert forget_rows(folder, 50) == (len(ROWS), [])
    assert [name for name in (*ROWS, *OTHERS) if (folder / name).exists()] == [*OTHERS]


def test_what_is_younger_stays(folder: Path) -> None:
    assert forget_rows(folder, 50) == (0, [])
    assert all((folder / name).exists() for name in (*ROWS, *OTHERS))


def test_the_cache_forgets_the_rows_of_earlier_runs_too(folder: Path) -> None:
    """An earlier run's rows are in no lock any more; DVC's own record of that run still names them."""
    before = keep(folder, b"rows of an earlier run", 100)
    model = keep(folder, b"a model", 100)
    runs = folder / ".dvc/cache/runs/ab/abcd"
    runs.mkdir(parents=True)
    made = record(ROWS[0], b"rows of an earlier run") + record("artifacts/train/gbm/model.txt", b"a model")
    (runs / "1234").write_text(f"cmd: exec specml stage ingest people\nouts:\n{made}")
    now = keep(folder, ROWS[1].encode(), 100)
    lock = "".join(f"    {line}\n" for line in record(ROWS[1], ROWS[1].encode()).splitlines())
    (folder / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  prepare:\n    cmd: x\n    outs:\n{lock}")
    # Laid out again lately: the file is young, what it holds is not.
    assert forget_rows(folder, 50) == (3, [])
    assert [one.exists() for one in (before, now, folder / ROWS[1], model)] == [False, False, False, True]
    assert (folder / ROWS[0]).exists()


@pytest.mark.parametrize("torn", [b"", b"cmd: x\nouts:\n- pa", b"outs: [1]\n", b"outs:\n- md5: 12\n", b"a: [", b"\xff"])
def test_a_record_that_a_kill_tore_is_told_and_hides_no_other(torn: bytes, folder: Path) -> None:
    before = keep(folder, b"rows of an earlier run", 100)
    runs = folder / ".dvc/cache/runs/ab/abcd"
    runs.mkdir(parents=True)
    (runs / "1234").write_bytes(torn)
    (runs / "5678").write_text(f"cmd: x\nouts:\n{record(ROWS[0], b'rows of an earlier run')}")
    assert forget_rows(folder, 50) == (1, [runs / "1234"])
    assert not before.exists()


def test_a_torn_lock_file_heals_before_it_is_asked(folder: Path) -> None:
    kept = keep(folder, ROWS[1].encode(), 100)
    lock = "".join(f"    {line}\n" for line in record(ROWS[1], ROWS[1].encode()).splitlines())
    write_atomic(folder / ".specml/dvc.lock", f"schema: '2.0'\nstages:\n  prepare:\n    cmd: x\n    outs:\n{lock}")
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  prepare:\n    cm")
    said: list[str] = []
    list(watch(load(EXAMPLES / "loans").spec, folder, said.append))
    assert kept.exists(), "730 days have not gone by"
    assert any("dvc.lock was torn by a crash: put back" in line for line in said)


def test_a_run_that_may_read_them_keeps_them(folder: Path) -> None:
    """The clock that starts `specml watch` knows nothing of runs."""
    older(folder / ROWS[0], 731 * 86400)
    spec, said = load(EXAMPLES / "loans").spec, list[str]()
    with repro.alone(folder):
        list(watch(spec, folder, said.append))
    assert (folder / ROWS[0]).exists()
    assert any(line.startswith("Copies of rows older than 730d are not deleted now: another run") for line in said)
    list(watch(spec, folder, said.append))
    assert not (folder / ROWS[0]).exists()
