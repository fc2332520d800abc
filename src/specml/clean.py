"""What of a project can go, and removing it: what killed writes left, logs, what a run makes again; more when named.

A folder is renamed to a temporary name before it is emptied: a kill leaves it whole, or as one more leftover for the
next run. Nothing is reached through a link: of a link, the link goes.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specml import ledger
from specml.errors import SpecmlError
from specml.files import leftovers
from specml.repro import OURS, alone, dead_lock
from specml.targets.local import cluster

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

GROUPS: dict[str, tuple[str, ...]] = {
    "logs": (".specml/log", ".specml/events.jsonl", ".specml/serve.log", "artifacts/report.html"),
    "artifacts": ("artifacts", "metrics", "plots", "dvc_plots"),
    "state": (".specml/search", ".specml/durations.json", ".specml/dvc.lock", ".specml/bundles"),
    "captures": (".specml/captures", ".specml/feedback", ".specml/watch"),
    "releases": (".specml/releases",),
}
"""What lies where. The ledger stays: it is evidence. So do the locks of runs and deploys: others may wait for them."""

ALWAYS = ("leftovers", "logs")
AGAIN = ("artifacts", "state")
"""A run makes these again; the searches of ``state`` take longest."""
NEVER_BY_ITSELF = ("captures", "releases")
"""Nothing brings these back: each goes only when it is named."""


@dataclass(frozen=True)
class Item:
    """Something that can go."""

    group: str
    path: Path
    size: int
    """Bytes of the files in it; what links lead to is not counted."""


def items(folder: Path) -> list[Item]:
    """Everything of the project that can go, by group.

    Raises:
        SpecmlError: one of specml's folders is a link, which leads who knows where.
    """
    for name in OURS:
        if (folder / name).is_symlink():
            raise SpecmlError("is a link.", where=str(folder / name), hint="Put a folder there, or remove it yourself.")
    left = [path for name in OURS for path in leftovers(folder / name)]
    if dead_lock(folder):
        left.append(folder / ".dvc/tmp/rwlock")
    found = [Item("leftovers", path, _size(path)) for path in left]
    for group, names in GROUPS.items():
        paths = [folder / name for name in names]
        found += [Item(group, path, _size(path)) for path in paths if path.exists() or path.is_symlink()]
    return found


def chosen(found: list[Item], groups: Collection[str]) -> list[Item]:
    """Those of the groups, without what lies in another of them."""
    going = [item for item in found if item.group in groups]
    folders = {item.path for item in going}
    return [item for item in going if not folders.intersection(item.path.parents)]


def lost_servers(folder: Path) -> list[int]:
    """Processes of servers of this project that its record does not tell of."""
    return sorted(process.pid for server in cluster.strays(folder) for process in server.processes())


def clean(folder: Path, groups: Collection[str]) -> list[Item]:
    """Remove the groups' items, and end servers that nobody remembers; returns what was removed.

    Raises:
        SpecmlError: a run is at work, or a server is live; it is named.
    """
    (folder / ".specml").mkdir(exist_ok=True)
    with alone(folder, wait=False), cluster.alone(folder / ".specml"):
        _refuse_live(folder)
        ended = len(lost_servers(folder))
        for server in cluster.strays(folder):
            server.stop(folder / ".specml")
        gone = chosen(items(folder), groups)
        for item in gone:
            _remove(item.path, folder)
        if ended or gone:
            counts = {group: sum(item.group == group for item in gone) for group in sorted(groups)}
            size = sum(item.size for item in gone)
            ledger.append(folder, "clean", removed={k: n for k, n in counts.items() if n}, bytes=size, ended=ended)
    return gone


def _refuse_live(folder: Path) -> None:
    """A dead server's record and files are cleaned away; one that runs still needs what would be removed."""
    live = cluster.Cluster.read(folder / ".specml")
    if live is None:
        return
    if running := live.processes():
        pids = ", ".join(str(process.pid) for process in running[:3])
        raise SpecmlError(
            f"a server is live here, at port {live.port} (processes {pids}, …).",
            where=str(folder),
            hint="`specml stop` stops it.",
        )
    live.stop(folder / ".specml")


def _remove(path: Path, folder: Path) -> None:
    """A file or link at once; a folder as a whole, by a name that the next run takes for a leftover."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix=f".{path.name.strip('.')}.", dir=folder / ".specml") as going:
        path.rename(Path(going) / "going")


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in _files(path))


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):  # does not follow links
        yield from (Path(where) / name for name in names)
