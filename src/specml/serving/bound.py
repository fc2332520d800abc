"""A model bound to fixed memory: batches are padded to a few sizes, and each size is bound once.

Rows are written straight to where the device reads them, and those of the next batch while one runs (``stage``). On
CUDA, the memory that is written is pinned, copies and work follow one another in one stream, and each size is one
recorded CUDA graph; onnxruntime does not notice when a graph's id is used with another size, so ids are given here, and
nowhere else.

Texts stay on the CPU, before and after (see ``cut``). What pads a batch is a plausible row, and its answer is dropped.
"""

from __future__ import annotations

import math
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specml.serving.device import CPU, NotOpened, opened
from specml.serving.memory import ALIGNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime

    from specml.serving.cut import Cut, Part
    from specml.serving.device import Providers
    from specml.serving.memory import Memory

    Columns = dict[str, np.ndarray]

STAGED = 3
"""Batches on their way at once: one runs, one is written meanwhile, and one is a question about health."""
CLOSE = 1e-5
"""How far, relative and absolute, a recorded run may answer from a plain one: they are the same operators."""


class Value(NamedTuple):
    """A tensor that goes to the device or comes from it."""

    name: str
    dtype: np.dtype[Any]
    tail: tuple[int, ...]
    """Its shape without the rows."""

    def size(self, rows: int) -> int:
        """Bytes that it takes, so that the next one begins aligned."""
        return -(-rows * math.prod(self.tail) * self.dtype.itemsize // ALIGNED) * ALIGNED

    def view(self, raw: np.ndarray, start: int, rows: int) -> np.ndarray:
        """It in raw bytes from ``start`` on: an array [rows, …]."""
        size = rows * math.prod(self.tail) * self.dtype.itemsize
        return raw[start : start + size].view(self.dtype).reshape(rows, *self.tail)


class Layout:
    """Values one behind the other, for a number of rows."""

    def __init__(self, values: Sequence[Value], rows: int) -> None:
        sizes = [value.size(rows) for value in values]
        self.starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self.values, self.rows, self.size = values, rows, sum(sizes)

    def views(self, raw: np.ndarray) -> list[np.ndarray]:
        """The values in raw bytes."""
        return [value.view(raw, start, self.rows) for value, start in zip(self.values, self.starts, strict=True)]


class _Slot:
    """Memory of a batch on its way to the device, with views of it by size of batch."""

    def __init__(self, memory: Memory, layouts: dict[int, Layout]) -> None:
        buffer = memory.buffer(max(layout.size for layout in layouts.values()))
        self.address = buffer.address
        self.views = {size: layout.views(buffer.array) for size, layout in layouts.items()}


@dataclass(frozen=True)
class Staged:
    """A batch that is ready to run."""

    rows: int
    size: int
    """To which it is padded."""
    slot: _Slot
    beside: Columns
    """Values [rows, …] that go around the device."""


class Bound:
    """A graph's parts, opened on a device and bound for each size of batch.

    Args:
        wide: see ``bundle.WIDE``.
        sizes: of batches; the largest is the most that one call takes.
        sample: plausible rows, at least as many as the largest size, by input.
        recorded: whether each size is recorded as a CUDA graph.
        ordered: whether the session works in the memory's stream; else copies are waited for before it does.

    Raises:
        NotOpened: a part does not open, or can't be bound.
    """

    def __init__(
        self,
        cut: Cut,
        memory: Memory,
        providers: Providers,
        sizes: Sequence[int],
        sample: Columns,
        *,
        wide: bool = False,
        recorded: bool = False,
        ordered: bool = True,
    ) -> None:
        self._cut, self._memory = cut, memory
        self._ordered = ordered and memory.stream != 0
        self.sizes, self.recorded = tuple(sorted(sizes)), recorded
        self._before, self._after = (_on_cpu(part, wide=wide) for part in (cut.before, cut.after))
        self._session = opened(cut.within.graph, providers, wide=wide)
        taken, given = self._values(part_of(sample, 2))
        layouts = {size: Layout(taken, size) for size in self.sizes}
        backs = {size: Layout(given, size) for size in self.sizes}
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(STAGED):
            self._free.put(_Slot(memory, layouts))
        self._target = memory.reserve(max(layout.size for layout in layouts.values()))
        self._source = memory.reserve(max(layout.size for layout in backs.values()))
        back = memory.buffer(max(layout.size for layout in backs.values()))
        self._back = back.address
        self._backs = {size: layout.views(back.array) for size, layout in backs.items()}
        self._bytes = {size: (layouts[size].size, backs[size].size) for size in self.sizes}
        self._bindings = {size: self._bind(layouts[size], backs[size]) for size in self.sizes}
        self._plain = {size: self._options(-1, ordered=self._ordered) for size in self.sizes}
        self._how = {size: self._options(place + 1, ordered=self._ordered) for place, size in enumerate(self.sizes)}
        # The largest first: the device's allocator then has what the others need.
        for size in reversed(self.sizes):
            self.run(self.stage([part_of(sample, size)]))
        if recorded:
            self._check(sample)

    def size(self, rows: int) -> int:
        """The size to which a batch is padded."""
        return next(size for size in self.sizes if size >= rows)

    def stage(self, parts: Sequence[Columns]) -> Staged:
        """Write the rows of several requests, columns [n] or [n, 1] each, to where the device reads them.

        Waits while ``STAGED`` batches are staged and not run yet.
        """
        columns = {name: _joined([part[name] for part in parts]) for name in self._beside_or_before}
        beside = _ran(self._before, self._cut.before, columns)
        beside.update({name: columns[name] for name in self._around})
        rows = sum(len(next(iter(part.values()))) for part in parts)
        size = self.size(rows)
        slot = self._free.get()
        try:
            self._write(slot.views[size], rows, parts, beside)
        except BaseException:
            self._free.put(slot)
            raise
        return Staged(rows, size, slot, beside)

    def _write(self, views: list[np.ndarray], rows: int, parts: Sequence[Columns], beside: Columns) -> None:
        for value, view, fill in zip(self._taken, views, self._fill, strict=True):
            if value.name in beside:
                view[:rows] = beside[value.name]
            elif len(parts) == 1:
                view[:rows] = parts[0][value.name].reshape(-1, 1)
            else:
                np.concatenate([part[value.name].reshape(-1) for part in parts], out=view[:rows, 0])
            view[rows:] = fill

    def run(self, staged: Staged, *, plain: bool = False) -> Columns:
        """The graph's outputs for a staged batch; on a GPU always by the same thread.

        ``plain``: without the recorded graph.
        """
        send, fetch = self._bytes[staged.size]
        how = self._plain if plain else self._how
        found = dict(staged.beside)
        with self._lock:
            try:
                binding = self._bindings[staged.size]  # none once it is closed: nor is there memory
                self._memory.send(self._target, staged.slot.address, send)
                if not self._ordered:
                    self._memory.wait()
                self._session.run_with_iobinding(binding, how[staged.size])
                self._memory.fetch(self._back, self._source, fetch)
                self._memory.wait()
            finally:
                self._free.put(staged.slot)
            for view, name in zip(self._backs[staged.size], self._cut.within.outputs, strict=True):
                found[name] = view[: staged.rows].copy()
        found.update(_ran(self._after, self._cut.after, found))
        return {name: found[name] for name in self._cut.outputs}

    def close(self) -> None:
        """Give the memory back, once nothing runs in it."""
        with self._lock:
            self._bindings.clear()
            self._memory.close()

    def _values(self, sample: Columns) -> tuple[list[Value], list[Value]]:
        """What goes to the device and what comes from it, by running two rows."""
        within, before = self._cut.within, self._cut.before
        feeds = {name: array.reshape(-1, 1) for name, array in sample.items()}
        feeds |= _ran(self._before, before, feeds)
        wanted = {name: feeds[name] for name in within.inputs}
        found = self._session.run(list(within.outputs), wanted, self._options(-1, ordered=False))
        values: list[list[Value]] = []
        for named in (wanted, dict(zip(within.outputs, found, strict=True))):
            if bad := [name for name, array in named.items() if array.shape[:1] != (2,)]:
                raise NotOpened(f"{bad[0]} has no rows: batches can't be padded")
            values.append([Value(name, array.dtype, array.shape[1:]) for name, array in named.items()])
        self._taken = values[0]
        self._fill = [array[0] for array in wanted.values()]
        needed = {*before.inputs, *self._cut.after.inputs} & sample.keys()
        self._beside_or_before = tuple(sorted(needed))
        self._around = tuple(sorted({*self._cut.after.inputs} & sample.keys()))
        return values[0], values[1]

    def _bind(self, taken: Layout, given: Layout) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        device = self._memory.device
        for bind, layout, base in (
            (binding.bind_input, taken, self._target),
            (binding.bind_output, given, self._source),
        ):
            for value, start in zip(layout.values, layout.starts, strict=True):
                bind(value.name, device, 0, value.dtype.type, [layout.rows, *value.tail], base + start)
        return binding

    def _options(self, graph: int, *, ordered: bool) -> onnxruntime.RunOptions:
        """``graph``: the recorded graph that is run, or recorded the first time; -1: none."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        if ordered:
            # ``wait`` waits for the copy back, and with it for all that came before in the stream.
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self.recorded:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return options

    def _check(self, sample: Columns) -> None:
        """Whether recorded runs answer as plain ones do, other rows than they were recorded with.

        Raises:
            NotOpened: they do not.
        """
        for size in self.sizes:
            rows = len(next(iter(sample.values())))
            parts = [part_of(sample, rows, rows - size)]
            recorded, plain = self.run(self.stage(parts)), self.run(self.stage(parts), plain=True)
            for name, array in plain.items():
                if not close(recorded[name], array):
                    raise NotOpened(f"a recorded graph of {size} rows gives another {name} than a plain run")


def tails(cut: Cut, sample: Columns, *, wide: bool = False) -> dict[str, tuple[int, ...]]:
    """The shapes without the rows of what goes to the device."""
    feeds = {name: array[:2].reshape(-1, 1) for name, array in sample.items()}
    feeds |= _ran(_on_cpu(cut.before, wide=wide), cut.before, feeds)
    return {name: feeds[name].shape[1:] for name in cut.within.inputs}


def _on_cpu(part: Part, *, wide: bool) -> onnxruntime.InferenceSession | None:
    return opened(part.graph, [(CPU, {})], wide=wide) if part.graph else None


def _ran(session: onnxruntime.InferenceSession | None, part: Part, known: Columns) -> Columns:
    """A part's outputs, by name; none where nothing is left for it."""
    if session is None:
        return {}
    answers = session.run(list(part.outputs), {name: known[name] for name in part.inputs})
    return dict(zip(part.outputs, answers, strict=True))


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return joined.reshape(-1, 1)


def part_of(columns: Columns, stop: int, start: int = 0) -> Columns:
    """Some of the rows."""
    return {name: array[start:stop] for name, array in columns.items()}


def close(one: np.ndarray, other: np.ndarray, within: float = CLOSE) -> bool:
    """Whether answers are the same but for rounding."""
    if one.dtype.kind not in "fc":
        return bool(np.mean(one != other) < 0.01)  # a label may turn at its threshold
    return bool(np.allclose(one, other, rtol=within, atol=within, equal_nan=True))
