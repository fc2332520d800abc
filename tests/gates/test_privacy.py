"""Membership inference: a model that remembers is told from one that does not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from specml.evidence import Evidence
from specml.gates.privacy import Privacy
from specml.resamples import losses
from tests.conftest import spec_of
from tests.gates.conftest import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable


def remembered(evidence: Evidence, share: float) -> Evidence:
    """The same, of a model that answers a share of the training rows right, and with certainty."""
    assert evidence.training is not None
    training = evidence.training()
    known = np.arange(len(training.y)) < share * len(training.y)
    right = training.y if training.scores.ndim == 1 else np.eye(training.scores.shape[1])[training.y]
    scores = np.where(known if right.ndim == 1 else known[:, None], right, training.scores)
    return replace(evidence, training=lambda: replace(training, scores=scores))


@pytest.mark.parametrize("task", TASKS)
def test_a_real_model_is_admitted_and_one_that_remembers_its_rows_is_refused(
    real: Callable[[str], Evidence], task: str
) -> None:
    evidence = real(task)
    assert evidence.training is not None
    held = Privacy(max=0.6).check(evidence)
    assert held.outcome == "holds"
    wanted = roc_auc_score(
        np.repeat([1, 0], [len(evidence.training().y), len(evidence.y)]),
        -np.concatenate([losses(evidence.training()), losses(evidence)]),
    )
    assert held.value == pytest.approx(wanted)
    found = Privacy(max=0.6).check(remembered(evidence, 0.9))
    assert found.outcome == "refused"
    assert found.value is not None
    assert found.value > 0.9


def test_a_group_that_alone_is_remembered_refuses(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.training is not None
    training = evidence.training()
    scores = np.where(training.groups["group"] == "b", training.y, training.scores)
    exposed = replace(evidence, training=lambda: replace(training, scores=scores))
    gate = Privacy(max=0.8, by=("group", "sex"))
    assert gate.check(evidence).outcome == "holds"
    verdict = gate.check(exposed)
    assert verdict.outcome == "refused"
    assert [one.name for one in verdict.slices if one.outcome == "refused"] == ["group=b"]
    assert "the most exposed group is group=b" in verdict.reason
    (few,) = (one for one in verdict.slices if one.name == "group=c")
    assert few.outcome == "not measured"


def test_too_few_rows_are_not_measured(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert Privacy().check(evidence.only(np.arange(99))).outcome == "not measured"
    assert Privacy().check(replace(evidence, training=None)).outcome == "not measured"


def test_groups_must_be_protected() -> None:
    assert [one.key for one in Privacy(by=("group",)).disagreements(spec_of())] == [("by", 0)]


def test_a_model_that_remembers_nothing_is_rarely_refused_at_a_limit_near_a_coin() -> None:
    def sample(seed: int, n: int) -> Evidence:
        generator = np.random.default_rng(seed)
        p = generator.uniform(0.05, 0.95, n)
        y = (generator.random(n) < p).astype(np.int64)
        return Evidence("binary", y, p, (p >= 0.5).astype(np.int64), p, p)

    gate = Privacy(max=0.55)
    outcomes = []
    for seed in range(100):
        inner = (seed, 1500)
        outcomes.append(gate.check(replace(sample(1000 + seed, 1000), training=partial(sample, *inner))).outcome)
    assert outcomes.count("holds") >= 95
