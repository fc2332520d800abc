"""The project's own copies of the rows: deleted when the time limit that a rule sets has come."""

from __future__ import annotations

import time
from pathlib import Path

from specml.stages import ingest, prepare

ROWS = (ingest.OUT.replace("${key}", "*"), prepare.TRAIN, prepare.TEST, prepare.QUARANTINE)
"""Where they lie; the files of the sources themselves are not ours."""


def forget_rows(project: Path, retention: float) -> tuple[int, list[Path]]:
    """Delete the copies that were made more than ``retention`` seconds ago, in ``artifacts/`` and DVC's cache.

    For who holds the project alone. Returns how many, and the records that can't be read (torn by a kill, say). DVC's
    records of all runs tell which objects of its cache held rows, those of earlier runs too; a run that needs them
    makes them again from the source.
    """
    oldest = time.time() - retention
    old = {path for pattern in ROWS for path in project.glob(pattern) if path.stat().st_mtime < oldest}
    objects, records = _records(project)
    unread = []
    for record in records:
        outs = _outs(record)
        if outs is None:
            unread.append(record)
        for path, md5 in outs or ():
            kept = objects / md5[:2] / md5[2:]
            if any(path.match(pattern) for pattern in ROWS) and kept.exists() and kept.stat().st_mtime < oldest:
                old.add(kept)
                # DVC may have laid it out again since: then the file is younger than what it holds.
                laid_out = project / path
                if laid_out.exists() and laid_out.stat().st_size == kept.stat().st_size:
                    old.add(laid_out)
    for path in old:
        path.unlink(missing_ok=True)
    return len(old), unread


def _records(project: Path) -> tuple[Path, list[Path]]:
    """Where DVC's cache has its objects, and what tells of them: the lock file, and a record of each run."""
    from dvc.repo import Repo

    if not (project / ".dvc").is_dir():
        return project, []
    with Repo(str(project)) as repo:
        objects, runs = Path(repo.cache.local.path), Path(repo.stage_cache.cache_dir)
    return objects, [path for path in (project / "dvc.lock", *sorted(runs.glob("*/*/*"))) if path.is_file()]


def _outs(record: Path) -> list[tuple[Path, str]] | None:
    """The files that a record tells of, each with its MD5; None when it is no record."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        told = YAML(typ="safe", pure=True).load(record.read_text(encoding="utf-8"))
        stages = told["stages"].values() if "stages" in told else [told]
        outs = [out for stage in stages for out in stage.get("outs", []) if out.get("md5")]
        return [(Path(out["path"]), str(out["md5"])) for out in outs]
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return None
