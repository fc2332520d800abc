"""What a run tells in the terminal stays readable on 80 columns."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from specml.cli.tables import gates_table, remarks


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
