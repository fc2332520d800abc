"""Real models and the evidence about them, one a task: trained once, asked by every test here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from tests.conftest import evidence_of, run_stages, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from specml.evidence import Evidence
    from specml.spec import Spec

CASES = """\
cases:
  - name: colours do not matter
    invariance: {rows: held_out, change: {colour: {red: green, green: red}}}
  - invariance: {row: {age: 40, debt: 1, job: nurse, colour: red, owns: true}, change: {colour: green}}
"""
"""Of the gate ``behaviour``: they hold for every task."""

TASKS = ("binary", "multiclass", "regression")


def people(task: str, n: int = 3000, seed: int = 4) -> pl.DataFrame:
    """Numbers with gaps, categories with gaps, booleans, two protected columns, and a target ``y`` of them.

    ``age`` moves the target up, ``debt`` down, ``colour`` not at all; ``group`` (a, b and few c) does not move it.
    """
    generator = np.random.default_rng(seed)
    age, debt = generator.normal(45, 12, n).round(), generator.exponential(3, n)
    job = generator.choice(["clerk", "nurse", "pilot", "ä cook"], n)
    owns = generator.random(n) < 0.4
    signal = 0.08 * age - 0.5 * debt + 1.5 * (job == "pilot") + owns + generator.normal(0, 1, n)
    y: Any = signal
    if task != "regression":
        k = 2 if task == "binary" else 3
        index = np.searchsorted(np.quantile(signal, np.linspace(0, 1, k + 1)[1:-1]), signal)
        y = np.array(["no", "yes"] if task == "binary" else ["large", "middle", "small"])[index]
    gaps = generator.random(n) < 0.08
    return pl.DataFrame({
        "age": age,
        "debt": [None if gap else float(one) for gap, one in zip(gaps, debt, strict=True)],
        "job": [None if gap else str(one) for gap, one in zip(np.roll(gaps, 5), job, strict=True)],
        "colour": generator.choice(["red", "green"], n),
        "owns": owns,
        "group": generator.choice(["a", "b", "c"], n, p=[0.55, 0.43, 0.02]),
        "sex": generator.choice(["f", "m"], n),
        "y": y,
    })  # fmt: skip


def spec_for(task: str, **changes: Any) -> Spec:
    """A spec of ``people`` with one quick candidate."""
    problem: dict[str, Any] = {"task": task, "target": "y"}
    if task == "binary":
        problem |= {"positive_class": "yes", "decision": {"threshold": "auto"}}
    if task == "multiclass":
        problem |= {"favourable_class": "large"}
    columns = {"group": {"role": "protected"}, "sex": {"role": "protected"}}
    usual: dict[str, Any] = {
        "problem": problem,
        "data": {
            "sources": {"rows": {"type": "parquet", "path": "rows.parquet"}},
            "columns": columns,
            "split": {"test": 0.4},
        },
        "candidates": {"gbm": {"type": "lightgbm", "num_leaves": 8, "learning_rate": 0.1}},
        "search": {"folds": 3},
    }
    return spec_of(**{**usual, **changes})


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Evidence]]:
    """``real(task)``: the evidence about a packaged model of that task, which can be asked more, by HTTP too."""
    with contextlib.ExitStack() as open_ones:
        made: dict[str, Evidence] = {}

        def of(task: str) -> Evidence:
            if task not in made:
                folder, spec = tmp_path_factory.mktemp(task), spec_for(task)
                people(task).write_parquet(folder / "rows.parquet")
                (folder / "cases.yaml").write_text(CASES)
                run_stages(spec, folder, until="package")
                made[task] = open_ones.enter_context(evidence_of(spec, folder))
            return made[task]

        yield of
