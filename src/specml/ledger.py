"""The ledger: an append-only record of what was run, decided and served, in which a change is found.

``.specml/ledger.jsonl`` holds one record a line, oldest first::

    {"seq":2,"time":"2026-11-25T08:00:00.000Z","event":"deploy","facts":{…},"previous":"sha256:…","hash":"sha256:…"}

``hash`` is the SHA-256 of the line's own bytes before ``,"hash"``, with a closing ``}`` after them; ``previous`` is the
``hash`` of the line before, and null in the first. Nobody has to write JSON as we do to check it: what is hashed stands
in the file. ``seq`` counts from 1 and is the order; ``time`` is what the clock said, and may go backwards.

``.specml/ledger.head`` names the last record, so that records cut off at the end are missed. It is written before the
first line and after each: killed in between, a line stands there unnamed; killed within the line, a part of one does.
Both are put right by the next ``append``, whose own first record says so (event ``recovery``). A chain can't show a
change by somebody who writes all of it anew, the head too: for that, note a head elsewhere and give it to ``verify``.

Facts are names, digests and counts: no value of any row, no personal data, no secret.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import override

from specml.errors import INTERRUPTED, SpecmlError
from specml.files import digest, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = ".specml/ledger.jsonl"
HEAD = ".specml/ledger.head"
SHORTEST = 12
"""Hex digits of a hash that are enough to name it."""

_OWN = len(',"hash":"sha256:"}') + 64
"""Bytes of a line that are not hashed."""


class LedgerError(SpecmlError):
    """The ledger can't be written, or is not what was written."""


@dataclass(frozen=True)
class Record:
    """One line."""

    seq: int
    time: str
    event: str
    facts: dict[str, Any]
    previous: str | None
    hash: str


@dataclass(frozen=True)
class Head:
    """The last record; ``bytes`` is where its line ends."""

    seq: int = 0
    hash: str | None = None
    bytes: int = 0

    @override
    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True)
class Checked:
    """A ledger in which nothing was changed."""

    records: tuple[Record, ...] = ()
    head: Head = Head()
    unfinished: dict[str, int | str] = field(default_factory=dict)
    """What a crash left half done: records that no head names (``unnamed``), bytes of a line (``torn``)."""


def append(project: Path, event: str, **facts: Any) -> None:
    """Record ``event``; it is on the disk when this returns, and not in the ledger when this raises.

    ``facts`` are JSON values. Processes wait for one another.

    Raises:
        LedgerError: the disk is full or can't be written, or records were cut off.
    """
    path = project / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as handle:
            known, size = _known(project), os.fstat(handle).st_size
            if known is None and size == 0:
                _name(project, known := Head())
            if known and size < known.bytes:
                _wrong(project, known.seq, f"is cut off: the file has {size} bytes, it had {known.bytes}")
            head, _, unfinished = _grown(project, known, _read(handle, known.bytes if known else 0))
            if unfinished:
                head = _write(project, handle, head, "recovery", unfinished)
            _write(project, handle, head, event, facts)
    except OSError as error:
        raise LedgerError(
            f"can't be written: {error.strerror or error}. Nothing is done that can't be recorded.", where=str(path)
        ) from None


