"""The ledger: what was written is found again, and whatever was changed is found out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from specml import ledger
from specml.ledger import FILE, HEAD, LedgerError, append, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def stranger(raw: bytes) -> int:
    """Check a ledger by the documented bytes, with nothing of ours; returns the number of records."""
    previous, count = None, 0
    for line in raw.decode().splitlines():
        body, mark, rest = line.rpartition(',"hash":"sha256:')
        assert mark
        own = hashlib.sha256((body + "}").encode()).hexdigest()
        assert rest == own + '"}', "edited"
        record = json.loads(line)
        assert (record["seq"], record["previous"]) == (count + 1, previous), "out of order"
        previous, count = f"sha256:{own}", count + 1
    return count


def filled(project: Path, count: int) -> bytes:
    for number in range(count):
        append(project, "run", outcome="done", stages=["träin"], n=number)
    return (project / FILE).read_bytes()


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    raw = filled(tmp_path, 5)
    append(tmp_path, "deploy", bundle="sha256:ab", nested={"b": [1, None, True], "a": 0.5})
    checked = verify(tmp_path)
    assert [record.seq for record in checked.records] == [1, 2, 3, 4, 5, 6]
    assert checked.records[-1].facts == {"bundle": "sha256:ab", "nested": {"a": 0.5, "b": [1, None, True]}}
    assert not checked.unfinished
    assert (tmp_path / FILE).read_bytes().startswith(raw)
    assert stranger((tmp_path / FILE).read_bytes()) == 6
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / HEAD).stat().st_mode & 0o777 == 0o600


def test_an_empty_project_has_an_empty_ledger(tmp_path: Path) -> None:
    assert verify(tmp_path).records == ()
    with pytest.raises(LedgerError, match=r"record 1: is missing: a head was noted at 3"):
        verify(tmp_path, "3:" + "a" * 64)


def found_at(project: Path) -> str:
    """Where ``verify`` finds fault."""
    with pytest.raises(LedgerError) as found:
        verify(project)
    return str(found.value)


@pytest.mark.slow
def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    raw, generator, seq = filled(tmp_path, 36), random.Random(5), 1
    handle = os.open(tmp_path / FILE, os.O_RDWR)
    for place, byte in enumerate(raw):
        os.pwrite(handle, bytes([byte ^ 1 << generator.randrange(8)]), place)
        told = found_at(tmp_path)
        assert f"record {seq}: " in told, (place, told)
        os.pwrite(handle, bytes([byte]), place)
        seq += byte == 10
    os.close(handle)
    assert len(verify(tmp_path).records) == 36


def test_every_flipped_byte_of_the_head_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 12)
    head = (tmp_path / HEAD).read_bytes()
    handle = os.open(tmp_path / HEAD, os.O_RDWR)
    for place, byte in enumerate(head):
        for bit in range(8):
            os.pwrite(handle, bytes([byte ^ 1 << bit]), place)
            found_at(tmp_path)
        os.pwrite(handle, bytes([byte]), place)
    os.close(handle)


@pytest.mark.slow
def test_every_cut_is_found(tmp_path: Path) -> None:
    raw = filled(tmp_path, 24)
    for size in reversed(range(len(raw))):
        os.truncate(tmp_path / FILE, size)
        assert f"record {raw[:size].count(10) + 1}: is missing: the ledger once had 24" in found_at(tmp_path)
    (tmp_path / FILE).unlink()
    assert "record 1: is missing: the ledger once had 24" in found_at(tmp_path)


def test_nothing_is_appended_where_records_were_cut_off(tmp_path: Path) -> None:
    raw = filled(tmp_path, 3)
    os.truncate(tmp_path / FILE, len(raw) - 7)
    with pytest.raises(LedgerError, match=r"record 3: is cut off"):
        append(tmp_path, "run")
    (tmp_path / FILE).unlink()
    with pytest.raises(LedgerError, match=r"record 3: is cut off"):
        append(tmp_path, "run")


def removed(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


def swapped(lines: list[bytes], at: int) -> list[bytes]:
    other = (at + 1) % len(lines)
    new = list(lines)
    new[at], new[other] = new[other], new[at]
    return new


def doubled(lines: list[bytes], at: int) -> list[bytes]:
    return lines[: at + 1] + lines[at:]


def inserted(lines: list[bytes], at: int) -> list[bytes]:
    """A record with a hash of its own that is right."""
    body = lines[at][: lines[at].rindex(b',"hash"')] + b"}"
    body = body.replace(b'"done"', b'"mine"')
    new = body[:-1] + f',"hash":"sha256:{hashlib.sha256(body).hexdigest()}"}}\n'.encode()
    return [*lines[:at], new, *lines[at:]]


def replaced(lines: list[bytes], at: int) -> list[bytes]:
    return removed(inserted(lines, at), at + 1)


@pytest.mark.parametrize("change", [removed, swapped, doubled, inserted, replaced])
def test_every_changed_record_is_found(change: Callable[[list[bytes], int], list[bytes]], tmp_path: Path) -> None:
    lines = filled(tmp_path, 40).splitlines(keepends=True)
    for at in range(len(lines)):
        broken = change(lines, at)
        (tmp_path / FILE).write_bytes(b"".join(broken))
        first = (
            next(
                (i for i, (a, b) in enumerate(zip(lines, broken, strict=False)) if a != b), min(len(lines), len(broken))
            )
            + 1
        )
        told = found_at(tmp_path)
        # A record that was replaced has a hash of its own: what follows from it is what is wrong.
        assert any(f"record {seq}:" in told for seq in (first, first + 1)), told


def test_a_ledger_that_was_written_anew_is_found_by_a_noted_head(tmp_path: Path) -> None:
    filled(tmp_path, 9)
    noted = str(verify(tmp_path).head)
    append(tmp_path, "stop")
    assert len(verify(tmp_path, noted).records) == 10
    assert len(verify(tmp_path, noted[:22]).records) == 10
    for name in (FILE, HEAD):
        (tmp_path / name).unlink()
    filled(tmp_path, 9)
    assert len(verify(tmp_path).records) == 9
    with pytest.raises(LedgerError, match="record 9: is another than the noted head"):
        verify(tmp_path, noted)


def test_a_ledger_without_its_head_is_told(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    (tmp_path / HEAD).unlink()
    with pytest.raises(LedgerError, match=r"record 1: is not named: \.specml/ledger\.head is gone"):
        verify(tmp_path)
    with pytest.raises(LedgerError, match=r"record 1: is not named: \.specml/ledger\.head is gone"):
        append(tmp_path, "run")


def test_a_torn_record_is_no_alarm_and_its_recovery_is_recorded(tmp_path: Path) -> None:
    raw = filled(tmp_path, 3)
    append(tmp_path, "deploy", bundle="x" * 2000)
    line = (tmp_path / FILE).read_bytes()[len(raw) :]
    head = json.dumps({"seq": 3, "hash": verify(tmp_path).records[2].hash, "bytes": len(raw)}) + "\n"
    for size in (1, 100, len(line) - 1):
        (tmp_path / FILE).write_bytes(raw + line[:size])
        (tmp_path / HEAD).write_text(head)
        torn = {"torn": size, "sha256": hashlib.sha256(line[:size]).hexdigest()}
        assert verify(tmp_path).unfinished == torn
        append(tmp_path, "run")
        checked = verify(tmp_path)
        assert [record.event for record in checked.records[3:]] == ["recovery", "run"]
        assert checked.records[3].facts == torn
        assert not checked.unfinished
        assert stranger((tmp_path / FILE).read_bytes()) == 5


def test_a_record_whose_head_was_not_written_is_kept_and_told(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    before = (tmp_path / HEAD).read_bytes()
    append(tmp_path, "deploy")
    (tmp_path / HEAD).write_bytes(before)
    assert verify(tmp_path).unfinished == {"unnamed": 1}
    append(tmp_path, "stop")
    assert [record.event for record in verify(tmp_path).records[3:]] == ["deploy", "recovery", "stop"]
    assert verify(tmp_path).records[4].facts == {"unnamed": 1}
    (tmp_path / HEAD).write_bytes(before)
    assert "record 6: is not named by .specml/ledger.head, nor was the one before" in found_at(tmp_path)


def test_the_clock_may_go_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards:
        left = iter((2030, 2026, 1999))

        @classmethod
        def now(cls, zone: Any) -> Any:
            from datetime import datetime

            return datetime(next(cls.left), 1, 1, tzinfo=zone)

    monkeypatch.setattr(ledger, "datetime", Backwards)
    for _ in range(3):
        append(tmp_path, "run")
    assert [record.time[:4] for record in verify(tmp_path).records] == ["2030", "2026", "1999"]


@pytest.mark.parametrize("failing", ["pwrite", "fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_the_ledger_as_it_was(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = filled(tmp_path, 2)

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if failing == "replace":
            patched.setattr("pathlib.Path.replace", full)
        else:
            patched.setattr(os, failing, full)
        with pytest.raises(LedgerError, match=r"can't be written: No space left on device\. Nothing is done"):
            append(tmp_path, "deploy")
    assert (tmp_path / FILE).read_bytes() == raw
    append(tmp_path, "deploy")
    assert len(verify(tmp_path).records) == 3


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, write = filled(tmp_path, 2), os.pwrite

    def half(handle: int, content: bytes, place: int) -> int:
        if place > len(raw):
            raise OSError(28, "No space left on device")
        return write(handle, content[:50], place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(LedgerError):
            append(tmp_path, "deploy")
    assert (tmp_path / FILE).read_bytes() == raw


APPEND = """
import sys
from pathlib import Path
from specml.ledger import append
print(flush=True)
for number in range(int(sys.argv[2])):
    append(Path(sys.argv[1]), "run", who=sys.argv[3], n=number, filler="x" * 400)
"""


def appending(project: Path, count: int, who: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", APPEND, str(project), str(count), who], stdout=subprocess.PIPE)


@pytest.mark.slow
def test_processes_that_append_at_once_leave_no_gap(tmp_path: Path) -> None:
    processes = [appending(tmp_path, 60, str(who)) for who in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    records = verify(tmp_path).records
    assert Counter(record.facts["who"] for record in records) == dict.fromkeys("0123", 60)
    for who in "0123":
        assert [record.facts["n"] for record in records if record.facts["who"] == who] == list(range(60))
    assert stranger((tmp_path / FILE).read_bytes()) == 240
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_processes_leave_a_ledger_that_holds(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    for _ in range(2):
        processes = [appending(tmp_path, 100_000, str(who)) for who in range(2)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(0.05 + generator.random() * 0.15)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        verify(tmp_path)
    append(tmp_path, "run", who="last", n=0)
    records = verify(tmp_path).records
    assert stranger((tmp_path / FILE).read_bytes()) == len(records)
    assert len(records) > 2
    assert all(b.seq == a.seq + 1 for a, b in pairwise(records))
    assert not verify(tmp_path).unfinished
