"""What the gates wanted each time that the held-out rows were opened, as the ledger has it.

A threshold that is chosen after a look at what it judges proves less than it says. So before each look the ledger is
told every gate's options and which rows are looked at; how often, and what was changed in between, can then be counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml import ledger
from specml.files import canonical_json, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Opening:
    """One time that gates were to judge."""

    time: str
    """UTC, by the machine's clock."""
    bundle: str
    gates: dict[str, dict[str, Any]]
    """Every gate's options, as JSON values."""
    files: dict[str, str]
    """The digest of each file that gates read."""


@dataclass(frozen=True)
class Openings:
    """How often the same held-out rows were opened, oldest first; and how often some of them were shown."""

    judged: tuple[Opening, ...]
    shown: int


def identity(labels: Iterable[Any]) -> str:
    """What names held-out rows whatever columns are kept of them: the digest of their targets, in order."""
    return digest("\n".join(map(str, labels)).encode())


def register(
    project: Path, *, bundle: str, rows: Path, labels: str, gates: Mapping[str, dict[str, Any]], files: Iterable[str]
) -> None:
    """Record what the gates want, and of which rows, before these are opened.

    ``rows``: the file that holds them; ``labels``: see ``identity``; ``files``: those that gates read, beside it.
    """
    ledger.append(
        project,
        "thresholds",
        bundle=bundle,
        rows=digest(rows),
        labels=labels,
        gates={name: digest(canonical_json(options)) for name, options in gates.items()},
        options=dict(gates),
        files={file: digest(project / file) for file in sorted(files) if (project / file).is_file()},
    )


def shown(project: Path, *, gate: str, labels: str, rows: int) -> None:
    """Record that a person is shown so many of the rows, those behind a gate's verdict, before they are."""
    ledger.append(project, "rows", gate=gate, labels=labels, count=rows)


def of(project: Path, bundle: str) -> str | None:
    """What names the rows by which ``bundle`` was judged last; None where that is not recorded here.

    Raises:
        LedgerError: the ledger was changed.
    """
    return _of(ledger.verify(project).records, bundle)


def _of(records: Sequence[ledger.Record], bundle: str) -> str | None:
    wanted = (one.facts for one in reversed(records) if one.event == "thresholds" and one.facts.get("bundle") == bundle)
    return next((facts["labels"] for facts in wanted if "labels" in facts), None)


def openings(project: Path, bundle: str) -> Openings | None:
    """How often the rows were opened by which ``bundle`` was judged last; None where that is not recorded here.

    Raises:
        LedgerError: the ledger was changed: no count in it is trusted.
    """
    records = ledger.verify(project).records
    labels = _of(records, bundle)
    if labels is None:
        return None
    same = [one for one in records if one.facts.get("labels") == labels]
    judged = [
        Opening(one.time, one.facts["bundle"], one.facts["options"], one.facts["files"])
        for one in same
        if one.event == "thresholds"
    ]
    return Openings(tuple(judged), sum(one.event == "rows" for one in same))
