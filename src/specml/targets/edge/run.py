#!/usr/bin/env python3
"""Serves the model of this archive, with Python alone: ``./run [--host HOST] [--port PORT] [--self-test]``.

The first time it installs what ``requirements.txt`` names into ``.venv`` beside it: from ``wheels/`` where there is
such a folder, else from the index that pip knows. Every time it first checks the files against ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".venv/bin/python"


def main() -> None:
    """Check, install and become the server."""
    try:
        manifest = _verified()
        _install(manifest)
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        sys.exit(f"run: {error}")
    os.execv(PYTHON, [str(PYTHON), "-I", str(HERE / "runtime"), *sys.argv[1:]])  # noqa: S606


def _verified() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_bytes())
    for name, expected in manifest["files"].items():
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != expected:
            raise ValueError(f"{name} was altered: it is not what manifest.json says. Unpack the archive anew.")
    return manifest


def _install(manifest: dict[str, Any]) -> None:
    lock = HERE / "requirements.txt"
    mark, wanted = HERE / ".venv/installed", manifest["files"]["requirements.txt"]
    if mark.exists() and mark.read_text() == wanted:
        return
    here = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()} {platform.machine()}"
    if here != manifest["made_for"]:
        raise ValueError(f"the archive is for {manifest['made_for']}, this is {here}.")
    sys.stderr.write("Installing what the server needs, once …\n")
    venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(HERE / ".venv")
    command = [str(PYTHON), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "-r", str(lock)]
    if "--hash=" in lock.read_text():
        command.append("--require-hashes")
    if (HERE / "wheels").is_dir():
        command += ["--no-index", "--find-links", str(HERE / "wheels")]
    subprocess.run(command, check=True)
    mark.write_text(wanted)


if __name__ == "__main__":
    main()
