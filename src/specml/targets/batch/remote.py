"""Scoring as a job of a Ray cluster: begun, or found as it runs, and followed to its end."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import liveness
from specml.cluster import nodes
from specml.errors import DeployFailed
from specml.files import canonical_json, write_atomic
from specml.targets.batch.events import error_of, events

if TYPE_CHECKING:
    from specml.cluster.dashboard import Dashboard
    from specml.targets.batch.parts import Scoring

PLAN = ".specml/batch/plan.json"
DRIVER = "specml.targets.batch.driver"
PACKAGES = ("pandas", "pyarrow")
"""What Ray Data stands on."""
PAUSE = 1.0
SILENT = 60.0
"""Seconds that a dashboard may give no answer while its job is followed."""
ENDED_WITHIN = 60.0
"""Seconds that a job has to end once it was told to."""


@dataclass(frozen=True)
class Remote:
    """A project's jobs on a cluster."""

    cluster: Dashboard
    project: Path
    say: Callable[[str], None]

    @property
    def _ours(self) -> dict[str, str]:
        return {"specml_batch": str(self.project.resolve())}

    def run(self, scoring: Scoring) -> None:
        """Score what is not scored yet; what a job scores already is followed.

        Raises:
            SpecmlError: as ``Scoring.run``; what the job told.
            DeployFailed: the cluster can't be asked, its nodes lack something, or the job has ended early.
        """
        while works := scoring.left():
            nodes.refuse_version(self.cluster)
            plan = {
                "project": str(self.project.resolve()),
                "works": [one.tell() for one in works],
                "wanted": scoring.wanted,
                "most": scoring.target.workers,
            }
            same = {**self._ours, "what": _digest(works[0].options, scoring.wanted, scoring.target.workers)}
            if (job := self._found(same)) is not None:
                self.say(f"It is being scored by the job {job} of the cluster already; following that …")
                self._follow(job)  # files may have come since
                continue
            if self.end():
                self.say("What scored with another bundle or other options is stopped.")
            self._look(scoring)
            write_atomic(self.project / PLAN, canonical_json(plan))
            entry = shlex.join(["python", "-m", DRIVER, str((self.project / PLAN).resolve())])
            job = self.cluster.submit({"entrypoint": f"exec {entry}", "metadata": same})
            self.say(f"Scoring on the cluster as its job {job} …")
            self._follow(job)
            return

    def end(self) -> bool:
        """Stop what scores; whether anything did.

        Raises:
            DeployFailed: it goes on.
        """
        jobs = self.cluster.jobs(**self._ours)
        for job in jobs:
            self.cluster.end(job)
        until = time.monotonic() + ENDED_WITHIN
        while still := self.cluster.jobs(**self._ours):
            if time.monotonic() > until:
                raise DeployFailed("it was told to stop, and goes on.", where=f"job {next(iter(still))}")
            time.sleep(PAUSE)
        return bool(jobs)

    def _found(self, same: dict[str, str]) -> str | None:
        return next(iter(self.cluster.jobs(**same)), None)

    def _look(self, scoring: Scoring) -> None:
        """Make sure that every node can score.

        Raises:
            DeployFailed: one can't.
        """
        self.say("Looking at the cluster's nodes …")
        release, package = scoring.release, nodes.named("")
        if not self.cluster.has(package):
            self.cluster.upload(package, nodes.packed(None))
        needs = nodes.Needs(
            folder=str(release.bundle),
            bundle=release.entry.bundle,
            unseen="Put the project on a disk that all nodes mount at the same path: they read and write there.",
            packages=PACKAGES,
            extra="cluster",
        )
        _, found = nodes.look(self.cluster, package, needs, self._ours, stay=False)
        cpus = found["resources"].get("CPU", 0.0)
        if cpus < 1:
            self.say(f"The cluster has {cpus:g} CPUs now: what scores waits until it has more.")

    def _follow(self, job: str) -> None:
        """Tell what a job says, until it ends; stop it where this is interrupted.

        Raises:
            SpecmlError: what it failed by.
        """
        try:
            status, message, log = self._told(job)
        except KeyboardInterrupt:
            with contextlib.suppress(DeployFailed):
                self.cluster.end(job)
            raise
        last: dict[str, Any] = next(reversed(list(events(log))), {})
        if "failed" in last:
            raise error_of(last["failed"])
        if status != "SUCCEEDED" or "done" not in last:
            why = "it was stopped" if status == "STOPPED" else liveness.reason([log, message])
            hint = "`specml deploy` goes on after the last part that is done."
            raise DeployFailed(f"it ended before all was scored: {why}", where=f"job {job}", hint=hint)

    def _told(self, job: str) -> tuple[str, str, str]:
        """How a job has ended, what Ray says of that, and its log; what it says meanwhile is told."""
        said, heard = 0, time.monotonic()
        while True:
            try:
                status, message = self.cluster.status(job)  # before the log, which is then all of it
                log = self.cluster.logs(job) if status != "PENDING" else ""
            except DeployFailed:
                if time.monotonic() - heard > SILENT:
                    raise
            else:
                heard = time.monotonic()
                new = [event["said"] for event in events(log) if "said" in event]
                for text in new[said:]:
                    self.say(text)
                said = max(said, len(new))
                if status not in ("PENDING", "RUNNING"):
                    return status, message, log
            time.sleep(PAUSE)


def _digest(options: dict[str, Any], wanted: dict[str, Any], most: int | None) -> str:
    """Of what is the same for all files."""
    same = {name: value for name, value in options.items() if name not in ("input", "content")}
    return sha256(canonical_json([same, wanted, most])).hexdigest()[:12]
