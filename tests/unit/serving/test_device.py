"""Which device a replica runs on, and why; where there is no GPU, what refuses is onnxruntime itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from specml.bundle import open_bundle
from specml.errors import DeployFailed
from specml.serving import session as sessions
from specml.serving.app import Args
from specml.serving.device import CPU, CUDA, NotOpened, cuda, faster, gpu_visible, opened, reason, seconds, tensorrt
from specml.serving.measure import measured
from specml.serving.session import Session
from tests.conftest import spec_of

if TYPE_CHECKING:
    from pathlib import Path

NO_GPU = pytest.mark.skipif(gpu_visible(), reason="there is a GPU")
SAID = (
    "\x1b[1;31m2026-11-26 13:27:57 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] FAIL : Failed to "
    "load library /x/libonnxruntime_providers_cuda.so with error: {}\n\x1b[m"
)


@NO_GPU
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_must_be_and_does_not_open_refuses_to_start_in_the_providers_own_words(
    bundle: Path, device: str
) -> None:
    with pytest.raises(DeployFailed) as refused:
        Args.model_validate({"bundle": str(bundle), "device": device, "gpus": 1}).service("r1")
    assert "does not open: no NVIDIA GPU is visible to the replica; " in refused.value.what
    assert ".so" in refused.value.what
    assert refused.value.where == "serving.device"


@NO_GPU
def test_auto_goes_on_without_and_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sessions, "gpu_visible", lambda: True)
    session = Session(open_bundle(bundle), gpu=True)
    assert session.provider == CPU
    assert session.why.startswith("the CUDA provider did not open: ")
    assert "cannot open shared object file" in session.why
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    session.close()


def test_auto_takes_the_cpu_where_that_was_measured_faster(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "gpu_visible", lambda: True)
    costs = {"cpu": {1: 1e-5, 256: 1e-3}, "cuda": {1: 1e-4, 256: 2e-3}}
    session = Session(open_bundle(bundle), gpu=True, costs=costs)  # type: ignore[arg-type]
    assert session.why == "with 256 rows it was measured 2 times as fast as CUDA"
    session.close()


def test_the_cpu_can_be_asked_for(bundle: Path) -> None:
    service = Args.model_validate({"bundle": str(bundle), "device": "cpu", "gpus": 1}).service("r1")
    assert (service.session.provider, service.session.why) == (CPU, "serving.device is cpu")
    service.close()


def test_faster_is_by_full_batches_and_none_where_nothing_was_measured() -> None:
    costs = {"cpu": {1: 1e-5, 64: 1e-3}, "cuda": {1: 1e-4, 256: 1e-3}}
    assert faster(costs, "cuda", "cpu", 256) == pytest.approx(4.0)  # the CPU: four calls of 64
    assert faster(costs, "cuda", "tensorrt", 256) is None
    assert seconds({8: 1.0}, 4) is None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (SAID.format("libcublasLt.so.13: no such file"), "libcublasLt.so.13: no such file"),
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA", "CUDA driver version is insufficient"),
        ("EP Error Please install TensorRT libraries as mentioned", "TensorRT's libraries are not installed"),
        ("[ONNXRuntimeError] : 1 : FAIL : the graph can not be captured", "the graph can not be captured"),
        ("nothing of the kind", ""),
    ],
)  # fmt: skip
def test_the_reason_is_what_the_provider_said(said: str, found: str) -> None:
    assert reason(said).startswith(found)
    assert bool(reason(said)) == bool(found)


@NO_GPU
def test_providers_that_are_not_there_are_no_session(bundle: Path) -> None:
    with pytest.raises(NotOpened, match=r"\.so"):
        opened(open_bundle(bundle).model, cuda(stream=1, recorded=True))
    with pytest.raises(NotOpened, match="libnvinfer"):
        tensorrt("sha256:0", {"x": (1,)}, (1, 8))


def test_sizes_are_measured_beside_the_raw_session(bundle: Path) -> None:
    found = list(measured(open_bundle(bundle), "cpu", (1, 32), seconds=0.01))
    assert [(one.device, one.rows) for one in found] == [("cpu", 1), ("cpu", 32)]
    assert all(0 < one.seconds < 1 for one in found)
    assert all(0 < one.raw < 1 for one in found)


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_visible(), reason="needs an NVIDIA GPU")
def test_with_a_gpu_it_runs_there(bundle: Path) -> None:
    session = Session(open_bundle(bundle), gpu=True, device="cuda")
    assert session.provider == CUDA
    assert "recorded as CUDA graphs" in session.why
    session.close()


def problems_of(**changes: Any) -> dict[str, str]:
    return {".".join(map(str, one.key)): one.what for one in spec_of(**changes).contradictions()}


def test_sections_of_a_spec_agree_about_the_device() -> None:
    told = problems_of(serving={"device": "cuda"})
    assert told == {"serving.device": "is cuda, and no replica reserves a GPU."}
    told = problems_of(serving={"batching": {"max_batch_size": 8, "buckets": [4, 16]}})
    assert told == {"serving.batching.buckets": "has 16, and no batch is larger than max_batch_size, 8."}
    edge = {"deployment": {"target": "edge"}}
    told = problems_of(serving={"batching": {"buckets": [4]}}, **edge)
    assert told == {"serving.batching.buckets": "has no effect: an archive for the target edge computes on the CPU."}
