"""Locks, fencing, and what a crash tore."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from specml import fence, repro
from specml.errors import SpecmlError, StageFailed
from specml.files import folder_atomic, guarded, leftovers, write_atomic
from specml.repro import alone, lockfile, set_up, tidy
from tests.conftest import specml

if TYPE_CHECKING:
    from pathlib import Path

GOOD = (
    b"schema: '2.0'\nstages:\n  a:\n    cmd: echo\n    outs:\n"
    b"    - path: a.txt\n      md5: 17fe18949c58b3773131d82fbe999f92\n      size: 2\n"
)


@pytest.mark.parametrize("torn", [b"", b"schema: '2.0'\nsta", GOOD[:-5], b"stages: 1\n", b"\xff\n", b"{\n"])
def test_a_torn_dvc_lock_is_put_back(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    path.write_bytes(GOOD)
    lockfile.Keeper(tmp_path).look()
    path.write_bytes(torn)
    assert "put back" in lockfile.heal(tmp_path)
    assert path.read_bytes() == GOOD
    assert lockfile.heal(tmp_path) == ""


def test_a_torn_dvc_lock_without_a_copy_is_removed(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_bytes(b"")
    (tmp_path / ".specml").mkdir()
    (tmp_path / ".specml/dvc.lock").write_bytes(b"stages: [")
    assert "removed" in lockfile.heal(tmp_path)
    assert not (tmp_path / "dvc.lock").exists()


def test_a_torn_dvc_lock_is_never_kept(tmp_path: Path) -> None:
    keeper = lockfile.Keeper(tmp_path)
    for raw in (GOOD, b"", GOOD[:-5]):
        (tmp_path / "dvc.lock").write_bytes(raw)
        keeper.look()
    assert (tmp_path / ".specml/dvc.lock").read_bytes() == GOOD


def test_an_older_run_writes_nothing(tmp_path: Path) -> None:
    old, new = fence.next_number(tmp_path), fence.next_number(tmp_path)
    assert new == old + 1
    write_atomic(tmp_path / "out/a.txt", "new")
    with guarded(lambda: fence.newest(tmp_path, str(old))):
        with pytest.raises(StageFailed, match="belongs to run 1; the newest is 2"):
            write_atomic(tmp_path / "out/a.txt", "old")
        with pytest.raises(StageFailed), folder_atomic(tmp_path / "out") as folder:
            (folder / "b.txt").write_text("old")
    assert (tmp_path / "out/a.txt").read_text() == "new"
    assert leftovers(tmp_path) == []
    with guarded(lambda: fence.newest(tmp_path, str(new))):
        write_atomic(tmp_path / "out/a.txt", "newer")


def test_a_stage_of_an_older_run_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "name: small\nproblem: {task: binary, target: y}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"
        "candidates: {line: logistic_regression}\n"
    )
    (tmp_path / "rows.csv").write_text("a,y\n1,0\n")
    specml("compile", folder=tmp_path)
    done = specml("stage", "guard", folder=tmp_path, status=8, SPECML_RUN="0")
    assert "belongs to run 0; the newest is 1. It writes nothing." in done.stderr
    assert not (tmp_path / "artifacts/guard.txt").exists()
    specml("stage", "guard", folder=tmp_path, SPECML_RUN="1")
    specml("stage", "guard", folder=tmp_path)


def test_a_stage_that_did_its_work_has_done_it(tmp_path: Path) -> None:
    """How long it took is told to people: that it can't be kept fails no stage."""
    (tmp_path / "spec.yaml").write_text(
        "name: small\nproblem: {task: binary, target: y}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"
        "candidates: {line: logistic_regression}\n"
    )
    specml("compile", folder=tmp_path)
    (tmp_path / ".specml/durations.json").mkdir(parents=True)
    specml("stage", "guard", folder=tmp_path, SPECML_EVENTS=str(tmp_path / "events"))
    assert json.loads((tmp_path / "events").read_text().splitlines()[-1])["event"] == "done"


