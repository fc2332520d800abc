"""Sources, one a file."""

from specml.sources import csv, parquet

__all__ = ["csv", "parquet"]
