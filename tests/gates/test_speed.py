"""Gates of time and size, on a real graph and a real server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from scipy.stats import ttest_1samp

from specml.gates.latency import Latency
from specml.gates.size import Size
from specml.gates.throughput import Throughput, mean
from specml.stages.served import Served
from specml.values import Duration
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.evidence import Evidence


def test_latency_through_http_is_longer_than_that_of_the_graph(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    served = Latency(max=Duration(2.0), of="server", percentile=50, connections=2).check(evidence)
    assert served.outcome == "holds"
    assert "400 calls through HTTP, on 2 connections" in served.reason
    alone = Latency(max=Duration(2.0), percentile=50).check(evidence)
    assert alone.value is not None
    assert served.value is not None
    assert alone.value < served.value
    refused = Latency(max=Duration(0.00001), of="server", percentile=50).check(evidence)
    assert (refused.outcome, refused.n) == ("refused", 400)
    assert "one after the other" in refused.reason


def test_throughput_is_judged_on_its_lower_end(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    held = Throughput(min=20, rows=10, connections=4).check(evidence)
    assert held.outcome == "holds"
    assert held.interval is not None
    assert held.value is not None
    assert held.interval.low < held.value < held.interval.high
    assert "8 runs, 4 connections, 10 rows a call" in held.reason
    assert Throughput(min=1e9).check(evidence).outcome == "refused"


def test_calls_that_are_refused_refuse_the_gate(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    most = spec_of().serving.max_rows
    verdict = Throughput(min=1, rows=most + 1, connections=1).check(evidence)
    assert verdict.outcome == "refused"
    assert "48 of 48 calls of the server were left without an answer" in verdict.reason


@pytest.mark.parametrize("gate", [Throughput(min=1), Latency(max=Duration(1.0), of="server", connections=3)])
def test_a_server_that_is_gone_refuses(real: Callable[[str], Evidence], gate: Throughput | Latency) -> None:
    evidence = real("binary")
    there = evidence.model
    assert there is not None
    server = there.served()
    assert isinstance(server, Served)
    gone = Served(1, server._contract, server._test, server._read, (server.max_rows, server.max_body))

    class Gone:
        inputs, graph_bytes = there.inputs, there.graph_bytes
        answer, explain, timed = there.answer, there.explain, there.timed

        def served(self) -> Served:
            return gone

    verdict = gate.check(replace(evidence, model=Gone()))
    assert verdict.outcome == "refused"
    assert "left without an answer" in verdict.reason


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = [812.0, 790.5, 840.25, 801.0, 799.0]
    reference = ttest_1samp(values, 0.0).confidence_interval(0.9)
    value, interval = mean(values, 0.9)
    assert value == pytest.approx(808.55)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), rel=1e-12)


def test_size_is_that_of_the_graph(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.model is not None
    exact = evidence.model.graph_bytes
    held = Size(max=exact).check(evidence)
    assert (held.outcome, held.value, held.interval) == ("holds", exact, None)
    assert Size(max=exact - 1).check(evidence).outcome == "refused"
    # A larger model of the same rows is the one refused.
    assert real("multiclass").model.graph_bytes > exact  # type: ignore[union-attr]
    assert Size(max=exact).check(real("multiclass")).outcome == "refused"


@pytest.mark.parametrize(
    ("gate", "sections", "key"),
    [
        ({"type": "latency", "max": "1s", "connections": 4}, {}, "connections"),
        ({"type": "latency", "max": "1s", "of": "server", "rows": 5000}, {"serving": {"max_rows": 1000}}, "rows"),
        ({"type": "throughput", "min": 5.0, "rows": 5000}, {"serving": {"max_rows": 1000}}, "rows"),
        ({"type": "size", "max": 4096}, {"selection": {"max_size": 2048}}, "max"),
    ],
)
def test_what_has_no_effect_is_told(gate: dict[str, object], sections: dict[str, object], key: str) -> None:
    found = list(spec_of(gates={"it": gate}, **sections).contradictions())
    assert [one.key for one in found] == [("gates", "it", key)]
    assert found[0].hint


def test_only_a_gate_that_asks_a_server_makes_its_settings_matter() -> None:
    from specml.stages.validate import SERVING, declare

    for of, asks in (("graph", False), ("server", True)):
        stage = declare(spec_of(gates={"fast": {"type": "latency", "max": "1s", "of": of}}))
        assert set(SERVING).issubset(stage.params) == asks
