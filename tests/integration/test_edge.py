"""The archive of the target ``edge``: unpacked, tested and asked, with nothing to import but what its lock names."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from tests.bundles import binary_bundle, probability, release
from tests.conftest import specml
from tests.unit.test_edge import tiny_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SPEC = """\
name: census
problem: {task: binary, target: income}
data: {sources: {people: {type: csv, path: people.csv}}}
candidates: {line: logistic_regression}
deployment: {target: edge}
"""
ROW = {"age": 61, "member": True, "workclass": "Private"}
QUICK = 2.0
"""Seconds from ``run`` to the first answer, on a machine that does nothing else: seconds of the processor, here."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as on a device where ``run`` has installed what the lock names, and nothing else."""
    project = tmp_path_factory.mktemp("project")
    (project / "spec.yaml").write_text(SPEC)
    binary_bundle(project / "artifacts/bundle")
    release(project)
    told = specml("deploy", folder=project, PIP_NO_INDEX="1").stdout
    archive = project / ".specml/edge/census.tar.gz"
    assert f"census is packed: {archive}" in told
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in told
    told = specml("status", folder=project).stdout
    assert f"packed, to be started on devices: {archive}" in told
    device = tmp_path_factory.mktemp("device")
    with tarfile.open(archive) as file:
        file.extractall(device, filter="data")
    _installed(device / "census")
    return device / "census"


