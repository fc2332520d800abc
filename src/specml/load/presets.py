"""Presets: named pieces of a spec, as Hydra groups: a folder for each section, a file for each choice."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from specml.document import Document, Path, read_file
from specml.errors import Problem, SpecError
from specml.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def shipped() -> File:
    """The folder of the presets that come with specml: in the wheel, or beside ``src`` in a checkout."""
    package = File(__file__).parents[1]
    wheel = package / "conf"
    return wheel if wheel.is_dir() else package.parents[1] / "conf"


@dataclass
class Presets:
    """Those of a project's ``conf/`` before those that come with specml."""

    folder: File
    """The project's folder."""
    files: set[str] = field(default_factory=set)
    """The project's preset files that were read, relative to ``folder``."""

    def options(self, group: str) -> list[str]:
        """The choices of a group, sorted; none when it is no group."""
        if group not in Spec.model_fields:
            return []
        roots = (self.folder / "conf", shipped())
        names = {file.stem for root in roots for file in (root / group).glob("*.yaml")}
        return sorted(name for name in names if OPTION.fullmatch(name))

    def groups(self) -> list[str]:
        """The sections for which there are presets."""
        return [section for section in Spec.model_fields if self.options(section)]

    def unknown(self, group: str, option: Any) -> tuple[str, str] | None:
        """What is wrong with a choice, and what helps; None when it can be read."""
        known = self.options(group)
        if not known:
            near = get_close_matches(group, self.groups(), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are presets for: {', '.join(self.groups())}."
            return f"{group!r} is no group of presets.", hint
        if option not in known:
            near = get_close_matches(str(option), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else ""
            return f"{option!r} is no preset for {group}: {', '.join(known)}.", hint
        return None

    def read(self, group: str, option: str) -> Document:
        """A preset, its paths counted from the root of the spec."""
        own = self.folder / "conf" / group / f"{option}.yaml"
        if own.is_file():
            name = own.relative_to(self.folder).as_posix()
            self.files.add(name)
            found = read_file(own, name)
        else:
            found = read_file(shipped() / group / f"{option}.yaml", f"preset {group}/{option}")
        if found.package not in (None, group):
            what = f"asks for the package {found.package!r}; this preset goes under {group!r}."
            raise SpecError([Problem(found.places[()], "@package", what, "Remove the line # @package.")])
        if isinstance(found.tree.get("defaults"), list):
            what = "lists presets; only a spec can."
            raise SpecError([Problem(found.places["defaults",], "defaults", what, "List them in the spec.")])
        places: dict[Path, str] = {(group, *path): place for path, place in found.places.items()}
        return Document(found.name, {group: found.tree}, places, None)


def defaults_of(spec: Document, presets: Presets) -> dict[str, tuple[str, ...]]:
    """The presets that a spec's ``defaults`` list, by group.

    Raises:
        SpecError: something in the list is no preset, or ``_self_`` stands before one: its values would win
            over the spec's own.
    """
    listed = spec.tree.get("defaults", [])
    problems: list[Problem] = []
    choices: dict[str, tuple[str, ...]] = {}

    def refuse(index: int | None, what: str, hint: str = "") -> None:
        path: Path = ("defaults",) if index is None else ("defaults", index)
        problems.append(Problem(spec.places.get(path, spec.places[()]), ".".join(map(str, path)), what, hint))

    if not isinstance(listed, list):
        refuse(None, "must be a list of presets, as [candidates: fast, _self_].")
        listed = []
    for index, item in enumerate(listed):
        if item == "_self_":
            if index < len(listed) - 1:
                refuse(index, "_self_ stands before a preset, whose values would win over your own.", "Put it last.")
        elif not isinstance(item, dict) or len(item) != 1:
            refuse(index, "is no choice of a preset.", "Write it as - candidates: fast")
        else:
            ((group, chosen),) = item.items()
            options = tuple(chosen) if isinstance(chosen, list) else (chosen,)
            fault = _fault(group, options, choices, presets)
            if fault is not None:
                refuse(index, *fault)
            else:
                choices[group] = options
    if problems:
        raise SpecError(problems)
    return choices


def _fault(group: str, options: Sequence[Any], choices: Mapping[str, Any], presets: Presets) -> tuple[str, str] | None:
    if re.search(r"[@/ :]", group) or group.startswith("hydra"):
        return f"{group!r} is no plain group: overrides, packages and hydra's own groups are closed.", ""
    if group in choices:
        return f"chooses {group!r} a second time.", f"Write one line: - {group}: [a, b]"
    return next((fault for option in options if (fault := presets.unknown(group, option))), None)
