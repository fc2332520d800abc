"""DVC's view of the project, in which no file of specml's is believed to be what it was: each is read once a run.

DVC takes a file for unchanged while its time, size and inode are, and a file of its cache while it is read-only. So
a flipped bit or a swapped file would go unnoticed, and a bad file of the cache would be put in the place of a good
one. Here, what specml writes and what DVC's cache holds of it is known by its content alone. The user's own files,
which may be large, stay with DVC's rule.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

OURS = ("artifacts", "metrics", "plots", "dvc_plots", ".specml")
"""Folders that specml alone writes to."""

_read: dict[str, str] = {}
"""What was read in this run: DVC's note of each file's digest, by path; processes forked later know it too."""


def opened(folder: Path | None = None, *, wait: bool = False) -> Any:
    """The ``dvc.repo.Repo`` of ``folder``, or of the current one; ``wait`` for whoever holds DVC's lock."""
    from dvc.repo import Repo

    repo = Repo(None if folder is None else str(folder), _wait_for_lock=wait)
    cache = repo.cache.local
    places = [f"{repo.root_dir}/{name}/" for name in OURS] + [f"{cache.path}/"]
    repo.state.hashes = _Hashes(repo.state.hashes, tuple(places))
    for one in (cache, repo.cache.legacy):
        one.verify = True
        one.check = _Check(one)
    repo.stage_cache._load_cache = _Entries(repo.stage_cache)
    return repo


class _Check:
    """``LocalHashFileDB.check`` without its trust in read-only files: bad ones are removed, and made again."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __call__(self, oid: str, check_hash: bool = True, _info: Any = None) -> Any:
        from dvc_data.hashfile.db import HashFileDB

        return HashFileDB.check(self._cache, oid, check_hash, _info)


class _Entries:
    """``StageCache._load_cache`` that takes an entry for what its name, a digest, says; else it is as if not there.

    A kill between making an entry's folder and filling it leaves no entry at all, on which DVC fails ever after.
    """

    def __init__(self, runs: Any) -> None:
        self._runs, self._load = runs, runs._load_cache

    def __call__(self, key: str, entry: str | None) -> Any:
        from dvc.stage.cache import _get_cache_hash

        found = self._load(key, entry) if entry else None
        with contextlib.suppress(LookupError, TypeError, AttributeError):
            if found is None or _get_cache_hash(found) == entry:
                return found
        Path(self._runs._get_cache_path(key, entry)).unlink(missing_ok=True)
        return None


class _Hashes:
    """DVC's store of digests, which is asked about the user's own files only."""

    def __init__(self, stored: Any, places: tuple[str, ...]) -> None:
        self._stored, self._places = stored, places

    def _ours(self, path: str) -> bool:
        return path.startswith(self._places)

    def get(self, path: str) -> str | None:
        found: str | None = _read.get(path) if self._ours(path) else self._stored.get(path)
        return found

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, str | None]]:
        return ((path, self.get(path)) for path in paths)

    def __setitem__(self, path: str, told: str) -> None:
        if self._ours(path):
            _read[path] = told
        else:
            self._stored[path] = told

    def set_many(self, items: Sequence[tuple[str, str]]) -> None:
        for path, told in items:
            self[path] = told

    def close(self) -> None:
        self._stored.close()
