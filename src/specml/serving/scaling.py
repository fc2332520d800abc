"""How busy replicas are, and how many that takes: what Ray Serve's autoscaler goes by.

Ray counts the requests that it hands on. What HAProxy sends to a replica, and the replica answers within its own
protocol, it sees nothing of; so each replica tells its load, and the policy, which runs in Ray Serve's controller,
divides it. Ray applies its delays and the bounds of ``serving.replicas`` to what comes out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

    from specml.serving.service import Service

TARGET = 0.7
"""The share of its time that a replica should be busy: the rest is for what comes in bursts."""


class Load:
    """A replica's load: 1 is as much as it can do."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._before: tuple[float, float, float] | None = None

    def since(self) -> float:
        """The share of the time since the last look that the model ran or the event loop worked: the larger one.

        For each full batch of rows that waits, as much again. To be called by the event loop, whose time is counted.
        """
        now = time.perf_counter(), _worked(), self._service.counters.batch_seconds.sum
        before, self._before = self._before or now, now
        seconds, loop, model = (later - earlier for later, earlier in zip(now, before, strict=True))
        return max(loop, model) / max(seconds, 1e-3) + self._service.waiting_batches


def _worked() -> float:
    """Seconds that this thread ran or, on a machine with too few processors, waited to run."""
    try:
        running, ready, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except (OSError, ValueError):  # no Linux, or one that does not tell
        return time.thread_time()
    return (int(running) + int(ready)) / 1e9


def replicas(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """How many replicas would each be busy for ``TARGET`` of their time; as many as now while none has told."""
    loads = (context.aggregated_metrics or {}).get("load", {})
    return (sum(loads.values()) / TARGET if loads else context.target_num_replicas), {}
