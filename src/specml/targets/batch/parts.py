"""A folder of files, scored part by part, of which none is ever half there and none is made twice.

The answers to a file become a folder that is called by the file's name and the beginning of its digest. Until they are
all there it is called ``.….unfinished``: in it a file of answers for each part, and ``journal.jsonl``, a line for each
part that is done. What is not in the journal is done again, to the same bytes. Then ``manifest.json`` tells it all, and
the folder takes its name.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.bundle import read_contract
from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, digest, inside, read_json, remove, write_atomic
from specml.kinds import ScoredFiles
from specml.tables.rows import TYPES, ending, source_of
from specml.targets.batch.workers import Workers, cores, workers

if TYPE_CHECKING:
    import polars as pl

    from specml.releases import Release
    from specml.spec import Spec
    from specml.targets.batch import Batch

UNFINISHED = ".unfinished"
MANIFEST, JOURNAL, OPTIONS = "manifest.json", "journal.jsonl", "options.json"
TELL_EVERY = 10.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Input:
    """A file of rows."""

    path: Path
    told: str
    """Its path in the project."""

    def state(self) -> tuple[int, int]:
        """What changes with its content: size and time of the last change."""
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Scoring:
    """What a release has yet to answer."""

    target: Batch
    spec: Spec
    project: Path
    release: Release
    folder: Path
    """Of its answers."""
    say: Callable[[str], None]

    def run(self) -> None:
        """Score what is not scored yet.

        Raises:
            DataCheckFailed: a file can't be read, or holds a row that has no answer where that is refused.
            NotEnoughData: there is no file, or one is empty.
            DeployFailed: a process that scores has ended.
        """
        inputs = self._inputs()
        states = {one.told: one.state() for one in inputs}  # before the digests: what changes since is noticed
        known = {one.told: self._digest(one) for one in inputs}
        new = [one for one in inputs if not (self._home(one, known[one.told]) / MANIFEST).exists()]
        if not new:
            self.say(f"All {len(inputs)} files are scored by this release already: nothing to do.")
            return
        most = min(self.target.workers or cores(), cores())
        options = {
            "bundle": str(self.release.bundle),
            "digest": self.release.entry.bundle,
            "rows_at_once": self.spec.serving.batching.max_batch_size,
            "keep": self.target.keep,
            "format": self.target.format,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        ignored = self.folder.parent / ".gitignore"
        if not ignored.exists():  # answers are of people, and no part of the project
            write_atomic(ignored, "*\n")
        with workers(options, most) as scorers:
            for one in new:
                self._score(one, known[one.told], states[one.told], scorers)

    def _inputs(self) -> list[Input]:
        path = inside(self.project, self.target.input)
        if not path.exists():
            raise DataCheckFailed("there is no such file or folder.", where=self.target.input)
        if path.is_file():
            found = [Input(path, self.target.input)]
        else:
            names = sorted(one.name for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
            found = [Input(path / name, f"{self.target.input}/{name}") for name in names]
        for one in found:
            if ending(one.path) not in TYPES:
                told = ", ".join(f".{end}" for end in TYPES)
                raise DataCheckFailed(f"rows are read from files that end in {told}.", where=one.told)
        if not found:
            raise NotEnoughData("there is no file to score.", where=self.target.input)
        return found

    def _digest(self, one: Input) -> str:
        """Of a file's content; that of a file that looks as it did is known."""
        kept = self.project / ".specml/batch/digests.json"
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = dict(read_json(kept))
        state = list(one.state())
        if known.get(one.told, [None])[:-1] != state:
            known[one.told] = [*state, digest(one.path)]
            write_atomic(kept, canonical_json(known))
        return str(known[one.told][-1])

    def _home(self, one: Input, content: str) -> Path:
        return self.folder / f"{one.path.name}-{content.removeprefix('sha256:')[:12]}"

    def _score(self, one: Input, content: str, state: tuple[int, int], scorers: Workers) -> None:
        home, target = self._home(one, content), self.target
        options = {
            "input": one.told, "content": content, "bundle": self.release.entry.bundle, "format": target.format,
            "keep": target.keep, "bad_rows": target.bad_rows, "part_rows": target.part_rows,
            "rows_at_once": self.spec.serving.batching.max_batch_size,
        }  # fmt: skip
        journal = Journal(home.with_name(f".{home.name}{UNFINISHED}"), options)
        before = sum(part["read"] for part in journal.done.values())
        self.say(f"{one.told}: going on, {before:,} rows are done …" if before else f"{one.told} …")
        self._feed(one, journal, scorers)
        if journal.refused:
            row = min(journal.refused)
            hint = "Mend it, or say deployment.target.bad_rows: quarantine. What is scored already is kept."
            raise DataCheckFailed(f"row {row:,}: {journal.refused[row]}", where=one.told, hint=hint)
        if one.state() != state:
            raise DataCheckFailed(
                "changed while it was scored.", where=one.told, hint="`specml deploy` scores it anew."
            )
        self._finish(journal, home, options)

    def _feed(self, one: Input, journal: Journal, scorers: Workers) -> None:
        """Have all parts scored that are not, until one is refused."""
        told_at, read = time.monotonic(), 0
        for number, table in enumerate(parts(self._batches(one), self.target.part_rows)):
            first, read = read + 1, read + table.height
            if number in journal.done:
                continue
            if journal.refused:
                break
            names = {"file": f"part-{number:06}", "aside": f"quarantine-{number:06}"}
            files = {key: f"{name}.{self.target.format}" for key, name in names.items()}
            content = io.BytesIO()
            table.write_ipc(content)
            part = {"first": first, **{key: str(journal.folder / name) for key, name in files.items()}}
            if self.target.bad_rows == "refuse":
                part["aside"] = ""
            seen = {"part": number, "read": table.height, **files}
            scorers.put((part, content.getvalue(), partial(journal.take, seen, refuses=not part["aside"])))
            if time.monotonic() - told_at > TELL_EVERY:
                told_at = time.monotonic()
                self.say(f"{one.told}: {read:,} rows read …")
        scorers.drain()

    def _finish(self, journal: Journal, home: Path, options: dict[str, Any]) -> None:
        done = [journal.done[number] for number in sorted(journal.done)]
        counts = {name: sum(part[name] for part in done) for name in ("read", "rows", "bad")}
        notice = {one.name: one.value for one in self.spec.obligations if one.told}
        manifest = {"schema_version": 1, **options, **counts, "parts": done, **({"notice": notice} if notice else {})}
        write_atomic(journal.folder / MANIFEST, canonical_json(manifest))
        for name in (JOURNAL, OPTIONS):
            (journal.folder / name).unlink()
        remove(home)
        journal.folder.rename(home)
        bad = f", {counts['bad']:,} put aside" if counts["bad"] else ""
        self.say(f"{options['input']}: {counts['rows']:,} rows scored{bad}.")

    def _batches(self, one: Input) -> Iterator[pl.DataFrame]:
        """The rows of a file, as the model takes them; at once where it looks at those before a row."""
        import polars as pl

        from specml.data import TEXTS, looks_back
        from specml.tables.history import beside

        contract = read_contract(self.release.bundle)
        inputs, history = {column.name: column.kind for column in contract.inputs}, contract.history
        kinds = {(looks_back(name) or (name,))[0]: kind for name, kind in inputs.items()}
        texts = {name for name, kind in kinds.items() if kind in TEXTS}
        times = {name for name, kind in kinds.items() if kind == "datetime"}
        if history is not None:
            texts |= set(history.by) - kinds.keys()  # as numbers, "01" and "1" would be one group
            times |= {history.time}
        source = source_of(one.path, self.spec.data.sources.values(), frozenset(times))
        batches = source.batches(self.project, frozenset(texts))
        if history is None:
            return batches
        return iter([beside(pl.concat(list(batches)), history, inputs)])


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
        known = {OPTIONS, JOURNAL, *(part[key] for part in self.done.values() for key in ("file", "aside"))}
        for one in folder.iterdir():  # what was being written when it was killed
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

    def _add(self, part: dict[str, Any]) -> None:
        with (self.folder / JOURNAL).open("ab") as file:
            file.write(_line(part))
            file.flush()
            os.fsync(file.fileno())
        self.done[part["part"]] = part


