"""One project: whether it can be written, what its locks and its server say, and what crashes left."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from specml import liveness, values
from specml.doctor.finding import Finding, ok, told, wrong
from specml.errors import DeployFailed
from specml.files import leftovers
from specml.repro import OURS, at_work, dead_lock, lockfile
from specml.targets.local import Local, cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.spec import Spec

CLEAN = "`specml clean --yes` removes it; so does the next run."


def writable(folder: Path) -> Iterator[Finding]:
    """Each folder that a run writes to takes a file: written, flushed, locked, renamed and removed."""
    for name in ("", ".specml", ".dvc", "artifacts", "metrics", "plots"):
        path = folder / name
        if not path.is_dir():
            continue
        try:
            _write(path)
        except OSError as error:
            why = "A run writes there."
            mend = "Give yourself the right to, free some disk, or take another file system."
            yield wrong("writing", f"{path}: {error.strerror or error}", why, mend)
            return
    yield ok("writing", f"{folder} takes files, locks and renames")


def _write(folder: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=".doctor.", dir=folder)  # `leftovers` knows it, should this be killed
    path = Path(name)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(handle, b"x")
        os.fsync(handle)
        path = path.rename(path.with_name(f".doctor.renamed.{path.name[-8:]}"))
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def secrets(folder: Path, spec: Spec | None) -> Iterator[Finding]:
    """Files with digests or tokens are this user's alone; the variables that the spec names are set."""
    paths = [folder / ".specml/serving.json"]
    live = _record(folder)
    if live is not None:
        paths += [Path(live.folder), Path(live.folder) / "token"]
    for path in paths:
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield wrong("secrets", f"{path} is open to others ({mode:o})", "It guards the server.", f"chmod go= {path}")
    for name, where in sorted({one.name: ".".join(where) for where, one in values.secrets(spec)}.items()):
        if os.environ.get(name, ""):
            yield ok("secrets", f"{name} is set")
        else:
            mend = f'export {name}="$(openssl rand -hex 32)"'
            yield wrong("secrets", f"the environment variable {name} is not set", f"{where} needs it.", mend)


def server(folder: Path, spec: Spec | None) -> Iterator[Finding]:
    """The port of the spec and the server that holds it; servers that nobody remembers."""
    try:
        live, lost = cluster.Cluster.read(folder / ".specml"), cluster.strays(folder)
    except DeployFailed as error:
        yield wrong("server", f"{error.where} {error.what}", "No deploy and no stop works.", error.hint)
        return
    if live is not None:
        running = live.processes()
        if not running:
            mend = "`specml deploy` starts it again, `specml stop` forgets it."
            yield told("server", f"recorded at port {live.port}, but no process of it runs", "It was killed.", mend)
        elif liveness.healthz(f"http://127.0.0.1:{live.port}") is None:
            mend = "`specml stop`, then `specml deploy`; .specml/serve.log may say why."
            yield told("server", f"{len(running)} processes, none answers at port {live.port}", "It hangs.", mend)
        else:
            what = f"live at port {live.port}: {len(running)} processes, ports {live.ports} to {live.ports + 499}"
            yield ok("server", what)
    for one in lost:
        pids = " ".join(str(process.pid) for process in one.processes())
        why = "`specml stop` does not know it; it keeps its port and its memory."
        yield wrong("server", f"one whose record is lost: processes {pids}", why, "`specml clean --yes` ends it.")
    if spec is not None and isinstance(spec.deployment.target, Local):
        yield _port(spec.deployment.target.port, live)
    try:
        yield ok("ports", f"{cluster.PORTS} from {cluster.free_block()} on are free for Ray")
    except DeployFailed as error:
        yield wrong("ports", error.what, "Ray's parts could not talk to each other.", "End what holds them.")


def _port(port: int, live: cluster.Cluster | None) -> Finding:
    check = f"port {port}"
    if cluster.free(port):
        return ok(check, "free")
    if live is not None and live.port == port and live.processes():
        return ok(check, "held by this project's server")
    other = port + 1 if port < 65535 else port - 1
    mend = f"End it, or take another: specml run deployment.target.port={other}"
    return wrong(check, f"held by {_holder(port)}", "The server could not listen there.", mend)


def _holder(port: int) -> str:
    """The process that listens at a port, as far as this user may know."""
    import psutil

    try:
        holders = {
            one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port
        }
        known = sorted(pid for pid in holders if pid is not None)
        names = [f"{psutil.Process(pid).name()} ({pid})" for pid in known]
    except psutil.Error:
        names = []
    return ", ".join(names) or "a process of another user"


def locks(folder: Path) -> Iterator[Finding]:
    """Who works here now, and locks of the dead."""
    if holder := at_work(folder):
        yield told("run", f"one is at work: {holder}", "Another one waits for it.")
    if dead_lock(folder):
        yield told("dvc lock", ".dvc/tmp/rwlock names only processes that are dead", "`dvc` may refuse.", CLEAN)
    if lockfile.torn(folder):
        mend = "`specml run` puts it back as it was after the last finished stage."
        yield told("dvc.lock", "is torn: a crash came while it was written", "`dvc` refuses the project.", mend)


def remains(folder: Path) -> Iterator[Finding]:
    """What crashes left."""
    found = [path for name in OURS for path in leftovers(folder / name)]
    if found:
        yield told("leftovers", f"{len(found)} temporary files of writes that were killed", mend=CLEAN)
    pattern = re.compile(r"specml-crash-\w+\.txt")
    crashes = [path for path in Path(tempfile.gettempdir()).iterdir() if pattern.fullmatch(path.name)]
    crashes = sorted((path for path in crashes if path.stat().st_uid == os.getuid()), key=lambda p: p.stat().st_mtime)
    if crashes:
        mend = f"Report {crashes[-1]}, then remove them."
        yield told("crashes", f"{len(crashes)} reports of bugs in specml", mend=mend)
    if not (found or crashes):
        yield ok("leftovers", "none")


def _record(folder: Path) -> cluster.Cluster | None:
    try:
        return cluster.Cluster.read(folder / ".specml")
    except DeployFailed:  # told by `server`
        return None
