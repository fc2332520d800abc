"""Ask DVC what changed."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from specml.errors import SpecmlError, of_system, system_error
from specml.files import remove, sweep
from specml.repro import lockfile
from specml.repro.opened import OURS, opened
from specml.repro.parsed import parse_once

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RWLOCK = ".dvc/tmp/rwlock"


def changes(folder: Path, targets: Sequence[str] = ()) -> dict[str, Any]:
    """What DVC would run again and why, by stage; empty when everything is up to date, file by file.

    ``targets``: these stages and all that they depend on.

    Asked inside this process: DVC's command line costs twice as much.
    """
    import logging

    from dvc.exceptions import DvcException

    logging.getLogger("dvc").setLevel(logging.ERROR)
    parse_once()
    try:
        # DVC looks for what it is asked about in the current folder, whose dvc.yaml may be another project's.
        with contextlib.chdir(folder), opened(folder) as repo:
            return dict(repo.status(targets=list(targets) or ["dvc.yaml"], with_deps=bool(targets)))
    except (DvcException, TypeError) as error:  # TypeError: a date in params.yaml
        told = " ".join(str(error).split())
        if pids := sorted(set(re.findall(r"PID (\d+)", told))):
            at_work = f"another run is at work here (process {', '.join(pids)})."
            raise SpecmlError(at_work, where=str(folder), hint="Wait until it has ended, or stop it.") from None
        if refused := system_error(error):
            raise of_system(refused, folder) from None
        hint = "`specml run` mends it." if "dvc.lock" in told else ""
        if "git-ignored" in told:
            hint = "DVC wants that file under git: take it out of .gitignore, or say `dvc config core.no_scm true`."
        raise SpecmlError(f"DVC can't read the project: {told}", where=str(folder), hint=hint) from None


def tidy(folder: Path) -> list[str]:
    """Mend what a crash left; for who holds the project alone. Returns what was done, one line each."""
    done = [told] if (told := lockfile.heal(folder)) else []
    forget_the_dead(folder)
    for name in OURS:
        sweep(folder / name)
    if not (folder / RWLOCK).exists() or not _holders(folder):
        for path in (folder / ".dvc/cache").rglob(".*.tmp"):
            remove(path)
    return done


def forget_the_dead(folder: Path) -> None:
    """Remove DVC's lock file when everyone in it is dead, or a crash tore it.

    DVC does so itself, but takes a killed process for alive until someone reaps it, which in a container may be never;
    and a torn file it refuses for good.
    """
    if dead_lock(folder):
        (folder / RWLOCK).unlink(missing_ok=True)


def dead_lock(folder: Path) -> bool:
    """Whether everyone in DVC's lock file is dead, or a crash tore it."""
    import psutil

    try:
        text = (folder / RWLOCK).read_text(errors="replace")
    except FileNotFoundError:
        return False
    holders = _holders(folder)
    torn = not text.strip().endswith("}")
    return torn or (bool(holders) and not any(_alive(psutil, pid) for pid in holders))


def _holders(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(pid) for pid in re.findall(r'"pid":\s*(\d+)', (folder / RWLOCK).read_text(errors="replace"))]
    return []


def _alive(psutil: Any, pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
