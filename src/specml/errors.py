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

from dataclasses import dataclass
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
        lines.append(f"{indent}{self.what}")
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
