"""Kill a process of a run while it writes a file: on the PYTHONPATH of such a run alone (see ``tests/kills.py``).

``SPECML_KILL`` is JSON: ``file`` (the end of its path), ``moment`` (``opened``, ``written``, ``renaming``,
``renamed``, ``synced``), ``bytes`` (how many are let through before the kill, for ``written``), ``nth`` (which such
moment of the run), ``whole`` (the whole run, not this process alone), ``mark`` (a file that says that it happened)
and, to fail instead of killing, ``errno``.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

_TOLD: dict[str, Any] = json.loads(os.environ.get("SPECML_KILL", "{}"))
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}")
_watched: set[int] = set()


def _is_it(path: Any) -> bool:
    try:
        name = os.fspath(path)
    except TypeError:
        return False
    if not isinstance(name, str):
        return False
    folder, name = os.path.split(os.path.abspath(name))  # noqa: PTH100 - links stay
    temporary = _TEMPORARY.fullmatch(name)
    return f"/{folder}/{temporary[1] if temporary else name}".endswith(f"/{_TOLD['file']}")


def _due() -> bool:
    """Whether this is the moment: counted over all processes of the run."""
    counter = _open_descriptor(f"{_TOLD['mark']}.count", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _write_descriptor(counter, b".")
    count = os.fstat(counter).st_size
    os.close(counter)
    return count == _TOLD.get("nth", 1) or ("errno" in _TOLD and count > _TOLD.get("nth", 1))


def _strike() -> None:
    os.close(_open_descriptor(_TOLD["mark"], os.O_WRONLY | os.O_CREAT))
    if "errno" in _TOLD:
        raise OSError(_TOLD["errno"], os.strerror(_TOLD["errno"]), _TOLD["file"])
    if _TOLD.get("whole"):
        os.kill(os.getsid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class _Writing:
    """An open file that is killed over some bytes later."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, int(_TOLD.get("bytes", 0))

    def write(self, content: Any) -> Any:
        if len(content) < self._left:
            self._left -= len(content)
            return self._file.write(content)
        self._file.write(content[: self._left])
        self._file.flush()
        _strike()
        return 0

    def __enter__(self) -> Any:
        self._file.__enter__()
        return self

    def __exit__(self, *told: Any) -> Any:
        return self._file.__exit__(*told)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _opening(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
    file = _open(path, mode, *rest, **more)
    if path in _watched:  # a descriptor, opened as one before
        return _Writing(file)
    if not set(mode) & set("wax+") or not _is_it(path):
        return file
    if _TOLD["moment"] == "opened" and _due():
        _strike()
    return _Writing(file) if _TOLD["moment"] == "written" and _due() else file


def _opening_descriptor(path: Any, flags: int, *rest: Any, **more: Any) -> int:
    handle = _open_descriptor(path, flags, *rest, **more)
    _watched.discard(handle)
    if flags & (os.O_WRONLY | os.O_RDWR) and _is_it(path):
        if _TOLD["moment"] == "opened" and _due():
            _strike()
        if _TOLD["moment"] == "written" and _due():
            _watched.add(handle)
    return handle


def _writing(handle: int, content: Any) -> int:
    if handle in _watched:
        _write_descriptor(handle, content[: int(_TOLD.get("bytes", 0))])
        _strike()
    return _write_descriptor(handle, content)


def _writing_at(handle: int, content: Any, offset: int) -> int:
    if handle in _watched:
        _write_at(handle, content[: int(_TOLD.get("bytes", 0))], offset)
        _strike()
    return _write_at(handle, content, offset)


def _replacing(source: Any, target: Any, **more: Any) -> None:
    due = _TOLD["moment"] in {"renaming", "renamed"} and _is_it(target) and _due()
    if due and _TOLD["moment"] == "renaming":
        _strike()
    _replace(source, target, **more)
    if due:
        _strike()


def _syncing(handle: int) -> None:
    if _TOLD["moment"] == "synced" and _is_it(Path(f"/proc/self/fd/{handle}").readlink()) and _due():
        _strike()
    _sync(handle)


if _TOLD:
    _open, _open_descriptor, _replace = builtins.open, os.open, os.replace
    _write_descriptor, _write_at, _sync = os.write, os.pwrite, os.fsync
    builtins.open = io.open = _opening  # type: ignore[assignment]
    os.open, os.write, os.pwrite, os.fsync = _opening_descriptor, _writing, _writing_at, _syncing
    os.replace = os.rename = _replacing
