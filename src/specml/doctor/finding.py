"""What a check found, as a person reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "told", "wrong"]
"""``wrong`` breaks a run or a deploy; ``told`` breaks nothing, and somebody may want to know it."""


@dataclass(frozen=True)
class Finding:
    """One fact about this machine, this installation or this project."""

    check: str
    """What was looked at, as ``onnxruntime`` or ``port 8000``."""
    state: State
    what: str
    """What was found, in one line."""
    why: str = ""
    """What it breaks."""
    mend: str = ""
    """What to do about it."""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", what)


def told(check: str, what: str, why: str = "", mend: str = "") -> Finding:
    """Nothing breaks."""
    return Finding(check, "told", what, why, mend)


def wrong(check: str, what: str, why: str, mend: str) -> Finding:
    """A run or a deploy will break."""
    return Finding(check, "wrong", what, why, mend)
