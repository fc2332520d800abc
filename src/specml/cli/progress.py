"""How a run looks while it goes: bars on a terminal, one line an event elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from rich.progress import Progress, TaskID


def console() -> Console:
    """Where progress and tables go: standard error, plain when it is no terminal or NO_COLOR is set."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


class Follow:
    """Shows the events of a run; ``quiet`` shows nothing."""

    def __init__(self, out: Console, last: dict[str, float], *, quiet: bool) -> None:
        self.out, self.last, self.quiet = out, last, quiet
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.started: dict[str, float] = {}
        self.text: dict[str, str] = {}
        self.searches: dict[str, dict[str, Any]] = {}
        """By candidate: how far its search is, as ``stages/search`` tells it."""

    def __enter__(self) -> Follow:
        if not self.quiet and self.out.is_terminal:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

            self.bars = Progress(
                SpinnerColumn(finished_text="✔"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[time]:>11}"),
                TextColumn("{task.fields[text]}"),
                console=self.out,
            )
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event (see ``events``)."""
        stage, sort = event["stage"], event["event"]
        if sort == "start":
            self.started[stage] = event["time"]
        if sort == "say":
            self.text[stage] = event["text"]
        if "search" in event:
            self.searches[stage.partition("@")[2]] = event["search"]
        if self.quiet:
            return
        if sort == "note":
            self.out.print(f"{_clock(event)} {stage} · {event['text']}", markup=False, soft_wrap=True)
        elif self.bars:
            self._bar(event)
        elif sort == "start":
            expected = f" (last time {self.last[stage]:.1f}s)" if stage in self.last else ""
            self.out.print(f"{_clock(event)} {stage} start{expected}", markup=False, soft_wrap=True)
        elif sort == "say" and event.get("done") is not None:
            self.out.print(f"{_clock(event)} {stage} {event['text']}{self._left(event)}", markup=False, soft_wrap=True)
        elif sort == "done":
            self.out.print(
                f"{_clock(event)} {stage} ok {event['seconds']:.1f}s {self.text.get(stage, '')}", markup=False
            )

    def _bar(self, event: dict[str, Any]) -> None:
        assert self.bars is not None
        stage, sort = event["stage"], event["event"]
        if sort == "start":
            known = f"~{self.last[stage]:.0f}s" if stage in self.last else ""
            self.tasks[stage] = self.bars.add_task(stage, total=1.0, time=known, text="")
        elif sort == "say":
            changes: dict[str, Any] = {"text": event["text"]}
            if event.get("done") is not None:
                changes |= {"completed": event["done"], "time": self._left(event).strip(" ()")}
            self.bars.update(self.tasks[stage], **changes)
        elif sort == "done":
            self.bars.update(self.tasks[stage], completed=1.0, time=f"{event['seconds']:.1f}s")
        elif sort == "error":
            self.bars.update(self.tasks[stage], time="failed", text=event["text"].strip().splitlines()[-1])

    def _left(self, event: dict[str, Any]) -> str:
        if "search" in event:  # which knows what it took from its journal, in no time
            return f" ({event['search']['seconds_left']:.0f}s left)" if event["search"]["seconds_left"] else ""
        done, elapsed = event["done"], event["time"] - self.started[event["stage"]]
        return f" ({elapsed * (1 - done) / done:.0f}s left)" if 0 < done < 1 else ""


def _clock(event: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(event["time"]))
