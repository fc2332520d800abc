"""What a server needs on a machine without specml: its modules, and the wheels that they import, locked."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from specml.files import write_atomic

PACKAGE = Path(__file__).parent


def copy_modules(name: str, folder: Path) -> None:
    """Copy what ``modules`` finds into ``folder``, as a package that can be imported from there."""
    for module in modules(name):
        target = folder / module.relative_to(PACKAGE.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, target)


def modules(name: str) -> list[Path]:
    """The files of specml that a module of it imports, sooner or later, its own among them."""
    found: set[Path] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = PACKAGE.parent / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.exists() or file in found:  # a name in a module, not a module
            continue
        found.add(file)
        imported = [one for one in _imported(ast.parse(file.read_bytes())) if one.partition(".")[0] == "specml"]
        waiting += [*imported, module.rpartition(".")[0] or "specml"]
    return sorted(found | {page for file in found if (page := file.with_suffix(".html")).exists()})


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (one.name for one in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (child.module, *(f"{child.module}.{one.name}" for one in child.names))
        else:
            yield from _imported(child)


def pins(names: Iterable[str]) -> list[str]:
    """``name==version`` of what is named, as ``ray[serve]`` say, and of what that requires, as installed here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        new = [extra for extra in ("", *sorted(wanted.extras)) if (name, extra) not in seen]
        if not new:
            continue
        seen |= {(name, extra) for extra in new}
        installed = _installed(name)
        found[name] = installed.version
        for one in map(Requirement, installed.requires or ()):
            if any(one.marker is None or one.marker.evaluate({"extra": extra}) for extra in new):
                waiting.append(one)
    return [f"{name}=={found[name]}" for name in sorted(found)]


def _installed(name: str) -> Distribution:
    """A distribution; onnxruntime for CPUs has the versions of that for GPUs, and is far smaller."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        if name != "onnxruntime":
            raise
        return distribution("onnxruntime-gpu")


def lock(wanted: list[str], kept: Path, say: Callable[[str], None]) -> str:
    """The pins as pip takes them, with the hash of each wheel for this Python and platform, where the index tells it.

    What it told is kept in the file ``kept``, so that the same pins become the same bytes, with and without a network.
    """
    from packaging.utils import canonicalize_name

    known = kept.read_text() if kept.exists() else ""
    if [line.split()[0] for line in known.splitlines() if "==" in line] == wanted:
        return known
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
    done = subprocess.run([*command, "--report", "-", *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        say("No index tells the hashes of the wheels: requirements.txt has versions only.")
        return "".join(f"{pin}\n" for pin in wanted)
    told = [(one["metadata"], one["download_info"]["archive_info"]) for one in json.loads(done.stdout)["install"]]
    hashes = {f"{canonicalize_name(data['name'])}=={data['version']}": info["hashes"]["sha256"] for data, info in told}
    text = "".join(f"{pin} --hash=sha256:{hashes[pin]}\n" for pin in wanted)
    write_atomic(kept, text)
    return text
