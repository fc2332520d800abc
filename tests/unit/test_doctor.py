from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from specml.cli import TELEMETRY_OFF, cli
from specml.doctor import devices, findings, installed, machine
from specml.doctor import project as checks
from specml.doctor.probe import Tried, tried
from specml.errors import SpecmlError
from specml.load import load
from specml.targets.local.cluster import MARK, PROJECT, Cluster
from tests.conftest import EXAMPLES, spec_of, specml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from specml.doctor import Finding

REAL = installed.LOADED


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading all libraries takes seconds: it is tested by itself."""
    monkeypatch.setattr(installed, "LOADED", (("json",),))
    monkeypatch.setattr(devices, "tried", lambda trials: {one: Tried(one, facts=OPENED) for one in trials})
    for name, off in TELEMETRY_OFF.items():
        monkeypatch.setenv(name, off)


OPENED = (("compiled", devices.CPU), ("opened", devices.CPU))


def state(found: Any, check: str) -> Finding:
    return next(one for one in found if one.check == check)


def doctor(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(cli, ["doctor", str(folder), "--json", *arguments], standalone_mode=False)
    document = json.loads(done.output)
    return (1 if done.exception or done.return_value else 0), document


def test_a_crash_or_a_hang_costs_its_own_trial_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashes.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (tmp_path / "hangs.py").write_text("import time; time.sleep(100)")
    (tmp_path / "leaves.py").write_text("import sys; print('too early', file=sys.stderr); sys.exit(3)")
    (tmp_path / "talks.py").write_text("print('{}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ["talks", "crashes", "missing_thing", "hangs", "leaves", "json"]
    found = tried([f"import:{name}" for name in names], patience=3)
    errors = {trial.partition(":")[2]: one.error for trial, one in found.items()}
    assert errors == {
        "talks": "",
        "crashes": "the process was killed by SIGSEGV",
        "missing_thing": "ModuleNotFoundError: No module named 'missing_thing'",
        "hangs": "did not end within 3 s",
        "leaves": "the process ended with status 3: too early",
        "json": "",
    }


def test_an_import_that_fails_is_a_finding_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "LOADED", (("json", "sklearn.nothing_of_the_kind"),))
    found = list(installed.loading())
    assert [(one.check, one.state) for one in found] == [("scikit-learn", "wrong"), ("imports", "ok")]
    assert "nothing_of_the_kind" in found[0].what
    assert found[1].what == "1 libraries load"


def test_the_cpu_provider_opens_and_refusals_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "tried", tried)
    found = list(devices.providers(0))
    assert state(found, "onnxruntime CPU").state == "ok"
    assert all(one.what.partition("does not open: ")[2] or "opens" in one.what for one in found)
    if any(one.check == "onnxruntime CUDA" and "does not open" in one.what for one in found):
        wanted = state(devices.providers(1.0), "onnxruntime CUDA")
        assert wanted.state == "wrong"
        assert "serving.replicas.gpus" in wanted.why


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_two_onnxruntimes_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed.one_onnxruntime().state == "ok"
    distribution(tmp_path, "onnxruntime", "1.31.1")
    distribution(tmp_path, "onnxruntime-extensions", "0.14")
    monkeypatch.syspath_prepend(tmp_path)
    found = installed.one_onnxruntime()
    assert found.state == "wrong"
    assert found.what.startswith("2 distributions: onnxruntime 1.31.1, onnxruntime-")
    assert "pip uninstall -y onnxruntime onnxruntime-" in found.mend


def test_versions_are_held_to_what_specml_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.state for one in installed.versions() if one.check == "versions"] == ["ok"]
    distribution(tmp_path, "ray", "2.59.0")
    distribution(tmp_path, "polars", "99.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = list(installed.versions())
    assert state(found, "ray").what == "2.59.0 is installed"
    assert state(found, "ray").state == "wrong"
    assert state(found, "ray").why == "specml asks for ray==2.60.0."
    assert "polars 99.0 (tested: " in state(found, "tested versions").what
    assert state(found, "tested versions").state == "told"


def test_a_folder_that_takes_no_file_is_wrong(tmp_path: Path) -> None:
    assert [one.state for one in checks.writable(tmp_path)] == ["ok"]
    assert list(tmp_path.iterdir()) == []
    import pathlib

    assert [one.state for one in checks.writable(pathlib.Path("/proc"))] == ["wrong"]


def test_too_little_disk_is_wrong(tmp_path: Path) -> None:
    assert {one.state for one in machine.disk(tmp_path, 0)} == {"ok"}
    found = list(machine.disk(tmp_path, 10**18))
    assert [one.state for one in found] == ["wrong", "ok"]
    assert "5000000000.5 GB" in found[0].why


def test_a_port_that_is_taken_is_told_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = spec_of(deployment={"target": {"type": "local", "port": port}})
        found = state(checks.server(tmp_path, spec), f"port {port}")
        assert found.state == "wrong"
        assert f"({os.getpid()})" in found.what
        assert f"deployment.target.port={port + 1}" in found.mend
    assert state(checks.server(tmp_path, spec), f"port {port}").state == "ok"


def test_a_server_that_nobody_remembers_is_found(tmp_path: Path) -> None:
    """And another project's is not."""
    here = {**os.environ, MARK: "0" * 32, PROJECT: str(tmp_path.resolve())}
    there = {**here, MARK: "1" * 32, PROJECT: str(tmp_path.resolve() / "other")}
    code = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]
    lost, other = (subprocess.Popen(code, env=env, stdout=subprocess.PIPE) for env in (here, there))
    try:
        for process in (lost, other):
            assert process.stdout is not None
            process.stdout.readline()
        found = state(checks.server(tmp_path, None), "server")
        assert (found.state, found.what) == ("wrong", f"one whose record is lost: processes {lost.pid}")
        (tmp_path / ".specml").mkdir()
        Cluster("0" * 32, "/tmp/specml-none", 1, 20000, 1).write(tmp_path / ".specml")
        assert "none answers at port 1" in state(checks.server(tmp_path, None), "server").what
    finally:
        for process in (lost, other):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert "no process of it runs" in state(checks.server(tmp_path, None), "server").what


