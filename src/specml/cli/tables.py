"""A run's outcome as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml import admission, durations
from specml.bundle import RELEASE, VERDICTS
from specml.card import CHOICE, mean_of, number
from specml.files import digest, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.padding import Padding
    from rich.table import Table

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


def gates_table(verdicts: dict[str, Any]) -> Table:
    """The verdicts, and under a disparity gate the groups that do not hold; fits into 80 columns."""
    table = plain("gate", "verdict", "wanted", "value", "interval", "n")
    for name, gate in verdicts.items():
        word = MARKS[gate["outcome"]] + gate["outcome"]
        if gate.get("waiver", {}).get("state") == admission.USED:
            word += " (waived)"
        elif gate["outcome"] != "holds" and not admission.stops(gate):
            word += " (told)"
        # A gate may hold without a measured value: the first release has no champion.
        value = "-" if gate["value"] is None and gate["outcome"] == "holds" else number(gate["value"])
        table.add_row(name, word, gate["threshold"], value, _span(gate), f"{gate['n']:,}")
        for one in gate["slices"]:
            if one["outcome"] != "holds":
                table.add_row(f" {one['name']}", one["outcome"], "", number(one["value"]), _span(one), f"{one['n']:,}")
    return table


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