def test_a_second_run_waits_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, time; from pathlib import Path; from specml.repro import alone\n"
    code += "with alone(Path(sys.argv[1])): print('in', flush=True); time.sleep(1.5)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout
        first.stdout.readline()
        with pytest.raises(SpecmlError, match=f"process {first.pid} on .*, since"), alone(tmp_path, wait=False):
            pass
        with alone(tmp_path) as number:
            assert number == 2
            assert first.wait() == 0
    assert f"process {first.pid}" in capsys.readouterr().err
    assert json.loads((tmp_path / ".specml/run.lock").read_text())["pid"] == os.getpid()


def test_a_dead_run_holds_nothing(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from specml.repro import alone\n"
    code += "with alone(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    started = time.monotonic()
    with alone(tmp_path, wait=False):
        assert time.monotonic() - started < 1


def test_a_set_up_that_was_killed_is_done_again(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_bytes(b"[core")
    write_atomic(tmp_path / ".specml/setting-up", b"")
    assert set_up(tmp_path)
    assert "analytics = False" in (tmp_path / ".dvc/config").read_text()
    assert (tmp_path / ".dvcignore").read_text().count("/.specml/") == 1
    assert not set_up(tmp_path)


@pytest.mark.parametrize("text", ["", '{"write": {"/a": {"pid": 4', '{"write": {"/a": {"pid": 999999999, "cmd": ""}}}'])
def test_tidy_forgets_the_dead_and_what_they_left(text: str, tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text(text)
    (tmp_path / "artifacts/.bundle.abcd_123").mkdir(parents=True)
    (tmp_path / "artifacts/.guard.txt.abcd_123").write_text("")
    (tmp_path / "artifacts/.keep").write_text("")
    assert tidy(tmp_path) == []
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [".keep"]
    assert not (tmp_path / ".dvc/tmp/rwlock").exists()


def test_a_text_that_dvc_reads_again_is_parsed_once_and_stays_its_own(tmp_path: Path) -> None:
    """In a process of its own: what is patched there stays there."""
    code = """
from unittest import mock
from dvc.utils.serialize import _yaml
from specml.repro.parsed import parse_once
parse_once(); parse_once()
with mock.patch('ruamel.yaml.YAML.load', autospec=True, side_effect=__import__('ruamel.yaml').yaml.YAML.load) as load:
    open('a.yaml', 'w').write('b: {c: 1, when: 2026-11-25}  # kept\\n')
    first, second = _yaml.load_yaml('a.yaml'), _yaml.load_yaml('a.yaml')
    assert load.call_count == 1 and first == second
    first['b']['c'] = 2
    assert _yaml.load_yaml('a.yaml')['b']['c'] == 1
    for value in (3, 4):
        with _yaml.modify_yaml('a.yaml') as data:
            data['b']['c'] = value
        assert 'c: %d' % value in open('a.yaml').read() and '# kept' in open('a.yaml').read()
    assert load.call_count == 2
    open('a.yaml', 'a').write('d: 5\\n')
    with _yaml.modify_yaml('a.yaml') as data:
        assert data['d'] == 5 and data['b']['c'] == 4
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stages_are_not_forked_where_their_libraries_may_have_threads(tmp_path: Path) -> None:
    code = "import polars; from specml.repro.forked import fork_stages; assert not fork_stages(len)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC
def test_a_target_is_asked_about_with_all_that_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever one asks: in the current folder lies another project."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/dvc.yaml").write_text("stages:\n  second: {cmd: touch x, outs: [x]}\n")
    monkeypatch.chdir(tmp_path / "other")
    tmp_path = tmp_path / "project"
    tmp_path.mkdir()
    (tmp_path / "rows.csv").write_text("1\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  first: {cmd: cp rows.csv one.csv, deps: [rows.csv], outs: [one.csv]}\n"
        "  second: {cmd: cp one.csv two.csv, deps: [one.csv], outs: [two.csv]}\n"
    )
    set_up(tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, check=True)
    assert repro.changes(tmp_path, ["second"]) == {}
    (tmp_path / "rows.csv").write_text("2\n")
    assert set(repro.changes(tmp_path, ["second"])) == {"first"}
