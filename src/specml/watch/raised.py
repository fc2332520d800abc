"""What ``specml watch`` has raised on a release since it went live."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specml import releases
from specml.errors import SpecmlError
from specml.watch.judge import RECORDS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from specml.releases import Release


@dataclass(frozen=True)
class Raised:
    """A signal that was raised in a window."""

    signal: str
    window: str
    judged: str
    """UTC, to the second."""


def raised(project: Path, release: Release, signals: Collection[str]) -> list[Raised]:
    """Those of ``signals`` that were raised on ``release`` since it went live last, the earliest first.

    Raises:
        SpecmlError: a record of a window is none.
    """
    went = [event.at for event in releases.history(project) if event.release == release.entry.number]
    found = []
    for path in (project / RECORDS).glob("*.json"):
        try:
            told = json.loads(path.read_bytes())
            if told["bundle"] == release.entry.bundle and (not went or str(told["judged"]) >= went[-1]):
                names = [name for name in told["raised"] if name in signals]
                found += [Raised(name, str(told["window"]), str(told["judged"])) for name in names]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SpecmlError("is no record of a window.", where=str(path), hint="Delete it.") from None
    return sorted(found, key=lambda one: (one.judged, one.window, one.signal))
