"""Have DVC do what is out of date, in a process of its own that is forked from this one, and follow it.

Forked, because this process has DVC loaded already: starting its command line would cost a second more of a core.
The stages are DVC's children, all in one process group that ends with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import durations, events, fence
from specml.errors import SpecmlError, StageFailed, of_system, system_error
from specml.files import write_atomic
from specml.processes import die_with_parent, ended_by_signal
from specml.repro.forked import FORK, Perform, fork_stages, load_for
from specml.repro.lockfile import Keeper, heal, put_in_order
from specml.repro.opened import opened
from specml.repro.parsed import parse_once
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EVENTS = ".specml/events.jsonl"
LOG = ".specml/log/dvc.log"
SCARCE = 64 * 1024
"""Bytes free on a disk below which it is taken for full."""
GRACE = 1.5
"""Seconds that children get to end by themselves after an interrupt."""


@dataclass(frozen=True)
class Order:
    """What DVC is to do."""

    targets: tuple[str, ...] = ()
    """Stages, and what they depend on; none: every stage."""
    single: bool = False
    """The targets only, not what they depend on."""
    together: tuple[str, ...] = ()
    """Stages that are, or may become, out of date and don't need each other: done side by side where cores allow."""
    before: tuple[str, ...] = ()
    """What those depend on, where that is out of date."""
    every: tuple[str, ...] = ()
    """All stages in the plan's order, in which dvc.lock is to have them."""


