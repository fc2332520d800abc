"""Files scored by Ray Data: nodes read them part by part, actors score, and one process takes down what is done.

Parts travel as Ray Data's blocks, one in each, as the bytes that the processes of one machine are given: so what comes
out is the same. Who reads waits while those who score have enough, and where a node or an actor is lost, Ray does again
what was lost with it; only what the journal takes down counts, once.
"""

from __future__ import annotations

import importlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import liveness
from specml.errors import DataCheckFailed, DeployFailed, SpecmlError, of_system
from specml.targets.batch.events import error_of, told
from specml.targets.batch.journal import Job, Work

if TYPE_CHECKING:
    import pyarrow as pa

SCORER = "specml.serving.scoring", "InPool"
"""What each actor holds, by name: it knows nothing of specs, and this nothing of models."""
READER_CPUS, SCORER_CPUS = 0.01, 0.99
"""What Ray reserves: a core for each who scores, and next to nothing for who feeds them and mostly waits; but more than
nothing, so that a node without CPUs for others reads nothing either."""
TRIES = 3
"""How often all is begun again after something that Ray could not mend, with not a part done in between."""
RETRIES = 3
"""How often Ray has a part scored again that has ended its actor, or was lost with a node."""
TELL_EVERY = 10.0
"""Seconds between two lines of progress."""


class Underway:
    """A file that is being scored."""

    def __init__(self, work: Work, say: Callable[[str], None]) -> None:
        self.work = work
        self.journal = work.begin(say)
        self.parts: int | None = None
        """How many it has; None while it is not known."""
        self.failed: dict[int, SpecmlError] = {}
        """By the number of the part at which it did."""
        self.finished = False

    @property
    def complete(self) -> bool:
        """Whether all parts are done."""
        return self.parts == len(self.journal.done)

    @property
    def failure(self) -> SpecmlError | None:
        """The first there is in the file, once all before it is done."""
        if not self.failed:
            return None
        first = min(self.failed)
        return self.failed[first] if all(number in self.journal.done for number in range(first)) else None

    def take(self, row: dict[str, str]) -> None:
        """Take down what became of a part, or what who reads says."""
        job = json.loads(row["job"])
        if "part" not in job:
            if "failed" in job:
                self.failed[job["parts"]] = error_of(job["failed"])
            else:
                self.parts = job["parts"]
            return
        number = job["seen"]["part"]
        try:
            self.journal.adopt(Job(job["part"], job["seen"]), json.loads(row["told"]), row["attempt"])
        except DataCheckFailed as error:
            self.failed[number] = error
        else:
            if number not in self.journal.done:
                self.failed[number] = self.work.refusal(self.journal.refused)


def score(works: Iterable[Work], wanted: dict[str, Any], most: int | None, say: Callable[[str], None]) -> None:
    """Score files on the cluster that this process is connected to.

    ``wanted`` is as ``scoring.Wanted``; ``most`` how many actors, as many as there are CPUs where None.

    Raises:
        DataCheckFailed: a file can't be read, or holds a row that has no answer where that is refused; of several the
            first, once all before it is done.
        DeployFailed: Ray could not go on.
    """
    import ray
    from ray.data.exceptions import SystemException, UserCodeException

    underway = [Underway(one, say) for one in works]
    fruitless = 0
    while rest := [one for one in underway if not one.finished]:
        before = sum(len(one.journal.done) for one in underway)
        try:
            _stream(rest, wanted, most, say)
        except (ray.exceptions.RayError, SystemException, UserCodeException) as error:
            fruitless = fruitless + 1 if sum(len(one.journal.done) for one in underway) == before else 0
            if fruitless == TRIES:
                what = f"Ray could not go on: {liveness.reason([str(error)])}"
                hint = "A part may take too much memory: lower deployment.target.part_rows, and deploy again."
                raise DeployFailed(what, where="deployment.target", hint=hint) from None
            say("Something was lost that Ray could not mend; going on after the last part that is done …")


def _stream(files: list[Underway], wanted: dict[str, Any], most: int | None, say: Callable[[str], None]) -> None:
    """Score what is not done of these files, until all are finished."""
    import ray

    module, name = SCORER
    readers = min(len(files), sum(node["Alive"] for node in ray.nodes()))
    threads = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes, less than any part has: one in each block
    context.enable_progress_bars = context.print_on_execution_start = False
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        # A part that ends its actor would be tried for ever; Ray 2.60 has no other way to say how often.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        rows = ray.data.read_datasource(
            _source(files), override_num_blocks=len(files), concurrency=readers, num_cpus=READER_CPUS
        ).map_batches(
            getattr(importlib.import_module(module), name),
            fn_constructor_args=(wanted,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2),
            num_cpus=SCORER_CPUS,
            max_task_retries=RETRIES,
            runtime_env={"env_vars": threads},
        )
        told_at = time.monotonic()
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                one = files[json.loads(row["job"])["file"]]
                one.take(row)
                if time.monotonic() - told_at > TELL_EVERY:
                    told_at = time.monotonic()
                    done = sum(part["read"] for part in one.journal.done.values())
                    say(f"{one.work.name}: {done:,} rows done …")
            _settle(files, say)
            if all(one.finished for one in files):
                return


def _settle(files: list[Underway], say: Callable[[str], None]) -> None:
    """Finish what is complete; tell what is wrong with the first file that is not, once all before it is.

    Raises:
        DataCheckFailed: that.
    """
    waits = False
    for one in files:
        if not one.finished and one.complete:
            one.work.finish(one.journal, say)
            one.finished = True
        if not waits and (error := one.failure) is not None:
            raise error
        waits = waits or not one.finished


def _source(files: list[Underway]) -> Any:
    """The parts of files that are not done, as Ray Data reads them."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Parts(Datasource):  # type: ignore[misc]
        """One task for each file."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            nothing_known = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [
                ReadTask(partial(_read, place, one.work, one.journal.folder, set(one.journal.done)), nothing_known)
                for place, one in enumerate(files)
            ]

    return Parts()


def _read(place: int, work: Work, folder: Path, done: set[int]) -> Iterator[pa.Table]:
    """The parts of a file that are not ``done``, and a last row that says how many there are, or what is wrong."""
    parts = read = 0
    ended: dict[str, Any] = {}
    tables = work.reading.parts()
    while True:
        try:
            table = next(tables, None)
        except SpecmlError as error:
            ended = {"failed": told(error)}
        except OSError as error:
            ended = {"failed": told(of_system(error, work.path))}
        else:
            if table is not None:
                if parts not in done:
                    job, rows = work.part(parts, read + 1, table, folder)
                    yield _row({"file": place, "part": job.part, "seen": job.seen}, rows)
                parts, read = parts + 1, read + table.height
                continue
        yield _row({"file": place, "parts": parts, **ended}, b"")
        return


def _row(job: dict[str, Any], rows: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.table({"job": [json.dumps(job)], "rows": pa.array([rows], pa.large_binary())})
