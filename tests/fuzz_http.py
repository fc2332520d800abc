"""Requests that Schemathesis makes of an OpenAPI file, to a live replica: ``python -m tests.fuzz_http --cases 10000``.

Two files are judged by: the server's own ``/openapi.json``, and the Open Inference Protocol's. Of the latter MLServer's
wheel holds a copy (Apache-2.0), which is fetched from the package index; ``--protocol FILE`` names another, such as
``open_inference_rest.yaml`` of https://github.com/kserve/open-inference-protocol. The server may never answer 5xx, and
what it answers has to be what the file says. Schemathesis is put into ``.specml/fuzz-http``, by pip, with all that it
needs; it is no part of the development environment, for its size.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from tests.bundles import binary_bundle, regression_bundle
from tests.servers import alone

SCHEMATHESIS = "schemathesis==4.32.5"
MLSERVER = "mlserver==1.7.1"
COPY = "mlserver/rest/openapi/dataplane.json"
FOLDER = Path(".specml/fuzz-http")
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
OWN = f"{CHECKS},status_code_conformance,response_headers_conformance,unsupported_method"
"""Of the server's own file also the statuses: the protocol's names few of those that it allows."""
BEYOND = ("infer_stream", "generate", "generate_stream")
"""What MLServer has beside the protocol."""


def main() -> int:
    """Ask, and tell how many cases there were."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_http", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="at least, together (%(default)s)")
    parser.add_argument("--protocol", type=Path, help="the protocol's OpenAPI file")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    _install()
    with tempfile.TemporaryDirectory() as folder:
        cases = _all(Path(folder), asked)
    print(f"{cases:,} cases, none of them answered with 5xx or with what the files don't say")
    return 0 if cases >= asked.cases else 1


def _all(folder: Path, asked: argparse.Namespace) -> int:
    binary_bundle(folder / "census")
    regression_bundle(folder / "rent")
    cases, each, seed = 0, max(10, asked.cases // 24), asked.seed
    while cases < asked.cases:
        for name in ("census", "rent"):
            with alone(folder / name, max_rows=50, max_body=100_000) as (port, _):
                version = _told(port, f"/v2/models/{name}")["versions"][0]
                own, protocol = folder / "own.json", folder / "protocol.json"
                own.write_text(json.dumps(_told(port, "/openapi.json")))
                protocol.write_text(json.dumps(_named(_protocol(asked.protocol, folder), name, version)))
                for file, checks in ((own, OWN), (protocol, CHECKS)):
                    cases += _ask(file, port, checks, each, seed)
        seed += 1
    return cases


def _ask(file: Path, port: int, checks: str, each: int, seed: int) -> int:
    """Run one file against the server; returns how many cases there were."""
    began = time.monotonic()
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(file), f"--url=http://127.0.0.1:{port}"]
    command += [f"--checks={checks}", f"--max-examples={each}", f"--seed={seed}", "--no-color", "--warnings=off"]
    command += ["--phases=examples,coverage,fuzzing", "--continue-on-failure", "--generation-database=none"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(FOLDER.resolve()), os.environ.get("PYTHONPATH", ""))),
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = re.search(r"([\d,]+) generated", done.stdout)
    if done.returncode or found is None:
        sys.exit(f"{file.name}: status {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}")
    cases = int(found[1].replace(",", ""))
    print(f"{file.name}, seed {seed}: {cases:,} cases in {time.monotonic() - began:.0f} s", flush=True)
    return cases


def _told(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


def _install() -> None:
    if not (FOLDER / "schemathesis").exists():
        target = ["--quiet", "--target", str(FOLDER), "-c", "constraints.txt", SCHEMATHESIS]
        subprocess.run([sys.executable, "-m", "pip", "install", *target], check=True)


def _protocol(given: Path | None, folder: Path) -> dict[str, Any]:
    """The protocol's OpenAPI file."""
    from ruamel.yaml import YAML

    if given is not None:
        document: dict[str, Any] = YAML(typ="safe").load(given)
        return document
    if not (folder / "wheel").exists():
        fetch = ["--quiet", "--no-deps", "--dest", str(folder / "wheel"), MLSERVER]
        subprocess.run([sys.executable, "-m", "pip", "download", *fetch], check=True)
    (wheel,) = (folder / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as file:
        copy: dict[str, Any] = json.loads(file.read(COPY).replace(b'"bytes"', b'"string"'))  # JSON Schema has no bytes
    copy["paths"] = {path: what for path, what in copy["paths"].items() if path.rpartition("/")[2] not in BEYOND}
    return copy


def _named(document: dict[str, Any], model: str, version: str) -> dict[str, Any]:
    """The file with the model in its paths: those of models that are not there would only be 404."""
    paths = {}
    for path, operations in document["paths"].items():
        here = re.sub(r"\$?\{model_?name\}", model, path, flags=re.I)
        here = re.sub(r"\$?\{model_?version\}", version, here, flags=re.I)
        paths[here] = {method: what for method, what in operations.items() if method != "parameters"}
    return {**document, "paths": paths}


if __name__ == "__main__":
    sys.exit(main())