def _installed(folder: Path) -> None:
    """A virtual environment with links to the distributions of the lock that are installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (site,) = (folder / ".venv/lib").glob("python*/site-packages")
    for line in (folder / "requirements.txt").read_text().splitlines():
        name = line.partition("==")[0]
        try:
            held = distribution(name)
        except PackageNotFoundError:
            held = distribution(f"{name}-gpu")
        for top in {one.parts[0] for one in held.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(held.locate_file(top)))
    lock = hashlib.sha256((folder / "requirements.txt").read_bytes()).hexdigest()
    (folder / ".venv/installed").write_text(lock)


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", folder / "run", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def url(unpacked: Path) -> Iterator[str]:
    began = time.monotonic()
    process = subprocess.Popen([unpacked / "run", "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = process.stdout.readline().split()[-1]
        assert ask(found, "/predict", {"rows": [ROW]})[0] == 200
        times = psutil.Process(process.pid).cpu_times()
        told = f"answers after {time.monotonic() - began:.2f} s, {times.user + times.system:.2f} of the processor"
        assert times.user + times.system < QUICK, told
        yield found
    finally:
        process.terminate()
        assert process.wait(20) in (0, -15)
        process.stdout.close()


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    raw = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + path, raw, {"content-type": "application/json"})
        ) as found:
            return found.status, json.loads(found.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_it_answers_named_columns(url: str) -> None:
    status, answer = ask(url, "/predict", {"rows": [ROW, {**ROW, "age": 20, "hours": 10}]})
    assert status == 200
    found = [one["probability"] for one in answer["predictions"]]
    assert found == pytest.approx([probability(ROW), probability({**ROW, "age": 20, "hours": 10})], rel=1e-5)
    assert ask(url, "/predict", {"rows": [{"agee": 1}]})[0] == 422
    assert ask(url, "/explain", {"rows": [ROW]})[0] == 404


def test_tritonclient_infers(url: str) -> None:
    from tritonclient import http as triton

    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_ready()
    assert client.is_model_ready("census")
    inputs = []
    for name, value in {"age": 61.0, "hours": np.nan, "member": 1.0, "workclass": "Private"}.items():
        values = np.array([[value]], dtype=object if name == "workclass" else np.float64)
        tensor = triton.InferInput(name, [1, 1], "BYTES" if name == "workclass" else "FP64")
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    found = client.infer("census", inputs).as_numpy("probabilities")
    np.testing.assert_allclose(found[:, 1], [probability(ROW)], rtol=1e-5)


def test_it_says_which_bundle_answers(url: str, unpacked: Path) -> None:
    told = json.loads((unpacked / "manifest.json").read_text())
    assert ask(url, "/healthz")[1]["bundle"] == told["bundle"]


def test_the_self_test_passes(unpacked: Path) -> None:
    done = run(unpacked, "--self-test")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The files are whole, and all 4 known rows have their answers.\n"


@pytest.mark.parametrize(
    "name", ["bundle/model.onnx", "runtime/specml/serving/answer.py", "requirements.txt", "edge.json"]
)
def test_the_self_test_fails_on_an_altered_file(name: str, unpacked: Path) -> None:
    before = (unpacked / name).read_bytes()
    (unpacked / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        for arguments in (("--self-test",), ()):  # nor does it start
            done = run(unpacked, *arguments)
            assert done.returncode == 1
            assert done.stderr.startswith(f"run: {name} was altered")
    finally:
        (unpacked / name).write_bytes(before)


def test_the_self_test_fails_on_another_answer(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked, tmp_path / "census", symlinks=True)
    known = json.loads((tmp_path / "census/known.json").read_text())
    known[2]["answer"]["predictions"][0]["probability"] += 0.001
    raw = json.dumps(known).encode()
    (tmp_path / "census/known.json").write_bytes(raw)
    manifest = json.loads((tmp_path / "census/manifest.json").read_text())
    manifest["files"]["known.json"] = hashlib.sha256(raw).hexdigest()
    (tmp_path / "census/manifest.json").write_text(json.dumps(manifest))
    done = run(tmp_path / "census", "--self-test")
    assert done.returncode == 9
    assert (
        "1 of 4 known rows have another answer here than where the archive was made: the first is row 2." in done.stderr
    )


def test_all_that_is_loaded_is_in_the_lock(unpacked: Path) -> None:
    """Whatever else is installed where this runs is not on the path; so it is enough that the server works."""
    code = (
        "import sys; sys.path.insert(0, 'runtime'); from pathlib import Path; from specml.serving import edge\n"
        "assert edge.main(Path.cwd(), ['--self-test']) == 0\n"
        "import uvicorn.protocols.http.httptools_impl, uvloop\n"
        "print(*sorted({name.partition('.')[0] for name, one in sys.modules.items()"
        " if getattr(one, '__file__', None)} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [unpacked / ".venv/bin/python", "-I", "-c", code], cwd=unpacked, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    locked = {line.partition("==")[0].replace("-", "_") for line in (unpacked / "requirements.txt").read_text().split()}
    assert {"specml", "numpy", "onnxruntime", "orjson", "pydantic", "uvicorn"} <= loaded
    assert {name for name in loaded - locked if not name.startswith("_")} == {"specml"}
    assert not {"ray", "torch", "dvc", "sklearn", "lightgbm", "onnx", "polars"} & loaded


def test_others_than_this_machine_need_tokens(unpacked: Path) -> None:
    done = run(unpacked, "--host", "0.0.0.0")
    assert done.returncode == 9
    assert "0.0.0.0 is not loopback, and the archive was made without tokens" in done.stderr


@pytest.mark.parametrize("altered", [False, True])
def test_run_installs_from_the_wheels_beside_it_by_their_hashes(altered: bool, tmp_path: Path) -> None:
    wheel = tiny_wheel(tmp_path / "wheels")
    lock = f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    (tmp_path / "requirements.txt").write_text(lock)
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/__main__.py").write_text("import sys, tiny\nprint(tiny.hello, *sys.argv[1:])\n")
    shutil.copyfile(Path(__file__).parents[2] / "src/specml/targets/edge/run.py", tmp_path / "run")
    made_for = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()} {platform.machine()}"
    told = {"requirements.txt": hashlib.sha256(lock.encode()).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"made_for": made_for, "files": told}))
    if altered:
        with wheel.open("ab") as file:
            file.write(b"\0")
    done = run(tmp_path, "there")
    assert (done.returncode, done.stdout) == ((1, "") if altered else (0, "hello there\n"))
    assert (tmp_path / ".venv/installed").exists() != altered


def test_run_refuses_another_python(tmp_path: Path) -> None:
    shutil.copyfile(Path(__file__).parents[2] / "src/specml/targets/edge/run.py", tmp_path / "run")
    (tmp_path / "requirements.txt").write_text("")
    told = {"requirements.txt": hashlib.sha256(b"").hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"made_for": "Python 2.7 on Linux vax", "files": told}))
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("run: the archive is for Python 2.7 on Linux vax, this is Python ")
    assert not (tmp_path / ".venv").exists()
