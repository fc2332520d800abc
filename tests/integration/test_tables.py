"""Joins, checks and leaks from the command line, under DVC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from specml.files import read_json
from tests.conftest import specml

if TYPE_CHECKING:
    from pathlib import Path

SPEC = """
name: rides
problem: {task: regression, target: rides}
data:
  sources:
    hours: {type: csv, path: hours.csv}
    riders: {type: parquet, path: riders.parquet}
    weather: {type: csv, path: weather.csv}
  joins:
    - {right: riders, keys: {hour: at}}
    - {right: weather, keys: [station], as_of: {hour: measured_at}, tolerance: 6h, prefix: w_}
  columns:
    hour: {role: time}
    w_measured_at: {role: ignore}
    temperature: {checks: {valid_min: -40, invalid: {level: quarantine}}}
    w_wind: {checks: {missing: {max: 0.2, level: warn}}}
  split: {method: time, column: hour}
candidates: {line: ridge}
"""


@pytest.mark.slow
def test_a_leak_stops_the_run_and_bad_rows_are_put_aside(tmp_path: Path) -> None:
    n, generator = 600, np.random.default_rng(2)
    hour = pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 25, 23), "1h", eager=True).head(n)
    casual, registered = generator.poisson(20, n), generator.poisson(90, n)
    temperature = np.where(np.arange(n) % 100 == 0, -999.0, generator.normal(10, 5, n).round(1))
    hours = {"hour": hour, "station": np.arange(n) % 3, "temperature": temperature, "rides": casual + registered}
    pl.DataFrame(hours).write_csv(tmp_path / "hours.csv")
    riders = {"at": hour, "casual": casual, "registered": registered}
    pl.DataFrame(riders).sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "riders.parquet")
    weather = {"measured_at": hour.gather_every(4), "station": np.arange(150) % 3, "wind": generator.normal(size=150)}
    pl.DataFrame(weather).write_csv(tmp_path / "weather.csv")
    (tmp_path / "spec.yaml").write_text(SPEC)
    leak = specml("run", "--until", "prepare", folder=tmp_path, status=6)
    assert "casual and registered add up to rides in every row" in leak.stderr
    mended = ("data.columns.casual.known_after=event", "data.columns.registered.known_after=event")
    done = specml("run", "--until", "prepare", *mended, folder=tmp_path)
    assert "prepare · riders joined: 600 of 600 rows match one of its 600" in done.stderr
    assert "prepare · casual set aside: it is known only after the event" in done.stderr
    assert "checks.invalid: 6 of 600 values are invalid (6 by valid_min)" in done.stderr
    apart = pl.read_parquet(tmp_path / "artifacts/prepare/quarantine.parquet")
    assert apart["__row__"].to_list() == [1, 101, 201, 301, 401, 501]
    assert apart["temperature"].to_list() == [-999.0] * 6
    told = read_json(tmp_path / "metrics/prepare.json")
    assert told["rows"]["quarantined"] == 6
    assert told["joins"]["weather"]["matched"] < 600
