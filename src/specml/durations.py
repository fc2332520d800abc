"""How long each stage took, and a candidate's answer, the last time: told to people, in no artifact or metric."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from specml.files import canonical_json, read_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = ".specml/durations.json"


ANSWER = "answer@"
"""Before a candidate's name: the CPU seconds of a row that its library predicts, among a thousand."""


def known(folder: Path) -> dict[str, float]:
    """Seconds by stage, and by ``ANSWER`` and candidate."""
    with contextlib.suppress(OSError, ValueError):
        told = read_json(folder / FILE)
        if isinstance(told, dict):
            return {stage: seconds for stage, seconds in told.items() if isinstance(seconds, int | float)}
    return {}


def remember(folder: Path, seconds: Mapping[str, float]) -> None:
    """Keep what stages took, as far as the disk lets; for who holds the project alone."""
    with contextlib.suppress(OSError):
        write_atomic(folder / FILE, canonical_json({**known(folder), **seconds}))
