"""Spec → plan: pure. No file is read or written, no clock is asked, no ML library is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specml import __version__
from specml.plan import Plan, Stage
from specml.stages import STAGES

if TYPE_CHECKING:
    from specml.spec import Spec


VERSION = "specml"
"""The key of params.yaml that holds specml's version."""

COMPONENTS = ("candidates", "data.sources", "features", "gates")
"""Sections whose values are components: a stage that reads one runs its code."""


def compile_plan(spec: Spec, files: tuple[str, ...] = (), code: tuple[str, ...] = ()) -> Plan:
    """What ``spec`` asks for.

    ``files`` are those it was composed from, ``code`` those of its plug-ins, both relative to the project.
    """
    stages = tuple(_stage(name, spec, files, code) for name in STAGES)
    return Plan(name=spec.name, stages=stages, params=parameters(spec))


def parameters(spec: Spec) -> dict[str, Any]:
    """The content of params.yaml: specml's version, and the spec with every default; secrets stay references.

    Every stage depends on the version: what another one made may be made, or written, differently.
    """
    return {VERSION: __version__, **spec.model_dump(mode="json")}


def _stage(name: str, spec: Spec, files: tuple[str, ...], code: tuple[str, ...]) -> Stage:
    stage = STAGES[name].declare(spec)
    if name == "guard":
        return replace(stage, deps=(*files, *stage.deps))
    runs_components = any(param.startswith(COMPONENTS) for param in stage.params)
    return replace(stage, params=(VERSION, *stage.params), deps=(*stage.deps, *code) if runs_components else stage.deps)
