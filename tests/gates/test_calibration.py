"""The gate ``calibration`` by group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from specml.evidence import ROWS_TOLD, Evidence
from specml.gates.calibration import Calibration
from tests.conftest import spec_of


def people(n: int, seed: int, *, shift: float, small: int = 0) -> Evidence:
    """Probabilities that are right over all, and ``shift`` (of the logit) too high for one half and too low for one."""
    generator = np.random.default_rng(seed)
    names = np.where(np.arange(n) < n // 2, "a", "b").astype(object)
    names[:small] = "c"
    logit = 1.5 * generator.normal(size=n)
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    scores = 1 / (1 + np.exp(-logit - np.where(names == "a", shift, -shift)))
    return Evidence("binary", y, scores, (scores > 0.5).astype(np.int64), scores, scores, groups={"g": names})


def by(**options: Any) -> Calibration:
    return Calibration(**{"by": ("g",), **options})


def test_groups_that_are_wrong_in_turn_are_refused_where_all_rows_are_right() -> None:
    evidence = people(8000, 1, shift=0.6)
    assert by(by=()).check(evidence).outcome == "holds"
    verdict = by().check(evidence)
    assert verdict.outcome == "refused"
    assert [one.outcome for one in verdict.slices] == ["refused", "refused"]
    assert len(verdict.rows) == ROWS_TOLD
    assert verdict.value == max(one.value or 0 for one in verdict.slices)
    assert by().check(people(8000, 1, shift=0.0)).outcome == "holds"


def test_a_group_of_few_rows_is_not_measured_and_the_policy_decides() -> None:
    evidence = people(6000, 2, shift=0.0, small=300)
    verdict = by().check(evidence)
    assert (verdict.outcome, verdict.blocking, verdict.rows) == ("not measured", True, tuple(range(ROWS_TOLD)))
    assert "g=c (300 rows, fewer than 1,000)" in verdict.reason
    assert not by(policy="warn").check(evidence).blocking


def test_a_group_whose_interval_straddles_is_not_measured() -> None:
    verdict = by(max=0.05, min_rows=200).check(people(2400, 3, shift=0.3))
    assert {one.outcome for one in verdict.slices} >= {"not measured"}
    assert "refused" not in {one.outcome for one in verdict.slices}


def test_clean_groups_are_rarely_refused() -> None:
    refused = [by().check(people(4000, seed, shift=0.0)).outcome == "refused" for seed in range(40)]
    assert np.mean(refused) <= 0.05


def test_weights_count() -> None:
    evidence = people(8000, 4, shift=0.6)
    light = np.where(evidence.groups["g"] == "a", 1.0, 1e-9)
    assert by().check(replace(evidence, weight=light)).outcome == "refused"


def test_it_names_protected_columns() -> None:
    assert [one.key for one in by().disagreements(spec_of())] == [("by", 0)]


def test_a_bin_counts_by_what_its_rows_weigh() -> None:
    # Of the rows above a half, which are wrong by 0.2, each stands for nine of the others.
    generator, n = np.random.default_rng(0), 20_000
    scores = np.where(np.arange(n) < n // 2, 0.3, 0.7)
    y = (generator.random(n) < np.where(scores > 0.5, 0.5, 0.3)).astype(np.int64)
    evidence = Evidence("binary", y, scores, y, scores, scores, weight=np.where(scores > 0.5, 9.0, 1.0))
    found = by(by=(), max=0.15).check(evidence)
    assert abs((found.value or 0) - 0.18) < 0.02
    assert found.outcome == "refused"
    assert by(by=(), max=0.15).check(replace(evidence, weight=None)).outcome == "holds"
    assert by(by=()).check(replace(evidence, weight=np.zeros(n))).outcome == "not measured"
