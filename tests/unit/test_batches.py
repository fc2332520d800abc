"""What is prepared in batches is what would be prepared at once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from specml import batches
from specml.errors import DataCheckFailed
from specml.files import read_json
from specml.stages import prepare
from tests.unit.test_prepare import data, prepared

WARTS = {
    "columns": {
        "age": {
            "role": "protected",
            "bands": [30, 50],
            "checks": {"valid_min": 18, "invalid": {"level": "quarantine"}},
        },
        "when": {"role": "time", "dtype": "datetime"},
        "who": {"role": "id"},
        "money": {"checks": {"missing": {"max": 0.5, "level": "warn"}}},
    },
    "checks": {"row_count": {"min": 10}, "freshness": {"at": "2026-03-01", "max": "90d"}, "quarantine": {"max": 0.2}},
}


def warts(n: int = 3000) -> dict[str, Any]:
    """Each batch is another: numbers as text with a blank here and there, a category that comes late, codes."""
    draw = random.Random(5)
    table: dict[str, Any] = {
        "age": [draw.randint(16, 80) for _ in range(n)],
        "money": [f"{draw.gauss(50, 9):.2f}" if i % 7 else " " for i in range(n)],
        "whole": [str(draw.randint(1, 9)) if i < n - 1 else "10.5" for i in range(n)],
        "code": [f"{i % 30:03d}" if i % 1500 else "x1" for i in range(n)],
        "late": [None if i < n - 600 else ["a", "b"][draw.randrange(2)] for i in range(n)],
        "same": ["only"] * n,
        "empty": [None] * n,
        "who": [f"p{draw.randrange(n // 3)}" for _ in range(n)],
        "when": [f"2026-0{1 + i % 2}-{1 + draw.randrange(28):02d}" for i in range(n)],
        "name": [f"n{i}" for i in range(n)],
        "flag": [["true", "false", "TRUE"][draw.randrange(3)] for _ in range(n)],
    }
    table["y"] = [
        None if i % 50 == 3 else int(draw.random() < (0.3 if table["age"][i] < 40 else 0.6)) for i in range(n)
    ]
    return table


SPLITS = {
    "auto": {},
    "hash": {"method": "hash", "column": "who"},
    "group": {"method": "group", "column": "who"},
    "time": {"method": "time", "column": "when"},
}


@pytest.mark.parametrize("split", SPLITS)
def test_a_table_in_batches_is_prepared_as_it_is_at_once(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"data": data(**WARTS, split=SPLITS[split])}
    told = []
    for name, whole in (("once", batches.WHOLE), ("batches", 100)):
        monkeypatch.setattr(batches, "WHOLE", whole)
        monkeypatch.setattr(batches, "BATCH", 5000)
        (tmp_path / name).mkdir()
        train, test, layout = prepared(tmp_path / name, warts(), **changes)
        aside = pl.read_parquet(tmp_path / name / prepare.QUARANTINE)
        metrics = read_json(tmp_path / name / prepare.METRICS)
        told.append((train, test, layout, aside, metrics))
        assert not list((tmp_path / name / "artifacts/prepare").glob(".*")), "what was needed on the way is gone"
    (once, parts) = told
    assert len(batches.read(tmp_path / "batches/artifacts/ingest/rows.parquet", tmp_path).parts) == 8
    assert parts[1].equals(once[1])
    assert parts[2:3] == once[2:3]
    assert parts[3].equals(once[3])
    assert parts[4] == once[4]
    if split == "time":  # the training rows of batches stay in the order in which they are stored
        assert parts[0].sort(pl.all()).equals(once[0].sort(pl.all()))
    else:
        assert parts[0].equals(once[0])
    assert parts[4]["repaired"]["money"].startswith("2,5")
    assert {"same", "empty", "name"} <= set(parts[4]["set_aside"])


def test_what_is_wrong_in_a_late_batch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WHOLE", 100)
    monkeypatch.setattr(batches, "BATCH", 5000)
    table = warts()
    table["money"][-1] = "much"
    columns = {**WARTS["columns"], "money": {"dtype": "float"}}
    told = r"1 of 85 values can't be read as float. Said of the rows 2,828 to 2,912"
    with pytest.raises(DataCheckFailed, match=told) as refused:
        prepared(tmp_path, table, data=data(**{**WARTS, "columns": columns}))
    assert refused.value.where == "data.columns.money.dtype"


def test_a_full_disk_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(batches, "BATCH", 100_000)
    rows = pl.DataFrame({"a": [hash(f"{i}") / 7 for i in range(100_000)]})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            batches.kept(iter([rows, rows]), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path(refused.value.filename).parent == tmp_path
