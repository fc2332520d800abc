"""Devices: which a replica wants, which really open, and why one does not."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnxruntime

Device = Literal["cpu", "cuda", "tensorrt"]
Asked = Literal["auto", "cpu", "cuda", "tensorrt"]
Costs = dict[Device, dict[int, float]]
"""Measured seconds of a call, by its rows."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS: dict[Device, str] = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
NAMES: dict[Device, str] = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}

Providers = list[tuple[str, dict[str, str]]]

NVINFER = "libnvinfer.so.10"
"""TensorRT's library, of the version that onnxruntime is made for."""

# Float32 stays float32: TF32, the provider's default, would move answers by a thousandth.
EXACT = {"use_tf32": "0"}


class NotOpened(Exception):
    """A device does not open; says why, in the words of whoever refused."""


def gpu_visible() -> bool:
    """Whether this machine shows this process an NVIDIA GPU."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def faster(costs: Costs, one: Device, other: Device, rows: int) -> float | None:
    """How many times as fast ``one`` is as ``other`` with full batches; None where that was not measured."""
    taken = [seconds(costs.get(device, {}), rows) for device in (one, other)]
    if None in taken:
        return None
    return float(taken[1] or 0) / float(taken[0] or 1)


def seconds(measured: Mapping[int, float], rows: int) -> float | None:
    """Of a call of ``rows`` rows: of the largest measured call up to that, taken as often as needed."""
    fitting = [size for size in measured if size <= rows]
    return measured[max(fitting)] * rows / max(fitting) if fitting else None


def opened(
    graph: bytes, providers: Providers, *, wide: bool = False, config: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """A session whose first provider is the first of these.

    ``onnxruntime.get_available_providers`` tells what was compiled in, not what works: the session is opened and asked.

    ``wide``: see ``bundle.WIDE``; ``config``: entries of the session's configuration.

    Raises:
        NotOpened: it is another provider's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if wide:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    first = providers[0][0]
    with overheard() as said:
        if first != CPU:
            preload()
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise NotOpened(reason(f"{said()}\n{error}") or _first_line(error)) from None
        if session.get_providers()[0] != first:
            raise NotOpened(reason(said()) or "its libraries are missing or do not fit the driver")
    return session


def preload() -> None:
    """Load CUDA's and TensorRT's libraries from the nvidia-* and tensorrt-* wheels, where the linker does not look.

    onnxruntime does, for those of CUDA that are installed in the same folder as itself.
    """
    import onnxruntime
    from onnxruntime.capi import build_and_package_info

    major = str(getattr(build_and_package_info, "cuda_version", "")).partition(".")[0]
    versions = {"nvrtc": major, "cublasLt": major, "cublas": major, "curand": "10", "cudart": major, "cudnn": "9"}
    for folder in _package("nvidia"):
        for name, version in versions.items():
            _load(folder.glob(f"*/lib/lib{name}.so.{version}"))
    with contextlib.redirect_stdout(io.StringIO()):
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    for folder in _package("tensorrt_libs"):
        _load(folder / name for name in (NVINFER, "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"))


def _package(name: str) -> list[Path]:
    found = importlib.util.find_spec(name)
    return [Path(folder) for folder in found.submodule_search_locations or []] if found else []


def _load(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


@contextlib.contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """What libraries write to standard error meanwhile: why a provider is refused, C++ tells there alone."""
    with tempfile.TemporaryFile("w+b") as noise:
        kept = os.dup(2)
        os.dup2(noise.fileno(), 2)

        def said() -> str:
            noise.seek(0)
            lines = noise.read().decode(errors="replace").splitlines()
            return "\n".join(" ".join(line.split()) for line in lines)[:8000]

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def reason(said: str) -> str:
    """The reason that stands in what onnxruntime said; empty where there is none."""
    said = re.sub(r"\x1b\[[\d;]*m", "", said)
    library = re.search(r"with error: (.+?)\s*(?:$|\n|\d{4}-\d\d-\d\d)", said)
    failure = re.search(r"(?:CUDA failure|CUDNN failure|CUBLAS failure) ?\S* ?:?\s*(.{1,160})", said)
    install = re.search(r"Please install TensorRT libraries", said)
    refused = re.search(r"FAIL : (.{1,240})", said)
    found = library or failure
    if found:
        return found[1].strip()
    if install:
        return "TensorRT's libraries are not installed"
    return refused[1].strip() if refused else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:240]


def cuda(*, stream: int = 0, recorded: bool = False) -> Providers:
    """The providers of a session on CUDA.

    ``stream``: of CUDA, in which the session is to work; 0: one of its own. ``recorded``: whether CUDA graphs are
    recorded, which takes a graph that is on CUDA as a whole.
    """
    told = dict(EXACT)
    if stream:
        told["user_compute_stream"] = str(stream)
    if recorded:
        told["enable_cuda_graph"] = "1"
    return [(CUDA, told), (CPU, {})]


def tensorrt(digest: str, shapes: Mapping[str, Sequence[Any]], buckets: Sequence[int], stream: int = 0) -> Providers:
    """The providers of a session on TensorRT; what it can't compute is left to CUDA.

    What it builds takes seconds to minutes, and is kept for the next start: by bundle, GPU and version.

    ``digest``: the bundle's; ``shapes``: of each input, the dimensions after its rows; ``buckets``: all sizes of
    batches, ascending; ``stream``: see ``cuda``.

    Raises:
        NotOpened: TensorRT is not there, or an input's name can't be told to it.
    """
    from specml.serving.memory import CudaError, architecture

    preload()
    try:
        version = int(ctypes.CDLL(NVINFER).getInferLibVersion())
        name = f"{digest.removeprefix('sha256:')[:16]}-{architecture()}-{version}"
    except (OSError, CudaError) as error:
        raise NotOpened(str(error)) from None
    if bad := next((one for one in shapes if re.search(r"[:,\s]", one)), None):
        raise NotOpened(f"the name {bad!r} can't be told to TensorRT")
    folder = cache_folder() / "tensorrt" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def profile(rows: int) -> str:
        return ",".join(f"{one}:{'x'.join(map(str, (rows, *shape)))}" for one, shape in shapes.items())

    told = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": profile(buckets[0]),
        "trt_profile_opt_shapes": profile(buckets[-1]),
        "trt_profile_max_shapes": profile(buckets[-1]),
    }
    if stream:
        told["user_compute_stream"] = str(stream)
    return [(TENSORRT, told), *cuda(stream=stream)]


def cache_folder() -> Path:
    """Where what can be made again is kept between starts, by the XDG rules."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "specml"
