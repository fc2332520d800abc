"""How far a run is: stages append events, one JSON line each; whoever started the run reads along.

Without a reader (plain ``dvc repro``) the same is told as lines of text.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "SPECML_EVENTS"


@dataclass(frozen=True)
class Events:
    """Where a stage's events go."""

    stage: str
    path: Path | None
    terminal: int
    """A duplicate of standard output, taken before the log takes its place."""

    @classmethod
    def from_environment(cls, stage: str) -> Events:
        """Events of ``stage``, to the file that the environment names, if any."""
        path = os.environ.get(VARIABLE)
        return cls(stage, Path(path) if path else None, os.dup(sys.stdout.fileno()))

    def say(self, text: str, done: float | None = None, *, note: bool = False, **facts: Any) -> None:
        """Tell a step; ``done`` is the share of the stage that is finished; ``facts`` say the same to a program.

        A ``note`` is something that a person should know of the data: it is shown and stays, and is no progress.
        """
        self.tell("note" if note else "say", text=text, done=done, **facts)

    def tell(self, event: str, **facts: Any) -> None:
        """Append one event."""
        if self.path is not None:
            line = json.dumps({"stage": self.stage, "event": event, "time": time.time(), **facts})
            with self.path.open("a") as file:
                file.write(line + "\n")
        elif event in ("say", "note") and "text" in facts:
            os.write(self.terminal, f"{self.stage}: {facts['text']}\n".encode())


def read(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines after ``offset``, and the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read()
    end = raw.rfind(b"\n") + 1
    return [json.loads(line) for line in raw[:end].splitlines()], offset + end
