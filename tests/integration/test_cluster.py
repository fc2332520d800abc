"""A search over a Ray cluster of two nodes finds what one machine finds, also where it was begun there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from specml.errors import NotEnoughData, StageFailed
from specml.spec import Spec
from specml.stages import cluster
from specml.stages.journal import versions
from tests.conftest import spec_of
from tests.unit.test_search import TRIALS, journal, prepared, searched, spec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
MEMORY = 80 * 2**20


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with a CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        two = Cluster(initialize_head=True, head_node_args=node)
        two.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield two.address
        two.shutdown()


def on(address: str, **search: Any) -> Spec:
    told = spec().search.model_dump(exclude_unset=True) | {"executor": "ray", "ray_address": address, **search}
    gbm = {"type": "lightgbm", "n_estimators": 30, "early_stopping": 0}
    return spec_of(candidates={"gbm": gbm}, search=told)


def test_two_nodes_find_what_one_machine_finds(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    here = searched(prepared(tmp_path / "here"), spec())
    said: list[str] = []
    there = prepared(tmp_path / "there")
    assert searched(there, on(address), said) == here
    assert any("by 2 nodes" in text for text in said)
    assert any(one["pruned"] for one in journal(there))
    begun = prepared(tmp_path / "begun")
    searched(begun, spec(5))
    said.clear()
    assert searched(begun, on(address), said) == here
    assert len([text for text in said if text.startswith("trial ")]) == TRIALS - 5


def test_the_cap_holds_there_too(address: str, tmp_path: Path) -> None:
    searched(prepared(tmp_path), on(address, max_cpu_seconds=1e-6))
    told = json.loads((tmp_path / "artifacts/train/gbm/cross_validation.json").read_bytes())
    # The first generation is given as a whole: nothing is known yet of what a trial takes.
    assert (len(told["trials"]), told["search"]["ended_by"]) == (4, "max_cpu_seconds")


def test_what_is_wrong_there_is_told_as_here(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotEnoughData, match="folds"):
        searched(prepared(tmp_path / "few", n=4), on(address))
    monkeypatch.setattr(cluster, "versions", lambda one: {**versions(one), "lightgbm": "1.0"})
    with pytest.raises(StageFailed, match="another version of lightgbm"):
        searched(prepared(tmp_path / "other"), on(address))


def test_no_cluster_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageFailed, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        searched(prepared(tmp_path / "named"), on("127.0.0.1:1"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(StageFailed, match="no Ray cluster answers"):
        searched(prepared(tmp_path / "auto"), on("auto"))
