"""A device of yours: an archive that serves by itself."""

from __future__ import annotations

import ast
import gzip
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from specml import application
from specml.errors import DeployFailed
from specml.files import GENERATED, canonical_json, digest, write_atomic
from specml.kinds import Deployment, Target

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.releases import Release
    from specml.spec import Spec

SERVER = "specml.serving.edge"
"""What the archive runs, by name, with all of specml that it imports."""

IMPORTED = ("httptools", "numpy", "onnxruntime", "orjson", "pydantic", "uvicorn", "uvloop")
"""What that imports of others; with what these require, all that is installed on the device."""
OF_IMAGES = "pillow"
"""And where rows may be images."""

FOLDER = ".specml/edge"
PACKAGE = Path(__file__).parents[2]

MAIN = f"""\
import sys
from pathlib import Path

from {SERVER} import main

sys.exit(main(Path(__file__).resolve().parents[1], sys.argv[1:]))
"""


class Edge(Target):
    """One archive with bundle, server and self-test, for a device with Python and without Ray."""

    type: Literal["edge"] = "edge"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Where HTTP is answered on the device, at 127.0.0.1; ``run --port`` and ``run --host`` say otherwise."""

    @override
    def emit(self, spec: Spec) -> dict[str, str]:
        options = {"#": GENERATED, **self._options(spec)}
        return {"deploy/edge.json": json.dumps(options, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}

    @override
    def deploy(self, spec: Spec, project: Path, release: Release, say: Callable[[str], None]) -> Deployment:
        contract = release.open().contract
        options = self._options(spec)
        options["args"] |= {"digest": release.entry.bundle, "audited": True}
        say(f"Packing release {release.entry.number} of {spec.name} …")
        if spec.serving.explain is not None:
            say("What explains is left out: /explain is no path on the device.")
        archive = self._archive(spec, project)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / spec.name
            shutil.copytree(release.bundle, folder / "bundle")
            for module in _modules(SERVER):
                target = folder / "runtime" / module.relative_to(PACKAGE.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(module, target)
            (folder / "runtime/__main__.py").write_text(MAIN)
            (folder / "edge.json").write_bytes(canonical_json(options))
            (folder / "requirements.txt").write_text(_lock(contract, project / FOLDER / "requirements.txt", say))
            shutil.copyfile(Path(__file__).with_name("run.py"), folder / "run")
            if (card := release.folder / "card.md").exists():
                shutil.copyfile(card, folder / card.name)
            (folder / "known.json").write_bytes(_known_answers(folder))
            (folder / "manifest.json").write_bytes(canonical_json(_manifest(folder, spec.name, release)))
            content = _packed(folder)
        if archive.exists() and archive.read_bytes() == content:
            say("The archive has these bytes already.")
        else:
            write_atomic(archive, content)
        return self._deployment(archive, release.entry.bundle)

    @override
    def status(self, spec: Spec, project: Path) -> Deployment | None:
        """What was packed last: nothing is known of the devices."""
        archive = self._archive(spec, project)
        try:
            with tarfile.open(archive) as packed:
                manifest = packed.extractfile(f"{spec.name}/manifest.json")
                return self._deployment(archive, json.load(manifest)["bundle"]) if manifest else None
        except (OSError, EOFError, tarfile.TarError, LookupError, ValueError):
            return None  # none, or a torn one: the next deploy packs it anew

    @override
    def stop(self, project: Path) -> bool:
        """Nothing runs here; devices are stopped where they are."""
        return False

    def _options(self, spec: Spec) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "args": application.options(spec, "bundle")}

    def _archive(self, spec: Spec, project: Path) -> Path:
        return (project / FOLDER / f"{spec.name}.tar.gz").resolve()

    def _deployment(self, archive: Path, bundle: str) -> Deployment:
        return Deployment(f"http://127.0.0.1:{self.port}", bundle, 0, (), archive=str(archive))


def _modules(name: str) -> list[Path]:
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
    return sorted(found)


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


def _pins(contract: Contract) -> list[str]:
    """``name==version`` of what the server imports and of what that requires, as installed here."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    waiting = [*IMPORTED, *([OF_IMAGES] if contract.image else [])]
    while waiting:
        name = _name(waiting.pop())
        if name in found:
            continue
        installed = _installed(name)
        found[name] = installed.version
        required = map(Requirement, installed.requires or ())
        waiting += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{name}=={found[name]}" for name in sorted(found)]


def _installed(name: str) -> Distribution:
    """A distribution; onnxruntime for CPUs has the versions of that for GPUs, and is far smaller."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        if name != "onnxruntime":
            raise
        return distribution("onnxruntime-gpu")


def _lock(contract: Contract, kept: Path, say: Callable[[str], None]) -> str:
    """The pins as pip takes them, with the hash of each wheel for this Python and platform, where the index tells it.

    What it told is kept in the file ``kept``, so that the same pins become the same bytes, with and without a network.
    """
    pins = _pins(contract)
    known = kept.read_text() if kept.exists() else ""
    if [line.split()[0] for line in known.splitlines() if "==" in line] == pins:
        return known
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
    done = subprocess.run([*command, "--report", "-", *pins], capture_output=True, text=True, check=False)
    if done.returncode:
        say("No index tells the hashes of the wheels: requirements.txt has versions only.")
        return "".join(f"{pin}\n" for pin in pins)
    told = [(one["metadata"], one["download_info"]["archive_info"]) for one in json.loads(done.stdout)["install"]]
    hashes = {f"{_name(data['name'])}=={data['version']}": info["hashes"]["sha256"] for data, info in told}
    lock = "".join(f"{pin} --hash=sha256:{hashes[pin]}\n" for pin in pins)
    write_atomic(kept, lock)
    return lock


def _name(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _known_answers(folder: Path) -> bytes:
    """Rows and their answers, by the archive's own server: one that does not start is not packed."""
    command = [sys.executable, "-I", "-B", str(folder / "runtime"), "--known-answers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise DeployFailed(f"the archive's server does not start: {told}", where="deployment.target")
    return canonical_json(json.loads(done.stdout))


def _manifest(folder: Path, name: str, release: Release) -> dict[str, Any]:
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return {
        "schema_version": 1,
        "name": name,
        "bundle": release.entry.bundle,
        "release": release.entry.number,
        "specml": version("specml"),
        "made_for": f"{python} on {platform.system()} {platform.machine()}",
        "files": {one: digest(files[one]).removeprefix("sha256:") for one in sorted(files)},
    }


def _packed(folder: Path) -> bytes:
    """The folder as .tar.gz: the same files are the same bytes, whoever packs them and when."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as packed,
    ):
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            member = tarfile.TarInfo(file.relative_to(folder.parent).as_posix())
            member.size, member.mode = file.stat().st_size, 0o755 if file.name == "run" else 0o644
            with file.open("rb") as content:
                packed.addfile(member, content)
    return raw.getvalue()
