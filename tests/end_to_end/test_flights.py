"""Three joined sources, a file, a database and a web service, from the command line to a release."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.conftest import specml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

QUICK = ("~candidates.scorecard", "candidates.gbm.n_estimators=60", "search.folds=2")


@pytest.fixture
def served(project: Callable[[str], Path]) -> Iterator[tuple[Path, str]]:
    """The example, and where its weather is served."""
    folder = project("flights")
    command = [sys.executable, "feed.py", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as feed:
        assert feed.stdout is not None
        try:
            yield folder, feed.stdout.readline().removeprefix("weather at ").strip()
        finally:
            feed.terminate()


def assert_each_row_is_joined_with_its_own(folder: Path, test: pl.DataFrame) -> None:
    """Plane and latest weather before each flight, found by a plain loop, are those of the prepared tables."""
    with closing(sqlite3.connect(folder / "data/planes.db")) as base:
        base.row_factory = sqlite3.Row
        planes = {one["tailnum"]: dict(one) for one in base.execute("select * from planes where seats >= 1")}
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in pl.read_parquet(folder / "data/weather.parquet").sort("measured").iter_rows(named=True):
        measured[one["origin"]].append(one)
    times = {origin: [one["measured"] for one in rows] for origin, rows in measured.items()}
    train = pl.read_parquet(folder / "artifacts/prepare/train.parquet").drop("__time__")
    expected = []
    for flight in pl.read_parquet(folder / "data/flights.parquet").iter_rows(named=True):
        if flight["late"] is None:
            continue
        place = bisect_left(times[flight["origin"]], flight["scheduled"])
        weather = measured[flight["origin"]][place - 1] if place else {}
        if weather and flight["scheduled"] - weather["measured"] > timedelta(hours=3):
            weather = {}
        row = {**planes.get(flight["tailnum"], {}), **weather, **flight}
        expected.append(tuple(row.get(name) for name in train.columns))
    found = [
        tuple(None if value == "__missing__" else value for value in row)
        for row in pl.concat([train, test.select(train.columns)]).iter_rows()
    ]
    assert {"temp", "visib", "seats", "manufacturer", "carrier", "late"} <= set(train.columns)
    assert Counter(found) == Counter(expected)


@pytest.mark.sweep
def test_three_sources_become_one_model_and_only_what_changed_is_read_again(served: tuple[Path, str]) -> None:
    folder, url = served
    run = ("run", "--no-deploy", *QUICK, f"data.sources.weather.url={url}")
    told = specml(*run, folder=folder).stderr
    assert "planes joined: 56,933 of 67,356 rows match one of its 3,322" in told
    assert "weather joined: 67,187 of 67,356 rows match one of its 26,115" in told
    assert told.count("fingerprint@weather start") == 1, "a source is asked once a run"
    assert "released as" in told
    assert "1,864 rows without a label are left out" in told
    auc = json.loads((folder / "artifacts/validate/verdicts.json").read_bytes())["gates"]["auc"]
    test = pl.read_parquet(folder / "artifacts/prepare/test.parquet")
    assert (auc["outcome"], auc["n"]) == ("holds", test.height)
    assert 0.6 < auc["value"] < 0.8, "late flights can be told, but not well"
    assert_each_row_is_joined_with_its_own(folder, test)

    assert "nothing to do" in specml(*run, folder=folder).stderr

    with closing(sqlite3.connect(folder / "data/planes.db")) as planes, planes:
        planes.execute("update planes set seats = 200 where tailnum = (select min(tailnum) from planes)")
    again = specml(*run, folder=folder).stderr
    assert "ingest@planes start" in again
    assert "ingest@weather start" not in again
    assert "ingest@flights start" not in again
    assert "prepare start" in again
