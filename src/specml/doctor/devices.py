"""What the model can be computed on: GPUs, and the execution providers that really open."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from specml.doctor.finding import Finding, ok, told, wrong
from specml.doctor.installed import AGAIN
from specml.doctor.probe import Tried, tried
from specml.serving.device import CPU, CUDA, PROVIDERS, TENSORRT, gpu_visible, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

CUDA_LIBRARIES = "Install CUDA's libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"
TENSORRT_LIBRARIES = "Install TensorRT beside CUDA's libraries: pip install tensorrt-cu13"
DRIVER = "Install a driver of NVIDIA's that is new enough: 580 for CUDA 13, 525 for CUDA 12."
ASKED = ("index", "name", "driver_version", "memory.total", "memory.used")


def gpus() -> Iterator[Finding]:
    """The NVIDIA GPUs of this machine, as the driver and ``/dev`` tell them."""
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        what = f"{', '.join(devices)} in /dev, but no nvidia-smi" if devices else "none"
        yield told("gpu", what, "The driver can't be asked.") if devices else ok("gpu", what)
        return
    try:
        question = [tool, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
        done = subprocess.run(question, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield told("gpu", f"nvidia-smi gives no answer ({type(error).__name__})", "The driver may hang.")
        return
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[:200]
        yield told("gpu", f"nvidia-smi fails: {said}", "No replica can use a GPU.", "Mend the driver.")
        return
    for line in done.stdout.strip().splitlines():
        index, name, driver, total, used = (part.strip() for part in line.split(","))
        yield ok("gpu", f"{index}: {name}, driver {driver}, {used} of {total} in use")


def providers(gpus_wanted: float, device: str = "auto") -> Iterator[Finding]:
    """What onnxruntime opens, asked of a session that has run.

    ``gpus_wanted``: what each replica is to reserve; ``device``: on what it is to run.
    """
    compiled = tried(["providers:"])["providers:"]
    if compiled.error:
        yield wrong("onnxruntime", compiled.error, "Nothing can be packaged or served.", AGAIN)
        return
    names = [name for name in compiled.fact("compiled").split(",") if name != "AzureExecutionProvider"]
    for trial, end in tried([f"open:{name}" for name in names]).items():
        yield _provider(trial.partition(":")[2], end, gpus_wanted, device)


def _provider(name: str, end: Tried, gpus_wanted: float, device: str) -> Finding:
    short = name.removesuffix("ExecutionProvider")
    check = f"onnxruntime {short}"
    if not end.error and end.fact("opened") == name:
        return ok(check, "opens, and computes")
    why = _why(end)
    refused, mend = f"does not open: {why}", _mend(name, why)
    if name == CPU:
        return wrong(check, refused, "Nothing can be packaged or served.", AGAIN)
    if PROVIDERS.get(device, "") == name:  # type: ignore[call-overload]
        return wrong(check, refused, f"serving.device is {device}: replicas would not start.", mend)
    if name == CUDA and gpus_wanted and device == "auto":
        why = f"serving.replicas.gpus is {gpus_wanted:g}: replicas would answer on the CPU."
        return wrong(check, refused, why, mend)
    if name == CUDA and gpu_visible():
        return told(check, refused, "This machine has a GPU; no replica can use it.", mend)
    return ok(check, refused)


def _mend(name: str, why: str) -> str:
    """What makes a provider open that was refused for this reason."""
    if "driver version is insufficient" in why or "no CUDA-capable device" in why:
        return DRIVER
    return TENSORRT_LIBRARIES if name == TENSORRT else CUDA_LIBRARIES


def _why(end: Tried) -> str:
    """The reason that stands in what onnxruntime said."""
    if end.error:
        return end.error
    return reason(end.fact("said")) or f"the session runs on {end.fact('opened') or 'nothing'}"
