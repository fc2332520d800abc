"""Directions: kept by a constrained model, broken by others, and what is said of both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from specml.evidence import Answers, exact
from specml.gates.monotonicity import Monotonicity, grid
from tests.conftest import column, evidence_of, run_stages, spec_of
from tests.gates.conftest import people, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.evidence import Evidence


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """A model that was trained to keep the directions of age and debt."""
    folder: Path = tmp_path_factory.mktemp("kept")
    features = {"columns": {"age": {"type": "numeric", "monotone": "increasing"},
                            "debt": {"type": "numeric", "monotone": "decreasing"}}}  # fmt: skip
    spec = spec_for("binary", features=features, gates={"directions": {"type": "monotonicity"}})
    people("binary", n=1500).write_parquet(folder / "rows.parquet")
    run_stages(spec, folder, until="package")
    with evidence_of(spec, folder) as evidence:
        yield evidence


def test_a_model_trained_to_keep_its_directions_is_admitted(kept: Evidence) -> None:
    assert kept.directions == {"age": 1, "debt": -1}
    verdict = Monotonicity().check(kept)
    assert verdict.outcome == "holds", verdict.reason
    assert verdict.value == 0
    assert [one.name for one in verdict.slices] == ["age increasing", "debt decreasing"]
    assert verdict == Monotonicity().check(kept)


def test_the_other_direction_is_refused_with_rows_and_what_to_do(kept: Evidence) -> None:
    verdict = Monotonicity(columns={"age": "decreasing", "debt": "decreasing"}).check(kept)
    assert verdict.outcome == "refused"
    assert verdict.slices[0].name == "age decreasing"
    assert [one.outcome for one in verdict.slices] == ["refused", "holds"]
    assert len(verdict.rows) == 50
    assert f"the share of {verdict.n:,} rows in which the score rises while age rises is 1;" in verdict.reason
    assert "declare features.columns.age.monotone: decreasing" in verdict.reason
    both = Monotonicity(columns={"age": "decreasing", "debt": "increasing"}).check(kept)
    assert "; 2 of 2 columns are beyond it;" in both.reason


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_an_unconstrained_model_is_refused(real: Callable[[str], Evidence], task: str) -> None:
    verdict = Monotonicity(columns={"age": "increasing"}).check(real(task))
    assert verdict.outcome == "refused"
    assert verdict.interval is not None
    reference = binomtest(round(verdict.value * verdict.n), verdict.n).proportion_ci(0.95)  # type: ignore[operator]
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((reference.low, reference.high))
    assert Monotonicity(columns={"age": "increasing"}, tolerance=0.99).check(real(task)).outcome == "holds"


def test_the_violating_rows_are_those_that_a_plain_loop_finds(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.rows is not None
    few = replace(evidence, y=evidence.y[:60], rows=evidence.rows[:60])
    verdict = Monotonicity(columns={"age": "increasing"}, tolerance=0.002, grid=30).check(few)
    points = grid(few.rows["age"], 30).to_list()  # type: ignore[index]
    found = []
    for row in range(60):
        table = pl.concat([few.rows[row]] * len(points)).with_columns(pl.Series("age", points))  # type: ignore[index]
        scores = evidence.model.answer(table).scores.tolist()  # type: ignore[union-attr]
        if any(later < earlier - 0.002 for at, earlier in enumerate(scores) for later in scores[at:]):
            found.append(row)
    assert 0 < len(found) < 60
    assert list(verdict.rows) == found[:50]
    assert verdict.value == pytest.approx(len(found) / 60)


def test_what_can_not_be_measured_is_not(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert Monotonicity().check(evidence).outcome == "not measured"
    text = Monotonicity(columns={"job": "increasing"}).check(evidence)
    assert (text.outcome, text.reason.startswith("job: ")) == ("not measured", True)
    assert evidence.rows is not None

    class Flat:
        inputs = (column("age"),)

        def answer(self, rows: pl.DataFrame) -> Answers:
            return Answers(np.full(len(rows), 0.5), None)

    flat: Any = Flat()
    few = replace(evidence, y=evidence.y[:100], rows=evidence.rows[:100], model=flat)
    assert "100 rows are too few" in Monotonicity(columns={"age": "increasing"}).check(few).reason
    assert Monotonicity(columns={"age": "increasing"}, max=0.04).check(few).outcome == "holds"


def test_no_finite_score_violates(real: Callable[[str], Evidence]) -> None:
    class Broken:
        inputs = (column("age"),)

        def answer(self, rows: pl.DataFrame) -> Answers:
            return Answers(np.full(len(rows), np.nan), None)

    broken: Any = Broken()
    verdict = Monotonicity(columns={"age": "increasing"}).check(replace(real("binary"), model=broken))
    assert (verdict.outcome, verdict.value) == ("refused", 1)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 17), (50, 100), (100, 100), (0, 1200)])
def test_exact_is_scipys(hits: int, n: int) -> None:
    reference = binomtest(hits, n).proportion_ci(0.95, method="exact")
    ours = exact(hits, n, 0.95)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(
    ("columns", "changes", "key"),
    [
        ({}, {}, ("columns",)),
        ({"y": "increasing"}, {}, ("columns", "y")),
        ({"a": "increasing"}, {"features": {"columns": {"a": {"type": "numeric", "monotone": "decreasing"}}}},
         ("columns", "a")),
        ({"a": "increasing"}, {"problem": {"task": "multiclass", "target": "y"}}, ("type",)),
    ],
)  # fmt: skip
def test_directions_that_make_no_sense_are_refused(columns: Any, changes: Any, key: Any) -> None:
    assert [one.key for one in Monotonicity(columns=columns).disagreements(spec_of(**changes))] == [key]


def test_a_column_with_one_value_is_not_measured(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.rows is not None
    for value in (40.0, None):
        alike = evidence.rows.with_columns(pl.lit(value, dtype=pl.Float64).alias("age"))
        found = Monotonicity(columns={"age": "increasing"}, max=0.5).check(replace(evidence, rows=alike))
        assert found.outcome == "not measured"
        assert found.reason.startswith("age: ")
