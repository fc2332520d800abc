"""Whole files or none: atomic writes, canonical JSON and content digests."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names that ``tempfile`` makes for us. Whoever writes there holds the lock (``flock``) of the file or folder until it
has its final name; it ends with its process: what nobody holds is a leftover."""

PAUSE = 0.05
"""Seconds between two tries to take a lock that another holds."""

Guard = contextlib.AbstractContextManager[None]
_guards: ContextVar[tuple[Callable[[], Guard], ...]] = ContextVar("guards", default=())


@contextlib.contextmanager
def guarded(guard: Callable[[], Guard]) -> Iterator[None]:
    """Within the block, a file or folder takes its final name inside ``guard()``, which may raise instead."""
    before = _guards.set((*_guards.get(), guard))
    try:
        yield
    finally:
        _guards.reset(before)


def write_atomic(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write ``content`` to ``path`` whole: temporary file, fsync, rename, fsync of the folder.

    ``mode`` as of ``open``: the process's umask takes its part.
    """
    raw = content.encode() if isinstance(content, str) else content
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, raw, mode)
        _fsync_folder(path.parent)


def _write(path: Path, raw: bytes, mode: int) -> None:
    with _held(path, folder=False) as (temporary, handle):
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode & ~_umask())
        with _allowed():
            temporary.replace(path)


@contextlib.contextmanager
def file_atomic(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield the path of an empty file that takes the place of ``path`` when the block ends without an error."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path, folder=False) as (temporary, handle):
            yield temporary
            os.fsync(handle)
            temporary.chmod(mode & ~_umask())
            with _allowed():
                temporary.replace(path)
        _fsync_folder(path.parent)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that is gone when the block ends.

    Where it can't be made, the error names the folder of ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            temporary, _ = stack.enter_context(_held(path, folder=True))
        except OSError as error:  # nobody knows our temporary folders
            error.filename = str(path.parent)
            raise
        yield temporary
        shutil.rmtree(temporary)


@contextlib.contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends without an error."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path, folder=True) as (temporary, _):
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    with file.open("rb") as content:
                        os.fsync(content.fileno())
            with _allowed():
                if path.exists():
                    shutil.rmtree(path)
                temporary.replace(path)
        _fsync_folder(path.parent)


def remove(path: Path, scratch: Path | None = None) -> None:
    """Remove a file or link at once, a folder as a whole: killed here, it is whole, or a leftover in ``scratch``.

    ``scratch``: a folder on the same disk; that of ``path`` unless given. Of a link, the link goes.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with _held((scratch or path.parent) / path.name.strip("."), folder=True) as (temporary, _):
        path.replace(temporary / "going")
        shutil.rmtree(temporary)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, and keep whoever else wants it waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        take(lock)
        yield


def take(lock: IO[str]) -> None:
    """Wait for the lock of an open file, and hold it until the file is closed.

    Not in one call: once polars has been used, its handler of Ctrl-C has the system go on with a call that waits, and
    nobody could leave it.
    """
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE)
        else:
            return


@contextlib.contextmanager
def _held(path: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """A new file or folder beside ``path``, and a descriptor of it that holds its lock for the block."""
    temporary, handle = _new(path, folder=folder)
    try:
        yield temporary, handle
    except BaseException:
        _gone(temporary)
        raise
    finally:
        os.close(handle)


def _new(path: Path, *, folder: bool) -> tuple[Path, int]:
    """Made anew where a sweep comes before the lock."""
    while True:
        if folder:
            name = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                handle = os.open(name, os.O_RDONLY)
            except FileNotFoundError:
                continue
        else:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if Path(name).exists():
            return Path(name), handle
        os.close(handle)


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of the block name ``path``: that of a write names none, and nobody knows our temporary files."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(f"{path.parent}/.{path.name}."):
            error.filename = str(path)
        raise


def canonical_json(value: Any) -> bytes:
    """``value`` as JSON with sorted keys and a final newline: the same value, the same bytes.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON cannot carry.
    """
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_bytes())


def inside(folder: Path, path: str, *, allow_outside: bool = False) -> Path:
    """``path`` under ``folder``, links followed.

    Raises:
        DataCheckFailed: it leads out of ``folder`` and ``allow_outside`` is false.
    """
    found = (folder / path).resolve()
    if not allow_outside and not found.is_relative_to(folder.resolve()):
        raise DataCheckFailed(
            "lies outside the project folder.", where=path, hint="Move it inside, or say allow_outside: true."
        )
    return found


def digest(content: bytes | Path) -> str:
    """``sha256:<hex>`` of some bytes or of a file's content."""
    if isinstance(content, bytes):
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    with content.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def leftovers(folder: Path) -> list[Path]:
    """What writes that were killed left below ``folder``: temporary files and folders that nobody holds, sorted."""
    found = []
    for path in sorted(_temporary(folder)):
        with _abandoned(path) as abandoned:
            if abandoned:
                found.append(path)
    return found


def sweep(folder: Path) -> None:
    """Remove the ``leftovers`` below ``folder``; what others write there meanwhile stays theirs."""
    for path in _temporary(folder):
        with _abandoned(path) as abandoned:
            if abandoned:
                _gone(path)


def _temporary(folder: Path) -> Iterator[Path]:
    """What is called so; not what lies in it, nor behind links."""
    for where, folders, names in os.walk(folder):
        ours = [name for name in folders if _TEMPORARY.fullmatch(name)]
        folders[:] = [name for name in folders if name not in ours]
        yield from (Path(where, name) for name in (*ours, *filter(_TEMPORARY.fullmatch, names)))


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether nobody holds it, who then can't for the block; what may not be opened is not ours to judge."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(handle)


@contextlib.contextmanager
def _allowed() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for guard in _guards.get():
            stack.enter_context(guard())
        yield


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
