"""What every gate owes, generated from the table of gates; ``specml.testing`` says what that is.

A new gate needs one line here: an example of its options in ``EXAMPLES``, by its type, with the tasks that it knows
where those are not all. An option that changes what is measured deserves an example of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import specml.spec  # noqa: F401 - fills the tables
from specml.data import Task
from specml.evidence import Champion, Evidence
from specml.kinds import Gate
from specml.testing import check_gate, gate_of
from tests.gates.conftest import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES: tuple[Task, ...] = ("binary", "multiclass")


class Example(NamedTuple):
    """Options that make sense for some tasks."""

    options: dict[str, Any]
    tasks: tuple[str, ...] = TASKS


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "behaviour": (Example({"cases": "cases.yaml", "max": 0.9}),),
    "baseline": (
        Example({}),
        Example({"rule": "age > 45 and debt < 4"}, ("binary",)),
        Example({"rule": "0.08 * age - 0.5 * where(isnan(debt), 3, debt)"}, ("regression",)),
    ),
    "calibration": (
        Example({"max": 0.1, "min_rows": 200}, CLASSES),
        Example({"max": 0.2, "min_rows": 200, "by": ("sex",), "policy": "warn"}, ("binary",)),
    ),
    "champion": (Example({}),),
    "coverage": (Example({"min": 0.8, "by": ("sex",)}, ("regression",)),),
    "custom": (
        Example({"function": "tests.models.checks:error", "max": 10.0}),
        Example({"function": "tests.models.checks:said", "options": {"holds": True}}),
    ),
    "decision_rate": (Example({"min": 0.5}, CLASSES),),
    "explanations": (Example({}), Example({"columns": ("colour",), "max": 0.2, "top": 2})),
    "expected_cost": (Example({"max": 2.0}, ("binary",)),),
    "group_disparity": (
        Example({"metric": "selection_rate_ratio", "by": ("sex",), "min": 0.5}, CLASSES),
        Example({"metric": "true_positive_rate_difference", "by": ("sex",), "max": 0.2}, CLASSES),
        Example({"metric": "equalized_odds_ratio", "by": ("sex",), "min": 0.1, "compare": "overall"}, CLASSES),
        Example(
            {"metric": "calibration_gap_difference", "by": (("group", "sex"),), "max": 0.9, "min_group_size": 1},
            CLASSES,
        ),
        Example(
            {"metric": "mean_absolute_error_ratio", "by": ("sex",), "min": 0.5, "reference": {"sex": "m"}},
            ("regression",),
        ),
    ),
    "latency": (
        Example({"max": "1s"}),
        Example({"max": "2s", "of": "server", "connections": 2, "percentile": 50}, ("binary",)),
    ),
    "metric": (
        Example({"metric": "roc_auc", "min": 0.6}, ("binary",)),
        Example({"metric": "log_loss", "max": 1.0}, CLASSES),
        Example({"metric": "r2", "min": 0.1}, ("regression",)),
    ),
    "monotonicity": (Example({"columns": {"age": "increasing"}, "tolerance": 0.9}, ("binary", "regression")),),
    "parity": (Example({}), Example({"served": True})),
    "proxy": (Example({"by": ("sex",), "max": 0.7}), Example({"by": ("sex", "group"), "of": "score", "max": 0.9})),
    "robustness": (
        Example({"max": 0.9, "perturbations": ("noise", "rounding")}),
        Example({"max": 0.9, "max_loss": 0.9, "perturbations": ("noise",)}, ("binary",)),
    ),
    "privacy": (Example({"max": 0.7, "by": ("sex",)}),),
    "slices": (
        Example({"by": ("sex",), "where": {"old": "age > 45"}, "discover": 2, "max_drop": 0.5}),
        Example({"by": ("sex", "job"), "metric": "accuracy", "min": 0.4, "min_rows": 50}, CLASSES),
    ),
    "stability": (Example({"of": "folds", "max": 0.5}), Example({"of": "gap", "max": 0.5})),
    "size": (Example({"max": 50_000_000}),),
    "stress": (Example({}),),
    "throughput": (Example({"min": 1.0}, ("binary",)),),
}

ROWS = 1000
"""Held-out rows that are judged here: enough to measure, few enough to judge a dozen times."""

CASES = [
    pytest.param(task, type_, one.options, id=f"{type_}{number or ''}-{task}")
    for task in TASKS
    for type_, examples in EXAMPLES.items()
    for number, one in enumerate(examples)
    if task in one.tasks
]


@pytest.fixture(scope="module")
def whole(real: Callable[[str], Evidence]) -> Callable[[str], Evidence]:
    """Real evidence that lacks nothing: with costs, prediction intervals and a champion, as far as they make sense."""

    def of(task: str) -> Evidence:
        evidence = real(task)
        same = Champion(f"sha256:{'a' * 64}", evidence.scores, evidence.decisions)
        found = replace(evidence, champion=lambda: same)
        if task == "binary":
            found = replace(found, costs=np.where(evidence.y == evidence.decisions, 0.0, 1.0))
        if task == "regression":
            ends = evidence.scores[:, None] + np.array([-3.0, 3.0]) * evidence.scores.std()
            found = replace(found, ends=ends, native_ends=ends)
        return found.only(np.linspace(0, len(evidence.y) - 1, ROWS).astype(int))

    return of


def test_every_gate_has_an_example() -> None:
    ours = {name for name, one in Gate.table.items() if one.__module__.startswith("specml.gates.")}
    hint = "add a line to EXAMPLES: an example of its options, by its type"
    assert set(EXAMPLES) == ours, hint


@pytest.mark.parametrize(("task", "type_", "options"), CASES)
def test_a_gate_owes(whole: Callable[[str], Evidence], task: str, type_: str, options: dict[str, Any]) -> None:
    verdict = check_gate(gate_of({"type": type_, **options}), whole(task))
    assert verdict.outcome != "not measured", "the example is to be measured on the real model"
