"""Write data/employment_ma.parquet from the wheel of nannyml 0.13.1; done once, kept for the record.

pip download --no-deps nannyml==0.13.1 && python make_data.py nannyml-0.13.1-py3-none-any.whl
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import polars as pl

PER_YEAR = 15_000
OUT = Path(__file__).parent / "data" / "employment_ma.parquet"


def main(wheel: str) -> None:
    """Both parts of the table, people of 16 and more, PER_YEAR of each year, without the package's predictions."""
    with zipfile.ZipFile(wheel) as archive:

        def part(name: str) -> pl.DataFrame:
            path = f"nannyml/datasets/data/employment_MA_{name}.pq"
            return pl.read_parquet(io.BytesIO(archive.read(path)))

        predicted = ("prediction", "predicted_probability")
        reference = part("reference").drop(predicted)
        analysis = part("analysis").drop(predicted).join(part("analysis_target"), on="id")
    codes = [name for name, dtype in reference.schema.items() if dtype == pl.Categorical]
    tables = [t.with_columns(pl.col(codes).cast(pl.String)).select(reference.columns) for t in (reference, analysis)]
    people = pl.concat(tables).filter(pl.col("AGEP") >= 16).sort("id")
    years = people.group_by("year", maintain_order=True)
    table = pl.concat([rows.sample(PER_YEAR, seed=int(year)) for (year,), rows in years]).sort("id").drop("id")
    small = [pl.col("AGEP", "employed", *codes).cast(pl.Int8), pl.col("year").cast(pl.Int16)]
    table.with_columns(small).write_parquet(OUT, compression="zstd", compression_level=19, statistics=False)


if __name__ == "__main__":
    main(sys.argv[1])
