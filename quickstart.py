"""Set specml up from a clone and show that it works; needs Python 3.11 or later, nothing else.

    python3 quickstart.py            run conf/spec.yaml, ask the live server one question, stop it
    python3 quickstart.py --keep     the same, but the server stays up
    python3 quickstart.py test       format, lint, types, import contracts and all tests
    python3 quickstart.py set-up     only the environment

The environment is the folder .venv; it is made once and made again when pyproject.toml or constraints.txt change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BIN = ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
STAMP = ROOT / ".venv" / "specml-set-up.sha256"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    """Do what the arguments say; the exit status is that of what ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "test", "set-up"), default="run")
    parser.add_argument("--keep", action="store_true", help="leave the server up")
    chosen = parser.parse_args()
    try:
        set_up()
        if chosen.what == "test":
            return test()
        return run(keep=chosen.keep) if chosen.what == "run" else 0
    except subprocess.CalledProcessError as error:
        print(f"quickstart: `{' '.join(map(str, error.cmd))}` ended with {error.returncode}", file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        return 130


def set_up() -> None:
    """Make .venv and install specml into it, unless that was done for these very requirements."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python is just who must be told
        sys.exit(f"quickstart: this is Python {sys.version.split()[0]}; specml needs 3.11 or later.")
    wanted = hashlib.sha256(
        b"".join((ROOT / n).read_bytes() for n in ("pyproject.toml", "constraints.txt"))
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    if not PYTHON.exists():
        say("making .venv")
        venv.create(ROOT / ".venv", with_pip=True)
    install_torch()
    say("installing specml and what it stands on (some minutes the first time)")
    pip("install", "--editable", ".[dev]", "--constraint", "constraints.txt")
    STAMP.write_text(wanted)


def install_torch() -> None:
    """Install torch: its CPU build unless there is a GPU, for the CUDA build is gigabytes larger."""
    version = next(line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch=="))
    if has_gpu():
        say(f"an NVIDIA GPU is here: installing {version} with CUDA")
        pip("install", version)
        return
    say(f"no NVIDIA GPU is here: installing the CPU build of {version}")
    # pip passes over an index that can't be reached; another one (a local one, say) may have the build.
    index = ("--no-deps", "--extra-index-url", CPU_INDEX, "--retries", "0", "--timeout", "20")
    if pip("install", f"{version}+cpu", *index, check=False, told=False):
        say("the CPU build can't be had: installing what the package index has, which may bring CUDA libraries")
        pip("install", version)
    installed = capture("import importlib.metadata; print(importlib.metadata.version('torch'))")
    say(f"torch {installed} installed")


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def run(*, keep: bool) -> int:
    """The main job: the spec becomes a live model, which answers one question."""
    specml = BIN / "specml"
    try:
        say("$ specml run")
        done = subprocess.run([specml, "run"], cwd=ROOT, check=False)
        if done.returncode == 0:
            ask()
    finally:
        if not keep:
            say("$ specml stop")
            subprocess.run([specml, "stop"], cwd=ROOT, check=False)
    return done.returncode


def ask() -> None:
    """Ask the live server about one person, and print what it says."""
    status = json.loads(subprocess.run(
        [BIN / "specml", "status", "--json"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout)  # fmt: skip
    row = {"SCHL": 21, "MAR": "1", "RELP": "0", "DIS": "2", "ESP": "0", "CIT": "1", "MIG": "1", "MIL": "4"}
    row |= {"ANC": "1", "NATIVITY": "1", "DEAR": "2", "DEYE": "2", "DREM": "2"}
    url = f"{status['live']['url']}/predict"
    body = json.dumps({"rows": [row]}).encode()
    say(f"asking {url} about {json.dumps(row)}")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        print(json.dumps(json.load(answer), indent=1))


def test() -> int:
    """Everything that a change has to pass."""
    checks = (
        ("ruff", "format", "--check", "--quiet"),
        ("ruff", "check", "--quiet"),
        ("mypy",),
        ("lint-imports",),
    )
    for command in checks:
        say(f"$ {' '.join(command)}")
        subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, check=True)
    # Two at a time: most tests wait for processes of their own. A file's tests stay together, for they share fixtures.
    pytest = ("pytest", "--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    say(f"$ {' '.join(pytest)}")
    return subprocess.run([PYTHON, "-m", *pytest], cwd=ROOT, check=False).returncode


def pip(*arguments: str, check: bool = True, told: bool = True) -> int:
    """Run pip of .venv, quietly; without ``told`` even its warnings are kept back."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"]
    return subprocess.run(command, cwd=ROOT, check=check, capture_output=not told).returncode


def capture(code: str) -> str:
    """What a line of Python prints in .venv."""
    return subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def say(text: str) -> None:
    """Tell a step."""
    print(f"quickstart: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
