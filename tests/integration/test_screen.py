"""Screening: who is far behind is searched less, and nothing that was judged is judged again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from specml.errors import DataCheckFailed
from specml.files import read_json
from specml.stages import search as searching
from specml.stages.screen import behind
from tests.conftest import run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Spec


def rows() -> pl.DataFrame:
    """A target that no line tells anything of, and trees nearly all."""
    generator = np.random.default_rng(2)
    x, z = generator.uniform(-3, 3, (2, 300))
    y = (x**2 + z**2 + generator.normal(0, 0.5, 300) > 5).astype(int)
    return pl.DataFrame({"x": x, "z": z, "y": y})


def spec(*, screen: bool) -> Spec:
    return spec_of(
        data={"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}},
        candidates={
            "line": {"type": "logistic_regression"},
            "trees": {"type": "lightgbm", "n_estimators": 5, "num_leaves": 4, "early_stopping": 0},
            "prior": {"type": "dummy"},
        },
        search={"trials": 6, "folds": 3, "screen": screen},
    )


def trials(folder: Path, name: str) -> Any:
    return read_json(folder / f"artifacts/train/{name}/cross_validation.json")["trials"]


def test_the_far_behind_make_four_trials_and_the_others_are_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for screen in (False, True):
        folder = tmp_path / str(screen)
        folder.mkdir()
        rows().write_parquet(folder / "rows.parquet")
        judged: list[int] = []
        kept = searching.Journal.write
        monkeypatch.setattr(
            searching.Journal, "write", lambda one, trial, k=kept, j=judged: (j.append(trial.number), k(one, trial))
        )
        run_stages(spec(screen=screen), folder, until="select")
        monkeypatch.undo()
        assert judged.count(0) == 2  # once for each that is searched
        found[screen] = {name: trials(folder, name) for name in ("line", "trees")}
    assert found[True]["trees"] == found[False]["trees"]
    assert len(found[False]["line"]) == 6
    assert found[True]["line"] == found[False]["line"][:4]


def test_a_target_that_can_t_be_learned_as_asked_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    rows().with_columns(y=pl.col("x") + pl.col("z").sin() * 3).write_parquet(tmp_path / "rows.parquet")
    told = spec_of(
        problem={"task": "regression", "target": "y"},
        data={"sources": {"rows": {"type": "parquet", "path": "rows.parquet"}}},
        candidates={"line": {"type": "ridge", "target_transform": "log"}, "trees": {"type": "lightgbm"}},
        search={"trials": 6, "folds": 3, "screen": True},
    )
    with pytest.raises(DataCheckFailed, match="takes no target below 0") as error:
        run_stages(told, tmp_path, until="screen")
    assert error.value.where == "candidates.line.target_transform"


def test_only_who_is_behind_by_more_than_chance_is_far_behind() -> None:
    folds = {"a": (0.90, 0.91, 0.92), "b": (0.89, 0.92, 0.90), "c": (0.80, 0.81, 0.83)}
    assert behind(folds, larger_is_better=True) == {"c": "a"}
    assert behind({name: tuple(-x for x in one) for name, one in folds.items()}, larger_is_better=False) == {"c": "a"}
    assert behind({"a": (0.9, 0.9)}, larger_is_better=True) == {}
    assert behind({}, larger_is_better=True) == {}


@pytest.mark.parametrize(
    ("candidates", "trials", "why"),
    [(("gbm",), 9, "one candidate"), (("gbm", "line"), 4, "no more than 4|more than 4")],
)
def test_screening_that_can_change_nothing_is_refused(candidates: tuple[str, ...], trials: int, why: str) -> None:
    kinds = {"gbm": "lightgbm", "line": "logistic_regression"}
    told = spec_of(candidates={one: kinds[one] for one in candidates}, search={"trials": trials, "screen": True})
    (found,) = [one for one in told.contradictions() if one.key == ("search", "screen")]
    assert any(part in found.what for part in why.split("|"))
