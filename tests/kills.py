"""Kill a run at seeded moments, run it again, and compare every byte: ``python tests/kills.py --moments 40 --seed 7``.

Each moment starts from a copy of a project that is done up to some stage, and in whose run cache DVC has the stages
after that one: it does them without running them when every byte of their inputs is the same. A moment is a time
within a stage, or a write of a file (see ``failpoints/sitecustomize.py``). What dies is the whole run or one process
of it. After every kill the same must hold: no process of the run is left a second later, ``specml run`` ends well with
nothing done by hand, stages that dvc.lock had are not done again, no temporary file is left, and every file of
``artifacts/``, ``metrics/``, ``plots/`` and dvc.lock is the same as that of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

FAILPOINTS = Path(__file__).parent / "failpoints"
MARK = "SPECML_KILLS"
"""An environment variable by which the processes of a run are known."""

REPORT = "artifacts/report.html"
RANDOM = ("artifacts/explore/profile.bin", "artifacts/release/profile.bin")
"""Outputs that no two runs write alike: whylogs' sketches."""

SEARCH = "train@other"
"""The search of one candidate alone, with workers: the other is trained."""

STAGES = ("guard", "ingest", "prepare", "explore", "feasibility", "train", "select", "package", "validate", "release")

SPEC = """\
name: killed
problem: {task: regression, target: y}
data: {sources: {rows: {type: csv, path: rows.csv}}}
candidates: {line: ridge, other: {type: ridge, alpha: 20}}
search: {trials: 5, folds: 3}
gates:
  fit: {type: metric, metric: r2, min: 0.2}
"""


@dataclass(frozen=True)
class Moment:
    """When a run is killed, and what of it."""

    stage: str
    """Stages before it are done already; ``new``: nothing is."""
    victim: str
    """``run``: all of it; ``cli``, ``dvc``, ``stage``, ``worker`` or ``self``, who writes: that process."""
    after: float = 0.0
    """Of the stage's usual time, the share after which the kill comes."""
    write: dict[str, Any] = field(default_factory=dict)
    """The write that is interrupted, instead of a time."""

    def __str__(self) -> str:
        if not self.write:
            return f"{self.stage} +{100 * self.after:.0f} %"
        size = f" after {self.write['bytes']} bytes" if "bytes" in self.write else ""
        return f"{self.write['file']} {self.write['moment']}{size} #{self.write.get('nth', 1)}"


class Failed(Exception):
    """What was promised does not hold."""


def moments(seed: int, count: int) -> list[Moment]:
    """Two in each stage, one or more at each write, and then any; the same for the same seed."""
    generator = random.Random(seed)

    def at(stage: str, victim: str = "") -> Moment:
        victim = victim or generator.choice(["run", "cli", "dvc", "stage"])
        return Moment(stage, victim, generator.uniform(0.05, 0.95))

    def writing(stage: str, file: str, moment: str, *, most: int = 0, nth: int = 1) -> Moment:
        size = {"bytes": generator.randrange(most)} if most else {}
        told = {"file": file, "moment": moment, "nth": nth, **size}
        return Moment(stage, generator.choice(["self", "run"]), write=told)

    staged = [*(at(stage) for stage in STAGES for _ in range(2)), at(SEARCH, "worker")]
    written = [
        writing("train", "dvc.lock", "opened"),
        writing("package", "dvc.lock", "written", most=2500, nth=generator.randint(1, 3)),
        writing("select", ".dvc/tmp/rwlock", "written", most=120, nth=min(3, generator.randint(1, 8))),
        writing("release", ".specml/ledger.jsonl", "written", most=200, nth=2),
        writing("ingest", "dvc.lock", "written", most=800),
        writing("new", ".dvc/config", "written", most=30, nth=2),
        writing("prepare", ".specml/run.lock", "opened"),
        writing("explore", ".specml/run.lock", "written", most=40),
        writing("prepare", ".specml/fence", "opened"),
        writing("select", ".specml/fence", "written", most=20),
        writing("prepare", ".specml/dvc.lock", "renaming"),
        writing("select", ".specml/dvc.lock", "renamed", nth=2),
        writing("explore", ".dvc/tmp/rwlock", "opened", nth=generator.randint(1, 8)),
        writing("prepare", ".dvc/tmp/lock", "opened", nth=generator.randint(2, 6)),
        writing("validate", ".dvc/tmp/lock", "written", most=5, nth=generator.randint(1, 3)),
        writing("explore", ".specml/ledger.jsonl", "written", most=200),
        writing("package", ".specml/ledger.head", "renaming"),
        writing("prepare", "artifacts/prepare/train.parquet", "renaming"),
        writing("train", "artifacts/train/other", "renaming"),
        writing("package", "artifacts/bundle", "renamed"),
        writing("release", "artifacts/release/release.json", "renamed"),
    ]
    if count < len(staged) + len(written):
        return [*written[1:4], at(SEARCH, "cli"), written[0], *written[4:], *staged][:count]
    more = count - len(staged) - len(written)
    return [*staged, *written, *(at(generator.choice(STAGES)) for _ in range(more))]


