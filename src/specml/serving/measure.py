"""What a call of the model takes, by device and rows, beside onnxruntime's own session: in turn, on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from specml.bundle import WIDE, predict
from specml.serving.device import CPU, cuda, opened
from specml.serving.drawn import drawn
from specml.serving.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from specml.bundle import Bundle
    from specml.serving.device import Device


class Measured(NamedTuple):
    """Seconds of the median call of so many rows."""

    device: Device
    rows: int
    seconds: float
    raw: float
    """Of onnxruntime's session by itself, called as it is: on the CPU, else on CUDA, also beside TensorRT."""


def measured(
    bundle: Bundle, device: Device, sizes: Sequence[int], *, buckets: Sequence[int] | None = None, seconds: float = 0.2
) -> Iterator[Measured]:
    """Each size on a device, ``seconds`` long each; ``buckets``: see ``Session``.

    Raises:
        DeployFailed: the device does not open.
    """
    session = Session(bundle, gpu=True, device=device, max_batch_size=max(sizes), buckets=buckets)
    try:
        providers = [(CPU, {})] if device == "cpu" else cuda()
        raw = opened(bundle.model, providers, wide=len(bundle.contract.inputs) > WIDE)
        columns = drawn(bundle.contract, max(sizes))
        for size in sorted(set(sizes)):
            rows = {name: array[:size] for name, array in columns.items()}
            calls = [lambda: session.run(rows), lambda: predict(raw, rows)]  # noqa: B023
            # Where the batcher runs it: to hand it to another thread and back takes as long as a small batch.
            ours, theirs = session.executor.submit(in_turn, calls, seconds).result()
            yield Measured(device, size, ours, theirs)
    finally:
        session.close()


def in_turn(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The median seconds of each of some calls; what else the machine does falls on all alike."""
    taken: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    until = time.perf_counter() + seconds
    while len(taken[0]) < 3 or time.perf_counter() < until:
        for call, times in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return [sorted(times)[len(times) // 2] for times in taken]
