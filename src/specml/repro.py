"""Have DVC do the plan: set the project up, ask what changed, run ``dvc repro`` and follow it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import events
from specml.errors import SpecmlError, StageFailed
from specml.files import write_atomic
from specml.processes import die_with_parent, ended_by_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EVENTS = ".specml/events.jsonl"
LOG = ".specml/log/dvc.log"
NOT_DATA = (".venv/", "__pycache__/", "node_modules/", "/.specml/")
"""Folders that DVC would otherwise walk through in search of stages, at a second and more each time."""

GRACE = 1.5
"""Seconds that children get to end by themselves after an interrupt."""


def set_up(folder: Path) -> bool:
    """Make the folder a DVC project unless it is one; telemetry off. Returns whether it had to."""
    if (folder / ".dvc").is_dir():
        return False
    options = [] if (folder / ".git").exists() else ["--subdir"] if _in_git(folder) else ["--no-scm"]
    done = _dvc(folder, "init", "--quiet", *options)
    if done.returncode:
        raise SpecmlError(f"`dvc init` failed: {_last_line(done.stderr)}", where=str(folder))
    for option in ("core.analytics", "core.check_update"):
        _dvc(folder, "config", option, "false")
    with (folder / ".dvcignore").open("a") as file:
        file.writelines(f"{pattern}\n" for pattern in NOT_DATA)
    return True


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the project for one run: a second would change the parameters that the first is judged by.

    Raises:
        SpecmlError: another run holds it; its process is named.
    """
    path = folder / ".specml" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            told = f"another run is at work here (process {holder})."
            raise SpecmlError(told, where=str(folder), hint="Wait until it has ended, or stop it.") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def changes(folder: Path, targets: Sequence[str] = ()) -> dict[str, Any]:
    """What DVC would run again and why, by stage; empty when everything is up to date.

    Asked inside this process: DVC's command line costs twice as much.
    """
    import logging

    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    _forget_the_dead(folder)
    try:
        with Repo(str(folder)) as repo:
            return dict(repo.status(targets=list(targets) or ["dvc.yaml"]))
    except (DvcException, TypeError) as error:  # TypeError: a date in params.yaml
        told = " ".join(str(error).split())
        if pids := sorted(set(re.findall(r"PID (\d+)", told))):
            at_work = f"another run is at work here (process {', '.join(pids)})."
            raise SpecmlError(at_work, where=str(folder), hint="Wait until it has ended, or stop it.") from None
        raise SpecmlError(f"DVC can't read the project: {told}", where=str(folder)) from None


def run(folder: Path, arguments: Sequence[str], follow: Callable[[dict[str, Any]], None]) -> list[str]:
    """``dvc repro`` with ``arguments``; ``follow`` is given each event. Returns the stages that ran.

    Raises:
        SpecmlError: a stage failed; of the class and with the words of the stage's own error.
    """
    log, stream = folder / LOG, folder / EVENTS
    log.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(stream, b"")
    seen: list[dict[str, Any]] = []
    offset = 0
    with log.open("wb") as output, ended_by_signal():
        child = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *arguments],
            cwd=folder,
            env=environment({events.VARIABLE: str(stream)}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call; nothing here holds a lock
        )
        try:
            while True:
                code = child.poll()
                fresh, offset = events.read(stream, offset)
                for event in fresh:
                    follow(event)
                seen += fresh
                if code is not None:
                    break
                time.sleep(0.05)
        except BaseException:
            _end(child)
            raise
    if code:
        raise _failure(seen, log)
    return [event["stage"] for event in seen if event["event"] == "done"]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment for DVC: this installation's commands first, so that stages find `specml`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": path, **(extra or {})}


def _forget_the_dead(folder: Path) -> None:
    """Remove DVC's lock file when everyone in it is dead.

    DVC does so itself, but takes a killed process for alive until someone reaps it, which in a container may be never.
    """
    import psutil

    path = folder / ".dvc" / "tmp" / "rwlock"
    with contextlib.suppress(FileNotFoundError, ValueError):
        holders = re.findall(r'"pid":\s*(\d+)', path.read_text())
        if holders and not any(_alive(psutil, int(pid)) for pid in holders):
            path.unlink()


def _alive(psutil: Any, pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _failure(seen: list[dict[str, Any]], log: Path) -> SpecmlError:
    for event in reversed(seen):
        if event["event"] == "error":
            return StageFailed(event["text"], where=f"stage {event['stage']}", status=event["status"])
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
    return StageFailed(lines[-1].removeprefix("ERROR: ") if lines else "dvc repro failed.", hint=f"See {log}.")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End DVC and its stages: first asked, then made to."""
    for sort, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sort)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            if sort is signal.SIGKILL:
                return


def _dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def _in_git(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in folder.resolve().parents)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
