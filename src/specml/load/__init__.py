"""From files and overrides to a valid spec, or to every problem with its place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from specml import component
from specml.document import Path as Keys
from specml.document import read_file
from specml.errors import Problem, SpecError
from specml.load import loosening, wording
from specml.load.compose import compose, tuples
from specml.load.reference import References, dotted
from specml.load.repair import repaired
from specml.spec import Spec

VERSION = 1
"""Of the language; ``docs/spec-versions.md`` says how it grows."""

NAMES = (Path("conf", "spec.yaml"), Path("spec.yaml"))
"""Where a project keeps its spec, in the order in which they are looked for."""


@dataclass(frozen=True)
class Loaded:
    """A spec and where all of it comes from."""

    spec: Spec
    folder: Path
    """The project's: the spec file's, or its parent when that is called ``conf``."""
    path: Path
    """The spec file."""
    overrides: tuple[str, ...]
    files: tuple[str, ...]
    """The project's files that were read, relative to ``folder``, sorted."""
    origins: Mapping[Keys, str]
    """Where the value at a path was set: ``file:line:column``, ``preset group/name:line:column`` or
    ``override 'a.b=c'``; defaults have none."""


def load(path: Path | None = None, overrides: Sequence[str] = (), *, may_loosen: bool = False) -> Loaded:
    """The spec in ``path`` (a file or a project's folder; this folder's when None), with ``overrides``.

    Raises:
        SpecError: with every problem found; one is that an override loosens a gate, unless that ``may_loosen``.
    """
    file = _find(path)
    folder = _project(file)
    name = file.relative_to(folder).as_posix()
    document = read_file(file, name)
    _closed(document.tree, document.package, document.places)
    composed = compose(document, folder, tuple(overrides))

    def where(keys: Keys) -> str:
        while keys not in composed.origins:
            keys = keys[:-1]
        return composed.origins[keys]

    references = References(composed.tree, where)
    tree = references.resolved()
    try:
        spec = validate(tree, where, folder)
    except SpecError as error:
        broken = {dotted(keys) for keys in references.broken}
        others = [problem for problem in error.problems if problem.key not in broken]
        raise SpecError(_sorted([*references.problems, *others])) from None
    if references.problems:
        raise SpecError(_sorted(references.problems))
    if overrides and not may_loosen and (problems := loosening.problems(document, folder, overrides, spec, where)):
        raise SpecError(_sorted(problems))
    files = tuple(sorted({name, *composed.files}))
    return Loaded(spec, folder, file, tuple(overrides), files, composed.origins)


def validate(tree: dict[str, Any], where: Callable[[Keys], str], folder: Path) -> Spec:
    """The spec that a tree of plain values describes; ``where`` tells the place of a path.

    Raises:
        SpecError: with every problem found.
    """
    version = tree.get("spec", VERSION)
    if version != VERSION or isinstance(version, bool):
        what = f"is version {wording.seen(version, ('spec',))} of the language; this specml reads version {VERSION}."
        raise SpecError([Problem(where(("spec",)), "spec", what, "Write spec: 1, or use the specml that reads it.")])
    _plugins(tree, where, folder)
    try:
        spec = Spec.model_validate(tuples(tree), strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    else:
        contradictions = _contradictions(spec, where)
        if contradictions:
            raise SpecError(_sorted(contradictions))
        return spec
    found = list(wording.problems(errors, tree, where).values())
    told = {problem.key for problem in found}
    guess = repaired(tree, errors)
    with contextlib.suppress(ValidationError):
        meant = Spec.model_validate(tuples(guess.tree), strict=True)
        others = _contradictions(meant, where, guess.trusts)
        found += [problem for problem in others if problem.key not in told]
    raise SpecError(_sorted(found))


def _contradictions(
    spec: Spec, where: Callable[[Keys], str], counts: Callable[[Keys], bool] = lambda _: True
) -> list[Problem]:
    return [
        Problem(where(one.key), dotted(one.key), one.what, one.hint) for one in spec.contradictions() if counts(one.key)
    ]


def project_folder(path: Path | None) -> Path:
    """The project's folder that ``load`` would take, whatever stands in the spec.

    Raises:
        SpecError: there is no spec.
    """
    return _project(_find(path))


def _project(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "conf" else file.parent


def _find(path: Path | None) -> Path:
    start = Path.cwd() if path is None else path
    if start.is_dir():
        for name in NAMES:
            if (start / name).is_file():
                return (start / name).resolve()
        what = f"holds no spec: neither {' nor '.join(map(str, NAMES))}."
        raise SpecError(
            [Problem(str(path or "this folder"), "", what, "Name the file, or run it in the project's folder.")]
        )
    if not start.exists():
        raise SpecError([Problem(str(start), "", "there is no such file.")])
    return start.resolve()


def _closed(tree: Mapping[str, Any], package: str | None, places: Mapping[Keys, str]) -> None:
    """Refuse what would reach Hydra itself."""
    problems = []
    if "hydra" in tree:
        problems.append(Problem(places["hydra",], "hydra", "configures Hydra itself, which is closed.", "Remove it."))
    if package not in (None, "_global_"):
        what = f"asks for the package {package!r}; a spec is its own root."
        problems.append(Problem(places[()], "@package", what, "Remove the line # @package."))
    if problems:
        raise SpecError(problems)


def _plugins(tree: dict[str, Any], where: Callable[[Keys], str], folder: Path) -> None:
    """Import the plug-ins that the spec names; their components are then known to ``Spec``."""
    names = tree.get("plugins", [])
    names = names if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) else []
    names = [name for name in names if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name)]
    before = [dict(kind.table) for kind in component.kinds()]
    for index, name in enumerate([None, *names]):
        try:
            component.load_plugins([] if name is None else [name], folder)
        except (Exception, SystemExit) as error:  # a plug-in's own code may fail, or end, in any way: say which
            keys: Keys = ("plugins",) if name is None else ("plugins", index - 1)
            what = f"{name or 'an installed plug-in'} can't be imported: {type(error).__name__}: {error}"
            raise SpecError([Problem(where(keys), dotted(keys), what)]) from error
    if before != [dict(kind.table) for kind in component.kinds()]:
        for block in component.Block.__subclasses__():  # in order of definition: parts before wholes
            if not issubclass(block, component.Component):
                block.model_rebuild(force=True)


def _sorted(problems: Any) -> list[Problem]:
    """By file, line and column; overrides, which have none, last."""

    def order(problem: Problem) -> tuple[Any, ...]:
        match = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where)
        if match is None:
            return (1, problem.where, 0, 0, problem.key)
        return (0, match.group(1), int(match.group(2)), int(match.group(3)), problem.key)

    return sorted(dict.fromkeys(problems), key=order)
