"""The spec as it was at a revision of git: ``HEAD~1``, or ``main:spec.yaml`` for another file of it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from specml.errors import SpecmlError

if TYPE_CHECKING:
    from collections.abc import Iterator

READ = (".yaml", ".yml", ".py")
"""Of a revision, files with these endings are looked at: the spec, its presets and plug-ins. No data is."""


@contextlib.contextmanager
def at_revision(text: str, here: Path) -> Iterator[Path]:
    """The file or folder that ``text`` names, for the time of the block; a revision alone means the folder ``here``.

    A path after ``:`` starts at the root of the repository, as git has it; at ``here`` when it starts with ``./``.

    Raises:
        SpecmlError: there is no such revision, or no such file in it.
    """
    revision, _, path = text.partition(":")
    root = _git(here, "rev-parse", "--show-toplevel")
    if not (root and revision) or not _git(
        here, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^0"
    ):
        what = f"{text!r} is no file or folder here, and no revision of git."
        raise SpecmlError(what, hint="Give specs, or revisions as HEAD~1 or main:spec.yaml.")
    below = _git(here, "rev-parse", "--show-prefix") if not path or path.startswith("./") else ""
    wanted = os.path.normpath(f"{below}{path}" or ".")
    project = Path(wanted).parent if wanted.endswith(READ) else Path(wanted)
    project = project.parent if project.name == "conf" else project
    listed = _git(Path(root), "ls-tree", "-r", "-z", "--name-only", revision, "--", f"{project}/").split("\0")
    names = [name for name in listed if name.endswith(READ)]
    with tempfile.TemporaryDirectory(prefix="specml-") as scratch:
        if names:
            _unpack(Path(root), revision, names, Path(scratch))
        found = Path(scratch, wanted)
        if not found.exists():
            raise SpecmlError(f"there is no spec {wanted!r} at {revision}.", hint=f"git ls-tree -r {revision}")
        yield found


def _unpack(root: Path, revision: str, names: list[str], into: Path) -> None:
    archive = subprocess.run(
        [_program(), "-C", str(root), "archive", "--format=tar", revision, "--", *names],
        capture_output=True,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(into, [one for one in tar if one.isfile()], filter="data")


def _git(folder: Path, *words: str) -> str:
    """What git says; nothing where it refuses, or is not here."""
    program = shutil.which("git")
    if program is None:
        return ""
    done = subprocess.run([program, "-C", str(folder), *words], capture_output=True, text=True, check=False)
    return done.stdout.removesuffix("\n") if done.returncode == 0 else ""


def _program() -> str:
    return shutil.which("git") or "git"
