"""Kill one search again and again, and compare what it finds: ``python -m tests.kills_search --kills 20 --seed 7``.

A search is started on a project, killed at a seeded moment and started again, with one worker or two as drawn, until
it ends; the next kill then meets a new project. What dies is the search, one of its workers or all at once, at a time
after some trial or while it writes the journal or a trial's predictions. After every kill no process is left a second
later. In the end every output is the same as of a search that nobody disturbed, pruned trials among them; no line that
the journal had is lost or changed, and no trial is there twice.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.kills import FAILPOINTS, MARK, Failed, _is_spawned, _processes, _strike
from tests.unit.test_search import journal, outputs, prepared, searched, spec

TRIALS = 16
ROWS = 1500
HOW = ("search", "worker", "all", "journal", "predictions")


@dataclass(frozen=True)
class Kill:
    """When a search is killed, and what of it."""

    how: str
    """``search``, ``worker``, ``all``: those processes; ``journal``, ``predictions``: the search while it writes it."""
    threads: int
    trials: int
    """How many it ends before, and as which a write is counted."""
    seconds: float
    """How long after these."""
    bytes: int
    """How many of the journal's line are written."""

    def __str__(self) -> str:
        if self.how in ("search", "worker", "all"):
            return f"{self.how}, of {self.threads} workers, {self.seconds:.2f}s after {self.trials} trials"
        return f"at the {self.how} of trial {self.trials + 1}, with {self.threads} workers"


def kills(seed: int, count: int) -> list[Kill]:
    """Of each kind in turn; the same for the same seed."""
    generator = random.Random(seed)

    def drawn(how: str) -> Kill:
        threads = 2 if how == "worker" else generator.randint(1, 2)
        return Kill(how, threads, generator.randint(0, 3), generator.uniform(0, 0.3), generator.randrange(600))

    return [drawn(HOW[number % len(HOW)]) for number in range(count)]


