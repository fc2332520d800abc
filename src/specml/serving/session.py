"""The bundle's graph on the device that is asked for, or on the faster one that really opens."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from specml.bundle import WIDE, predict
from specml.errors import DeployFailed
from specml.serving import device as devices
from specml.serving.announce import example_row
from specml.serving.bound import Bound, close, part_of, tails
from specml.serving.device import CPU, CUDA, NAMES, PROVIDERS, NotOpened, faster, gpu_visible, opened
from specml.serving.drawn import drawn
from specml.serving.packed import BLOCK
from specml.serving.request import blocked, named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnxruntime

    from specml.bundle import Bundle
    from specml.serving.cut import Cut
    from specml.serving.device import Asked, Costs, Device
    from specml.serving.memory import Memory

    Columns = dict[str, np.ndarray]

__all__ = ["CPU", "CUDA", "Session", "gpu_visible"]

T = TypeVar("T")

HELD = 1024
"""Rows, at most, of which a GPU's answers are compared with the CPU's before it answers anybody."""
ROUNDED = 1e-4
"""How far they may be off, relative and absolute: graphs compute in float32, and devices sum in another order."""
FEW = 4
"""Numbers of a row from which they are one input."""
TRIED = 0.2
"""Seconds that a device is timed for where nothing is known of it."""


class Session:
    """An opened graph; ``provider`` is the device that it runs on, ``why`` the reason for it.

    Args:
        gpu: whether this replica has reserved (a part of) a GPU, which it may use then.
        device: the device that it must run on; ``auto``: CUDA if it may and that is faster, else the CPU.
        max_batch_size: most rows of a batch; ``run`` takes more, in parts.
        buckets: sizes to which batches are padded, each of which is bound to fixed memory; ``auto``: powers of two on
            a GPU, and none on the CPU, where a call of any size costs what its rows do.
        costs: what was measured of this bundle on this machine; where nothing was, ``auto`` measures.

    Raises:
        DeployFailed: the device that it must run on does not open.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        gpu: bool,
        device: Asked = "auto",
        max_batch_size: int = 256,
        buckets: Sequence[int] | None = None,
        costs: Costs | None = None,
    ) -> None:
        self._bundle, self._contract = bundle, bundle.contract
        self._most = max_batch_size
        self._asked = None if buckets is None else tuple(sorted({*buckets, max_batch_size}))
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        """The thread that runs batches: what CUDA records, only the thread knows that recorded it."""
        self._own = self.executor.submit(_identity).result()
        self.bound: Bound | None = None
        """What the graph is bound to; None: it is called as it is."""
        self._session: onnxruntime.InferenceSession | None = None
        self._outputs = list(self._contract.outputs())
        self.packed: tuple[str, ...] = ()
        """The columns that the graph takes as one ``BLOCK``; none where it takes each by itself."""
        self.device: Device = "cpu"
        try:
            self.why = self._here(self._open, device, gpu=gpu, costs=costs or {})
        except BaseException:
            self.executor.shutdown(wait=False)
            raise
        self.provider = PROVIDERS[self.device]

    @property
    def buckets(self) -> tuple[int, ...]:
        """The sizes to which batches are padded; none where they are not."""
        return self.bound.sizes if self.bound else ()

    @property
    def anywhere(self) -> bool:
        """Whether any thread runs a batch as well as ``executor``'s."""
        return self.device == "cpu"

    def run(self, columns: Columns) -> Columns:
        """The graph's outputs [n, …] for columns [n], or for ``BLOCK`` and what is not packed; from any thread."""
        if self.bound is None:
            return self._here(self._called, columns)
        rows, step = len(next(iter(columns.values()))), self.bound.sizes[-1]
        if rows <= step:
            return self._here(self.bound.run, self.bound.stage([columns]))
        parts = [
            self._here(self.bound.run, self.bound.stage([part_of(columns, start + step, start)]))
            for start in range(0, rows, step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _called(self, columns: Columns) -> Columns:
        assert self._session is not None
        if self.packed and BLOCK not in columns:
            columns = self._in_one_block(columns)
        feeds = {name: array if name == BLOCK else array.reshape(-1, 1) for name, array in columns.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))

    def _in_one_block(self, columns: Columns) -> Columns:
        others = columns.keys() - self.packed
        block = np.stack([columns[name].reshape(-1) for name in self.packed], axis=1)
        return {BLOCK: block, **{name: columns[name] for name in others}}

    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Run once per size, so that no request pays for the first call's allocations."""
        row = example_row(self._contract)
        for size in sizes:
            self.run(named([row] * size, self._contract).columns)

    def call(self, most: int) -> Callable[[int], object]:
        """What runs so many plausible rows, ``most`` at most: to be timed."""
        columns = drawn(self._contract, most)
        if self.packed:
            columns = self._in_one_block(columns)
        return lambda rows: self.run(part_of(columns, rows))

    def close(self) -> None:
        """Give the device's memory back, once what runs has ended."""
        if self.bound is not None:
            self.executor.submit(self.bound.close)
        self.executor.shutdown(wait=False)

    def _here(self, do: Callable[..., T], *arguments: object, **named: object) -> T:
        """Do it in the thread that the device is used by; the CPU is used by any."""
        if (self.device == "cpu" and self._session is not None) or _identity() == self._own:
            return do(*arguments, **named)
        return self.executor.submit(do, *arguments, **named).result()

    # How it is opened

    def _open(self, asked: Asked, *, gpu: bool, costs: Costs) -> str:
        """Open it; returns the reason for the device."""
        if asked in ("cuda", "tensorrt"):
            return self._must(asked)
        if asked == "cpu":
            return self._on_cpu("serving.device is cpu")
        if not gpu:
            return self._on_cpu("the replica reserves no GPU")
        if not gpu_visible():
            return self._on_cpu("no NVIDIA GPU is visible to the replica")
        times = faster(costs, "cuda", "cpu", self._most)
        if times is not None and times <= 1:
            return self._on_cpu(f"with {self._most} rows it was measured {1 / times:.3g} times as fast as CUDA")
        try:
            how = self._on("cuda")
        except NotOpened as error:
            return self._on_cpu(f"the CUDA provider did not open: {error}")
        if times is None:
            times = self._tried()
        if times > 1:
            return f"with {self._most} rows it is {times:.3g} times as fast as the CPU; {how}"
        self._let_go()
        return self._on_cpu(f"with {self._most} rows it is {1 / times:.3g} times as fast as CUDA")

    def _must(self, asked: Device) -> str:
        try:
            return f"serving.device is {asked}; {self._on(asked)}"
        except NotOpened as error:
            seen = "" if gpu_visible() else "no NVIDIA GPU is visible to the replica; "
            raise DeployFailed(
                f"{NAMES[asked]} does not open: {seen}{error}.",
                where="serving.device",
                hint="`specml doctor` says what is missing; device: auto goes on without.",
            ) from None

    def _on_cpu(self, why: str) -> str:
        self.device = "cpu"
        if self._asked is not None:
            from specml.serving.memory import Cpu

            cut = self._cut("cpu", self._bundle.model)
            if cut is not None:
                bind = {"wide": self._wide}
                self.bound = Bound(cut, Cpu(), [(CPU, {})], self._asked, self._sample(self._asked), **bind)
        self._session = self._packed() if self.bound is None else self._bundle.session()
        return why

    def _packed(self) -> onnxruntime.InferenceSession:
        """The graph with the numbers of a request as one input, where what it takes to change it is installed."""
        columns = blocked(self._contract)
        named_like_it = any(one.name.startswith(BLOCK) for one in self._contract.inputs)
        if len(columns) < FEW or named_like_it or find_spec("onnx") is None:
            return self._bundle.session()
        from specml.serving.packed import packed

        session = replace(self._bundle, model=packed(self._bundle.model, columns)).session()
        self.packed = columns
        return session

    def _on(self, device: Device) -> str:
        """Open it on a GPU, bound as closely as can be; returns how it is.

        Raises:
            NotOpened: not in any way.
        """
        self.device = device
        refused: list[str] = []
        for how, bound in self._ways(device):
            try:
                self.bound = self._held_to_the_cpu(bound())
            except NotOpened as error:
                refused.append(f"not {how}: {error}")
            except Exception as error:  # onnxruntime's and CUDA's have no common base but this
                told = (str(error).strip().splitlines() or [type(error).__name__])[0]
                refused.append(f"not {how}: {told[:240]}")
            else:
                return "; ".join([how, *refused])
        try:
            self._session = opened(self._bundle.model, self._plainly(device), wide=self._wide)
        except NotOpened:
            self.device = "cpu"
            raise
        return "; ".join(["by plain calls", *refused])

    def _ways(self, device: Device) -> Iterator[tuple[str, Callable[[], Bound]]]:
        """Ways to bind it, the closest first."""
        from specml.serving.tensorised import tensorised

        sizes = self._asked or _powers(self._most)
        told = f"{len(sizes)} sizes of 1 to {sizes[-1]} rows"
        trees = tensorised(self._bundle.model)
        cut = self._cut(device, trees or self._bundle.model)
        if cut is None:
            return
        told += ", trees as tensor operators" if trees else ""
        sample = self._sample(sizes)

        def bound(*, recorded: bool, ordered: bool) -> Bound:
            memory = _gpu()
            try:
                stream = memory.stream if ordered else 0
                if device == "tensorrt":
                    shapes = tails(cut, sample, wide=self._wide)
                    providers = devices.tensorrt(self._bundle.digest, shapes, sizes, stream)
                else:
                    providers = devices.cuda(stream=stream, recorded=recorded)
                found = Bound(
                    cut, memory, providers, sizes, sample, wide=self._wide, recorded=recorded, ordered=ordered
                )
            except BaseException:
                memory.close()
                raise
            return found

        if device == "cuda":
            yield f"recorded as CUDA graphs of {told}", lambda: bound(recorded=True, ordered=True)
            yield f"recorded as CUDA graphs in their own stream, of {told}", lambda: bound(recorded=True, ordered=False)
        yield f"bound to memory for {told}", lambda: bound(recorded=False, ordered=True)
        yield f"bound to memory in its own stream, for {told}", lambda: bound(recorded=False, ordered=False)

    def _plainly(self, device: Device) -> devices.Providers:
        return devices.cuda() if device == "cuda" else [(devices.TENSORRT, {}), *devices.cuda()]

    def _held_to_the_cpu(self, bound: Bound) -> Bound:
        """The same, if it answers as the bundle does on the CPU.

        Raises:
            NotOpened: it does not.
        """
        rows = part_of(self._sample(bound.sizes), min(bound.sizes[-1], HELD))
        try:
            answers, wanted = bound.run(bound.stage([rows])), predict(self._bundle.session(), rows)
        except BaseException:
            bound.close()
            raise
        if wrong := [name for name, array in wanted.items() if not close(answers[name], array, ROUNDED)]:
            bound.close()
            raise NotOpened(f"it gives another {wrong[0]} than the CPU")
        return bound

    def _cut(self, device: Device, graph: bytes) -> Cut | None:
        from specml.serving.cut import cut

        return cut(graph, doubles=device != "tensorrt")

    def _sample(self, sizes: Sequence[int]) -> Columns:
        return drawn(self._contract, sizes[-1] + 7)

    @property
    def _wide(self) -> bool:
        return len(self._contract.inputs) > WIDE

    def _tried(self) -> float:
        """How many times as fast it is as the CPU with full batches, by trying."""
        columns = drawn(self._contract, self._most)
        plain = self._bundle.session()
        here = _fastest(lambda: self.run(columns))
        return _fastest(lambda: predict(plain, columns)) / here

    def _let_go(self) -> None:
        if self.bound is not None:
            self.bound.close()
        self.bound = self._session = None


def _powers(most: int) -> tuple[int, ...]:
    """1, 2, 4, … and ``most``."""
    return tuple(sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)}))


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    until = time.perf_counter() + TRIED
    found: list[float] = []
    while not found or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def _gpu() -> Memory:
    from specml.serving.memory import CudaError, Gpu

    devices.preload()
    try:
        return Gpu()
    except CudaError as error:
        raise NotOpened(str(error)) from None


def _identity() -> int:
    import threading

    return threading.get_ident()