def parts(batches: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The rows of all batches, so many at a time.

    Raises:
        DataCheckFailed: a column is of another type later than at first.
    """
    import polars as pl

    rest: pl.DataFrame | None = None
    for batch in batches:
        try:
            joined = batch if rest is None else pl.concat([rest, batch.select(rest.columns).cast(rest.schema)])
        except pl.exceptions.PolarsError:
            what = "a column is of another type, or not there, in later rows than in the first ones."
            raise DataCheckFailed(what, hint="Parquet files say of what type their columns are.") from None
        for start in range(0, joined.height - rows + 1, rows):
            yield joined.slice(start, rows)
        rest = joined.slice(joined.height // rows * rows)
    if rest is not None and rest.height:
        yield rest


def scored(folder: Path) -> ScoredFiles:
    """What is in the folder of a release."""
    rows = files = unfinished = 0
    for one in sorted(folder.iterdir()) if folder.exists() else ():
        if (manifest := one / MANIFEST).exists() and not one.name.endswith(UNFINISHED):
            rows, files = rows + int(read_json(manifest)["rows"]), files + 1
        elif one.name.endswith(UNFINISHED):
            unfinished += 1
            with contextlib.suppress(OSError):
                whole = (one / JOURNAL).read_bytes().rpartition(b"\n")[0]
                rows += sum(json.loads(line)["rows"] for line in whole.splitlines())
    return ScoredFiles(str(folder), rows, files, unfinished)


def _line(part: dict[str, Any]) -> bytes:
    return json.dumps(part, sort_keys=True).encode() + b"\n"
