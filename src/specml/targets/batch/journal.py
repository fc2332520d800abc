"""What of a file is scored: a line for each file of answers, and the folder that takes its name at the end."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.errors import DataCheckFailed
from specml.files import canonical_json, remove, write_atomic
from specml.targets.batch.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

UNFINISHED = ".unfinished"
MANIFEST, JOURNAL, OPTIONS = "manifest.json", "journal.jsonl", "options.json"


@dataclass(frozen=True)
class Work:
    """A file that a release has yet to answer, and how; as JSON values another machine can go on with it."""

    path: Path
    state: tuple[int, int]
    """What ``state_of`` said of it when it was found."""
    home: Path
    """The folder that its answers will be in."""
    options: dict[str, Any]
    """What the answers follow from: ``input``, its path in the project; ``content``, its digest; and the target's."""
    notice: dict[str, Any]
    """What the manifest says beside."""
    reading: Reading

    @classmethod
    def told(cls, told: dict[str, Any]) -> Work:
        """From ``tell``'s JSON values."""
        state = (int(told["state"][0]), int(told["state"][1]))
        reading = Reading.told(told["reading"])
        return cls(Path(told["path"]), state, Path(told["home"]), told["options"], told["notice"], reading)

    def tell(self) -> dict[str, Any]:
        """As JSON values."""
        where = {"path": str(self.path), "home": str(self.home), "state": list(self.state)}
        return {**where, "options": self.options, "notice": self.notice, "reading": self.reading.tell()}

    @property
    def name(self) -> str:
        """The file's path in the project."""
        return str(self.options["input"])

    @property
    def done(self) -> bool:
        """Whether all of it is answered."""
        return (self.home / MANIFEST).exists()

    def begin(self, say: Callable[[str], None]) -> Journal:
        """What is scored of it by now."""
        journal = Journal(self.home.with_name(f".{self.home.name}{UNFINISHED}"), self.options)
        before = sum(part["read"] for part in journal.done.values())
        say(f"{self.name}: going on, {before:,} rows are done …" if before else f"{self.name} …")
        return journal

    def part(self, number: int, first: int, table: pl.DataFrame, folder: Path) -> tuple[Job, bytes]:
        """A part of it as a process scores it: what is to be done, and its rows as Arrow IPC."""
        names = {"file": f"part-{number:06}", "aside": f"quarantine-{number:06}"}
        files = {key: f"{name}.{self.options['format']}" for key, name in names.items()}
        part = {"first": first, **{key: str(folder / name) for key, name in files.items()}}
        if self.options["bad_rows"] == "refuse":
            part["aside"] = ""
        content = io.BytesIO()
        table.write_ipc(content)
        return Job(part, {"part": number, "read": table.height, **files}), content.getvalue()

    def refusal(self, refused: dict[int, str]) -> DataCheckFailed:
        """What to raise where rows are refused."""
        row = min(refused)
        hint = "Mend it, or say deployment.target.bad_rows: quarantine. What is scored already is kept."
        return DataCheckFailed(f"row {row:,}: {refused[row]}", where=self.name, hint=hint)

    def finish(self, journal: Journal, say: Callable[[str], None]) -> None:
        """Have the folder of its answers, which are all there, take its name.

        Raises:
            DataCheckFailed: the file has changed since it was found.
        """
        if state_of(self.path) != self.state:
            raise DataCheckFailed(
                "changed while it was scored.", where=self.name, hint="`specml deploy` scores it anew."
            )
        done = [journal.done[number] for number in sorted(journal.done)]
        counts = {name: sum(part[name] for part in done) for name in ("read", "rows", "bad")}
        manifest = {"schema_version": 1, **self.options, **counts, "parts": done, **self.notice}
        journal.tidy()
        write_atomic(journal.folder / MANIFEST, canonical_json(manifest))
        for name in (JOURNAL, OPTIONS):
            (journal.folder / name).unlink(missing_ok=True)  # of no rows there is no journal
        remove(self.home)
        journal.folder.rename(self.home)
        bad = f", {counts['bad']:,} put aside" if counts["bad"] else ""
        say(f"{self.name}: {counts['rows']:,} rows scored{bad}.")


@dataclass(frozen=True)
class Job:
    """A part, as it is handed to who scores it."""

    part: dict[str, Any]
    """What ``scoring.Part`` says of it, but its size."""
    seen: dict[str, Any]
    """What the journal says of it before it is scored."""


def state_of(path: Path) -> tuple[int, int]:
    """What of a file changes with its content: size and time of the last change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


class Journal:
    """What of a file is scored; begun anew where it was begun under other options."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.folder = folder
        self.done: dict[int, dict[str, Any]] = {}
        self.refused: dict[int, str] = {}
        """What is wrong with rows, by their number: of each part that was refused, its first one."""
        self._told = options["input"]
        wanted = canonical_json(options)
        kept = folder / OPTIONS
        if folder.exists() and not (kept.exists() and kept.read_bytes() == wanted):
            remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, wanted)
        path = folder / JOURNAL
        if path.exists():
            whole = path.read_bytes().rpartition(b"\n")[0]  # killed while it wrote, a line has no end
            self.done = {part["part"]: part for part in map(json.loads, whole.splitlines())}
            self.done = {number: part for number, part in self.done.items() if (folder / part["file"]).exists()}
            write_atomic(path, b"".join(map(_line, self.done.values())))
        self.tidy()

    def tidy(self) -> None:
        """Remove what was being written when who wrote it was killed."""
        known = {OPTIONS, JOURNAL, *(part[key] for part in self.done.values() for key in ("file", "aside"))}
        for one in self.folder.iterdir():
            if one.name not in known:
                one.unlink()

    def take(self, part: dict[str, Any], told: dict[str, Any], *, refuses: bool) -> None:
        """Take down what a process says (``scoring.Scored``) of a ``part``, whose files are there by now.

        Raises:
            DataCheckFailed: the file can't be scored at all.
        """
        if told["failed"]:
            raise DataCheckFailed(told["failed"], where=self._told)
        if told["bad"] and refuses:
            self.refused[told["row"]] = told["why"]
            return
        aside = part["aside"] if told["bad"] else None
        self._add({**part, "aside": aside, "digest": told["digest"], "rows": told["rows"], "bad": told["bad"]})

    def adopt(self, job: Job, told: dict[str, Any], attempt: str) -> None:
        """``take`` what an attempt at a part has come to; of several attempts, the first.

        ``attempt``: what the names of its files end in, until they are given their own here.

        Raises:
            DataCheckFailed: the file can't be scored at all.
        """
        again, refuses = job.seen["part"] in self.done, not job.part["aside"]
        for key in ("file", "aside") if told["digest"] else ():
            own = self.folder / f"{job.seen[key]}{attempt}"
            if own.exists():
                own.unlink() if again else own.replace(self.folder / job.seen[key])
        if not again:
            self.take(job.seen, told, refuses=refuses)

    def _add(self, part: dict[str, Any]) -> None:
        with (self.folder / JOURNAL).open("ab") as file:
            file.write(_line(part))
            file.flush()
            os.fsync(file.fileno())
        self.done[part["part"]] = part


def _line(part: dict[str, Any]) -> bytes:
    return json.dumps(part, sort_keys=True).encode() + b"\n"
