"""An override may tighten a gate and never loosen it: that stands in the spec, where it is seen and reviewed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from specml import admission, strictness
from specml.errors import Problem, SpecError
from specml.load.compose import compose, tuples
from specml.load.overrides import named
from specml.load.reference import References
from specml.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path as File

    from specml.document import Document, Path

GUARDED = ("gates", "compliance")
HINT = "An override may only tighten. Change the spec, or have the gate waived there (compliance.waivers)."


def problems(
    document: Document, folder: File, overrides: Sequence[str], spec: Spec, where: Callable[[Path], str]
) -> list[Problem]:
    """What ``overrides`` loosen in ``spec``, against the file without them; each override by name.

    A waiver that lives, in the file itself, lets the gate be loosened that it names. A file that is a spec with these
    overrides only has nothing to be held against. Gates that a rule adds are the rule's to take back.
    """
    plain = _without(document, folder, overrides)
    return [] if plain is None else list(_problems(plain, spec, overrides, where))


def _without(document: Document, folder: File, overrides: Sequence[str]) -> Spec | None:
    """The spec without overrides or, where that is none, without those of what is guarded."""
    others = [text for text in overrides if _section(text) not in GUARDED]
    for kept in [(), others] if others else [()]:
        try:
            references = References(compose(document, folder, tuple(kept)).tree, lambda _: "")
            return Spec.model_validate(tuples(references.resolved()), strict=True)
        except (ValidationError, SpecError):
            continue
    return None


def _problems(before: Spec, after: Spec, overrides: Sequence[str], where: Callable[[Path], str]) -> Iterator[Problem]:
    day = admission.today()
    waived = {one.gate for one in before.compliance.waivers.values() if one.expires >= day}
    for change in strictness.gates(before.gates, after.gates):
        if not change.loosened or change.gate in waived:
            continue
        path: Path = ("gates", change.gate)
        if change.way == "removed":
            what = f"removes the gate {change.gate} ({change.type}), which the spec asks for."
            yield Problem(_override(path, overrides, where), f"gates.{change.gate}", what, HINT)
        for move in change.moves:
            if move.way != "tightened":
                place = _override((*path, move.option), overrides, where)
                yield Problem(place, f"gates.{change.gate}.{move.option}", _said(change, move), HINT)
    for one in strictness.weakened(before.with_rules(), after.with_rules()):
        if one.key.startswith("compliance"):
            hint = "Change the spec: who protects people stands where it is reviewed."
            yield Problem(_override(("compliance",), overrides, where), one.key, f"weakens it: {one.what}.", hint)


def _said(change: strictness.Change, move: strictness.Move) -> str:
    does = "loosens" if move.way == "loosened" else "may loosen"
    now, spec = strictness.said(move.after), strictness.said(move.before)
    return f"{does} the gate {change.gate}: {now}, where the spec says {spec}."


def _override(path: Path, overrides: Sequence[str], where: Callable[[Path], str]) -> str:
    """The override that set what stands at ``path``; else the last that has to do with its section."""
    place = where(path)
    if place.startswith("override "):
        return place
    return next((named(text) for text in reversed(overrides) if _section(text) == path[0]), named(overrides[-1]))


def _section(text: str) -> str:
    found = re.match(r"[~+]*(\w+)", text)
    return found[1] if found else ""
