"""What disks, kills and altered files do to a project, and what is made of it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from specml import durations
from specml.clean import items
from specml.errors import of_system
from specml.files import folder_atomic, leftovers, write_atomic
from specml.repro import lockfile, set_up, tidy
from specml.repro import opened as opened_module
from specml.repro.opened import opened
from tests.unit.test_repro import GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_dvc_lock_is_in_the_plans_order_however_stages_ended(tmp_path: Path) -> None:
    def lock(*names: str) -> bytes:
        entries = GOOD.decode().partition("stages:\n")[2]
        text = "".join(entries.replace("  a:\n", f"  {name}:\n") for name in names)
        return f"schema: '2.0'\nstages:\n{text}".encode()

    path = tmp_path / "dvc.lock"
    path.write_bytes(lock("guard", "own", "train@b", "train@a"))
    lockfile.put_in_order(tmp_path, ["guard", "train", "train@a", "train@b", "select"])
    assert path.read_bytes() == lock("guard", "train@a", "train@b", "own")
    assert (tmp_path / ".specml/dvc.lock").read_bytes() == path.read_bytes()
    path.write_bytes(b"stages: [torn")
    lockfile.put_in_order(tmp_path, ["guard"])
    assert path.read_bytes() == b"stages: [torn"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
def test_dvc_believes_neither_time_nor_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up(tmp_path)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  a:\n    cmd: mkdir -p artifacts && echo good > artifacts/a.txt && echo ran >> ran\n"
        "    deps: [source]\n    outs: [artifacts/a.txt]\n"
    )
    (tmp_path / "source").write_text("1")
    (tmp_path / "artifacts").mkdir()

    def done() -> str:
        with opened(tmp_path) as repo:
            repo.reproduce()
        return (tmp_path / "artifacts/a.txt").read_text()

    def alter(path: Path, text: str) -> None:
        facts = path.stat()
        path.chmod(0o644)
        with path.open("r+") as file:
            file.write(text)
        path.chmod(facts.st_mode)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        opened_module._read.clear()  # as in the next run

    assert done() == "good\n"
    (kept,) = (path for path in (tmp_path / ".dvc/cache/files").rglob("*") if path.is_file())
    alter(tmp_path / "artifacts/a.txt", "evil")
    assert done() == "good\n"
    assert (tmp_path / "ran").read_text() == "ran\n", "put back, not done again"
    alter(kept, "evil")
    assert done() == "good\n"
    assert (tmp_path / "ran").read_text() == "ran\nran\n"
    (entry,) = (path for path in (tmp_path / ".dvc/cache/runs").rglob("*") if path.is_file())
    (tmp_path / "dvc.lock").unlink()
    entry.write_text("".join(entry.read_text().partition("outs:")[:1]))
    assert done() == "good\n"
    (tmp_path / "dvc.lock").unlink()
    for path in entry.parent.iterdir():
        path.unlink()
    assert done() == "good\n", "a kill left an entry's folder empty"


def test_durations_that_can_not_be_kept_fail_nobody(tmp_path: Path) -> None:
    durations.remember(tmp_path, {"guard": 0.5})
    durations.remember(tmp_path, {"train": 1.5})
    assert durations.known(tmp_path) == {"guard": 0.5, "train": 1.5}
    (tmp_path / durations.FILE).unlink()
    (tmp_path / durations.FILE).mkdir()
    durations.remember(tmp_path, {"guard": 0.5})
    assert durations.known(tmp_path) == {}


def test_durations_that_are_none_are_not_known(tmp_path: Path) -> None:
    for content, known in (("[1, 2]", {}), ('{"guard": "x", "train": 1.5}', {"train": 1.5}), ("\x00", {})):
        write_atomic(tmp_path / ".specml/durations.json", content)
        assert durations.known(tmp_path) == known


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "is read-only"), (errno.EIO, "disk fails")]
)
@pytest.mark.parametrize("folder", [False, True])
def test_a_failing_disk_leaves_the_old_file_and_is_told_by_its_name(
    number: int, told: str, folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"

    def write(text: str) -> None:
        if folder:
            with folder_atomic(path) as made:
                (made / "a").write_text(text)
        else:
            write_atomic(path, text)

    def content() -> str:
        return ((path / "a") if folder else path).read_text()

    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    write("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            write("new")
    refused = of_system(caught.value, tmp_path)
    assert refused.where == str(path)
    assert told in refused.what
    assert refused.hint
    assert content() == "old"
    assert leftovers(tmp_path) == []
    write("new")
    assert content() == "new"


WRITER = """
import shutil, sys
from pathlib import Path
from specml.files import folder_atomic, write_atomic
target = Path(sys.argv[1])
if sys.argv[2] == "folder":
    with folder_atomic(target) as made:
        (made / "a").write_text("a")
        print("half", flush=True)
        sys.stdin.readline()
        (made / "b").write_text("b")
else:
    import os
    sync = os.fsync
    def half(handle):
        print("half", flush=True)
        sys.stdin.readline()
        os.fsync = sync
    os.fsync = half
    write_atomic(target, "a")
"""


@pytest.mark.parametrize("sort", ["folder", "file"])
def test_what_a_live_writer_has_half_written_is_no_leftover(sort: str, tmp_path: Path) -> None:
    """A deploy fills its folder while a run starts and tidies up; killed, what it left goes."""
    target = tmp_path / ".specml/releases/out"
    code = [sys.executable, "-c", WRITER, str(target), sort]
    for killed in (False, True):
        with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdin
            assert writer.stdout
            assert writer.stdout.readline() == "half\n"
            assert leftovers(tmp_path) == []
            assert [item for item in items(tmp_path) if item.group == "leftovers"] == []
            tidy(tmp_path)
            if killed:
                writer.kill()
            else:
                writer.stdin.write("on\n")
                writer.stdin.close()
                assert writer.wait() == 0
                assert sorted(path.name for path in target.parent.rglob("*")) == (
                    ["a", "b", "out"] if sort == "folder" else ["out"]
                )
    assert len(leftovers(tmp_path)) == 1
    tidy(tmp_path)
    assert list(target.parent.glob(".*")) == []


def test_a_file_that_goes_while_it_is_looked_for_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / ".specml/captures/a/one.parquet", "one")
    found = os.walk

    def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for where, folders, names in found(folder):
            yield where, folders, [*names, "gone.parquet", ".gone.abcdefgh"]

    monkeypatch.setattr(os, "walk", walk)
    assert leftovers(tmp_path) == []
    assert [item.size for item in items(tmp_path)] == [3]


def test_a_writer_whose_file_was_swept_before_it_was_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = fcntl.flock, []

    def sweeping(handle: int, how: int) -> None:
        if not swept:
            swept.extend(tmp_path.iterdir())
            for path in swept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", sweeping)
    write_atomic(tmp_path / "a", "a")
    assert (tmp_path / "a").read_text() == "a"
    swept.clear()
    (tmp_path / "a").unlink()
    with folder_atomic(tmp_path / "b") as made:
        (made / "c").write_text("c")
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "c"]
