"""Separated text read in blocks is what it is when it is read at once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml import batches
from specml.errors import DataCheckFailed
from specml.reading import CsvText, blocks, csv_batches, read_csv

VALUES = {
    "whole": ["1", "20", "-3"],
    "real": ["1.5", "2", "-3e4"],
    "dashed": ["1", "-", "7"],
    "word": ["a", "b,c", 'say ""x""', "line\nend", ""],
    "truth": ["true", "false"],
    "code": ["007", "12"],
    "day": ["2026-11-23", "2026-11-24"],
    "german": ["13.05.2026", "01.02.2026"],
    "unclear": ["03/04/2026", "01/02/2026"],
    "gone": [""],
}


def both(path: Path, text: str, **how: Any) -> tuple[list[Any], list[Any]]:
    """(table, told) of ``text`` read at once, and in blocks."""
    path.write_text(text)
    once: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    options = CsvText.model_validate(how)
    table = read_csv(path.read_bytes(), options, "rows.csv", frozenset({"kept"}), once.__setitem__)
    made = list(csv_batches(path, options, "rows.csv", frozenset({"kept"}), parts.__setitem__))
    assert len(made) > 1 or len(text) <= blocks.BLOCK
    return [table, once], [batches.kept(made, path.parent).all(), parts]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGE", 1)
    monkeypatch.setattr(blocks, "BLOCK", 64)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(VALUES)), min_size=2, max_size=4),
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.booleans(),
)
def test_blocks_are_read_as_at_once(tmp_path_factory: Any, kinds: list[str], seed: int, n: int, turns: bool) -> None:
    """``turns``: a column becomes another kind half way down."""
    draw = random.Random(seed)

    def value(kind: str, i: int) -> str:
        other = draw.choice(sorted(VALUES)) if turns and i > n // 2 else kind
        one = draw.choice(VALUES[other] + [""] * (draw.random() < 0.2))
        return f'"{one}"' if set(one) & set(',\n"') else one

    header = ",".join([*(f"c{i}" for i in range(len(kinds))), "kept"])
    rows = [",".join([*(value(kind, i) for kind in kinds), "0815"]) for i in range(n)]
    once, parts = both(tmp_path_factory.mktemp("blocks") / "rows.csv", "\n".join([header, *rows]) + "\n")
    assert parts[0].schema == once[0].schema
    assert parts[0].equals(once[0])
    assert parts[1] == once[1]


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "codes, a blank late": ("a,b\n" + "007,1\n" * 40 + '" ",1\n' + "008,1\n" * 20, {}),
    "codes, a plus late": ("a,b\n" + "007,1\n" * 40 + "+5,1\n" + "008,1\n" * 20, {}),
    "infinite, a blank late": ("a,b\n" + "inf,1\n2,1\n" * 20 + " ,1\n" + "3,1\n" * 20, {}),
    "padded, a dash": ("a,b\n" + " 5,1\n" * 30 + "-,1\n" + " 6,2\n" * 30, {}),
    "truths in capitals late": ("a,b\n" + "true,1\n" * 30 + "TRUE,1\n" * 20, {}),
    "a zone after a gap": ("a,t\n" + "1,\n" * 30 + "2,2026-11-23T10:00:00Z\n" * 30, {}),
    "zones mixed": ("a,t\n" + "1,2026-11-23T10:00:00\n" * 30 + "2,2026-11-23T10:00:00Z\n" * 30, {}),
    "thousands after dashes": ("a;b\n" + "-;1\n" * 40 + "1.000;2\n" * 40, {"thousands": "."}),
    "the last record is blank": ("a\tb\n" + "1\t2\n" * 40 + "\t", {}),
    "beyond Int64": ("a,b\n" + "9223372036854775807,1\n" * 9 + "9223372036854775809,1\n" * 9, {}),
    "declared dates, all missing": ("a,t\n" + "1,\n" * 60, {"dates": {"t": "iso"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_went_wrong_once_is_read_as_at_once(case: str, tmp_path: Path) -> None:
    text, how = CASES[case]
    once, parts = both(tmp_path / "rows.csv", text, **how)
    assert parts[0].schema == once[0].schema
    assert parts[0].equals(once[0])


def test_marks_of_numbers_are_read_in_blocks(tmp_path: Path) -> None:
    text = "a;b\n" + "".join(f"{i}.000,5;{'x' if i == 90 else i}\n" for i in range(1, 100))
    once, parts = both(tmp_path / "rows.csv", text, decimal=",", thousands=".")
    assert parts[0].equals(once[0])
    assert parts[0].schema == {"a": pl.Float64, "b": pl.String}


def test_a_fault_in_a_late_block_is_told_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "1,2\n" * 500 + "1,2,3\n")
    with pytest.raises(DataCheckFailed, match=r"1 of 501 rows .* line 502, has 3"):
        list(csv_batches(path, CsvText(), "rows.csv", frozenset(), lambda *_: None))


def test_what_is_not_plain_utf8_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(("name,y\n" + "Jürgen,1\n" * 50).encode("latin-1"))
    (table,) = csv_batches(path, CsvText(), "rows.csv", frozenset(), lambda *_: None)
    assert table["name"].unique().to_list() == ["Jürgen"]
