"""Every deliberate error and its exit status; anything else is a bug.

::

    SpecmlError                     1   any other refusal
    ├── SpecError                   2   the spec is invalid: all problems at once
    ├── StaleCompile                3   spec, params.yaml and dvc.yaml have parted
    ├── GateRefused                 4   a gate refused the model
    ├── ApprovalMissing             5   a release waits for a person's approval
    ├── DataCheckFailed             6   the data breaks its contract
    ├── NotEnoughData               7   too few rows for the problem
    ├── StageFailed                 8   a stage ended in an error
    ├── DeployFailed                9   the server could not be brought up
    └── SignalRaised               10   the live rows or labels are not what they were
    KeyboardInterrupt             130
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable

INTERRUPTED = 130


class SpecmlError(Exception):
    """A refusal told to a person: what is wrong, and what to do about it.

    Args:
        what: one sentence, with the value seen.
        hint: how to mend it; empty when there is nothing to add.
        where: file, ``file:line:column``, or the override at fault.
    """

    status: int = 1

    def __init__(self, what: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.where = where

    @override
    def __str__(self) -> str:
        lines = [f"{self.where}:"] if self.where else []
        indent = "    " if self.where else ""
        lines.append(indent + self.what.replace("\n", f"\n{indent}"))
        if self.hint:
            lines.append(f"{indent or '  '}{self.hint}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a spec.

    ``where`` is ``file:line:column`` or ``override 'a.b=c'``; ``key`` the dotted path
    of the value at fault.
    """

    where: str
    key: str
    what: str
    hint: str = ""

    @override
    def __str__(self) -> str:
        head = f"{self.where}: {self.key}" if self.key else self.where
        return "\n".join([head, f"    {self.what}", *([f"    {self.hint}"] if self.hint else [])])


class SpecError(SpecmlError):
    """The spec is invalid; carries every problem found."""

    status = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StaleCompile(SpecmlError):
    """The generated files no longer say what the spec says."""

    status = 3


class GateRefused(SpecmlError):
    """A gate with ``level: fail`` refused the model."""

    status = 4


class ApprovalMissing(SpecmlError):
    """Fewer people than ``compliance.approval`` asks for have approved the release."""

    status = 5


class DataCheckFailed(SpecmlError):
    """The data breaks what the spec declares about it."""

    status = 6


class NotEnoughData(SpecmlError):
    """Fewer rows than ``problem.feasibility`` asks for."""

    status = 7


class StageFailed(SpecmlError):
    """A stage ended in an error; its log says why.

    ``status``: that of the error which the stage itself told, if it told one.
    """

    status = 8

    def __init__(self, what: str, *, hint: str = "", where: str = "", status: int = 8) -> None:
        super().__init__(what, hint=hint, where=where)
        self.status = status


class DeployFailed(SpecmlError):
    """The server could not be started, reached or stopped."""

    status = 9


class SignalRaised(SpecmlError):
    """A signal was raised on what is live."""

    status = 10


_REFUSALS = {
    errno.EROFS: (
        "is on a file system that is read-only.",
        "Mount it writable, or copy the project to a folder that you may write to.",
    ),
    errno.EACCES: ("may not be read or written by this user.", "`ls -ld` says who may; change its owner or mode."),
    errno.EPERM: ("may not be changed by this user.", "`ls -ld` and `lsattr` say why."),
    errno.EIO: ("can't be read or written: the disk fails.", "`dmesg` says more. Nothing half written was kept."),
    errno.ENOTDIR: ("can't be reached: a part of its path is a file.", "Move that file away."),
    errno.EISDIR: ("is a folder, where a file is needed.", "Move it away."),
    errno.EFBIG: ("is larger than this process may write.", "Raise the limit: `ulimit -f unlimited`."),
    errno.EMFILE: ("can't be opened: too many files are.", "Raise the limit: `ulimit -n 4096`."),
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def of_system(error: OSError, near: Path) -> SpecmlError:
    """What the operating system refused, as a person needs it: which path, why, and what to do.

    ``near`` is told where the error names no path.
    """
    path = Path(str(error.filename or near))
    if error.errno in _FULL:
        room = next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))
        free = shutil.disk_usage(room).free
        what = f"can't be written: the disk is full ({free:,} bytes are free)."
        hint = f"Free some room (`du -sh {near}/.dvc/cache {near}/.specml` says what is there), then go on as before."
        return SpecmlError(what, where=str(path), hint=hint)
    what, hint = _REFUSALS.get(error.errno or 0, (f"{error.strerror or error}.", ""))
    return SpecmlError(what, where=str(path), hint=hint)


def system_error(error: BaseException | None) -> OSError | None:
    """The operating system's refusal that ``error`` came from, if it did."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {*_REFUSALS, *_FULL}:
            return error
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