@dataclass
class Running:
    """A run that was started."""

    folder: Path
    process: BaseProcess
    told: Connection
    """Where DVC's processes say what stopped them."""
    seen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def finished(self) -> list[str]:
        """The stages that were done."""
        return [event["stage"] for event in self.seen if event["event"] == "done"]

    def follow(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """Give ``tell`` each event until DVC has ended.

        Raises:
            SpecmlError: a stage failed; of the class and with the words of the stage's own error.
        """
        try:
            self._followed(tell)
        finally:
            took = {event["stage"]: event["seconds"] for event in self.seen if event["event"] == "done"}
            durations.remember(self.folder, took)
        if self.process.exitcode:
            raise _failure(self.seen, self.told, self.folder)

    def _followed(self, tell: Callable[[dict[str, Any]], None]) -> None:
        offset, keeper = 0, Keeper(self.folder)
        while True:
            ended = self.process.exitcode is not None
            fresh, offset = events.read(self.folder / EVENTS, offset)
            self.seen += fresh
            for event in fresh:
                tell(event)
            keeper.look()
            if ended:
                return
            time.sleep(0.05)


@contextlib.contextmanager
def started(folder: Path, number: int, order: Order, perform: Perform | None = None) -> Iterator[Running]:
    """DVC at work on ``order`` for the run ``number``; it is ended with the block, however that ends.

    To be entered where this process has no other threads.

    Args:
        folder: the project.
        number: the run's.
        order: what is to be done.
        perform: does what ``specml ARGUMENTS`` does; given, stages are forked (see ``forked``).
    """
    write_atomic(folder / EVENTS, b"")
    write_atomic(folder / LOG, b"")
    Keeper(folder).look()
    told, teller = FORK.Pipe(duplex=False)
    with told, teller, ended_by_signal():
        process = FORK.Process(
            target=_work, args=(os.getpid(), folder, number, order, teller), kwargs={"perform": perform}
        )
        process.start()
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the child does the same: whoever is first
            os.setpgid(process.pid, process.pid)
        try:
            yield Running(folder, process, told)
        finally:
            _end(process)
            with contextlib.suppress(OSError):  # what fails to write has been told
                heal(folder)
                put_in_order(folder, order.every)


def environment() -> dict[str, str]:
    """The environment for DVC: this installation's commands first, so that stages find `specml`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"DVC_NO_ANALYTICS": "1", "PATH": path}


def _work(parent: int, folder: Path, number: int, order: Order, teller: Connection, *, perform: Perform | None) -> None:
    """The process of its own: what comes before, what goes side by side, all the rest."""
    import logging

    os.setpgid(0, 0)
    die_with_parent(parent)
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(folder)
    os.environ.update(environment() | {events.VARIABLE: str(folder / EVENTS), fence.VARIABLE: str(number)})
    logging.getLogger("dvc").setLevel(logging.INFO)
    gc.set_threshold(100_000)  # DVC makes many small objects and few cycles
    parse_once()
    forks = perform is not None and fork_stages(perform)
    done = frozenset[str]()
    with _telling(teller, folder):
        if len(order.together) > 1 and threads() > 1:
            if order.before:
                _reproduce(order.before)
            _side_by_side(order.together, folder, teller, forks=forks)
            done = frozenset(order.before + order.together)
        _reproduce(order.targets, single=order.single, done=done)


@contextlib.contextmanager
def _telling(teller: Connection, folder: Path) -> Iterator[None]:
    """End this process when the block fails, and tell why: the log may be what can't be written."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        refused = system_error(error)
        teller.send(str(of_system(refused, folder)) if refused else _chain(error))
        sys.exit(1)


def _side_by_side(stages: Sequence[str], folder: Path, teller: Connection, *, forks: bool) -> None:
    """Each in a process of its own; together they use no more threads than this run may."""
    parallel = min(len(stages), threads())
    share = threads() // parallel
    if forks:
        load_for(stages)  # once for all
    waiting, working, codes = list(stages), list[BaseProcess](), list[int]()
    while working or (waiting and not any(codes)):
        while waiting and len(working) < parallel and not any(codes):
            working.append(FORK.Process(target=_one, args=(os.getpid(), waiting.pop(0), share, folder, teller)))
            working[-1].start()
        time.sleep(0.02)
        codes += [process.exitcode for process in working if process.exitcode is not None]
        working = [process for process in working if process.exitcode is None]
    if any(codes):
        sys.exit(1)


def _one(parent: int, stage: str, share: int, folder: Path, teller: Connection) -> None:
    die_with_parent(parent)
    os.environ["SPECML_THREADS"] = str(share)
    with _telling(teller, folder):
        _reproduce([stage], single=True)


def _reproduce(targets: Sequence[str], *, single: bool = False, done: frozenset[str] = frozenset()) -> None:
    with opened(wait=True) as repo:
        repo.reproduce(list(targets) or None, single_item=single, repro_fn=partial(_unless, done))


def _unless(done: frozenset[str], stage: Any, **options: Any) -> Any:
    """What DVC does to a stage, unless this run has done it: a source that is asked twice might answer otherwise."""
    from dvc.repo.reproduce import _reproduce_stage

    name = str(getattr(stage, "name", ""))
    return None if {name, name.partition("@")[0]} & done else _reproduce_stage(stage, **options)


def _failure(seen: list[dict[str, Any]], told: Connection, folder: Path) -> SpecmlError:
    for event in reversed(seen):
        if event["event"] == "error":
            return StageFailed(event["text"], where=f"stage {event['stage']}", status=event["status"])
    reasons = []
    with contextlib.suppress(EOFError):
        while told.poll():
            reasons.append(told.recv())
    if shutil.disk_usage(folder).free < SCARCE:  # then a stage could not even tell that
        return StageFailed(str(of_system(OSError(errno.ENOSPC, ""), folder)))
    return StageFailed(reasons[0] if reasons else "DVC ended early.", hint=f"See {folder / LOG}.")


def _chain(error: BaseException | None) -> str:
    """The words of an error and of what it came from."""
    said = []
    while error is not None:
        said.append(" ".join(str(error).split()))
        error = error.__cause__
    return ": ".join(said)


def _end(process: BaseProcess) -> None:
    """End DVC and its stages, if they still are: first asked, then made to.

    Where DVC has ended, some of the group may not: a worker of a search that was starting when its stage was killed.
    """
    assert process.pid is not None
    for sort, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        if process.exitcode is not None and sort is signal.SIGTERM:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sort)
        process.join(patience)
