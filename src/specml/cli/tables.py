"""A run's outcome as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml import durations
from specml.card import interval, number, outcome
from specml.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

MARKS = {"holds": "✔ ", "refused": "✖ ", "not measured": "? "}


def leaderboard(folder: Path) -> list[dict[str, Any]]:
    """Candidates, best first: score over the folds, what they learned, seconds and bytes."""
    choice, took = read_json(folder / "artifacts/select/choice.json"), durations.known(folder)
    rows = []
    for row in choice["leaderboard"]:
        cost = read_json(folder / f"metrics/train/{row['candidate']}.json")
        seconds = took.get(f"train@{row['candidate']}")
        rows.append({**row, "metric": choice["metric"], "seconds": seconds, "bytes": cost["bytes"]})
    return rows


def gates(folder: Path) -> dict[str, Any]:
    """The verdicts by gate."""
    found = read_json(folder / "artifacts/validate/verdicts.json")["gates"]
    return dict(sorted(found.items()))


def candidates_table(rows: list[dict[str, Any]]) -> Table:
    """The leaderboard."""
    table = plain("candidate", f"cv {rows[0]['metric']}", "± folds", "learned", "time", "size")
    for row in rows:
        learned = ", ".join(f"{name} {value}" for name, value in row["learned"].items())
        size = f"{row['bytes'] / 1024:.0f} KiB"
        table.add_row(
            row["candidate"], f"{row['mean']:.4f}", f"{row['std']:.4f}", learned, f"{row['seconds']:.1f}s", size
        )
    return table


def gates_table(verdicts: dict[str, Any]) -> Table:
    """The verdicts, and under a disparity gate the groups that do not hold."""
    table = plain("gate", "verdict", "wanted", "value", "interval", "n")
    for name, gate in verdicts.items():
        mark = MARKS[gate["outcome"]]
        bound = interval(gate).partition(" (")[0]
        table.add_row(name, mark + outcome(gate), gate["threshold"], number(gate["value"]), bound, f"{gate['n']:,}")
        for one in gate["slices"]:
            if one["outcome"] != "holds":
                bound = interval(one).partition(" (")[0]
                table.add_row(f"  {one['name']}", one["outcome"], "", number(one["value"]), bound, f"{one['n']:,}")
    return table


def plain(*columns: str) -> Table:
    """A table without lines between its rows."""
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(*columns, box=SIMPLE, pad_edge=False, show_edge=False)
