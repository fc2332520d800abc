"""Three joined sources, a file, a database and a web service, from the command line to a release."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

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


def test_three_sources_become_one_model_and_only_what_changed_is_read_again(served: tuple[Path, str]) -> None:
    folder, url = served
    run = ("run", "--no-deploy", *QUICK, f"data.sources.weather.url={url}")
    told = specml(*run, folder=folder).stderr
    assert "planes joined: 56,933 of 67,356 rows match one of its 3,322" in told
    assert "weather joined: 67,187 of 67,356 rows match one of its 26,115" in told
    assert told.count("fingerprint@weather start") == 1, "a source is asked once a run"
    assert "released as" in told
    verdict = json.loads((folder / "artifacts/validate/verdicts.json").read_bytes())
    assert "1,864 rows without a label are left out" in told
    assert verdict

    assert "nothing to do" in specml(*run, folder=folder).stderr

    with closing(sqlite3.connect(folder / "data/planes.db")) as planes, planes:
        planes.execute("update planes set seats = 200 where tailnum = (select min(tailnum) from planes)")
    again = specml(*run, folder=folder).stderr
    assert "ingest@planes start" in again
    assert "ingest@weather start" not in again
    assert "ingest@flights start" not in again
    assert "prepare start" in again


@pytest.mark.sweep
def test_no_flight_knows_the_weather_of_its_future(served: tuple[Path, str]) -> None:
    folder, url = served
    specml("run", "--until", "prepare", f"data.sources.weather.url={url}", folder=folder)
    weather = pl.read_parquet(folder / "data/weather.parquet").sort("measured")
    flights = pl.read_parquet(folder / "data/flights.parquet").sort("scheduled")
    known = pl.concat(
        [pl.read_parquet(folder / f"artifacts/prepare/{name}.parquet") for name in ("train", "test")], how="diagonal"
    )
    joined = flights.filter(pl.col("late").is_not_null()).join_asof(
        weather, left_on="scheduled", right_on="measured", by="origin", tolerance="3h", allow_exact_matches=False
    )
    assert known.height == joined.height
    assert (joined["measured"] < joined["scheduled"]).all()
    assert known["temp"].drop_nulls().sum() == pytest.approx(joined["temp"].drop_nulls().sum())
