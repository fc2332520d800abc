"""What a stage's work is given: its part of the spec, the project folder, and a way to tell how far it is."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from typing_extensions import override

from specml.errors import SpecmlError

if TYPE_CHECKING:
    from specml.plan import Obligation, Stage
    from specml.spec import Spec

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """One stage at work."""

    stage: Stage
    folder: Path
    spec: Spec
    """Narrowed: reading a section that the stage does not declare to DVC is an error."""
    say: Callable[..., None]
    """``say(text, done=0.4)``: progress for a person; ``done`` is the share finished. ``note=True``: what a person
    should know of the data, and is shown until the end."""
    key: str = ""
    """Which source or candidate, for a stage that is repeated."""
    obligations: tuple[Obligation, ...] = ()
    """Of the plan: they follow from ``compliance.rules``."""

    def path(self, relative: str) -> Path:
        """A path of the project, ``${key}`` filled in."""
        return self.folder / relative.replace("${key}", self.key)


def threads() -> int:
    """Threads a stage may use: ``SPECML_THREADS``, or every core that this process may run on."""
    declared = os.environ.get("SPECML_THREADS", "")
    if declared:
        if not declared.isdecimal() or int(declared) < 1:
            raise SpecmlError(f"is {declared!r}, not a number of threads.", where="SPECML_THREADS")
        return int(declared)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def narrowed(spec: Spec, stage: Stage, key: str = "") -> Spec:
    """``spec`` reduced to what ``stage`` declares: what DVC tracks and what is read can't part."""
    declared = tuple(tuple(name.replace("${key}", key).split(".")) for name in stage.params)
    return cast("Spec", _Part(spec, declared, ()))


class _Part:
    """A section of which only some keys may be read."""

    def __init__(self, value: Any, declared: tuple[Path_, ...], path: Path_) -> None:
        self._value, self._declared, self._path = value, declared, path

    @override
    def __reduce__(self) -> tuple[type[_Part], tuple[Any, ...]]:
        return _Part, (self._value, self._declared, self._path)

    def __getattr__(self, name: str) -> Any:
        value = self._value
        if isinstance(value, BaseModel) and name not in type(value).model_fields:
            attribute = getattr(type(value), name)
            if isinstance(attribute, property):
                return cast("Any", attribute.fget)(self)
            return types.MethodType(attribute, self)
        if isinstance(value, dict):
            return getattr(value, name)
        return self._child(name, getattr(value, name))

    def __getitem__(self, name: str) -> Any:
        return self._child(name, self._value[name])

    def _child(self, name: str, value: Any) -> Any:
        path = (*self._path, name)
        if any(path[: len(known)] == known for known in self._declared):
            return value
        if any(known[: len(path)] == path for known in self._declared):
            return _Part(value, self._declared, path)
        raise LookupError(f"the stage reads {'.'.join(path)}, which it does not declare")
