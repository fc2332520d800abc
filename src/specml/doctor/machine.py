"""What a run and a server take of the machine: disk, shared memory, memory, cores; and who is told about it."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from specml.doctor.finding import Finding, ok, told, wrong
from specml.errors import SpecmlError
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GB = 10**9
COPIES = 5
"""Times that a source's rows lie on the disk after a run: as read, as prepared, and both in DVC's cache."""
ROOM = GB // 2
"""Bytes that a run needs beside them: models, logs, Ray's own files."""
OBJECT_STORE = 80_000_000
"""Bytes of shared memory that the server's Ray asks for."""
MEMORY = GB
"""Bytes: Ray and two replicas take about as much."""


def disk(folder: Path, sources: int) -> Iterator[Finding]:
    """Room where the project lies (whose sources have some bytes) and where Ray's files lie."""
    needed = COPIES * sources + ROOM
    for check, path, bytes_needed in (("disk", folder, needed), ("disk /tmp", Path("/tmp"), ROOM)):  # noqa: S108
        free = shutil.disk_usage(path).free
        what = f"{_size(free)} free at {path}"
        if free < bytes_needed:
            mend = "Free some: `specml clean` tells what of this project can go, `dvc gc -w` what of DVC's cache."
            yield wrong(check, what, f"A run and its server take up to {_size(bytes_needed)}.", mend)
        else:
            yield ok(check, what)


def shared_memory() -> Finding:
    """``/dev/shm``, where Ray keeps its object store; containers often have 64 MB."""
    folder = Path("/dev/shm")  # noqa: S108
    if not folder.is_dir():
        return told("shared memory", "no /dev/shm", "Ray keeps its objects in /tmp, which is slower.")
    free = shutil.disk_usage(folder).free
    what = f"{_size(free)} free in /dev/shm"
    if free < OBJECT_STORE:
        mend = "Give the container more: docker run --shm-size=1g"
        return told("shared memory", what, "Ray wants 80 MB, and takes /tmp, which is slower.", mend)
    return ok("shared memory", what)


def memory() -> Finding:
    """What is available now, the container's limit considered."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, limit - used)
    what = f"{_size(free)} available"
    if free < MEMORY:
        return told("memory", what, "Training or the server may be killed.", "End what takes it, or use fewer rows.")
    return ok("memory", what)


def cores() -> Finding:
    """Cores that this process may use, and threads that a stage takes."""
    try:
        taken = threads()
    except SpecmlError as error:
        return wrong("threads", f"SPECML_THREADS {error.what}", "No stage starts.", "Set it to a number, or unset it.")
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    what = f"{here} cores, {taken} threads for a stage"
    share = _quota()
    if share is not None and taken > math.ceil(share):
        why = f"The container may use {share:g} cores: more threads wait for each other."
        return told("cores", what, why, f"export SPECML_THREADS={max(1, math.floor(share))}")
    return ok("cores", what)


def telemetry(switches: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    """Whether a library tells anybody that it is used; ``switches``: what specml sets unless it is set already."""
    others = {name: os.environ.get(name, "") for name, off in switches.items() if os.environ.get(name, "") != off}
    for name, value in sorted(others.items()):
        why, mend = "That library may report its use to its makers.", f"Set {name}={switches[name]}, or unset it."
        yield told("telemetry", f"{name} is {value!r} in the environment", why, mend)
    config = folder / ".dvc/config"
    if config.is_file() and not _dvc_is_quiet(config):
        mend = "dvc config core.analytics false && dvc config core.check_update false"
        yield told("telemetry", f"{config} leaves DVC's on", "`dvc` called by hand reports its use.", mend)
    elif not others:
        yield ok("telemetry", f"off: {', '.join(sorted(switches))}")


def _dvc_is_quiet(config: Path) -> bool:
    from configparser import ConfigParser, Error

    parser = ConfigParser()
    try:
        parser.read_string(config.read_text(errors="replace"))
        return all(parser.get("core", name, fallback="") == "false" for name in ("analytics", "check_update"))
    except Error:
        return False


def _quota() -> float | None:
    """Cores that a control group grants; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # "max", or no control group
        return None


def _size(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB else f"{max(count, 0) / 1e6:.0f} MB"
