"""Refuse to work from a spec that was edited after the last compile.

DVC can't see that params.yaml and dvc.yaml come from the spec. This stage depends on the spec's files; its output
never changes, so that an edit by itself re-runs nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.files import write_atomic
from specml.plan import Stage

if TYPE_CHECKING:
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/guard.txt"


def declare(spec: Spec) -> Stage:
    """Its dependencies, the spec's files, are added by the compiler, which knows them."""
    return Stage(name="guard", summary="the compiled files say what the spec says", outs=(OUT,))


def work(work: Work) -> None:
    """Nothing is left to do: whoever runs the stage has compared spec and params.yaml (``cli/stage.py``)."""
    write_atomic(work.path(OUT), "compiled\n")
