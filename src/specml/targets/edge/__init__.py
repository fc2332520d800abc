"""A device of yours: an archive that serves by itself."""

from __future__ import annotations

import gzip
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from typing_extensions import override

from specml import application, runtime
from specml.errors import DeployFailed
from specml.files import GENERATED, canonical_json, digest, write_atomic
from specml.kinds import Deployment, Target

if TYPE_CHECKING:
    from specml.releases import Release
    from specml.spec import Spec

SERVER = "specml.serving.edge"
"""What the archive runs, by name, with all of specml that it imports."""

IMPORTED = ("httptools", "numpy", "onnxruntime", "orjson", "pydantic", "uvicorn", "uvloop")
"""What that imports of others; with what these require, all that is installed on the device."""
OF_IMAGES = "pillow"
"""And where rows may be images."""

FOLDER = ".specml/edge"

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
    def in_words(self, spec: Spec) -> str:
        return f"A release is packed into {FOLDER}/{spec.name}.tar.gz, which serves it on a device."

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
            runtime.copy_modules(SERVER, folder / "runtime")
            (folder / "runtime/__main__.py").write_text(MAIN)
            (folder / "edge.json").write_bytes(canonical_json(options))
            wheels = runtime.pins([*IMPORTED, *([OF_IMAGES] if contract.image else [])])
            (folder / "requirements.txt").write_text(runtime.lock(wheels, project / FOLDER / "requirements.txt", say))
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
    def stop(self, spec: Spec, project: Path) -> bool:
        """Nothing runs here; devices are stopped where they are."""
        return False

    def _options(self, spec: Spec) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "args": application.options(spec, "bundle", "127.0.0.1")}

    def _archive(self, spec: Spec, project: Path) -> Path:
        return (project / FOLDER / f"{spec.name}.tar.gz").resolve()

    def _deployment(self, archive: Path, bundle: str) -> Deployment:
        return Deployment(f"http://127.0.0.1:{self.port}", bundle, 0, (), archive=str(archive))


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