def test_every_secret_of_the_spec_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load(EXAMPLES / "loans").spec
    monkeypatch.delenv("LOANS_KEY", raising=False)
    (found,) = checks.secrets(tmp_path, spec)
    assert (found.state, found.what) == ("wrong", "the environment variable LOANS_KEY is not set")
    assert "compliance.hash_key" in str(found)
    monkeypatch.setenv("LOANS_KEY", "x")
    assert [one.state for one in checks.secrets(tmp_path, spec)] == ["ok"]


@pytest.mark.parametrize("error", [OSError(28, "full", "/x"), ValueError("no number"), SpecmlError("is broken.")])
def test_a_check_that_fails_is_a_finding_and_the_others_go_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name that the file system refuses stands for a folder that this user may not read: tests may run as root.
    spec = spec_of(data={"sources": {"rows": {"type": "csv", "path": f"{'x' * 300}.csv"}}})

    def fails() -> Any:
        raise error

    monkeypatch.setattr(machine, "cores", fails)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what else lies on this machine is no matter here
    found = {one.check: one for one in findings(tmp_path, spec, TELEMETRY_OFF)}
    assert "can't be looked at" in found["disk"].what
    assert "can't be looked at" in found["cores"].what
    assert {"memory", "leftovers", "telemetry"} <= set(found)


def test_secrets_are_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(serving={"auth": {"type": "bearer", "tokens": "${secret:DOCTOR_TOKENS}"}})
    monkeypatch.delenv("DOCTOR_TOKENS", raising=False)
    assert [one.state for one in checks.secrets(tmp_path, spec)] == ["wrong"]
    monkeypatch.setenv("DOCTOR_TOKENS", "correct horse battery staple")
    (tmp_path / ".specml").mkdir()
    Cluster("0" * 32, "/tmp/specml-none", 1, 20000, 1).write(tmp_path / ".specml")
    assert [one.state for one in checks.secrets(tmp_path, spec)] == ["ok"]
    (tmp_path / ".specml/serving.json").chmod(0o644)
    assert [one.state for one in checks.secrets(tmp_path, spec)] == ["wrong", "ok"]
    told = "".join(map(str, findings(tmp_path, spec, TELEMETRY_OFF)))
    assert "DOCTOR_TOKENS is set" in told
    assert "horse" not in told


