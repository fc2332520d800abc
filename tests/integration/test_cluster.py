"""A search over a Ray cluster of two nodes finds what one machine finds, also where it was begun there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.candidates.tabular_mlp import TabularMlp
from specml.errors import NotEnoughData, StageFailed
from specml.spec import Search, Spec
from specml.stages import cluster, train, workers
from specml.stages.journal import versions
from specml.stages.work import Work, narrowed
from tests.conftest import design, spec_of
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


@pytest.mark.sweep
def test_what_is_wrong_there_is_told_as_here(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotEnoughData, match="folds"):
        searched(prepared(tmp_path / "few", n=4), on(address))
    monkeypatch.setattr(cluster, "versions", lambda one: {**versions(one), "lightgbm": "1.0"})
    with pytest.raises(StageFailed, match="another version of lightgbm"):
        searched(prepared(tmp_path / "other"), on(address))


@pytest.mark.sweep
def test_two_workers_share_a_refit(address: str, tmp_path: Path) -> None:
    """The same model each time, about as good as one worker's; the folds are none of theirs."""
    net = {"type": "tabular_mlp", "hidden": [8], "epochs": 12, "early_stopping": 0, "batch_size": 64, "dropout": 0.0}
    told: list[dict[str, bytes]] = []
    for name, more in (
        ("one", {}),
        ("two", {"train": {"workers": 2}, "search": {"folds": 2, "ray_address": address}}),
        ("again", {"train": {"workers": 2}, "search": {"folds": 2, "ray_address": address}}),
    ):
        trained = prepared(tmp_path / name)
        work_of = spec_of(candidates={"gbm": net}, **{"search": {"folds": 2}, **more})
        stage = train.declare(work_of)
        train.work(Work(stage, trained, narrowed(work_of, stage, "gbm"), lambda *_, **__: None, "gbm"))
        told.append({one.name: one.read_bytes() for one in sorted((trained / "artifacts/train/gbm").iterdir())})
    one, two, again = told
    assert two == again
    assert one["network.npz"] != two["network.npz"]
    assert {name: one[name] for name in one if name != "network.npz"} == {
        name: two[name] for name in two if name != "network.npz"
    }
    rows = np.random.default_rng(0).normal(size=(50, len(json.loads(one["network.json"])["bins"]))).astype(np.float32)
    models = [TabularMlp().load(tmp_path / name / "artifacts/train/gbm", "binary") for name in ("one", "two")]
    first, second = (model.predict(rows) for model in models)
    assert np.corrcoef(first, second)[0, 1] > 0.9


def test_more_workers_than_cpus_are_refused(address: str) -> None:
    with pytest.raises(StageFailed, match=r"is 3, but the Ray cluster has 2 CPUs"):
        workers.fit(TabularMlp(), design("binary"), seed=1, workers=3, search=Search(ray_address=address))
    # And before the search.
    with pytest.raises(StageFailed, match=r"is 3, but the Ray cluster has 2 CPUs"):
        workers.check(Search(ray_address=address), 3)


def test_no_cluster_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageFailed, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        searched(prepared(tmp_path / "named"), on("127.0.0.1:1"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(StageFailed, match="no Ray cluster answers"):
        searched(prepared(tmp_path / "auto"), on("auto"))
