"""``specml stage NAME [KEY]``: what the commands in dvc.yaml call. Not for people."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml import fence, stages, values
from specml.cli import missing
from specml.compile import compile_plan, ruled_spec
from specml.compile.dvc import Parameters, compiled_digest, read_params
from specml.errors import SpecmlError, StageFailed, StaleCompile, of_system
from specml.events import Events
from specml.files import guarded
from specml.processes import die_with_parent, wait_without_spinning
from specml.stages.work import Work, narrowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.plan import Stage
    from specml.spec import Spec


@click.command("stage", hidden=True)
@click.argument("name")
@click.argument("key", default="")
def command(name: str, key: str) -> None:
    """Do the work of one stage in the current folder."""
    die_with_parent()
    wait_without_spinning()
    folder = Path.cwd()
    label = f"{name}@{key}" if key else name
    events = Events.from_environment(label)
    started = time.monotonic()
    events.tell("start")
    number = os.environ.get(fence.VARIABLE)
    try:
        fenced = guarded(lambda: fence.newest(folder, number)) if number else contextlib.nullcontext()
        with _logged(folder / ".specml" / "log" / f"{label}.log"), fenced:
            _work(name, key, folder, events)
    except SpecmlError as error:
        events.tell("error", text=str(error), status=error.status)
        raise
    except MemoryError:
        text = "out of memory; use fewer rows, or a machine with more."
        events.tell("error", text=text, status=StageFailed.status)
        raise StageFailed(text, where=label) from None
    except OSError as error:
        refused = str(of_system(error, folder))
        events.tell("error", text=refused, status=StageFailed.status)
        raise StageFailed(refused) from None
    except ModuleNotFoundError as error:
        text = missing(error)
        events.tell("error", text=text, status=StageFailed.status)
        raise StageFailed(text, where=label) from None
    except Exception as error:
        log = folder / ".specml" / "log" / f"{label}.log"
        with log.open("a") as file:
            file.write(traceback.format_exc())
        text = f"ended in a {type(error).__name__}, which specml does not know; see {log.relative_to(folder)}"
        events.tell("error", text=text, status=StageFailed.status)
        raise StageFailed(text, where=label) from None
    events.tell("done", seconds=round(time.monotonic() - started, 2))


def _work(name: str, key: str, folder: Path, events: Events) -> None:
    from specml.load import validate

    if name not in stages.STAGES:
        raise StageFailed(f"there is no stage {name!r}.", hint=f"Stages: {', '.join(stages.STAGES)}.")
    module = stages.STAGES[name]
    params = read_params((folder / "params.yaml").read_text(encoding="utf-8"))
    spec = validate(ruled_spec(params.values), _where, folder)
    plan = compile_plan(spec)
    stage = next(stage for stage in plan.stages if stage.name == name)
    if key and key not in stage.keys:
        raise StageFailed(f"params.yaml has no {stage.each}.{key}.", where=name, hint="Run `specml compile`.")
    _hide(spec, stage, key)
    if name == "guard":
        _compare(folder, params)
    module.work(Work(stage, folder, narrowed(spec, stage, key), events.say, key, plan.obligations))


def _hide(spec: Spec, stage: Stage, key: str) -> None:
    """Take the secrets that the stage does not declare out of its environment: nothing that it starts has them."""
    declared = [tuple(param.replace("${key}", key).split(".")) for param in stage.params]
    known = list(values.secrets(spec))
    needed = {secret.name for path, secret in known if any(path[: len(one)] == one for one in declared)}
    for name in {secret.name for _, secret in known} - needed:
        os.environ.pop(name, None)


def _where(path: tuple[Any, ...]) -> str:
    return "params.yaml"


def _compare(folder: Path, params: Parameters) -> None:
    from specml.load import load

    plan = compile_plan(load(folder / params.spec, params.overrides).spec)
    if compiled_digest(plan.params) != params.compiled:
        raise StaleCompile(
            "the spec was edited after the last compile.",
            where="params.yaml",
            hint="Run `specml compile`, or `specml run`, which does it.",
        )


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send whatever the libraries print to a file; DVC's own output stays readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (log, *kept):
            os.close(descriptor)
