"""Write what a plan compiles to, and tell what has parted from it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specml.compile import compile_plan
from specml.compile.diff import differences
from specml.compile.dvc import compiled_digest, dvc_yaml, gitignore, params_yaml, read_params
from specml.errors import SpecmlError, StaleCompile
from specml.files import GENERATED, write_atomic
from specml.releases import NOBODY, POINTER

if TYPE_CHECKING:
    from specml.load import Loaded
    from specml.plan import Plan


TARGETS_FILES = ("serve.yaml", "deploy/**/*")
"""Where targets write."""
HEAD = 400
"""Bytes of a file in which its mark is looked for."""


@dataclass(frozen=True)
class Compiled:
    """The files that a spec compiles to, beside what stands in the project now."""

    plan: Plan
    folder: Path
    contents: dict[str, str]

    @property
    def changed(self) -> tuple[str, ...]:
        """Files that would be written, sorted."""
        return tuple(sorted(name for name, text in self.contents.items() if _text(self.folder / name) != text))

    @property
    def left(self) -> tuple[str, ...]:
        """Files that the spec compiled to when it named another target, sorted: they would mislead."""
        there = (path for pattern in TARGETS_FILES for path in self.folder.glob(pattern) if path.is_file())
        found = (path.relative_to(self.folder).as_posix() for path in there if GENERATED.encode() in _head(path))
        return tuple(sorted(name for name in found if name not in self.contents))

    def write(self) -> tuple[str, ...]:
        """Write the files that differ, whose names are returned, and remove those that another target left."""
        changed = self.changed
        for name in changed:
            write_atomic(self.folder / name, self.contents[name])
        for name in self.left:
            (path := self.folder / name).unlink()
            while path.parent != self.folder and not any(path.parent.iterdir()):
                (path := path.parent).rmdir()
        return changed


def compiled(loaded: Loaded, *, force: bool = False) -> Compiled:
    """What ``loaded`` compiles to.

    Raises:
        StaleCompile: params.yaml was edited by something else (``dvc exp apply``, a person) since the last
            compile; the keys are named. ``force`` gives them up.
    """
    plan = compile_plan(loaded.spec, loaded.files, plugin_files(loaded))
    folder = loaded.folder
    if not force:
        _refuse_foreign_edits(folder, plan)
    contents = {
        ".gitignore": gitignore(_text(folder / ".gitignore")),
        "dvc.yaml": dvc_yaml(plan, _text(folder / "dvc.yaml")),
        "params.yaml": params_yaml(plan, loaded.path.relative_to(folder).as_posix(), loaded.overrides),
        **loaded.spec.deployment.target.emit(loaded.spec),
    }
    if any(stage.name == "champion" for stage in plan.stages):
        contents[POINTER] = _text(folder / POINTER) or NOBODY
    return Compiled(plan, folder, contents)


def plugin_files(loaded: Loaded) -> tuple[str, ...]:
    """The Python files of the spec's plug-ins that lie in the project, relative to it: what a component does."""
    found: set[str] = set()
    for name in loaded.spec.plugins:
        origin = Path(getattr(sys.modules[name], "__file__", None) or "/")
        files = origin.parent.rglob("*.py") if origin.name == "__init__.py" else [origin]
        found |= {file.relative_to(loaded.folder).as_posix() for file in files if file.is_relative_to(loaded.folder)}
    return tuple(sorted(found))


def _refuse_foreign_edits(folder: Path, plan: Plan) -> None:
    text = _text(folder / "params.yaml")
    if not text:
        return
    found, mark, *_ = read_params(text)
    if not mark or compiled_digest(found) in (mark, compiled_digest(plan.params)):
        return
    lines = [
        f"{key}: {here!r} in params.yaml, {spec!r} in the spec" for key, here, spec in differences(found, plan.params)
    ]
    raise StaleCompile(
        "was changed behind the spec's back:\n      " + "\n      ".join(lines),
        hint="Write the values you want into the spec, or give params.yaml's up with `specml compile --force`.",
        where="params.yaml",
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise SpecmlError("is not UTF-8 text.", where=str(path), hint="Save it as UTF-8.") from None
