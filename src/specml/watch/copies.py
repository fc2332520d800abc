"""The project's own copies of the rows: deleted when the time limit that a rule sets has come."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.stages import ingest, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = (ingest.OUT.replace("${key}", "*"), prepare.TRAIN, prepare.TEST)
"""Where they lie; the files of the sources themselves are not ours."""


def forget_rows(project: Path, retention: float) -> int:
    """Delete the copies that were made more than ``retention`` seconds ago, in ``artifacts/`` and DVC's cache.

    Returns how many. DVC's records of all runs tell which objects of its cache held rows, those of earlier runs too;
    a run that needs them makes them again from the source.
    """
    oldest = time.time() - retention
    old = {path for pattern in ROWS for path in project.glob(pattern) if path.stat().st_mtime < oldest}
    for path, kept in _cached(project):
        if kept.exists() and kept.stat().st_mtime < oldest:
            old.add(kept)
            # DVC may have laid it out again since: then the file is younger than what it holds.
            if path.exists() and path.stat().st_size == kept.stat().st_size:
                old.add(path)
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _cached(project: Path) -> Iterator[tuple[Path, Path]]:
    """Every copy that a run has made: where it lay, and the object of DVC's cache."""
    from dvc.repo import Repo

    if not (project / ".dvc").is_dir():
        return
    with Repo(str(project)) as repo:
        objects, runs = Path(repo.cache.local.path), Path(repo.stage_cache.cache_dir)
    for record in [project / "dvc.lock", *sorted(runs.glob("*/*/*"))]:
        for out in _outs(record):
            path = Path(out["path"])
            if any(path.match(pattern) for pattern in ROWS):
                yield project / path, objects / out["md5"][:2] / out["md5"][2:]


def _outs(record: Path) -> Iterator[dict[str, Any]]:
    from ruamel.yaml import YAML

    if not record.is_file():
        return
    told = YAML(typ="safe", pure=True).load(record.read_text(encoding="utf-8")) or {}
    for stage in told["stages"].values() if "stages" in told else [told]:
        yield from stage.get("outs", [])
