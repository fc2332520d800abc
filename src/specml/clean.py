"""What of a project can go, and removing it: what killed writes left, logs, what a run makes again; more when named.

A kill leaves a folder whole, or as one more leftover for the next run. Nothing is reached through a link: of a link,
the link goes.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import ledger, releases
from specml.errors import SpecmlError
from specml.files import leftovers, remove, sweep
from specml.repro import OURS, alone, dead_lock, forget_the_dead
from specml.targets.local import cluster
from specml.watch import stream
from specml.watch.judge import RECORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

GROUPS: dict[str, tuple[str, ...]] = {
    "logs": (
        ".specml/log",
        ".specml/events.jsonl",
        ".specml/serve.log",
        "artifacts/report.html",
        "artifacts/explore.html",
    ),
    "artifacts": ("artifacts", "metrics", "plots", "dvc_plots"),
    "state": (".specml/search", ".specml/durations.json", ".specml/dvc.lock", ".specml/bundles"),
    "captures": (stream.CAPTURES, stream.FEEDBACK, stream.INBOX, RECORDS),
    "releases": (releases.FOLDER,),
}
"""What lies where. The ledger stays: it is evidence. So do the locks, which lie beside: others may wait for them."""

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

    Waits for a deploy, a watch, or labels that are being taken.

    Raises:
        SpecmlError: a run is at work, or a server is live; it is named.
        LedgerError: it can't be recorded; then nothing is removed.
    """
    state = folder / ".specml"
    state.mkdir(exist_ok=True)
    with alone(folder, wait=False), releases.alone(folder), cluster.alone(state), stream.alone(folder):
        servers = [*_dead(folder), *cluster.strays(folder)]
        gone = chosen(items(folder), groups)
        if servers or gone:
            with ledger.recorded(folder, "clean", **_facts(servers, gone)):
                for server in servers:
                    server.stop(state)
                _remove(gone, folder)
    return gone


def _dead(folder: Path) -> list[cluster.Cluster]:
    """The server of the record, whose files can go; one that runs still needs what would be removed."""
    live = cluster.Cluster.read(folder / ".specml")
    if live is not None and (running := live.processes()):
        pids = ", ".join(str(process.pid) for process in running[:3])
        raise SpecmlError(
            f"a server is live here, at port {live.port} (processes {pids}, …).",
            where=str(folder),
            hint="`specml stop` stops it.",
        )
    return [live] if live is not None else []


def _facts(servers: list[cluster.Cluster], gone: list[Item]) -> dict[str, Any]:
    """What the ledger is told."""
    counts = Counter(item.group for item in gone)
    ended = sum(len(server.processes()) for server in servers)
    return {"removed": dict(sorted(counts.items())), "bytes": sum(item.size for item in gone), "ended": ended}


def _remove(gone: list[Item], folder: Path) -> None:
    for item in gone:
        if item.group != "leftovers":
            remove(item.path, folder / ".specml")
    if any(item.group == "leftovers" for item in gone):
        forget_the_dead(folder)
        for name in OURS:
            sweep(folder / name)


def _size(path: Path) -> int:
    return sum(map(_bytes, _files(path) if path.is_dir() and not path.is_symlink() else [path]))


def _bytes(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # others may be at work here
        return file.lstat().st_size
    return 0


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):  # does not follow links
        yield from (Path(where) / name for name in names)
