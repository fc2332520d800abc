"""A run's outcome as tables for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml import admission, durations
from specml.bundle import RELEASE, VERDICTS
from specml.card import CHOICE, mean_of, number
from specml.files import digest, read_json
from specml.verdicts import bound, changes_in_words, opened, openings_in_words, ranked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

SLICES = 5
"""Slices of one gate that are told of those that do not hold."""
CHANGES = 10
"""Changes after the first opening that are told, the last ones."""
LONGEST = 60
"""Characters of a slice's name that are shown."""
BAR, ROOMY = 25, 110
"""Columns of a drawn interval, and those that the terminal must have for it."""
MARKS = {"holds": "✔ ", "refused": "✖ ", "not measured": "? "}


def leaderboard(folder: Path) -> list[dict[str, Any]]:
    """Candidates, best first: score over the folds, what they learned, seconds and bytes, and why one was taken.

    A mean takes as long as its members: ``seconds`` to train, ``answer_seconds`` for a row.
    """
    choice, took = read_json(folder / CHOICE), durations.known(folder)
    rows = []
    for row in choice["leaderboard"]:
        members = row.get("members", (row["candidate"],))
        seconds, answer = (_sum(took, [f"{what}{name}" for name in members]) for what in ("train@", durations.ANSWER))
        taken = {"taken": choice["reason"]} if row["candidate"] == choice["candidate"] else {}
        rows.append({**row, "metric": choice["metric"], "seconds": seconds, "answer_seconds": answer, **taken})
    return rows


def _sum(took: Mapping[str, float], names: list[str]) -> float | None:
    return sum(took[name] for name in names) if all(name in took for name in names) else None


def gates(folder: Path) -> dict[str, Any]:
    """The verdicts by gate."""
    found = read_json(folder / VERDICTS)["gates"]
    return admission.waived(dict(sorted(found.items())), _release(folder))


def openings(folder: Path) -> dict[str, Any] | None:
    """How often the held-out rows were opened by which the verdicts came; None: not recorded here."""
    return opened(folder, read_json(folder / VERDICTS)["bundle"])


def idle_waivers(folder: Path) -> list[str]:
    """What to know of waivers that let nothing pass."""
    return admission.remarks(_release(folder))


def _release(folder: Path) -> dict[str, Any]:
    """What was made of these verdicts; empty when nothing was yet."""
    found = read_json(folder / RELEASE) if (folder / RELEASE).exists() else {}
    return found if found.get("verdicts") == digest(folder / VERDICTS) else {}


def candidates_table(rows: list[dict[str, Any]]) -> Table:
    """The leaderboard."""
    searched = any(row.get("trials", 1) > 1 for row in rows)
    found = "trials" if searched else "learned"
    table = plain("candidate", f"cv {rows[0]['metric']}", "± folds", found, "time", "a row", "size")
    for row in rows:
        learned = mean_of(row) or ", ".join(f"{name} {value}" for name, value in row["learned"].items())
        took = "-" if row["seconds"] is None else f"{row['seconds']:.1f}s"
        answer = "-" if row["answer_seconds"] is None else f"{row['answer_seconds'] * 1e6:.3g}µs"
        size = f"{row['bytes'] / 1024:.0f} KiB"
        told = str(row.get("trials", 1)) if searched and not mean_of(row) else learned
        table.add_row(row["candidate"], f"{row['mean']:.4f}", f"{row['std']:.4f}", told, took, answer, size)
    return table


def taken(rows: list[dict[str, Any]]) -> Padding:
    """Which candidate was taken, and why."""
    from rich.padding import Padding
    from rich.text import Text

    (told,) = (f"{row['candidate']} is taken: {row['taken']}" for row in rows if "taken" in row)
    return Padding(Text(told), (0, 0, 1, 2))


