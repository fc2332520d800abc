"""Write some people of data/employment_ma.parquet as a table of its own: what a company would get over the years.

    python people.py people.parquet 2015 2016                    the people of two years
    python people.py asked.csv 2017 --rows 1500 --unlabelled     some of a year, before it is known who is employed
    python people.py asked.csv 2018 --rows 1500 --unlabelled --fault      the same from a feed that went wrong
    python people.py labels.csv 2017 --rows 1500 --answers answers.csv    what became of those who were asked about

The same arguments write the same rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

POOL = Path(__file__).parent / "data" / "employment_ma.parquet"
SEED = 5


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("years", type=int, nargs="+")
    parser.add_argument("--rows", type=int, help="so many of them; all if left out")
    parser.add_argument("--unlabelled", action="store_true", help="without the column employed")
    parser.add_argument("--fault", action="store_true", help="schooling is counted from 8 on instead of from 0")
    parser.add_argument("--answers", type=Path, help="only employed, beside the ids in what `specml predict` wrote")
    chosen = parser.parse_args()
    people = pl.read_parquet(POOL).filter(pl.col("year").is_in(chosen.years))
    if chosen.rows:
        people = people.sample(chosen.rows, seed=SEED)
    if chosen.fault:
        people = people.with_columns(pl.col("SCHL") + 8)
    if chosen.unlabelled:
        people = people.drop("employed")
    if chosen.answers:
        people = pl.read_csv(chosen.answers).select("id").with_columns(people["employed"])
    people.write_parquet(chosen.out) if chosen.out.suffix == ".parquet" else people.write_csv(chosen.out)


if __name__ == "__main__":
    main()
