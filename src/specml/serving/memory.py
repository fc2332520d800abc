"""Where a device's values lie: fixed memory of the CPU, or of a GPU with memory beside it that copies fast.

``Gpu`` speaks to CUDA's runtime library itself: onnxruntime's Python interface has neither pinned memory nor copies
that follow one another in a stream.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

ALIGNED = 256
"""Bytes at whose multiples values begin: what CUDA's own allocator gives."""


class Buffer:
    """Bytes that the CPU can write and read, and where they lie."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        """uint8 [size]."""
        self.address = int(array.ctypes.data)


class Memory(Protocol):
    """A device's memory, and the way to it and back; all of it is used by one thread."""

    device: str
    """By onnxruntime's name."""
    stream: int
    """Of CUDA, in which copies and the session's work follow one another; 0 where there is none."""

    def buffer(self, size: int) -> Buffer:
        """Memory of the CPU from which the device copies fast."""
        ...

    def reserve(self, size: int) -> int:
        """The address of memory on the device; it stays until ``close``."""
        ...

    def send(self, target: int, source: int, size: int) -> None:
        """Copy to the device; what runs in ``stream`` afterwards sees it."""
        ...

    def fetch(self, target: int, source: int, size: int) -> None:
        """Copy from the device; it is there after ``wait``."""
        ...

    def wait(self) -> None:
        """Until all that was asked for is done."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Cpu:
    """The CPU's own memory: copies are copies, and nothing is waited for."""

    device, stream = "cpu", 0

    def __init__(self) -> None:
        self._kept: list[Buffer] = []

    def buffer(self, size: int) -> Buffer:
        """Aligned bytes."""
        import numpy as np

        raw = np.zeros(size + ALIGNED, dtype=np.uint8)
        start = -int(raw.ctypes.data) % ALIGNED
        return Buffer(raw[start : start + size])

    def reserve(self, size: int) -> int:
        """The same, by address."""
        self._kept.append(self.buffer(size))
        return self._kept[-1].address

    def send(self, target: int, source: int, size: int) -> None:
        """Copy."""
        ctypes.memmove(target, source, size)

    fetch = send

    def wait(self) -> None:
        """All is done already."""

    def close(self) -> None:
        """Let go."""
        self._kept.clear()


class CudaError(Exception):
    """CUDA's runtime library refuses."""


class Gpu:
    """An NVIDIA GPU's memory, pinned memory beside it, and a stream.

    Raises:
        CudaError: there is no runtime library, or it refuses.
    """

    device = "cuda"

    def __init__(self) -> None:
        self._lib = _runtime()
        self._pinned: list[int] = []
        self._reserved: list[int] = []
        self._ask("cudaSetDevice", ctypes.c_int(0))
        self.stream = self._pointer("cudaStreamCreateWithFlags", ctypes.c_uint(1))  # waits for no other stream

    def buffer(self, size: int) -> Buffer:
        """Pinned memory: the GPU reads it by itself."""
        import numpy as np

        address = self._pointer("cudaHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))
        self._pinned.append(address)
        made = (ctypes.c_uint8 * size).from_address(address)
        array = np.frombuffer(memoryview(made), dtype=np.uint8)
        array[:] = 0
        return Buffer(array)

    def reserve(self, size: int) -> int:
        """Memory of the GPU."""
        self._reserved.append(self._pointer("cudaMalloc", ctypes.c_size_t(size)))
        return self._reserved[-1]

    def send(self, target: int, source: int, size: int) -> None:
        """Ask for a copy to the GPU."""
        self._copy(target, source, size, 1)

    def fetch(self, target: int, source: int, size: int) -> None:
        """Ask for a copy from the GPU."""
        self._copy(target, source, size, 2)

    def wait(self) -> None:
        """Until the stream has come to its end."""
        self._check(self._lib.cudaStreamSynchronize(ctypes.c_void_p(self.stream)), "cudaStreamSynchronize")

    def close(self) -> None:
        """Give the memory back; what fails then is of no use to anybody."""
        for address in self._reserved:
            self._lib.cudaFree(ctypes.c_void_p(address))
        for address in self._pinned:
            self._lib.cudaFreeHost(ctypes.c_void_p(address))
        self._reserved.clear()
        self._pinned.clear()

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        done = self._lib.cudaMemcpyAsync(
            ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), kind, ctypes.c_void_p(self.stream)
        )
        self._check(done, "cudaMemcpyAsync")

    def _pointer(self, name: str, *arguments: object) -> int:
        """What a function of the library puts where its first argument points."""
        found = ctypes.c_void_p()
        self._ask(name, ctypes.byref(found), *arguments)
        return int(found.value or 0)

    def _ask(self, name: str, *arguments: object) -> None:
        self._check(getattr(self._lib, name)(*arguments), name)

    def _check(self, done: int, name: str) -> None:
        if done:
            raise CudaError(f"{name}: {self._lib.cudaGetErrorString(done).decode()}")


def _runtime() -> ctypes.CDLL:
    """The runtime library that onnxruntime has loaded.

    Raises:
        CudaError: there is none.
    """
    from onnxruntime.capi import build_and_package_info

    major = str(getattr(build_and_package_info, "cuda_version", "")).partition(".")[0]
    try:
        lib = ctypes.CDLL(f"libcudart.so.{major}")
    except OSError as error:
        raise CudaError(str(error)) from None
    lib.cudaGetErrorString.restype = ctypes.c_char_p
    return lib


def architecture() -> str:
    """The compute capability of the first GPU, as ``sm90``.

    Raises:
        CudaError: the runtime library does not tell.
    """
    lib, found = _runtime(), []
    for attribute in (75, 76):  # cudaDevAttrComputeCapabilityMajor, …Minor
        value = ctypes.c_int()
        if done := lib.cudaDeviceGetAttribute(ctypes.byref(value), attribute, 0):
            raise CudaError(f"cudaDeviceGetAttribute: {lib.cudaGetErrorString(done).decode()}")
        found.append(value.value)
    return f"sm{found[0]}{found[1]}"
