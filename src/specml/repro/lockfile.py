"""Keep a good copy of dvc.lock, and put it back when a crash tore the file.

DVC rewrites dvc.lock in place: killed at that moment, it leaves a file that no later run accepts.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from specml.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOCK = "dvc.lock"
COPY = ".specml/dvc.lock"
PATIENCE = 0.3
"""Seconds that somebody else's DVC gets to finish writing the file."""


def heal(folder: Path) -> str:
    """Put a torn dvc.lock right; returns what was done, in one line, or nothing."""
    if not torn(folder):
        return ""
    time.sleep(PATIENCE)
    if not torn(folder):
        return ""
    copy = folder / COPY
    if copy.exists() and good(raw := copy.read_bytes()):
        write_atomic(folder / LOCK, raw)
        return "dvc.lock was torn by a crash: put back as it was after the last finished stage"
    (folder / LOCK).unlink()
    return "dvc.lock was torn by a crash and no copy is kept: removed; every stage is looked at again"


def put_in_order(folder: Path, names: Sequence[str]) -> None:
    """Sort the stages of dvc.lock as ``names`` are: DVC has them as they ended, which side by side is chance."""
    path = folder / LOCK
    if not path.exists():
        return
    raw = path.read_bytes()
    head, mark, rest = raw.decode().partition("stages:\n")
    entries = re.findall(r"^  \S.*:\n(?:   .*\n)*", rest, re.MULTILINE)
    tail = rest.removeprefix("".join(entries))
    place = {name: number for number, name in enumerate(names)}
    entries.sort(key=lambda entry: place.get(entry.partition(":\n")[0].strip(), len(place)))
    ordered = (head + mark + "".join(entries) + tail).encode()
    if ordered != raw and len(ordered) == len(raw) and good(ordered):
        write_atomic(path, ordered)
        Keeper(folder).look()


class Keeper:
    """Copies dvc.lock whenever it has changed and is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen = (0, 0)

    def look(self) -> None:
        """Copy the file if it is another than the last time."""
        path = self.folder / LOCK
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            now = (facts.st_mtime_ns, facts.st_size)
            if now == self._seen:
                return
            raw = path.read_bytes()
            if _whole(raw):
                self._seen = now
                if not (copy := self.folder / COPY).exists() or copy.read_bytes() != raw:
                    write_atomic(copy, raw)


def good(raw: bytes) -> bool:
    """Whether the bytes are a whole dvc.lock: YAML that DVC's own schema takes."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml
    from voluptuous import Invalid

    if not raw.endswith(b"\n"):
        return False
    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(raw.decode(), LOCK))
    except (DvcException, Invalid, UnicodeDecodeError):
        return False
    return True


def _whole(raw: bytes) -> bool:
    """Whether the bytes may be copied: as ``good``, told twenty times faster by a parser in C.

    ``good`` has the last word before a copy is put back.
    """
    import yaml

    try:
        found = yaml.load(raw, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError:
        return False
    return raw.endswith(b"\n") and isinstance(found, dict) and isinstance(found.get("stages"), dict)


def torn(folder: Path) -> bool:
    """Whether dvc.lock is there and is not whole."""
    path = folder / LOCK
    return path.exists() and not good(path.read_bytes())
