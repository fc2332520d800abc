"""The Open Inference Protocol by what others have written for it, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bundles import binary_bundle, probability
from tests.servers import alone, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.sweep]

KSERVE = "kserve==0.21.0"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with KServe's client, which wants another protobuf than ours."""
    folder = tmp_path_factory.mktemp("kserve")
    venv.create(folder, with_pip=True)
    found = folder / "bin/python"
    done = subprocess.run([found, "-m", "pip", "install", "-q", KSERVE], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{KSERVE} can't be installed here: {done.stderr.strip().splitlines()[-1]}")
    return found


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    folder, grpc = tmp_path_factory.mktemp("bundle") / "bundle", free_port()
    binary_bundle(folder)
    with alone(folder, grpc={"port": grpc}) as (http, _):
        yield http, grpc


def test_kserves_client_reads_and_infers(python: Path, ports: tuple[int, int]) -> None:
    # Safe: the folder of the tests, where kubernetes.py stands before the package, is not on the path.
    command = [python, "-P", ROOT / "tests/kserve_client.py", *map(str, ports)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["rest"] == [True, True, True, False]
    assert found["grpc"] == [True, True, True]
    assert "there is no model 'other'" in found["rest error"]
    people = [{"age": 25, "member": False, "workclass": "Private"}, {"age": 61, "member": True, "workclass": "Ünknown"}]
    for way, hours in (("rest json", 0), ("rest binary", 40), ("grpc typed", 0), ("grpc raw", 40)):
        told = found[way]
        expected = [probability({**people[0], "hours": hours}), probability({**people[1], "hours": None})]
        assert told["probabilities"] == pytest.approx(expected, rel=1e-5), way
        assert (told["id"], told["model"], told["labels"]) == ("seven", "census", ["1", "1"]), way


@pytest.mark.parametrize("command", [["tests.fuzz", "--runs=50000"], ["tests.fuzz_http", "--cases=1000"]])
def test_a_fuzzer_finds_nothing(command: list[str]) -> None:
    """The long form of each is a command by itself: see its module."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    if done.returncode and "No matching distribution" in told:
        pytest.skip("what fuzzes can't be installed here: no package index is reached")
    assert done.returncode == 0, told
