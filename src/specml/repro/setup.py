"""Make a folder a DVC project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.errors import SpecmlError, of_system, system_error
from specml.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

NOT_DATA = (".venv/", "__pycache__/", "node_modules/", "/.specml/")
"""Folders that DVC would otherwise walk through in search of stages, at a second and more each time."""

HALF_WAY = ".specml/setting-up"
"""Exists while a folder is made a DVC project: one that was killed meanwhile is made again."""


def set_up(folder: Path) -> bool:
    """Make the folder a DVC project unless it is one; telemetry off. Returns whether it had to."""
    mark = folder / HALF_WAY
    if (folder / ".dvc").is_dir() and not mark.exists():
        return False

    import logging

    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    in_git = (folder / ".git").exists()
    above = not in_git and any((parent / ".git").exists() for parent in folder.resolve().parents)
    write_atomic(mark, b"")
    try:
        made = Repo.init(str(folder), no_scm=not (in_git or above), subdir=above, force=True)
        with made as repo, repo.config.edit() as config:
            config["core"] |= {"analytics": False, "check_update": False}
    except DvcException as error:
        if refused := system_error(error):
            raise of_system(refused, folder) from None
        raise SpecmlError(f"`dvc init` failed: {' '.join(str(error).split())}", where=str(folder)) from None
    ignored = folder / ".dvcignore"
    lines = ignored.read_text().splitlines()
    write_atomic(ignored, "".join(f"{line}\n" for line in [*lines, *(one for one in NOT_DATA if one not in lines)]))
    mark.unlink()
    return True