class Bench:
    """A small project at every stage, what an undisturbed run makes of it, and how long its stages take."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tries = folder, itertools.count()
        write_project(folder / "new")
        self.whole = folder / "whole"
        _copy(folder / "new", self.whole)
        self._run_well(self.whole)
        self.durations: dict[str, float] = {}
        for event in _events(self.whole):
            if event["event"] == "done":
                name = event["stage"].partition("@")[0]
                self.durations[name] = max(event["seconds"], self.durations.get(name, 0.0))
        self.reference = outputs(self.whole)

    def project(self, stage: str, folder: Path) -> None:
        """The project as it is before a stage, which has never been; DVC knows later ones by their inputs' digests."""
        import yaml

        if stage == "new":
            _copy(self.folder / "new", folder)
            return
        _copy(self.whole, folder)
        stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
        now = [name for name in stages if _is_of(name, stage)]
        later = STAGES.index(stage.partition("@")[0])
        done = {n: entry for n, entry in stages.items() if n not in now and STAGES.index(n.partition("@")[0]) <= later}
        for name in (REPORT, ".specml/search", ".specml/events.jsonl"):
            _remove(folder / name)
        for out in (out for name in stages.keys() - done.keys() for out in stages[name]["outs"]):
            _remove(folder / out["path"])
        text = yaml.safe_dump({"schema": "2.0", "stages": done}, sort_keys=False) if done else ""
        for name in ("dvc.lock", ".specml/dvc.lock"):
            (folder / name).write_text(text) if text else _remove(folder / name)
        for name in now:
            for path in [path for path in (folder / ".dvc/cache/runs").rglob("*") if path.is_file()]:
                if f"stage {name.replace('@', ' ')}\n" in path.read_text():
                    _remove(path)
            for out in stages[name]["outs"]:
                _remove(folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:])

    def _run_well(self, folder: Path, *arguments: str) -> str:
        with self.started(folder, *arguments) as run:
            told, _ = run.communicate(timeout=600)
        if run.returncode or "Traceback" in told:
            raise Failed(f"`specml run` ended with {run.returncode}:\n{told}")
        return told

    def started(self, folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """``specml run`` at work."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SPECML_THREADS": "2",  # two candidates side by side, or one with two workers, whatever the machine has
            MARK: str(folder),
            **more,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "specml", "run", "--no-deploy", *arguments],
            cwd=folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def endure(self, moment: Moment) -> str:
        """Kill a run at the moment, and see whether all holds that is promised; tells what happened.

        Raises:
            Failed: something does not hold.
        """
        for _ in range(1 if moment.write else 4):
            folder = self.folder / f"try-{next(self.tries)}"
            self.project(moment.stage, folder)
            hit = self._kill(folder, moment)
            if hit:
                told = f"killed in {hit}; {self._again(folder)}"
                shutil.rmtree(folder)
                return told
            shutil.rmtree(folder)
            moment = replace(moment, after=moment.after / 2)
        raise Failed("the moment never came")

    def _kill(self, folder: Path, moment: Moment) -> str:
        """Where the run was when it was hit; empty when it was over before."""
        mark = folder.with_suffix(".hit")
        told = {**moment.write, "whole": moment.victim == "run", "mark": str(mark)}
        more = (
            {"SPECML_KILL": json.dumps(told), "PYTHONPATH": f"{FAILPOINTS}:{os.environ.get('PYTHONPATH', '')}"}
            if moment.write
            else {}
        )
        with self.started(folder, **more) as run:
            try:
                hit = self._by_itself(run, folder, mark) if moment.write else self._by_us(run, folder, moment)
                if hit:
                    self._see_the_end(run, folder)
            finally:
                _strike(_processes(str(folder)))
        return hit

    def _by_itself(self, run: subprocess.Popen[str], folder: Path, mark: Path) -> str:
        while not mark.exists():
            if run.poll() is not None and not mark.exists():
                return ""
            time.sleep(0.005)
        return " and ".join(_under_way(folder)) or "no stage"

    def _by_us(self, run: subprocess.Popen[str], folder: Path, moment: Moment) -> str:
        def is_in(stage: str) -> bool:
            return any(one["event"] == "start" and _is_of(one["stage"], stage) for one in _events(folder))

        while not is_in(moment.stage):
            if run.poll() is not None:
                raise Failed(f"it ended by itself:\n{run.communicate()[0]}")
            time.sleep(0.01)
        time.sleep(moment.after * self.durations[moment.stage.partition("@")[0]])
        victims: list[psutil.Process] = []
        while not victims:
            processes = _processes(str(folder))
            victims = [one for one in processes if moment.victim in ("run", _role(one, run.pid))]
            under_way = [one for one in _under_way(folder) if _is_of(one, moment.stage)]
            if not under_way:
                return ""
        _strike(victims if moment.victim == "run" else [random.Random(len(victims)).choice(victims)])
        return " and ".join(under_way)

    def _see_the_end(self, run: subprocess.Popen[str], folder: Path) -> None:
        """What is left of the run ends in good order, and leaves nobody behind."""
        try:
            told, _ = run.communicate(timeout=120)  # where one candidate's stage died, the other's goes on to its end
        except subprocess.TimeoutExpired:
            raise Failed("the rest of the run did not end within 120 s") from None
        if "Traceback" in told:
            raise Failed(f"a traceback:\n{told}")
        if run.returncode == 0:
            raise Failed(f"the run says that all is well:\n{told}")
        until = time.monotonic() + 1
        while left := _processes(str(folder)):
            if time.monotonic() > until:
                raise Failed(f"left a second later: {[' '.join(one.cmdline()) for one in left]}")
            time.sleep(0.05)

    def _again(self, folder: Path) -> str:
        recorded = _recorded(folder)
        self._run_well(folder)
        begun = [event["stage"] for event in _events(folder) if event["event"] == "start"]
        if again := sorted(recorded & set(begun)):
            raise Failed(f"done a second time: {', '.join(again)}")
        found = outputs(folder)
        for name in sorted({*found, *self.reference}):
            if found.get(name) != self.reference.get(name):
                state = "differs" if name in found and name in self.reference else "is one too many or lacking"
                raise Failed(f"{name} {state}")
        if left := [path for path in folder.rglob(".*") if re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name)]:
            raise Failed(f"left: {left}")
        return f"{len(recorded)} stages kept, {len(begun)} done, {len(found)} files the same"


def write_project(folder: Path) -> None:
    """A small but complete project: two candidates, a search of some trials, gates."""
    folder.mkdir(parents=True)
    generator = random.Random(0)
    lines = ["a,b,colour,y"]
    for _ in range(600):
        a, b, colour = generator.gauss(0, 1), generator.gauss(0, 1), generator.choice(["red", "blue", "green"])
        y = a + b * (colour == "red") + generator.gauss(0, 0.5)
        lines.append(f"{a:.4f},{b:.4f},{colour},{y:.4f}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "spec.yaml").write_text(SPEC)


def outputs(folder: Path) -> dict[str, bytes]:
    """Every output of a project by its path, and dvc.lock; without what is random.

    The report is no output: it tells how often the held-out rows were opened, too.
    """
    found = {}
    for top in ("artifacts", "metrics", "plots"):
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and (name := path.relative_to(folder).as_posix()) not in {*RANDOM, REPORT}:
                found[name] = path.read_bytes()
    lock = (folder / "dvc.lock").read_text()
    for name in RANDOM:
        lock = re.sub(rf"(path: {re.escape(name)}\n(?: +\w+: .*\n)*? +)md5: \w+\n( +)size: \d+\n", r"\1\2", lock)
    found["dvc.lock"] = lock.encode()
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)


def _events(folder: Path) -> list[dict[str, Any]]:
    path = folder / ".specml/events.jsonl"
    raw = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]


def _under_way(folder: Path) -> list[str]:
    events = _events(folder)
    ended = {event["stage"] for event in events if event["event"] in ("done", "error")}
    return sorted({event["stage"] for event in events} - ended)


def _is_of(name: str, stage: str) -> bool:
    return name == stage or name.partition("@")[0] == stage


def _recorded(folder: Path) -> set[str]:
    """The stages that are done for good: those of dvc.lock, or of its copy where it was torn."""
    import yaml

    for path in (folder / "dvc.lock", folder / ".specml/dvc.lock"):
        text = path.read_text() if path.exists() else ""
        try:
            stages = (yaml.safe_load(text) or {}).get("stages") if text.endswith("\n") else None
        except (yaml.YAMLError, AttributeError):
            continue
        if stages is not None:
            return set(stages)
    return set()


def _processes(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _role(process: psutil.Process, cli: int) -> str:
    """A stage is a fork of DVC's process, or of one of those that do candidates side by side, which count as DVC's."""
    try:
        if _is_spawned(process):
            return "tracker" if "resource_tracker" in " ".join(process.cmdline()) else "worker"
        if cli in (process.pid, process.ppid()):
            return "cli" if process.pid == cli else "dvc"
        return "stage" if all(_is_spawned(child) for child in process.children()) else "dvc"
    except psutil.Error:
        return "gone"


def _is_spawned(process: psutil.Process) -> bool:
    return "multiprocessing" in " ".join(process.cmdline())


def _strike(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def main() -> int:
    """Kill at every moment, one line each; 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", type=int, nargs="*", help="The numbers of some moments, to repeat them.")
    parser.add_argument("--folder", type=Path, help="Where projects are made; a temporary folder.")
    told = parser.parse_args()
    if told.folder:
        told.folder.mkdir(parents=True, exist_ok=True)
    numbered = dict(enumerate(moments(told.seed, told.moments), 1))
    chosen = told.only or list(numbered)
    if unknown := sorted({*chosen} - {*numbered}):
        parser.error(f"of {told.moments} moments there is none numbered {', '.join(map(str, unknown))}")
    with tempfile.TemporaryDirectory(prefix="kills-", dir=told.folder) as folder:
        bench = Bench(Path(folder).resolve())
        failed = []
        for number in chosen:
            moment, started = numbered[number], time.monotonic()
            try:
                outcome = f"ok: {bench.endure(moment)}"
            except Failed as error:
                failed.append(number)
                again = f"python tests/kills.py --moments {told.moments} --seed {told.seed} --only {number}"
                outcome = f"FAILED: {error}\n     again: {again}"
            print(
                f"{number:3} {moment.victim:6} {moment!s:58} {time.monotonic() - started:5.1f}s {outcome}", flush=True
            )
    count = len(chosen)
    print(f"seed {told.seed}: {count} kills, {count - len(failed)} ok, {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
