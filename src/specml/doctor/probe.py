"""Try what may crash or hang, in a process of its own: ``python -m specml.doctor.probe TRIAL…``.

A trial is ``import:MODULE``, ``providers:`` or ``open:PROVIDER``. One JSON line is written when it begins and one when
it has ended: when the process dies or hangs in between, whoever reads them knows at which trial, and goes on with the
next ones.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PATIENCE = 60.0
"""Seconds that one trial may take: on a loaded machine an import of torch takes 20."""


@dataclass(frozen=True)
class Tried:
    """How a trial ended."""

    trial: str
    error: str = ""
    """Why it failed; empty when it did not."""
    facts: tuple[tuple[str, str], ...] = ()

    def fact(self, name: str) -> str:
        """What a trial found out beside; empty if it did not."""
        return dict(self.facts).get(name, "")


def tried(trials: Sequence[str], patience: float = PATIENCE) -> dict[str, Tried]:
    """Each trial's end. A crash or a hang costs its own trial only."""
    found: dict[str, Tried] = {}
    left = list(trials)
    while left:
        for one in _of_one_process(left, patience):
            found[one.trial] = one
        left = [trial for trial in left if trial not in found]
    return found


def _of_one_process(trials: Sequence[str], patience: float) -> Iterator[Tried]:
    """The trials that a process gets to, at least one."""
    with tempfile.TemporaryFile("w+b") as noise:
        process = subprocess.Popen(
            [sys.executable, "-m", "specml.doctor.probe", *trials],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=noise,
            cwd=tempfile.gettempdir(),  # the project's own files are no modules
            start_new_session=True,
        )
        assert process.stdout is not None
        begun, heard = trials[0], 0
        try:
            for line in _lines(process.stdout, patience):
                if line is None:
                    yield Tried(begun, f"did not end within {patience:.0f} s")
                    return
                told = json.loads(line)
                begun = told["trial"]
                if "error" in told:
                    heard += 1
                    yield Tried(begun, told["error"], tuple(sorted(told["facts"].items())))
                    begun = trials[heard] if heard < len(trials) else ""
            status = process.wait(timeout=5)
            if heard < len(trials):
                yield Tried(begun, f"{_death(status)}{_last(noise)}")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def _lines(stream: IO[bytes], patience: float) -> Iterator[bytes | None]:
    """Each line; None when none came for ``patience`` seconds."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        until = time.monotonic() + patience
        while True:
            if not selector.select(max(0.0, until - time.monotonic())):
                yield None
                return
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                until = time.monotonic() + patience
                yield line


def _death(status: int) -> str:
    if status < 0:
        return f"the process was killed by {signal.Signals(-status).name}"
    return f"the process ended with status {status}"


def _last(noise: IO[bytes]) -> str:
    noise.seek(0)
    lines = noise.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[:200]}" if lines else ""


def main(trials: Iterable[str]) -> None:
    """Do the trials, one after the other."""
    out = os.dup(1)
    os.dup2(2, 1)  # libraries print, too
    for trial in trials:
        with contextlib.suppress(OSError):  # what was said before belongs to another trial
            os.ftruncate(2, 0)
            os.lseek(2, 0, os.SEEK_SET)
        _tell(out, trial=trial)
        sort, _, name = trial.partition(":")
        facts: dict[str, str] = {}
        try:
            facts = TRIALS[sort](name)
        except Exception as error:
            _tell(out, trial=trial, error=_reason(error), facts=facts)
        else:
            _tell(out, trial=trial, error="", facts=facts)


def _tell(out: int, **what: Any) -> None:
    os.write(out, f"{json.dumps(what)}\n".encode())


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": ")


def _import(name: str) -> dict[str, str]:
    module = importlib.import_module(name)
    return {"file": str(getattr(module, "__file__", None) or "")}


def _providers(_: str) -> dict[str, str]:
    """What onnxruntime was compiled with, which says nothing of what works here."""
    import onnxruntime

    return {"compiled": ",".join(onnxruntime.get_available_providers())}


def _open(provider: str) -> dict[str, str]:
    """Run a small graph by one execution provider; ``opened`` is what the session says it runs on."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    from specml.serving.device import overheard, preload

    if provider not in ("CPUExecutionProvider", "AzureExecutionProvider"):
        preload()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with overheard() as heard:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
        answer = session.run(None, {"x": np.array([1.0, 2.0], np.float32)})[0]
        said = heard()
    if answer.tolist() != [2.0, 4.0]:
        raise RuntimeError(f"[1, 2] + [1, 2] came out as {answer.tolist()}")
    return {"opened": session.get_providers()[0], "said": said[:4000]}


TRIALS = {"import": _import, "providers": _providers, "open": _open}

if __name__ == "__main__":
    main(sys.argv[1:])
