"""Files of rows that someone asks about, read as the spec's source reads its own where that is of the same type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.kinds import Source

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TYPES = {
    "csv": "csv", "tsv": "csv", "parquet": "parquet", "jsonl": "jsonl", "ndjson": "jsonl", "arrow": "arrow",
    "xlsx": "excel",
}  # fmt: skip
"""The type of source by how a file's name ends."""


def ending(file: Path) -> str:
    """How its name ends, without a dot and what says that it is packed."""
    return file.name.lower().removesuffix(".gz").rpartition(".")[2]


def source_of(file: Path, known: Iterable[Source], times: frozenset[str]) -> Source:
    """What reads a file, whose ending is one of ``TYPES``: the first of ``known`` of the same type with this path.

    ``times``: the columns that the model takes as times; how others write their dates is of no use here.
    """
    ends = ending(file)
    kind: Any = Source.table[TYPES[ends]]
    declared: dict[str, Any] = {"path": str(file.resolve()), "allow_outside": True}
    like: Any = next((one for one in known if type(one) is kind), None)
    if like is None or ends == "tsv":
        found: Source = kind.model_validate({**declared, **({"separator": "\t"} if ends == "tsv" else {})})
        return found
    if hasattr(like, "dates"):
        declared["dates"] = {name: form for name, form in like.dates.items() if name in times}
    copied: Source = like.model_copy(update=declared)
    return copied
