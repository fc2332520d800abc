"""Have DVC's stages run in processes that are forked from its own, with the libraries loaded already.

``exec specml stage NAME`` starts Python and loads what the stage needs, a second or two of a core for each of a dozen
stages. Within a run that specml started, the same code is run in a fork instead. Plain ``dvc repro`` goes by the
commands, with the same outcome.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.compile.dvc import read_params
from specml.errors import SpecmlError
from specml.processes import die_with_parent, wait_without_spinning

if TYPE_CHECKING:
    from collections.abc import Sequence

FORK = multiprocessing.get_context("fork")

Perform = Callable[[list[str]], int]
"""What ``specml ARGUMENTS`` does, in this process; returns its exit status."""

COMMAND = re.compile(r"exec specml (stage \w+(?: [\w-]+)?)")
"""Ours, as they stand in dvc.yaml."""

SHARED = (
    "polars", "numpy", "scipy.special", "sklearn.metrics", "sklearn.model_selection", "sklearn.linear_model",
    "threadpoolctl", "lightgbm", "onnx", "onnxruntime",
)  # fmt: skip
"""What most stages load. What one alone needs, it loads itself."""
FEW: dict[str, tuple[str, ...]] = {"guard": (), "fingerprint": ("polars",), "ingest": ("polars",)}
"""What the other stages load of it."""
THREADED = ("polars", "torch", "onnxruntime", "lightgbm")
"""Libraries whose threads a fork would lack: they may be loaded, but not used, before."""


def load_for(stages: Sequence[str]) -> None:
    """Load what the stages need (``train@gbm``, say); one that can't be loaded is told by the stage that needs it."""
    wait_without_spinning()
    names = {stage.partition("@")[0] for stage in stages}
    for module in sorted({module for name in names for module in FEW.get(name, SHARED)}):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def fork_stages(perform: Perform) -> bool:
    """From here on, DVC in this process runs our stages by forks that call ``perform``; False where it can't."""
    from dvc.stage import run
    from dvc.stage.exceptions import StageCmdFailedError

    if not hasattr(run, "_run") or any(name in sys.modules for name in THREADED):
        return False
    by_command = run._run

    with contextlib.suppress(OSError, SpecmlError):  # told by the stage that reads it
        read_params(Path("params.yaml").read_text(encoding="utf-8"))

    def forked(executable: str | None, cmd: str, **options: Any) -> None:
        found = COMMAND.fullmatch(cmd)
        if found is None:
            by_command(executable, cmd, **options)
            return
        arguments = found[1].split()
        load_for(arguments[1:2])
        gc.freeze()  # else a collection in the fork writes to, and so copies, all that it shares
        process = FORK.Process(target=_stage, args=(os.getpid(), perform, arguments, options["cwd"], options["env"]))
        process.start()
        process.join()
        if process.exitcode:
            raise StageCmdFailedError(cmd, process.exitcode)

    run._run = forked
    return True


def _stage(parent: int, perform: Perform, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    die_with_parent(parent)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(perform(arguments))
