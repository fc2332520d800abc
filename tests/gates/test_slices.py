"""Weak segments: declared ones, found ones, and how often chance is taken for one."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from specml.data import MISSING
from specml.evidence import Evidence
from specml.gates.slices import Slices
from specml.metrics import TABLE
from specml.segments import Search, by_category, by_quantile, discovered
from specml.verdicts import bound
from tests.conftest import column
from tests.gates.conftest import TASKS, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable


def spoiled(evidence: Evidence, chosen: np.ndarray) -> Evidence:
    """The same, of a model that says of the ``chosen`` rows what it says of others."""
    generator, scores = np.random.default_rng(1), evidence.scores.copy()
    scores[chosen] = scores[generator.permutation(len(scores))[: chosen.sum()]]
    decisions = None
    if evidence.decisions is not None:
        decisions = scores.argmax(axis=1) if scores.ndim == 2 else (scores >= 0.5).astype(np.int64)
    return replace(evidence, scores=scores, decisions=decisions)


@pytest.mark.parametrize("task", TASKS)
def test_a_weak_segment_is_refused_where_it_is_declared_and_where_it_is_found(
    real: Callable[[str], Evidence], task: str
) -> None:
    evidence = real(task)
    assert evidence.rows is not None
    old = (evidence.rows["age"] > 52).to_numpy()
    weak = spoiled(evidence, old)
    usual = {"max_drop": 0.35 if task == "regression" else 0.12}
    for options in ({"where": {"old": "age > 52"}}, {"by": ("age",)}, {"discover": 2}):
        gate = Slices.model_validate({**usual, **options})
        assert gate.check(evidence).outcome != "refused", options
        verdict = gate.check(weak)
        assert verdict.outcome == "refused", options
        limit = bound(verdict.threshold)  # what an interval is drawn beside, and the worst is told by
        larger = TABLE[evidence.metric].larger_is_better
        assert verdict.threshold.startswith("≥" if larger else "≤")
        assert limit is not None
        assert all(((one.value or 0) < limit) is larger for one in verdict.slices if one.outcome == "refused")
        worst = next(one for one in verdict.slices if one.outcome == "refused")
        assert "age" in worst.name or worst.name == "old"
        assert old[list(verdict.rows)].mean() > 0.8


def test_bounds_are_met_by_every_segment_or_refused(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    by: dict[str, Any] = {"by": ("sex", "job"), "metric": "accuracy", "min_rows": 60}
    assert Slices(min=0.5, **by).check(evidence).outcome == "holds"
    refused = Slices(min=0.9, **by).check(evidence)
    assert refused.outcome == "refused"
    assert refused.rows
    assert Slices(metric="log_loss", max=2.0, by=("sex",)).check(evidence).outcome == "holds"
    close = Slices(min=0.76, **by).check(evidence)
    assert (close.outcome, close.blocking) == ("not measured", True)
    assert not Slices(min=0.76, policy="warn", **by).check(evidence).blocking


def test_too_few_rows_are_not_measured_and_what_lacks_is_told(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert Slices(by=("sex",), max_drop=0.5).check(evidence.only(np.arange(199))).outcome == "not measured"
    assert Slices(by=("sex",), max_drop=0.5).check(replace(evidence, rows=None)).outcome == "not measured"
    few = Slices(by=("group",), max_drop=0.5).check(evidence)
    assert few.outcome == "not measured"
    assert re.search(r"group=1 rarer value \(\d\d rows, fewer than 100\)", few.reason)
    for options in ({"by": ("income",)}, {"where": {"rich": "income > 5"}}):
        verdict = Slices.model_validate({"max_drop": 0.5, **options}).check(evidence)
        assert verdict.outcome == "not measured"
        assert "income" in verdict.reason


def test_what_makes_no_sense_is_told_beforehand() -> None:
    def wrong(**options: Any) -> list[Any]:
        return [one.key for one in Slices(**options).disagreements(spec_for("binary"))]

    for options, text in (
        ({"by": ("sex",)}, "one of min, max and max_drop"),
        ({"by": ("sex",), "min": 0.5, "max_drop": 0.1}, "one of min, max and max_drop"),
        ({"min": 0.5}, "needs segments"),
        ({"where": {"x": "import os"}, "min": 0.5}, "is no formula"),
    ):
        with pytest.raises(ValidationError, match=text):
            Slices.model_validate(options)
    assert wrong(by=("sex",), metric="r2", min=0.5) == [("metric",)]
    assert wrong(by=("sex",), metric="log_loss", min=0.5) == [("min",)]
    assert wrong(by=("y",), where={"no": "y == 'no'"}, max_drop=0.1) == [("by", 0), ("where", "no")]


def test_categories_and_bins_hold_every_row_once() -> None:
    generator = np.random.default_rng(0)
    texts = pl.Series("c", [*"aaaaabbbbbccd", None])
    named = {one.name: int(one.holds.sum()) for one in by_category("c", texts, 5)}
    assert named == {"c=a": 5, "c=b": 5, "c=3 rarer values": 4}
    assert [one.name for one in by_category("c", pl.Series("c", [MISSING] * 9), 5)] == ["c=missing"]
    numbers = pl.Series("x", [*generator.normal(size=997).tolist(), None, None, float("nan")])
    bins = list(by_quantile(numbers, 4))
    assert np.sum([one.holds for one in bins], axis=0).tolist() == [1] * 1000
    assert [int(one.holds.sum()) for one in bins] == pytest.approx([249, 249, 249, 249, 3], abs=2)
    assert [one.name for one in by_quantile(pl.Series("x", [2.0] * 50), 4)] == ["x ≤ 2 (bin 1 of 2)"]


def test_a_found_segment_says_which_rows_it_holds() -> None:
    """What its name says in words, the rows fulfil; those that judge did not choose."""
    generator, n = np.random.default_rng(3), 4000
    table = pl.DataFrame({"x": generator.uniform(0, 10, n), "c": generator.choice(["red", "blue", "green"], n)})
    where = ((table["x"] > 7) & (table["c"] == "red")).to_numpy()
    losses = generator.exponential(1.0, n) + 2 * where
    chooses = generator.random(n) < 0.5
    (found,) = discovered(table, ["x", "c"], losses, Search(chooses, 1, 2, 100))
    assert found.name.startswith("c=red and x > ") or (found.name.startswith("x > ") and found.name.endswith("c=red"))
    assert (found.holds == where).mean() > 0.99
    again = losses.copy()
    again[~chooses] = 0
    (same,) = discovered(table, ["x", "c"], again, Search(chooses, 1, 2, 100))
    assert same.name == found.name


def plain(n: int, seed: int) -> Evidence:
    """Rows of a calibrated model that is equally good everywhere, with columns that mean nothing."""
    generator = np.random.default_rng(seed)
    p = generator.choice([0.1, 0.9], n)
    y = (generator.random(n) < p).astype(np.int64)
    table = pl.DataFrame({f"x{i}": generator.normal(size=n) for i in range(4)})
    groups = {f"c{i}": generator.choice(np.array([*"abcde"], dtype=object), n) for i in range(4)}
    table = table.with_columns(pl.Series(name, values.tolist()) for name, values in groups.items())
    evidence = Evidence("binary", y, p, (p >= 0.5).astype(np.int64), p, p, rows=table, groups=groups)
    model: Any = SimpleNamespace(inputs=tuple(column(f"x{i}") for i in range(4)))
    return replace(evidence, metric="accuracy", model=model)


@pytest.mark.parametrize("multiplicity", ["holm", "bonferroni"])
def test_chance_alone_rarely_refuses_a_model_that_is_equally_good_everywhere(multiplicity: Any) -> None:
    """36 declared segments and two found ones; without a correction most models would be refused."""
    options: dict[str, Any] = {"by": tuple(f"{k}{i}" for i in range(4) for k in "xc"), "discover": 2, "min": 0.9}
    gate = Slices(multiplicity=multiplicity, **options)
    refused = sum(gate.check(plain(3000, seed)).outcome == "refused" for seed in range(25))
    assert refused <= 3
    if multiplicity == "holm":
        none = Slices(multiplicity="none", **options)
        assert sum(none.check(plain(3000, seed)).outcome == "refused" for seed in range(12)) >= 3


def test_the_rows_that_choose_a_segment_do_not_judge_it() -> None:
    """On noise the found segment is as good as all rows, and on those that chose it, it would not look so."""
    honest, chosen = [], []
    for seed in range(30):
        evidence = plain(2000, seed)
        verdict = Slices(discover=1, max_drop=0.5).check(evidence)
        honest += [one.value for one in verdict.slices if one.value is not None]
        chooses = np.random.default_rng(evidence.seed).permutation(2000) < 1000
        assert evidence.rows is not None
        losses = -np.log(np.where(evidence.y == 1, evidence.scores, 1 - evidence.scores))
        for one in discovered(evidence.rows, sorted(evidence.groups), losses, Search(chooses, 1, 2, 100)):
            inside = one.holds & chooses
            chosen.append(np.mean(evidence.y[inside] == evidence.decisions[inside]))  # type: ignore[index]
    assert np.mean(honest) == pytest.approx(0.9, abs=0.01)
    assert np.mean(chosen) < 0.88
