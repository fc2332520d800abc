"""Sources, one a file."""

from specml.sources import arrow, csv, excel, http, image_folder, jsonl, object_store, parquet, sql, stream

__all__ = ["arrow", "csv", "excel", "http", "image_folder", "jsonl", "object_store", "parquet", "sql", "stream"]
