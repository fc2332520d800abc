"""The bundle's graph on the best device that really opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from specml.bundle import predict
from specml.serving.announce import example_row
from specml.serving.request import named

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

    from specml.bundle import Bundle

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class Session:
    """An opened graph; ``provider`` is the device that it runs on, ``why`` the reason for it.

    Args:
        gpu: whether a GPU may be used: this replica has reserved (a part of) one.
    """

    def __init__(self, bundle: Bundle, *, gpu: bool) -> None:
        self._contract = bundle.contract
        self._session, self.provider, self.why = _open(bundle, gpu=gpu)

    def run(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs [n, …] for columns [n]."""
        return predict(self._session, columns)

    def warm_up(self, sizes: tuple[int, ...]) -> None:
        """Run once per size, so that no request pays for the first call's allocations."""
        row = example_row(self._contract)
        for size in sizes:
            self.run(named([row] * size, self._contract).columns)


def _open(bundle: Bundle, *, gpu: bool) -> tuple[onnxruntime.InferenceSession, str, str]:
    """A session, its provider, and why that one.

    ``onnxruntime.get_available_providers`` tells what was compiled in, not what works: the session is
    opened and asked.
    """
    if not gpu:
        return bundle.session(), CPU, "the replica reserves no GPU"
    if not gpu_visible():
        return bundle.session(), CPU, "no NVIDIA GPU is visible to the replica"
    import onnxruntime

    # onnxruntime-gpu finds the CUDA libraries of the nvidia-* wheels only when told to look there.
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        preload()
    session = bundle.session(providers=[CUDA, CPU])
    opened = session.get_providers()[0]
    if opened == CUDA:
        return session, CUDA, "the replica reserves a GPU"
    return session, opened, "the CUDA provider did not open: its libraries are missing or do not fit the driver"


def gpu_visible() -> bool:
    """Whether this machine shows this process an NVIDIA GPU."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))
