from __future__ import annotations

import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from specml import rollout, runtime
from specml.contradictions import all_of
from specml.errors import DeployFailed, GateRefused
from specml.files import GENERATED
from specml.serving import edge as server
from specml.serving.app import Args
from specml.targets import edge
from specml.targets.edge import Edge
from tests.bundles import binary_bundle, release
from tests.conftest import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec

ARCHIVE = ".specml/edge/small.tar.gz"


def packed(**sections: Any) -> Spec:
    return spec_of(deployment={"target": {"type": "edge", "port": 8123}}, **sections)


def deploy(spec: Spec, project: Path) -> list[str]:
    said: list[str] = []
    rollout.go_live(spec, project, said.append)
    return said


def judged(project: Path, weight: float = 0.05) -> str:
    found = binary_bundle(project / "artifacts/bundle", weight=weight)
    release(project)
    return found


@pytest.fixture(autouse=True)
def _without_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_the_options_are_what_the_server_takes_and_hold_no_token() -> None:
    spec = packed(serving={"auth": {"tokens": "${secret:TOKENS}"}, "batching": {"max_wait": "5ms"}})
    (name, text), *more = spec.deployment.target.emit(spec).items()
    assert (name, more) == ("deploy/edge.json", [])
    options = json.loads(text)
    args = Args.model_validate(options.pop("args"))
    assert GENERATED in options.pop("#")
    assert options == {"host": "127.0.0.1", "port": 8123}
    assert (args.batching.max_wait, args.capture, args.explain) == (0.005, None, None)
    assert args.auth is not None
    assert args.auth.keys["tokens"].env == "TOKENS"
    assert args.auth.keys["tokens"].digests == ()
    assert text == Edge(port=8123).emit(spec)["deploy/edge.json"]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"serving": {"replicas": {"max": 3}}}, "serving.replicas"),
        ({"serving": {"replicas": {"gpus": 0.5}}}, "serving.replicas"),
        ({"serving": {"explain": {"max_rows": 7}}}, "serving.explain"),
        ({"monitoring": {"capture": {}}}, "monitoring.capture"),
    ],
)
def test_what_a_device_would_not_do_is_refused(sections: dict[str, Any], key: str) -> None:
    (found,) = all_of(packed(**sections))
    assert ".".join(map(str, found.key)) == key
    assert found.what.startswith("has no effect: an archive for the target edge")
    assert list(all_of(spec_of(**sections))) == []  # by the target local it has


def test_a_plain_spec_can_be_packed() -> None:
    assert list(all_of(packed())) == list(all_of(packed(serving={"explain": None}))) == []


def test_the_runtime_is_what_the_server_imports_and_no_more() -> None:
    names = {path.relative_to(runtime.PACKAGE).as_posix() for path in runtime.modules(edge.SERVER)}
    assert {"__init__.py", "serving/edge.py", "serving/app.py", "serving/picture.py", "bundle.py"} <= names
    assert "serving/launch.py" not in names
    assert not [name for name in names if name.split("/")[0] in {"spec.py", "stages", "cli", "targets", "candidates"}]


def test_the_same_release_is_packed_to_the_same_bytes(tmp_path: Path) -> None:
    spec = packed()
    for name in "ab":
        bundle = judged(tmp_path / name)
        said = deploy(spec, tmp_path / name)
    assert "What explains is left out: /explain is no path on the device." in said
    assert "No index tells the hashes of the wheels: requirements.txt has versions only." in said
    assert (tmp_path / "a" / ARCHIVE).read_bytes() == (tmp_path / "b" / ARCHIVE).read_bytes()
    with tarfile.open(tmp_path / "a" / ARCHIVE) as archive:
        members = archive.getmembers()
    assert [one.name for one in members] == sorted(one.name for one in members)
    assert {(one.mtime, one.uid, one.gid, one.uname) for one in members} == {(0, 0, 0, "")}
    assert [one.name for one in members if one.mode & 0o111] == ["small/run"]
    live = spec.deployment.target.status(spec, tmp_path / "a")
    assert live is not None
    assert (live.bundle, live.url, live.replicas) == (bundle, "http://127.0.0.1:8123", 0)
    assert live.archive == str(tmp_path / "a" / ARCHIVE)
    assert spec.deployment.target.stop(spec, tmp_path / "a") is False
    (tmp_path / "a" / ARCHIVE).write_bytes((tmp_path / "b" / ARCHIVE).read_bytes()[:5000])  # torn
    assert spec.deployment.target.status(spec, tmp_path / "a") is None