def test_what_crashes_left_is_told(tmp_path: Path) -> None:
    assert list(checks.locks(tmp_path)) == []
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text(json.dumps({"a": {"write": {"pid": 2**22 + 1, "cmd": "dvc"}}}))
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstag")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/.bundle.abcdefgh").mkdir()
    (tmp_path / ".specml").mkdir()
    with (tmp_path / ".specml/run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": 12, "host": "here", "since": "noon"}))
        lock.flush()
        found = list(checks.locks(tmp_path))
    assert [one.check for one in found] == ["run", "dvc lock", "dvc.lock"]
    assert "process 12 on here, since noon" in found[0].what
    assert "1 temporary files" in state(checks.remains(tmp_path), "leftovers").what
    assert (tmp_path / ".dvc/tmp/rwlock").exists(), "it only looks"


def test_telemetry_that_somebody_turned_on_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.state for one in machine.telemetry(TELEMETRY_OFF, tmp_path)] == ["ok"]
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    autostage = true\n")
    found = list(machine.telemetry(TELEMETRY_OFF, tmp_path))
    assert [one.state for one in found] == ["told", "told"]
    assert "RAY_USAGE_STATS_ENABLED is '1'" in found[0].what
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    assert [one.state for one in machine.telemetry(TELEMETRY_OFF, tmp_path)] == ["ok"]


def test_threads_that_are_no_number_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.cores().state in ("ok", "told")
    monkeypatch.setenv("SPECML_THREADS", "many")
    assert machine.cores().state == "wrong"


def test_the_verb_ends_with_1_when_something_is_wrong(tmp_path: Path) -> None:
    status, told = doctor(tmp_path)
    assert (status, told["healthy"]) == (0, True), told
    assert told["findings"][0]["state"] == "told"
    (tmp_path / "spec.yaml").write_text("name: small\n")
    status, told = doctor(tmp_path)
    assert (status, told["healthy"]) == (1, False)
    assert told["findings"][0] == {
        "check": "spec",
        "state": "wrong",
        "what": "3 problems in it",
        "why": "It can't be compiled.",
        "mend": "`specml check` tells each.",
    }


def test_a_check_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ImportError("libcudart.so.13: no such file")

    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/sys/secret")

    monkeypatch.setattr(checks, "locks", refuse)
    monkeypatch.setattr(machine, "shared_memory", closed)
    found = list(findings(tmp_path, None, TELEMETRY_OFF))
    assert state(found, "locks").state == "wrong"
    assert "libcudart" in state(found, "locks").what
    assert state(found, "shared memory").what == "can't be looked at: /sys/secret Permission denied"
    assert state(found, "imports").state == "ok"


@pytest.mark.slow
def test_this_very_installation_is_well(project: Callable[[str], Path]) -> None:
    """The whole of it, as a person runs it; and without git on the path."""
    folder = project("breast_cancer")
    told = json.loads(specml("doctor", "--json", "deployment.target.port=18431", folder=folder).stdout)
    assert told["healthy"]
    found = {one["check"]: one for one in told["findings"]}
    assert found["imports"]["what"] == f"{sum(map(len, REAL))} libraries load"
    assert found["onnxruntime CPU"]["what"] == "opens, and computes"
    assert found["spec"]["what"].startswith("breast-cancer, ")


@pytest.mark.slow
def test_it_works_where_libraries_and_git_are_missing(tmp_path: Path) -> None:
    packages = {"hydra": "hydra-core", "lightgbm": "lightgbm", "sklearn": "scikit-learn", "ray": "ray"}
    packages |= {"torch": "torch", "pytorch_lightning": "pytorch-lightning", "captum": "captum", "whylogs": "whylogs"}
    for module in packages:
        (tmp_path / f"{module}.py").write_text(f"raise ImportError('{module} is broken')")
    (tmp_path / "spec.yaml").write_text("name: small\n")
    done = subprocess.run(
        [sys.executable, "-m", "specml", "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = {one["check"]: one["what"] for one in json.loads(done.stdout)["findings"] if one["state"] == "wrong"}
    assert found.keys() == {"spec", *packages.values()}
    assert all(f"{module} is broken" in found[package] for module, package in packages.items())
