"""A folder of files, scored part by part, of which none is ever half there and none is made twice.

The answers to a file become a folder that is called by the file's name and the beginning of its digest. Until they are
all there it is called ``.….unfinished``: in it a file of answers for each part, and ``journal.jsonl``, a line for each
part that is done. What is not in the journal is done again, to the same bytes. Then ``manifest.json`` tells it all, and
the folder takes its name.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.errors import DataCheckFailed, NotEnoughData
from specml.files import canonical_json, digest, inside, locked, read_json, write_atomic
from specml.kinds import ScoredFiles
from specml.tables.rows import TYPES, ending
from specml.targets.batch.journal import JOURNAL, MANIFEST, UNFINISHED, Journal, Work, state_of
from specml.targets.batch.reading import Reading
from specml.targets.batch.workers import Workers, cores, workers

if TYPE_CHECKING:
    from specml.releases import Release
    from specml.spec import Spec
    from specml.targets.batch import Batch

STATE = ".specml/batch"
LOCK = f"{STATE}/scoring.lock"
"""Who scores holds it, here or on a cluster: a journal has one writer."""
TELL_EVERY = 10.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Input:
    """A file of rows."""

    path: Path
    told: str
    """Its path in the project."""


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
        works = self.left()
        if not works:
            return
        with locked(self.project / LOCK), workers(self.wanted, min(self.target.workers or cores(), cores())) as scorers:
            for one in works:
                if one.done:  # by a job of a cluster, while it held the lock
                    continue
                journal = one.begin(self.say)
                self._feed(one, journal, scorers)
                if journal.refused:
                    raise one.refusal(journal.refused)
                one.finish(journal, self.say)

    @property
    def wanted(self) -> dict[str, Any]:
        """What ``scoring.Wanted`` says."""
        return {
            "bundle": str(self.release.bundle),
            "digest": self.release.entry.bundle,
            "rows_at_once": self.spec.serving.batching.max_batch_size,
            "keep": self.target.keep,
            "format": self.target.format,
        }

    def left(self) -> list[Work]:
        """The files that are not scored yet; says so where there is none. The folder of the answers is there then.

        Raises:
            DataCheckFailed: one is none that can be read.
            NotEnoughData: there is no file at all.
        """
        inputs = self._inputs()
        states = {one.told: state_of(one.path) for one in inputs}  # before the digests: what changes since is noticed
        works = [self._work(one, states[one.told], self._digest(one)) for one in inputs]
        new = [one for one in works if not one.done]
        if not new:
            self.say(f"All {len(inputs)} files are scored by this release already: nothing to do.")
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        ignored = self.folder.parent / ".gitignore"
        if not ignored.exists():  # answers are of people, and no part of the project
            write_atomic(ignored, "*\n")
        return new

    def _work(self, one: Input, state: tuple[int, int], content: str) -> Work:
        target = self.target
        options = {
            "input": one.told, "content": content, "bundle": self.release.entry.bundle, "format": target.format,
            "keep": target.keep, "bad_rows": target.bad_rows, "part_rows": target.part_rows,
            "rows_at_once": self.spec.serving.batching.max_batch_size,
        }  # fmt: skip
        home = self.folder / f"{one.path.name}-{content.removeprefix('sha256:')[:12]}"
        told = {one.name: one.value for one in self.spec.obligations if one.told}
        reading = Reading.of(one.path, self.release.bundle, self.spec.data.sources.values(), target.part_rows)
        return Work(one.path, state, home, options, {"notice": told} if told else {}, reading)

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
        kept = self.project / STATE / "digests.json"
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = dict(read_json(kept))
        state = list(state_of(one.path))
        if known.get(one.told, [None])[:-1] != state:
            known[one.told] = [*state, digest(one.path)]
            write_atomic(kept, canonical_json(known))
        return str(known[one.told][-1])

    def _feed(self, one: Work, journal: Journal, scorers: Workers) -> None:
        """Have all parts scored that are not, until one is refused."""
        told_at, read = time.monotonic(), 0
        for number, table in enumerate(one.reading.parts()):
            first, read = read + 1, read + table.height
            if number in journal.done:
                continue
            if journal.refused:
                break
            job, rows = one.part(number, first, table, journal.folder)
            scorers.put((job.part, rows, partial(journal.take, job.seen, refuses=not job.part["aside"])))
            if time.monotonic() - told_at > TELL_EVERY:
                told_at = time.monotonic()
                self.say(f"{one.name}: {read:,} rows read …")
        scorers.drain()


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