class Bench:
    """A prepared project, and what an undisturbed search makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference = prepared(folder / "whole", ROWS)
        self._ended(self._started(self.reference, 1))
        self.outputs = everything(self.reference)
        (self.journal,) = (path.name for path in (self.reference / ".specml/search/gbm").glob("*.jsonl"))
        pruned = sum(one["pruned"] for one in journal(self.reference))
        if not pruned:
            raise Failed("no trial is pruned: it shows less than it says")
        self.made = 0
        self._renew()

    def _renew(self) -> None:
        self.made += 1
        self.project = prepared(self.folder / f"project-{self.made}", ROWS)
        self.kept: list[dict[str, Any]] = []

    def endure(self, kill: Kill) -> str:
        """Kill a search; tells how far it was.

        Raises:
            Failed: something does not hold.
        """
        for _ in range(4):
            search = self._started(self.project, kill.threads, kill)
            try:
                hit = self._hit(search, kill)
                told, _ = search.communicate(timeout=120)
            finally:
                left = _left(self.project)
                _strike(_processes(str(self.project)))
            if left:
                raise Failed(f"left a second later: {left}")
            if hit:
                if search.returncode == 0:
                    raise Failed(f"the search says that all is well:\n{told}")
                if kill.how == "worker" and "a process that judged a trial was killed" not in told:
                    raise Failed(f"it is not told what happened:\n{told}")
                self._see_what_is_kept()
                return f"{len(self.kept)} of {TRIALS} trials kept"
            self._compare()
            self._renew()
        raise Failed("the moment never came")

    def finish(self) -> None:
        """Let the search end, and compare."""
        self._ended(self._started(self.project, 2))
        self._compare()

    def _hit(self, search: subprocess.Popen[str], kill: Kill) -> bool:
        mark = self.project.with_suffix(".hit")
        if kill.how in ("journal", "predictions"):
            search.wait(timeout=300)
            happened = mark.exists()
            for path in (mark, Path(f"{mark}.count")):
                path.unlink(missing_ok=True)
            return happened
        while self._lines() < len(self.kept) + kill.trials:
            if search.poll() is not None:
                return False
            time.sleep(0.005)
        time.sleep(kill.seconds)
        while search.poll() is None:
            processes = _processes(str(self.project))
            workers = [one for one in processes if _is_worker(one)]
            victims = {"search": [one for one in processes if one.pid == search.pid], "worker": workers[:1]}
            if chosen := victims.get(kill.how, processes):
                _strike(chosen)
                try:
                    return search.wait(timeout=60) != 0
                except subprocess.TimeoutExpired:
                    search.send_signal(signal.SIGUSR1)
                    time.sleep(1)
                    search.kill()
                    raise Failed(f"the search waits for good for what was killed:\n{search.communicate()[0]}") from None
            time.sleep(0.01)
        return False

    def _lines(self) -> int:
        path = self.project / ".specml/search/gbm" / self.journal
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _see_what_is_kept(self) -> None:
        """The lines that were whole before are there as they were; a torn one is the next search's to drop."""
        path = self.project / ".specml/search/gbm" / self.journal
        raw = path.read_bytes() if path.exists() else b""
        now = [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]
        if now[: len(self.kept)] != self.kept:
            raise Failed("the journal lost a trial that it had")
        self.kept = now

    def _compare(self) -> None:
        self._see_what_is_kept()
        numbers = [one["number"] for one in self.kept]
        if sorted(numbers) != list(range(TRIALS)):
            raise Failed(f"trials are lacking or there twice: {numbers}")
        found = everything(self.project)
        if differs := sorted(name for name in {*found, *self.outputs} if found.get(name) != self.outputs.get(name)):
            raise Failed(f"differs from the undisturbed search: {', '.join(differs)}")
        shutil.rmtree(self.project)

    def _started(self, project: Path, threads: int, kill: Kill | None = None) -> subprocess.Popen[str]:
        more = {}
        if kill and kill.how in ("journal", "predictions"):
            file = (
                self.journal
                if kill.how == "journal"
                else Path(self.journal).with_suffix(f".{self._next(kill)}.npy").name
            )
            moment = "written" if kill.how == "journal" else "renaming"
            # Opening the journal writes it as a whole; the lines of trials come after.
            nth = kill.trials + 2 if kill.how == "journal" else 1
            told = {"file": file, "moment": moment, "nth": nth, "bytes": kill.bytes}
            told["mark"] = str(project.with_suffix(".hit"))
            path = f"{FAILPOINTS}:{os.environ.get('PYTHONPATH', '')}"
            more = {"SPECML_KILL": json.dumps(told), "PYTHONPATH": path}
        return subprocess.Popen(
            [sys.executable, "-c", "from tests.kills_search import alone; alone()"],
            cwd=ROOT,
            env={**os.environ, "PROJECT": str(project), MARK: str(project), "SPECML_THREADS": str(threads), **more},
            text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _next(self, kill: Kill) -> int:
        """The number of a trial that is not done yet."""
        left = sorted({*range(TRIALS)} - {one["number"] for one in self.kept})
        return left[min(kill.trials, len(left) - 1)] if left else 0

    def _ended(self, search: subprocess.Popen[str]) -> None:
        told, _ = search.communicate(timeout=300)
        if search.returncode:
            raise Failed(f"the search ended with {search.returncode}:\n{told}")


def alone() -> None:
    """What the process that is killed does."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    searched(Path(os.environ["PROJECT"]), spec(TRIALS))


def everything(project: Path) -> dict[str, bytes]:
    """Outputs and metrics."""
    return {**outputs(project), "metrics": (project / "metrics/train/gbm.json").read_bytes()}


def _left(project: Path) -> list[str]:
    """Processes of the search a second later."""
    until = time.monotonic() + 1
    while (left := _processes(str(project))) and time.monotonic() < until:
        time.sleep(0.02)
    return [" ".join(one.cmdline()) for one in left]


def _is_worker(process: Any) -> bool:
    return _is_spawned(process) and "resource_tracker" not in " ".join(process.cmdline())


def main() -> int:
    """Kill as often as asked, one line each; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        try:
            bench = Bench(Path(folder).resolve())
            for number, kill in enumerate(kills(asked.seed, asked.kills), 1):
                started = time.monotonic()
                told = bench.endure(kill)
                print(f"{number:3} {kill!s:56} {time.monotonic() - started:5.1f}s ok: {told}", flush=True)
            bench.finish()
        except Failed as error:
            print(f"FAILED: {error}")
            return 1
    print(
        f"seed {asked.seed}: {asked.kills} kills over {bench.made} searches, each found what an undisturbed one finds"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
