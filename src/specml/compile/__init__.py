"""Spec → plan: pure. No file is read or written, no clock is asked, no ML library is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specml import __version__
from specml.plan import Plan, Stage
from specml.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from specml.spec import Spec


VERSION = "specml"
"""The key of params.yaml that holds specml's version."""

COMPONENTS = ("candidates", "compliance.rules", "data.sources", "features", "gates")
"""Sections whose values are components: a stage that reads one runs its code."""


def compile_plan(spec: Spec, files: tuple[str, ...] = (), code: tuple[str, ...] = ()) -> Plan:
    """What ``spec`` asks for.

    ``files`` are those it was composed from, ``code`` those of its plug-ins, both relative to the project.
    """
    plan = spec.ruled(Plan(spec.name, (), spec.model_dump(mode="json")))
    ruled = type(spec).model_validate(plan.params) if spec.compliance.rules else spec
    asked_for = {
        "champion": any(gate.against_champion for gate in ruled.gates.values()),
        "compare": ruled.mitigation.asked,
        "feasibility": ruled.problem.feasibility.learning_curve,
        "screen": ruled.search.screen,
        "fingerprint": any(source.remote for source in ruled.data.sources.values()),
    }
    stages = tuple(_stage(name, ruled, files, code) for name in STAGES if asked_for.get(name, True))
    plan = ruled.ruled(replace(plan, stages=stages))
    return replace(plan, params={VERSION: __version__, **plan.params})


def ruled_spec(params: Mapping[str, Any]) -> dict[str, Any]:
    """The spec in a plan's parameters: with every default and what its rules add; secrets stay references.

    Beside it stands specml's version, on which every stage depends: what another one made may be made differently.
    """
    return {key: value for key, value in params.items() if key != VERSION}


def _stage(name: str, spec: Spec, files: tuple[str, ...], code: tuple[str, ...]) -> Stage:
    stage = STAGES[name].declare(spec)
    if name == "guard":
        return replace(stage, deps=(*files, *stage.deps))
    runs_components = any(param.startswith(COMPONENTS) for param in stage.params)
    return replace(stage, params=(VERSION, *stage.params), deps=(*stage.deps, *code) if runs_components else stage.deps)
