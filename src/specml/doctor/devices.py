"""What the model can be computed on: GPUs, and the execution providers that really open."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from specml.doctor.finding import Finding, ok, told, wrong
from specml.doctor.installed import AGAIN
from specml.doctor.probe import Tried, tried

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_LIBRARIES = "Install CUDA's libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"
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


def providers(gpus_wanted: float) -> Iterator[Finding]:
    """What onnxruntime opens, asked of a session that has run; ``gpus_wanted``: what each replica is to reserve."""
    compiled = tried(["providers:"])["providers:"]
    if compiled.error:
        yield wrong("onnxruntime", compiled.error, "Nothing can be packaged or served.", AGAIN)
        return
    names = [name for name in compiled.fact("compiled").split(",") if name != "AzureExecutionProvider"]
    for trial, end in tried([f"open:{name}" for name in names]).items():
        yield _provider(trial.partition(":")[2], end, gpus_wanted)


def _provider(name: str, end: Tried, gpus_wanted: float) -> Finding:
    short = name.removesuffix("ExecutionProvider")
    check = f"onnxruntime {short}"
    if not end.error and end.fact("opened") == name:
        return ok(check, "opens, and computes")
    refused = f"does not open: {_why(end)}"
    if name == CPU:
        return wrong(check, refused, "Nothing can be packaged or served.", AGAIN)
    if name == CUDA and gpus_wanted:
        why = f"serving.replicas.gpus is {gpus_wanted:g}: replicas would answer on the CPU."
        return wrong(check, refused, why, CUDA_LIBRARIES)
    if name == CUDA and any(Path("/dev").glob("nvidia[0-9]*")):
        return told(check, refused, "This machine has a GPU; no replica can use it.", CUDA_LIBRARIES)
    return ok(check, refused)


def _why(end: Tried) -> str:
    """The reason that stands in what onnxruntime said."""
    if end.error:
        return end.error
    said = re.sub(r"\x1b\[[\d;]*m", "", end.fact("said"))
    library = re.search(r"with error: (.+?)\s*(?:$|\d{4}-\d\d-\d\d)", said)
    failure = re.search(r"(?:CUDA failure|FAIL) ?\S* ?:?\s*(.{1,160})", said)
    found = library or failure
    return found[1].strip() if found else f"the session runs on {end.fact('opened') or 'nothing'}"
