from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from specml.serving.app import Args
from specml.serving.scaling import TARGET, Load, replicas

if TYPE_CHECKING:
    from pathlib import Path


def test_a_load_is_what_the_loop_worked_or_the_model_ran(bundle: Path) -> None:
    service = Args(bundle=str(bundle)).service("r1")
    load = Load(service)
    load.since()
    time.sleep(0.2)
    idle = load.since()
    service.counters.batch(1, 1, 0.19)
    time.sleep(0.2)
    model = load.since()
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
    loop = load.since()
    assert loop > 0.7, "also where it had to wait for a processor"
    assert idle < min(loop, model)
    service.close()


@pytest.mark.parametrize(
    ("metrics", "wanted"),
    [
        ({"load": {"a": 0.7, "b": 0.7}}, 2),
        ({"load": {"a": 2.8}}, 4),
        ({"load": {"a": 0.0, "b": 0.07}}, 0.1),
        ({"load": {}}, 3),
        ({}, 3),
        (None, 3),
    ],
)
def test_so_many_replicas_as_are_busy_for_the_wanted_share(metrics: Any, wanted: float) -> None:
    context: Any = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=3)
    found, state = replicas(context)
    assert found == pytest.approx(wanted)
    assert state == {}
    assert TARGET == 0.7
