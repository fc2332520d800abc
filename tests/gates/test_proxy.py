"""The gate ``proxy``: what tells a protected column is found and named, and nothing is where nothing does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from specml.data import MISSING, Column
from specml.evidence import Evidence, Packaged
from specml.gates.proxy import Proxy, area
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable


def people(seed: int, apart: float, n: int = 1500, names: tuple[str, ...] = ("f", "m")) -> Evidence:
    """A column ``height`` that is the further apart for the groups, a town that stands for them too, and noise."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, len(names), n)
    height, noise = generator.normal(apart * (group == 0), 1), generator.normal(size=n)
    town = np.where(generator.random(n) < 0.5 + 0.2 * np.sign(apart) * (group == 0), "north", "south")
    scores = 1 / (1 + np.exp(-noise))
    columns = (Column(name="height", kind="numeric"), Column(name="noise", kind="numeric"))
    columns += (Column(name="town", kind="categorical"), Column(name="words", kind="text"))
    rows = pl.DataFrame({"height": height, "noise": noise, "town": town, "words": town})
    y = (scores > 0.5).astype(np.int64)
    named = np.array(names, dtype=object)[group]
    model = Mock(spec=Packaged, inputs=columns)
    return Evidence("binary", y, scores, y, scores, scores, groups={"sex": named}, rows=rows, model=model)


def proxy(**options: Any) -> Proxy:
    return Proxy(**{"by": ("sex",), "max": 0.7, **options})


def test_what_tells_a_group_is_found_and_named() -> None:
    verdict = proxy().check(people(1, 2.0))
    assert verdict.outcome == "refused"
    features, score = verdict.slices
    assert (features.name, score.name) == ("sex from the features", "sex from the score")
    assert features.value == pytest.approx(0.93, abs=0.03)
    assert (features.outcome, score.outcome) == ("refused", "holds")
    assert "; of the features height (" in verdict.reason
    assert proxy(of="score").check(people(1, 2.0)).outcome == "holds"
    assert proxy().check(people(1, 0.0)).outcome == "holds"
    assert verdict == proxy().check(people(1, 2.0))


def test_a_score_that_tells_the_group_is_refused() -> None:
    evidence = people(2, 0.0)
    told = np.where(evidence.groups["sex"] == "f", 0.5, 0.2) + 0.1 * evidence.scores
    verdict = proxy(of="score").check(replace(evidence, scores=told))
    assert verdict.outcome == "refused"
    assert verdict.value == pytest.approx(1, abs=1e-3)


def test_of_several_groups_the_one_that_is_told_best_counts() -> None:
    evidence = people(3, 2.0, names=("a", "b", "c"))
    verdict = proxy(of="features").check(evidence)
    assert "of a from the rest" in verdict.slices[0].note
    assert verdict.value == pytest.approx(0.92, abs=0.03)
    few = evidence.groups["sex"].copy()
    few[:20] = MISSING
    assert proxy(of="features").check(replace(evidence, groups={"sex": few})).outcome == "refused"


def test_what_can_t_be_told_is_not_measured() -> None:
    evidence = people(4, 0.0, n=90)
    verdict = proxy().check(evidence)
    assert (verdict.outcome, verdict.blocking) == ("not measured", True)
    assert "sex from the score (fewer than two groups have 50 rows or more)" in verdict.reason
    assert not proxy(policy="warn").check(evidence).blocking
    blind = replace(people(4, 0.0), model=None)
    assert proxy().check(blind).outcome == "not measured"
    assert proxy(of="score").check(blind).outcome == "holds"


@pytest.mark.parametrize("seeds", [pytest.param(8, id="few"), pytest.param(50, id="many", marks=pytest.mark.sweep)])
def test_nothing_is_told_where_there_is_nothing(seeds: int) -> None:
    values = [one.value for seed in range(seeds) for one in proxy().check(people(seed, 0.0, n=600)).slices]
    assert np.mean([one for one in values if one is not None]) == pytest.approx(0.5, abs=0.03 if seeds < 20 else 0.012)
    assert all(proxy(max=0.65).check(people(seed, 0.0, n=600)).outcome == "holds" for seed in range(seeds))


def test_the_area_is_scikit_learns_and_its_interval_holds_it() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        positive = generator.random(200) < 0.3
        scores = np.round(generator.normal(positive * 1.0, 1), 1)
        value, interval = area(scores, positive, 0.95)
        assert value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
        inside += interval.low <= 0.7602 <= interval.high
    assert 0.92 <= inside / 300 <= 0.98
    apart, whole = area(np.arange(20.0), np.arange(20) >= 10, 0.95)
    assert (apart, whole.high) == (1.0, 1.0)


def test_on_a_real_model(real: Callable[[str], Evidence]) -> None:
    """``sex`` moves nothing; of ``group`` the same, whose few c are no group to be told."""
    verdict = proxy(by=("sex", "group"), max=0.6).check(real("binary"))
    assert verdict.outcome == "holds"
    sexes = np.where(real("binary").scores > 0.5, "m", "f").astype(object)
    told = replace(real("binary"), groups={"sex": sexes})
    assert proxy(max=0.6).check(told).outcome == "refused"


def test_it_names_protected_columns() -> None:
    assert [one.key for one in proxy(by=("sex", "sex")).disagreements(spec_of())] == [("by", 0), ("by", 1), ("by", 1)]
