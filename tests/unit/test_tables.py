"""What a run tells in the terminal stays readable on 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from specml.card import number
from specml.cli.tables import BAR, bar, gates_table, held_out, remarks, roomy
from specml.verdicts import bound, changes_in_words


def verdict(outcome: str, **facts: Any) -> dict[str, Any]:
    bounds = {"low": 0.46016, "high": 0.520293, "confidence": 0.95, "method": "wilson"}
    base = {"outcome": outcome, "value": 0.489794, "interval": bounds, "n": 15_000, "note": "", "slices": []}
    gate = {"level": "fail", "passes": outcome == "holds", "threshold": "≥ 0.8", "reason": "a reason " * 20}
    return {**base, **gate, **facts}


def shown(verdicts: dict[str, Any]) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(gates_table(verdicts), *remarks(verdicts))
    return out.getvalue()


def test_gates_fit_on_eighty_columns() -> None:
    group = verdict("refused") | {"name": "AGEP=65 and over"}
    text = shown({
        "auc": verdict("holds"),
        "parity": verdict("holds", value=2.149e-07, interval=None, threshold="≤ 1e-05"),
        "disparity": verdict("refused", level="warn", slices=[group]),
    })  # fmt: skip
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("0.4602 – 0.5203" in one for one in lines) == 3
    assert any("AGEP=65 and over  refused" in one for one in lines)
    assert "✖ refused (told)" in text


def test_only_gates_that_stop_nothing_are_explained() -> None:
    text = shown({
        "kept": verdict("holds"),
        "told": verdict("refused", level="warn"),
        "open": verdict("not measured", passes=True, value=None, interval=None),
        "stop": verdict("refused"),
    })  # fmt: skip
    assert [name for name in ("kept", "told", "open", "stop") if f"  {name}: a reason" in text] == ["told", "open"]


def group(name: str, low: float, outcome: str = "holds") -> dict[str, Any]:
    return verdict(outcome, value=low + 0.1, interval={"low": low, "high": low + 0.2}) | {"name": name}


def test_the_worst_slice_stands_under_its_gate() -> None:
    slices = [group("mild", 0.85), group("worst", 0.81), group("best", 0.95)]
    text = shown({"fair": verdict("holds", slices=slices), "auc": verdict("holds")})
    assert [line.split()[0] for line in text.splitlines()[2:] if line.strip()] == ["fair", "worst", "auc"]
    assert "holds (worst)" in text
    upper = shown({"error": verdict("holds", threshold="≤ 0.8", slices=slices)})
    assert " best " in upper
    many = [group(f"g{i}", i / 10, "refused") for i in range(8)]
    lines = shown({"fair": verdict("refused", slices=many)}).splitlines()
    assert [line.split()[0] for line in lines if line.startswith(" ")] == ["g0", "g1", "g2", "g3", "g4", "and"]
    assert lines[-1].strip() == "and 3 more"
    endless = shown({"fair": verdict("holds", slices=[group("so long a name " * 20, 0.9)])})
    assert endless.replace(" ", "").replace("\n", "").count("solong") == 4


@pytest.mark.parametrize(
    ("low", "value", "high", "limit", "drawn"),
    [
        (0.0, 0.5, 1.0, 2.0, " ━━━━━━●━━━━━          ┃ "),
        (0.0, 0.5, 1.0, 0.0, " ┃━━━━━━━━━━●━━━━━━━━━━━ "),
        (0.0, 0.5, 1.0, 0.5, " ━━━━━━━━━━━╋━━━━━━━━━━━ "),
        (None, 3e-8, None, 1e-5, " ●                     ┃ "),
        (None, None, None, 0.5, ""),
        (None, 0.5, None, None, "            ●            "),
        (None, float("nan"), None, 0.5, ""),
    ],
)
def test_an_interval_is_drawn_against_its_threshold(
    low: float | None, value: float | None, high: float | None, limit: float | None, drawn: str
) -> None:
    found = {"low": low, "high": high} if low is not None else None
    text = bar({"outcome": "holds", "value": value, "interval": found}, limit).plain
    assert text.rstrip() == drawn.rstrip()
    assert len(text) in (0, BAR)


def test_the_number_of_a_threshold_is_the_first_and_may_have_thousands() -> None:
    said = {"≥ 0.8": 0.8, "≤ 10,000,000 bytes": 1e7, "≤ 1e-05": 1e-5, "> -0.5": -0.5, "no case fails": None}
    said["share ≤ 0.2, sums within 0.0001"] = 0.2
    assert {words: bound(words) for words in said} == said


def test_bars_want_a_wide_terminal() -> None:
    def console(width: int, *, terminal: bool) -> Console:
        return Console(file=io.StringIO(), width=width, force_terminal=terminal)

    assert roomy(console(120, terminal=True))
    assert not roomy(console(100, terminal=True))
    assert not roomy(console(120, terminal=False))
    out = io.StringIO()
    wide = Console(file=out, width=110, color_system=None)
    wide.print(gates_table({"auc": verdict("holds")}, bars=True))
    assert "●" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 110


def test_only_the_last_changes_are_told() -> None:
    change = {"opening": 2, "time": "2026-11-26T10:00:00.000Z", "gate": "auc", "way": "removed", "loosened": True}
    change |= {"moves": []}
    told = {"opened": 13, "shown": 0, "first": "2026-11-26T09:00", "changes": [change] * 12, "altered": ""}
    out = io.StringIO()
    Console(file=out, width=100).print(*held_out(told))
    assert "opened 13 times since 2026-11-26" in out.getvalue()
    assert "and 2 changes before that" in out.getvalue()
    assert out.getvalue().count("was removed") == 10


def test_gates_that_were_added_at_once_are_one_line() -> None:
    change = {"time": "2026-11-26T10:00:00.000Z", "way": "added", "loosened": False, "moves": []}
    changes = [{**change, "gate": name, "opening": opening} for name, opening in (("a", 2), ("b", 2), ("c", 3))]
    assert changes_in_words(changes) == [
        ("a, b were added before opening 2, 2026-11-26 10:00 UTC", False),
        ("c changed before opening 3, 2026-11-26 10:00 UTC: was added", False),
    ]


def test_whole_numbers_are_told_whole_and_bounds_read_with_their_commas() -> None:
    assert [number(one) for one in (161734.0, 2000.5, 12.0, 1e300, float("inf"))] == [
        "161,734",
        "2000",
        "12",
        "1e+300",
        "inf",
    ]
    assert bound("≤ 50,000,000 bytes") == 50_000_000
