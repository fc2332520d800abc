"""Any metric, judged on its interval."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.evidence import ABSTAINED, Evidence
from specml.gates.metric import MetricGate
from specml.metrics import TABLE, How, known
from tests.conftest import spec_of
from tests.gates.conftest import TASKS, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_of_a_real_model_is_admitted_and_refused(real: Callable[[str], Evidence], task: str) -> None:
    """On 300 of its held-out rows, for speed."""
    evidence = real(task)
    taken = slice(0, 300)
    y, scores, decisions, _ = evidence.at(taken)
    if task == "regression":  # deviances are of numbers above 0
        y, scores = np.exp(y / 10), np.exp(scores / 10)
    few = replace(evidence, y=y, scores=scores, decisions=decisions)
    for name, metric in known(spec_for(task).problem).items():
        side, far = ("min", 1e6) if metric.larger_is_better else ("max", -1e6)
        outcomes = [MetricGate(metric=name, **{side: bound}).check(few).outcome for bound in (far, -far)]
        assert outcomes == ["refused", "holds"], name


def test_the_kind_of_interval_can_be_named(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    methods = {}
    hows: tuple[How, ...] = ("auto", "bootstrap", "analytic")
    for how in hows:
        interval = MetricGate(metric="roc_auc", min=0.5, interval=how).check(evidence).interval
        assert interval is not None
        methods[how] = interval
    assert [one.method for one in methods.values()] == ["delong", "bootstrap (400)", "delong"]
    assert methods["auto"].low == pytest.approx(methods["bootstrap"].low, abs=0.004)


def test_a_largest_error_is_that_of_the_rows(real: Callable[[str], Evidence]) -> None:
    verdict = MetricGate(metric="max_error", max=0.1).check(real("regression"))
    assert verdict.outcome == "refused"
    assert verdict.reason.endswith("no interval tells it of others.")
    few = Evidence("regression", np.zeros(3), np.zeros(3), None, np.zeros(3), np.zeros(3))
    assert MetricGate(metric="max_error", max=0.1).check(few).outcome == "not measured"


def test_what_makes_no_sense_is_refused_before_anything_runs() -> None:
    def wrong(spec: Any, **options: Any) -> list[tuple[Any, str]]:
        return [(one.key, one.hint) for one in MetricGate(**options).disagreements(spec)]

    assert wrong(spec_of(), metric="jaccard", min=0.5, interval="analytic") == [
        (("interval",), "Say auto or bootstrap.")
    ]
    assert not wrong(spec_of(), metric="roc_auc", min=0.5, interval="analytic")
    assert "matthews_corrcoef" in wrong(spec_of(), metric="mcc", min=0.5)[0][1]
    weighed = spec_for("multiclass")
    weighed = weighed.model_copy(
        update={
            "data": weighed.data.model_copy(
                update={"columns": {"debt": weighed.column("debt").model_copy(update={"role": "weight"})}}
            )
        }
    )
    assert wrong(weighed, metric="roc_auc_ovo", min=0.5)[0][0] == ("metric",)


def test_many_metrics_may_be_the_primary_one() -> None:
    for task in TASKS:
        for name in known(spec_for(task).problem):
            problem = spec_for(task).problem.model_dump(exclude_unset=True) | {"primary_metric": name}
            assert spec_for(task, problem=problem).problem.metric == name
    assert len(TABLE) > 40


def faultless(n: int, rare: int) -> Evidence:
    """A model without a fault, of ``rare`` positive rows of ``n``."""
    y = (np.arange(n) < rare).astype(np.int64)
    return Evidence("binary", y, 0.8 * y + 0.1, y, y, y)


@pytest.mark.parametrize(
    "name",
    ["f1", "f1_macro", "f1_weighted", "balanced_accuracy", "jaccard", "matthews_corrcoef", "cohen_kappa", "roc_auc",
     "average_precision", "accuracy", "recall_macro"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["auto", "bootstrap"])
def test_rows_without_a_fault_do_not_show_that_there_is_none(name: str, how: How) -> None:
    few, many = faultless(200, 100), faultless(20_000, 10_000)
    assert MetricGate(metric=name, min=0.9999, interval=how).check(few).outcome == "refused"
    assert MetricGate(metric=name, min=0.9, interval=how).check(few).outcome == "holds"
    assert MetricGate(metric=name, min=0.999, interval=how).check(many).outcome == "holds"
    # Of what a rare class is decided, its own rows tell alone.
    rare = MetricGate(metric=name, min=0.9, interval=how).check(faultless(20_000, 10)).outcome
    assert rare == ("holds" if name in ("accuracy", "f1_weighted") else "refused")


def test_rows_that_tell_nothing_do_not_count() -> None:
    every = faultless(1000, 500)
    decided = np.where(np.arange(1000) % 100 == 0, every.y, ABSTAINED)
    found = MetricGate(metric="f1", min=0.1).check(replace(every, decisions=decided))
    assert (found.outcome, found.n) == ("not measured", 10)
    assert MetricGate(metric="log_loss", max=1).check(replace(every, decisions=decided)).outcome == "holds"
    heavy = np.where(np.arange(1000) % 100 == 0, 1.0, 1e-6)
    for gate in (MetricGate(metric="log_loss", max=1), MetricGate(metric="f1", min=0.1)):
        found = gate.check(replace(every, weight=heavy))
        assert (found.outcome, found.n) == ("not measured", 10)
        assert gate.check(replace(every, weight=np.full(1000, 0.1))).outcome == "holds"
        assert gate.check(replace(every, weight=np.zeros(1000))).outcome == "not measured"
