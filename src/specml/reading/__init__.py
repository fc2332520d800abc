"""Bytes of a known format → a table, whichever source they came from.

What was not declared and had to be found out is told to ``tell``; what can't be read is refused by line and count,
never with a value.
"""

from specml.reading.blocks import csv_batches
from specml.reading.csv import CsvText, read_csv
from specml.reading.formats import (
    Format,
    format_of,
    json_value,
    of_records,
    of_rows,
    parquet_batches,
    parse_json,
    read_arrow,
    read_format,
    read_jsonl,
    read_parquet,
    read_workbook,
)
from specml.reading.text import unpacked

__all__ = [
    "CsvText",
    "Format",
    "csv_batches",
    "format_of",
    "json_value",
    "of_records",
    "of_rows",
    "parquet_batches",
    "parse_json",
    "read_arrow",
    "read_csv",
    "read_format",
    "read_jsonl",
    "read_parquet",
    "read_workbook",
    "unpacked",
]
