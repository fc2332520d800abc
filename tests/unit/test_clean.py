from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner

from specml import ledger, releases
from specml.cli import cli
from specml.errors import SpecmlError
from specml.targets.local.cluster import MARK, PROJECT, Cluster
from specml.watch import stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

SPEC = """name: small
problem: {task: binary, target: y}
data: {sources: {rows: {type: csv, path: rows.csv}}}
candidates: {line: logistic_regression}
"""

FILES = {
    "leftovers": ["artifacts/.train.abcdefgh", ".specml/.events.jsonl.abcd_123"],
    "logs": [".specml/log/train@line.log", ".specml/events.jsonl", "artifacts/report.html"],
    "artifacts": ["artifacts/bundle/model.onnx", "metrics/holdout.json", "plots/roc.csv"],
    "state": [".specml/search/line/a.jsonl", ".specml/durations.json"],
    "captures": [".specml/captures/0123/a.parquet", ".specml/feedback/a.parquet"],
    "releases": [".specml/releases/0123456789ab/release.json"],
    "mine": ["rows.csv", "dvc.lock", "notes/.hidden.abcdefgh", ".specml/run.lock"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for group, names in FILES.items():
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(group * 100)
    (tmp_path / "spec.yaml").write_text(SPEC)
    ledger.append(tmp_path, "run", exit_status=0)
    return tmp_path


def there(folder: Path) -> set[str]:
    return {group for group, names in FILES.items() if any((folder / name).exists() for name in names)}


def clean(folder: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["clean", str(folder), "--json", *arguments], standalone_mode=False)
    if done.exception:
        raise done.exception
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_it_only_tells_unless_it_is_told_to(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    told = clean(folder, "--all", "--captures", "--releases")
    assert not told["done"]
    assert {one["group"] for one in told["removed"]} == {
        "leftovers",
        "logs",
        "artifacts",
        "state",
        "captures",
        "releases",
    }
    assert sorted(folder.rglob("*")) == before
    text = CliRunner().invoke(cli, ["clean", str(folder)], standalone_mode=False).output
    assert "would go  artifacts/.train.abcdefgh  (900 B)" in text
    assert "stays    .specml/captures  (800 B): --captures" in text
    assert "say --yes to do it" in text


@pytest.mark.parametrize(
    ("flags", "gone"),
    [
        ((), {"leftovers", "logs"}),
        (("--artifacts",), {"leftovers", "logs", "artifacts"}),
        (("--all",), {"leftovers", "logs", "artifacts", "state"}),
        (("--captures",), {"leftovers", "logs", "captures"}),
        (("--all", "--releases"), {"leftovers", "logs", "artifacts", "state", "releases"}),
    ],
)
def test_what_goes_is_what_was_named(folder: Path, flags: tuple[str, ...], gone: set[str]) -> None:
    size = sum(len(group) * 100 for group, names in FILES.items() for _ in names if group in gone)
    told = clean(folder, "--yes", *flags)
    assert there(folder) == set(FILES) - gone
    assert told["bytes"] == size, "nothing is counted twice"
    records = ledger.verify(folder).records
    assert [record.event for record in records] == ["run", "clean", "clean"]
    assert records[1].facts["bytes"] == size
    assert clean(folder, "--yes", *flags)["removed"] == []
    assert len(ledger.verify(folder).records) == 3, "nothing happened: nothing is recorded"


def test_it_waits_for_nobody_and_names_who_is_at_work(folder: Path) -> None:
    with (folder / ".specml/run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": 4711, "host": "here", "since": "noon"}))
        lock.flush()
        with pytest.raises(SpecmlError, match=r"another run is at work here \(process 4711 on here"):
            clean(folder, "--yes")
    assert there(folder) == set(FILES)


def test_a_ledger_that_was_cut_off_keeps_everything(folder: Path) -> None:
    (folder / ledger.FILE).write_bytes(b"")
    with pytest.raises(ledger.LedgerError, match="is cut off"):
        clean(folder, "--yes", "--all")
    assert there(folder) == set(FILES)


@pytest.mark.parametrize(("alone", "flag"), [(releases.alone, "--releases"), (stream.alone, "--captures")])
def test_it_waits_for_who_writes_there_and_leaves_the_lock(
    alone: Callable[[Path], AbstractContextManager[None]], flag: str, folder: Path
) -> None:
    """Who waited for a lock that was removed would hold another one than who comes next."""
    code = (
        "import sys; from pathlib import Path; from specml.clean import clean; clean(Path(sys.argv[1]), [sys.argv[2]])"
    )
    held = folder / f".specml/{'releases' if flag == '--releases' else 'watch'}.lock"
    with alone(folder):
        before = held.stat().st_ino
        cleaner = subprocess.Popen([sys.executable, "-c", code, str(folder), flag[2:]])
        try:
            while not waits_for(cleaner.pid, held):
                assert cleaner.poll() is None
            assert there(folder) == set(FILES)
        except BaseException:
            cleaner.kill()
            raise
    assert cleaner.wait(60) == 0
    assert there(folder) == set(FILES) - {flag[2:]}
    assert held.stat().st_ino == before


def waits_for(pid: int, path: Path) -> bool:
    """Whether a process has opened a lock file: all that it can do with it is wait."""
    with suppress(OSError):
        return any(one.samefile(path) for one in Path(f"/proc/{pid}/fd").iterdir() if one.exists())
    return False


def server(folder: Path, mark: str) -> subprocess.Popen[bytes]:
    code = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]
    here = {**os.environ, MARK: mark, PROJECT: str(folder.resolve())}
    process = subprocess.Popen(code, env=here, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_a_live_server_refuses_and_a_lost_one_is_ended(folder: Path) -> None:
    known, lost = server(folder, "a" * 32), server(folder, "b" * 32)
    try:
        Cluster("a" * 32, "/tmp/specml-none", 8123, 20000, 1).write(folder / ".specml")
        with pytest.raises(SpecmlError, match=rf"a server is live here, at port 8123 \(processes {known.pid}"):
            clean(folder, "--yes")
        assert clean(folder)["servers_ended"] == [lost.pid]
        assert lost.poll() is None
        known.kill()
        known.wait()
        assert clean(folder, "--yes")["servers_ended"] == [lost.pid]
        assert not psutil.pid_exists(lost.pid)
        assert not (folder / ".specml/serving.json").exists()
    finally:
        for process in (known, lost):
            process.kill()
            process.wait()


def test_nothing_is_reached_through_a_link(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious.txt").write_text("mine")
    (folder / "artifacts/away").symlink_to(outside)
    (folder / ".specml/search/line/away").symlink_to(outside)
    (folder / ".specml/captures/away").symlink_to(outside)
    clean(folder, "--yes", "--all", "--captures")
    assert (outside / "precious.txt").read_text() == "mine"
    assert not (folder / "artifacts").exists()
    (folder / "artifacts").symlink_to(outside)
    with pytest.raises(SpecmlError, match="is a link"):
        clean(folder, "--yes", "--all")
    assert (outside / "precious.txt").exists()


def test_a_kill_leaves_a_folder_whole_or_a_leftover(folder: Path) -> None:
    code = """
import os, shutil, sys
from pathlib import Path
from specml import clean
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), 9)
clean.clean(Path(sys.argv[1]), ("artifacts",))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not (folder / "artifacts").exists()
    assert (folder / "metrics/holdout.json").exists()
    told = clean(folder, "--yes")
    assert any(one["path"].startswith(".specml/.artifacts.") for one in told["removed"])
    assert not [path for path in (folder / ".specml").iterdir() if path.name.startswith(".artifacts")]


def test_it_works_without_a_valid_spec(folder: Path) -> None:
    (folder / "spec.yaml").write_text("name: [")
    assert clean(folder)["removed"]
    (folder / "spec.yaml").unlink()
    assert clean(folder, "--yes")["removed"]