def test_what_was_not_released_is_not_packed(tmp_path: Path) -> None:
    binary_bundle(tmp_path / "artifacts/bundle")
    with pytest.raises(GateRefused, match="never released"):
        deploy(packed(), tmp_path)
    assert not (tmp_path / ".specml/edge").exists()


@pytest.mark.slow
def test_a_rollback_packs_the_release_before(tmp_path: Path) -> None:
    spec = packed()
    first, second = judged(tmp_path, 1.0), ""
    deploy(spec, tmp_path)
    second = judged(tmp_path, 2.0)
    deploy(spec, tmp_path)
    live = spec.deployment.target.status(spec, tmp_path)
    assert live is not None
    assert live.bundle == second
    rollout.roll_back(spec, tmp_path, "", "it was worse", lambda _: None)
    live = spec.deployment.target.status(spec, tmp_path)
    assert live is not None
    assert live.bundle == first


def test_the_lock_names_what_is_needed_in_the_versions_that_are_installed() -> None:
    from importlib.metadata import version

    pins = dict(pin.split("==") for pin in runtime.pins(edge.IMPORTED))
    assert pins["numpy"] == version("numpy")
    assert {"onnxruntime", "uvicorn", "h11", "pydantic-core", "typing-extensions"} <= pins.keys()
    assert not {"ray", "torch", "dvc", "scikit-learn", "lightgbm", "onnx", "onnxruntime-gpu", "pillow"} & pins.keys()


def test_hashes_are_those_that_pip_tells_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specml.files import digest

    wheel, said = tiny_wheel(tmp_path / "links"), list[str]()
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    kept = tmp_path / "requirements.txt"
    lock = runtime.lock(["tiny==1.0"], kept, said.append)
    assert lock == f"tiny==1.0 --hash={digest(wheel)}\n"
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert runtime.lock(["tiny==1.0"], kept, said.append) == lock
    assert said == []


def tiny_wheel(folder: Path) -> Path:
    """A package that says hello, as a wheel."""
    folder.mkdir()
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "hello = 'hello'\n")
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    return wheel


def test_an_audited_bundle_is_not_audited_again_and_any_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specml import bundle

    asked: list[str] = []
    monkeypatch.setattr(bundle, "audit", lambda model, where: asked.append(where))
    found = binary_bundle(tmp_path / "bundle")
    bundle.open_bundle(tmp_path / "bundle", audited=found)
    assert asked == []
    bundle.open_bundle(tmp_path / "bundle", audited="sha256:" + "0" * 64)
    assert len(asked) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    server._refuse_open(host, Args(bundle="."))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "device.example"])
def test_any_other_address_does(host: str) -> None:
    with pytest.raises(DeployFailed, match="not loopback" if host[0] != "d" else "no IP address"):
        server._refuse_open(host, Args(bundle="."))


def test_and_none_that_is_easily_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    args = Args.model_validate({"bundle": ".", "auth": {"keys": {"tokens": {"env": "TOKENS"}}}})
    monkeypatch.setenv("TOKENS", "a-token-that-is-long-enough, short")
    with pytest.raises(DeployFailed, match="fewer than 16") as refusal:
        server._refuse_open("0.0.0.0", args)
    assert "long-enough" not in str(refusal.value)
    monkeypatch.setenv("TOKENS", "a-token-that-is-long-enough")
    server._refuse_open("0.0.0.0", args)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ({"a": [0.5, "x"]}, {"a": [0.50001, "x"]}, True),
        ({"a": [0.5]}, {"a": [0.51]}, False),
        ({"a": 1}, {"b": 1}, False),
        ([1, 2], [1], False),
        (None, 0.0, False),
        ({"label": 1}, {"label": 0}, False),
    ],
)
def test_answers_are_the_same_but_for_rounding(one: Any, two: Any, same: bool) -> None:
    assert server._same(one, two) is same
