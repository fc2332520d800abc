"""Whole files or none: atomic writes, canonical JSON and content digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names that ``tempfile`` makes for us."""

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
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode & ~_umask())
        with _allowed():
            Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends without an error."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield from _filled(path, temporary)
        _fsync_folder(path.parent)


def _filled(path: Path, temporary: Path) -> Iterator[Path]:
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as content:
                    os.fsync(content.fileno())
        with _allowed():
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
    """What writes that were killed left below ``folder``: temporary files and folders, sorted."""
    return sorted(path for path in folder.rglob(".*") if _TEMPORARY.fullmatch(path.name))


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