def gates_table(verdicts: dict[str, Any], *, bars: bool = False) -> Table:
    """The verdicts, and under each the slices that do not hold, or the worst that does; fits into 80 columns.

    ``bars``: with each interval drawn against its threshold, for which 110 columns are needed.
    """
    table = plain("gate", "verdict", "wanted", "value", "interval", *([""] if bars else []), "n")

    def row(name: str, word: str, wanted: str, value: str, measured: dict[str, Any], drawn: list[Text]) -> None:
        table.add_row(name, word, wanted, value, _span(measured), *drawn, f"{measured['n']:,}")

    for name, gate in verdicts.items():
        word = MARKS[gate["outcome"]] + gate["outcome"]
        if gate.get("waiver", {}).get("state") == admission.USED:
            word += " (waived)"
        elif gate["outcome"] != "holds" and not admission.stops(gate):
            word += " (told)"
        limit = bound(gate["threshold"])
        # A gate may hold without a measured value: the first release has no champion.
        value = "-" if gate["value"] is None and gate["outcome"] == "holds" else number(gate["value"])
        row(name, word, gate["threshold"], value, gate, [bar(gate, limit)] if bars else [])
        worst = ranked(gate)
        shown = [one for one in worst if one["outcome"] != "holds"][:SLICES] or worst[:1]
        for one in shown:
            outcome = "holds (worst)" if one["outcome"] == "holds" else one["outcome"]
            row(f" {_cut(one['name'])}", outcome, "", number(one["value"]), one, [bar(one, limit)] if bars else [])
        if left := sum(one["outcome"] != "holds" for one in worst) - len(shown) if len(shown) == SLICES else 0:
            table.add_row(f" and {left} more")
    return table


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def bar(measured: dict[str, Any], limit: float | None) -> Text:
    """The interval, the value ``●`` in it, and the threshold ``┃``; green, red or yellow where there are colours."""
    from rich.text import Text

    found, value = measured["interval"] or {}, measured["value"]
    low, high = found.get("low", value), found.get("high", value)
    known = [one for one in (low, high, limit) if one is not None and math.isfinite(one)]
    if value is None or not math.isfinite(value) or not known:
        return Text("")
    start, end = min(known), max(known)

    def cell(one: float) -> int:
        share = (one - start) / (end - start) if end > start else 0.5
        return 1 + round(min(max(share, 0.0), 1.0) * (BAR - 3))

    cells = [" "] * BAR
    for place in range(cell(low), cell(high) + 1):
        cells[place] = "━"
    cells[cell(value)] = "●"
    if limit is not None:
        cells[cell(limit)] = "╋" if cells[cell(limit)] == "●" else "┃"
    return Text("".join(cells), style={"holds": "green", "refused": "red"}.get(measured["outcome"], "yellow"))


def roomy(out: Console) -> bool:
    """Whether bars are drawn: on a terminal that is wide enough."""
    return out.is_terminal and out.width >= ROOMY


def held_out(told: dict[str, Any] | None) -> list[Padding]:
    """How often the held-out rows were opened, and what was changed in between."""
    from rich.padding import Padding
    from rich.text import Text

    changes = [words for words, _ in changes_in_words(told["changes"] if told else [])]
    left = [f"  and {len(changes) - CHANGES} changes before that"] if len(changes) > CHANGES else []
    lines = [openings_in_words(told), *left, *(f"  {words}" for words in changes[-CHANGES:])]
    return [Padding(Text(line), (0, 0, 0, 2)) for line in lines]


def remarks(verdicts: dict[str, Any]) -> list[Padding]:
    """Why gates do not hold that stop nothing; of the others the refusal tells."""
    from rich.padding import Padding
    from rich.text import Text

    told = []
    for name, gate in verdicts.items():
        if gate["outcome"] != "holds" and not admission.stops(gate):
            told.append(f"{name}: {gate['reason']}")
            if waiver := gate.get("waiver"):
                told.append(f"  waived {admission.words(waiver)} ({waiver['name']})")
    return [Padding(Text(line), (0, 0, 0, 2)) for line in told]


def _span(measured: dict[str, Any]) -> str:
    found = measured["interval"]
    return f"{found['low']:.4g} – {found['high']:.4g}" if found else "-"


def plain(*columns: str) -> Table:
    """A table without lines between its rows."""
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(*columns, box=SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
