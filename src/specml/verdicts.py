"""Verdicts as people are told them: the worst slice, the threshold as a number, how often the rows were opened."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from specml import gates, holdout, strictness  # noqa: F401 - gates say themselves which way their options go
from specml.ledger import LedgerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ORDER = ("refused", "not measured", "holds")


def bound(threshold: str) -> float | None:
    """The number in a threshold such as ``≥ 0.8``, the first of several."""
    found = re.search(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?", threshold)
    return float(found[0].replace(",", "")) if found else None


def ranked(gate: dict[str, Any]) -> list[dict[str, Any]]:
    """The slices of a verdict, the worst first: refused, not measured, then by the end that the threshold judges."""
    least = gate["threshold"].startswith(("≥", ">"))

    def order(one: dict[str, Any]) -> tuple[int, bool, float]:
        end = one["value"] if not one["interval"] else one["interval"]["low" if least else "high"]
        return _ORDER.index(one["outcome"]), end is None, 0.0 if end is None else end if least else -end

    return sorted(gate["slices"], key=order)


def opened(project: Path, bundle: str) -> dict[str, Any] | None:
    """How often the held-out rows were opened that ``bundle`` was judged by, as JSON values; None: not recorded here.

    ``changes``: what the gates wanted otherwise than the time before, each with ``opening`` (from 2 on) and ``time``.
    A ledger that was changed tells nothing but that, as ``altered``.
    """
    try:
        found = holdout.openings(project, bundle)
    except LedgerError as error:
        return {"opened": None, "shown": None, "first": "", "changes": [], "altered": error.what}
    if found is None:
        return None
    changes = [
        {
            "opening": number,
            "time": time,
            "gate": change.gate,
            "way": change.way,
            "loosened": change.loosened,
            "moves": [vars(move) for move in change.moves],
        }
        for number, time, change in strictness.since_opened(found)
    ]
    first = found.judged[0].time
    return {"opened": len(found.judged), "shown": found.shown, "first": first, "changes": changes, "altered": ""}


def openings_in_words(told: dict[str, Any] | None) -> str:
    """How often the held-out rows were opened, in a sentence."""
    if told is None:
        return "How often the held-out rows were opened is not recorded here."
    if told["altered"]:
        return "The ledger was changed: it does not tell how often the held-out rows were opened."
    shown = f", and {_times(told['shown'])} some of them were shown" if told["shown"] else ""
    since = f" since {told['first'][:10]}" if told["opened"] > 1 else ""
    return f"The held-out rows were opened {_times(told['opened'])}{since}, for these gates to judge{shown}."


def changes_in_words(changes: Sequence[dict[str, Any]]) -> list[tuple[str, bool]]:
    """What changed after the first opening, each with whether it loosened a gate; what was added at once is one."""
    told: list[tuple[str, bool]] = []
    for (_, added), group in groupby(changes, key=lambda one: (one["opening"], one["way"] == "added")):
        alike = list(group)
        if added and len(alike) > 1:
            names = ", ".join(one["gate"] for one in alike)
            told.append((f"{names} were added {_before(alike[0])}", False))
        else:
            told += [(_change_in_words(one), one["loosened"]) for one in alike]
    return told


def _change_in_words(one: dict[str, Any]) -> str:
    moves = ", ".join(
        f"{move['option']} {_said(move['option'], move['before'])} → {_said(move['option'], move['after'])}"
        for move in one["moves"]
    )
    way = {"removed": "was removed", "added": "was added"}.get(one["way"], moves)
    mark = {"loosened": " (loosened)", "tightened": " (tightened)"}.get(one["way"], "")
    return f"{one['gate']} changed {_before(one)}: {way}{mark}"


def _before(one: dict[str, Any]) -> str:
    return f"before opening {one['opening']}, {one['time'][:16].replace('T', ' ')} UTC"


def _said(option: str, value: Any) -> str:
    text = strictness.said(value)
    return text[7:19] if option == "content" and text.startswith("sha256:") else text


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
