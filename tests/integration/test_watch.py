"""`specml watch` on real rows: the years of the census, as they are and with planted faults."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import polars as pl
import pytest

from specml.load import load
from tests.conftest import ROOT, run_stages, specml

if TYPE_CHECKING:
    from pathlib import Path

DATA = "examples/employment/data/employment_ma.parquet"


@pytest.fixture(scope="module")
def employment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default spec's project, its scorecard trained on the years up to 2017."""
    folder = tmp_path_factory.mktemp("employment")
    (folder / DATA).parent.mkdir(parents=True)
    (folder / "conf").mkdir()
    shutil.copy(ROOT / "conf/spec.yaml", folder / "conf/spec.yaml")
    shutil.copy(ROOT / DATA, folder / DATA)
    run_stages(load(folder, ("~candidates.gbm",)).spec, folder)
    return folder


@pytest.mark.slow
def test_every_year_is_quiet(employment: Path) -> None:
    told = specml("watch", "--once", "--rows", DATA, "--by", "year", "--json", folder=employment)
    windows = json.loads(told.stdout)["windows"]
    assert [one["origin"]["part"] for one in windows] == [f"year = {year}" for year in range(2015, 2019)]
    for one in windows:
        assert one["rows"] == 15_000
        assert one["signals"]["drift"]["outcome"] == "holds"
        assert one["raised"] == []
        record = json.loads((employment / f".specml/watch/{one['window']}.json").read_bytes())
        assert record["signals"] == one["signals"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (pl.col("SCHL") + 0.5 * pl.col("SCHL").cast(pl.Float64).std(), "SCHL"),
        (pl.lit(None, dtype=pl.Int8).alias("RELP"), "RELP"),
        (pl.lit(None, dtype=pl.Int8).alias("SCHL"), "SCHL"),
    ],
)
@pytest.mark.parametrize("n", [1000, 15_000])
def test_a_planted_fault_is_loud(employment: Path, tmp_path: Path, change: pl.Expr, moved: str, n: int) -> None:
    year = pl.read_parquet(ROOT / DATA).filter(pl.col("year") == 2018).sample(n, seed=1)
    year.with_columns(change).write_parquet(tmp_path / "rows.parquet")
    told = specml("watch", "--once", "--rows", str(tmp_path / "rows.parquet"), "--json", folder=employment, status=10)
    (one,) = json.loads(told.stdout)["windows"]
    slices = one["signals"]["drift"]["slices"]
    assert [part["name"] for part in slices if part["outcome"] == "refused"] == [moved]
    assert "drift" in told.stderr


@pytest.mark.slow
def test_a_column_that_the_file_lacks_is_loud(employment: Path, tmp_path: Path) -> None:
    pl.read_parquet(ROOT / DATA).drop("MAR").sample(2000, seed=1).write_csv(tmp_path / "rows.csv")
    told = specml("watch", "--once", "--rows", str(tmp_path / "rows.csv"), folder=employment, status=10)
    assert "raised" in told.stdout
    assert "MAR" in told.stdout
    assert "100.0% missing" in told.stdout.replace("\n", " ")