@contextlib.contextmanager
def recorded(project: Path, event: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Record that ``event`` begins, and how it ended: with what exit status, and the facts put into what is yielded.

    Raises:
        LedgerError: as ``append``; an error of the block itself comes first, and this one is told beside it.
    """
    append(project, event, phase="begun", **facts)
    more: dict[str, Any] = {}
    try:
        yield more
    except BaseException as end:
        try:
            append(project, event, phase="ended", status=_status(end), **more)
        except LedgerError as error:
            sys.stderr.write(f"{error}\n")
        raise
    append(project, event, phase="ended", status=0, **more)


def _status(end: BaseException) -> int:
    if isinstance(end, SystemExit):
        return end.code if isinstance(end.code, int) else 1
    return end.status if isinstance(end, SpecmlError) else INTERRUPTED if isinstance(end, KeyboardInterrupt) else 1


def verify(project: Path, head: str = "") -> Checked:
    """Read the whole ledger and check every record.

    ``head`` is ``SEQ:HASH`` as it was noted earlier: that record must still be there.

    Raises:
        LedgerError: something was changed; it names the first record that is wrong.
    """
    path = project / FILE
    if path.exists():
        with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as handle:
            known, raw = _known(project), _read(handle, 0)
    else:
        known, raw = _known(project), b""
    named = known or Head()
    records, start = _chained(project, raw[: named.bytes], Head())
    if start.seq < named.seq:
        _wrong(project, start.seq + 1, f"is missing: the ledger once had {named.seq}")
    if start != named:
        _wrong(project, named.seq, f"is another than {HEAD} names")
    last, more, unfinished = _grown(project, known, raw[named.bytes :])
    if head:
        _noted(project, head, (*records, *more))
    return Checked((*records, *more), last, unfinished)


def _grown(project: Path, known: Head | None, rest: bytes) -> tuple[Head, tuple[Record, ...], dict[str, int | str]]:
    """What stands behind the head: its last record, all of them, and what a crash left half done.

    A kill leaves one record unnamed, and so may each that was killed while it recorded that recovery.
    """
    if known is None:
        if rest:
            _wrong(project, 1, f"is not named: {HEAD} is gone")
        return Head(), (), {}
    records, head = _chained(project, rest, known)
    torn = rest[head.bytes - known.bytes :]
    for record in records[1:]:
        if record.event != "recovery":
            _wrong(project, record.seq, f"is not named by {HEAD}, nor was the one before")
    unfinished: dict[str, int | str] = {"unnamed": len(records)} if records else {}
    if torn:
        unfinished |= {"torn": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
    return head, records, unfinished


def _noted(project: Path, head: str, records: tuple[Record, ...]) -> None:
    number, _, noted = head.partition(":")
    wanted = noted.removeprefix("sha256:").lower()
    if not number.isdecimal() or len(wanted) < SHORTEST:
        hint = f"It is SEQ:HASH as `specml audit verify` prints it; {SHORTEST} digits of HASH are enough."
        raise SpecmlError(f"{head!r} is no head.", hint=hint)
    seq = int(number)
    if not 1 <= seq <= len(records):
        _wrong(project, len(records) + 1, f"is missing: a head was noted at {seq}")
    if not records[seq - 1].hash.removeprefix("sha256:").startswith(wanted):
        _wrong(project, seq, f"is another than the noted head {wanted[:SHORTEST]}: all was written anew")


def _chained(project: Path, raw: bytes, head: Head) -> tuple[tuple[Record, ...], Head]:
    """The complete records that follow ``head``, and the new head; bytes after the last newline are left out."""
    records: list[Record] = []
    for line in raw.split(b"\n")[:-1]:
        seq, record = head.seq + 1, _record(line)
        if record is None:
            _wrong(project, seq, "was edited, or is no record")
        if record.seq != seq:
            _wrong(project, seq, f"is missing; in its place stands {record.seq}")
        if record.previous != head.hash:
            _wrong(project, seq, "does not follow from the one before")
        records.append(record)
        head = Head(seq, record.hash, head.bytes + len(line) + 1)
    return tuple(records), head


def _record(line: bytes) -> Record | None:
    """The record in a line whose hash is right."""
    body, own = line[:-_OWN] + b"}", line[-_OWN:]
    if own != f',"hash":"{digest(body)}"}}'.encode():
        return None
    try:
        return Record(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None


def _name(project: Path, head: Head) -> None:
    write_atomic(project / HEAD, json.dumps(asdict(head)) + "\n", mode=0o600)


def _write(project: Path, handle: int, head: Head, event: str, facts: dict[str, Any]) -> Head:
    """Write the record that follows ``head`` over whatever stands behind it; all of it, or nothing."""
    line, own = _line(head, event, facts)
    new, before = Head(head.seq + 1, own, head.bytes + len(line)), os.fstat(handle).st_size
    try:
        written = 0
        while written < len(line):
            written += os.pwrite(handle, line[written:], head.bytes + written)
        os.ftruncate(handle, new.bytes)
        os.fsync(handle)
        _name(project, new)
    except BaseException:
        with contextlib.suppress(OSError):
            if _known(project) != new:
                os.ftruncate(handle, before)
        raise
    return new


def _line(head: Head, event: str, facts: dict[str, Any]) -> tuple[bytes, str]:
    """The record as it is written, and its hash."""

    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"seq": head.seq + 1, "time": time, "event": event, "facts": facts, "previous": head.hash}
    inner = ",".join(f'"{key}":{text(value)}' for key, value in record.items())
    own = digest(f"{{{inner}}}".encode())
    return f'{{{inner},"hash":"{own}"}}\n'.encode(), own


def _known(project: Path) -> Head | None:
    """What the head file says; None where there is none."""
    path = project / HEAD
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        head = Head(**json.loads(raw))
        whole = raw == json.dumps(asdict(head)).encode() + b"\n"
    except (ValueError, TypeError, RecursionError):
        head, whole = Head(), False
    if not whole:
        raise LedgerError("is no head of a ledger: it was edited.", where=str(path), hint=_hint(project))
    return head


@contextlib.contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o600)
    try:
        fcntl.flock(handle, lock)
        yield handle
    finally:
        os.close(handle)


def _read(handle: int, start: int) -> bytes:
    size, parts = os.fstat(handle).st_size, list[bytes]()
    while start < size and (part := os.pread(handle, size - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _wrong(project: Path, seq: int, what: str) -> NoReturn:
    raise LedgerError(f"record {seq}: {what}.", where=str(project / FILE), hint=_hint(project))


def _hint(project: Path) -> str:
    return f"Keep {project / '.specml'}/ledger.* as evidence elsewhere; moved away, the next command begins a new one."
