"""What tells the target too well is refused; what merely tells it is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from specml.data import Column, Folding, Layout
from specml.errors import DataCheckFailed
from specml.stages import ingest, prepare
from specml.stages.work import Work, narrowed
from specml.tables.repair import as_written, lossy
from specml.tables.strength import alone, halves
from tests.conftest import spec_of

if TYPE_CHECKING:
    from pathlib import Path

N = 600
G = np.random.default_rng(3)
Y = G.integers(0, 2, N)
NOISE = G.normal(size=N)
RIDGE: dict[str, Any] = {"candidates": {"line": {"type": "ridge"}}}


def prepared(
    folder: Path, table: dict[str, Any], task: str = "binary", problem: dict[str, Any] | None = None, **data: Any
) -> tuple[dict[str, Any], list[str]]:
    pl.DataFrame(table).write_parquet(folder / "rows.parquet")
    sources = {"rows": {"type": "parquet", "path": "rows.parquet"}}
    changes = RIDGE if task == "regression" else {}
    spec = spec_of(problem=problem or {"task": task, "target": "y"}, data={"sources": sources, **data}, **changes)
    notes: list[str] = []

    def say(text: str, *_: Any, note: bool = False, **__: Any) -> None:
        notes.extend([text] if note else [])

    for module, key in ((ingest, "rows"), (prepare, "")):
        stage = module.declare(spec)  # type: ignore[attr-defined]
        module.work(Work(stage, folder, narrowed(spec, stage, key), say, key))  # type: ignore[attr-defined]
    return json.loads((folder / prepare.METRICS).read_bytes()), notes


def nullable(values: Any, missing: Any) -> list[Any]:
    return [None if gone else value for value, gone in zip(np.asarray(values).tolist(), missing, strict=True)]


THREE = G.integers(0, 3, N)
SIZE = np.round(np.exp(G.normal(3, 1, N)))
LEAKS: dict[str, tuple[Any, Any, str]] = {
    "a copy": (Y, Y, "binary"),
    "its opposite": (1 - Y, Y, "binary"),
    "a score made of it": (Y * 5 + np.abs(NOISE) * 0.1, Y, "binary"),
    "its name": (np.array(["stayed", "left"])[Y], Y, "binary"),
    "many names": (np.char.add(np.array(["a", "b"])[Y], G.integers(0, 20, N).astype(str)), Y, "binary"),
    "a code in the middle": (np.where(Y == 1, 3, np.where(NOISE > 0, 1, 5)), Y, "binary"),
    "missing unless it is": (nullable(np.arange(N), Y == 0), Y, "binary"),
    "a flag": (Y == 1, Y, "binary"),
    "a class's number": (THREE, THREE, "multiclass"),
    "a class's name": (np.array(["x", "y", "z"])[THREE], THREE, "multiclass"),
    "a multiple": (SIZE * 3 + 7, SIZE, "regression"),
    "its logarithm": (np.log(SIZE + 1), SIZE, "regression"),
    "a rounded copy": (SIZE + 0.001 * NOISE, SIZE, "regression"),
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_column_that_tells_the_target_alone_is_refused(what: str, tmp_path: Path) -> None:
    leak, y, task = LEAKS[what]
    table = {"noise": NOISE, "leak": pl.Series(leak, strict=False), "y": y}
    with pytest.raises(DataCheckFailed, match=r"alone, of 2 columns, tell y: leak \((1.0000|0.999\d)\)") as error:
        prepared(tmp_path, table, task)
    assert error.value.where == "data.checks.leakage"
    assert "data.columns.leak.known_after: event" in error.value.hint
    metrics, notes = prepared(tmp_path, table, task, columns={"leak": {"known_after": "event"}})
    assert metrics["set_aside"] == {"leak": "it is known only after the event"}
    assert notes == ["leak set aside: it is known only after the event"]
    metrics, notes = prepared(tmp_path, table, task, checks={"leakage": {"level": "warn"}})
    assert metrics["checks"]["data.checks.leakage"]["outcome"] == "refused"
    assert notes[0].startswith("data.checks.leakage: alone")


def test_what_only_tells_much_is_a_note(tmp_path: Path) -> None:
    strong = {"noise": NOISE, "x": Y * 2.6 + NOISE, "y": Y}
    metrics, notes = prepared(tmp_path, strong)
    told = metrics["checks"]["data.checks.leakage"]
    assert told["outcome"] == "holds"
    assert 0.95 < told["value"] < 0.99
    assert notes == [f"data.checks.leakage: {told['reason']} Is it known when the model is asked?"]
    with pytest.raises(DataCheckFailed, match="tell y: x"):
        prepared(tmp_path, strong, checks={"leakage": {"max": 0.95}})


@pytest.mark.parametrize("distinct", [2, 40, N // 2, N])
def test_chance_is_no_leak_however_many_the_categories(distinct: int, tmp_path: Path) -> None:
    names = np.char.add("c", G.permutation(np.arange(N) % distinct).astype(str))
    metrics, _ = prepared(tmp_path, {"noise": NOISE, "name": names, "y": Y}, columns={"name": {"dtype": "category"}})
    assert metrics["checks"]["data.checks.leakage"]["value"] < 0.65


def test_columns_that_add_up_to_the_target_are_refused(tmp_path: Path) -> None:
    casual, registered = G.poisson(30, N), G.poisson(150, N)
    table = {"hour": np.arange(N) % 24, "casual": casual, "registered": registered, "y": casual + registered}
    with pytest.raises(DataCheckFailed, match="casual and registered add up to y in every row") as error:
        prepared(tmp_path, table, "regression")
    assert error.value.where == "data.checks.leakage"
    paid = {**table, "y": registered - casual, "note": nullable(NOISE, NOISE > 1)}
    with pytest.raises(DataCheckFailed, match="casual and registered"):
        prepared(tmp_path, paid, "regression")
    metrics, _ = prepared(tmp_path, {**table, "y": 2.5 * casual + registered + 0.3 * NOISE}, "regression")
    assert metrics["checks"]["data.checks.leakage"]["outcome"] == "holds"


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_columns_score_is_the_area_under_its_curve(missing: float) -> None:
    layout = Layout(task="binary", target="y", classes=(0, 1), features=())
    x = Y + 1.5 * NOISE
    x = np.where(G.random(N) < missing, np.nan, x)
    ends = [roc_auc_score(Y, np.nan_to_num(x, nan=end)) for end in (-1e9, 1e9)]
    column, half = Column(name="x", kind="numeric"), halves(Folding(), None, Y)
    found = alone(pl.Series(x).fill_nan(None), column, Y, layout, half)
    assert found >= max(ends) - 1e-12
    assert alone(pl.Series(-x).fill_nan(None), column, Y, layout, half) == pytest.approx(found, abs=0.02)
    assert alone(pl.Series([None] * N, dtype=pl.Float64), column, Y, layout, half) == 0.5


GROUPS = 60
GROUP = np.repeat(np.arange(GROUPS), N // GROUPS)
OF_GROUP = G.permutation(GROUPS)[GROUP] % 2
"""Nearly every group is of one class: to name it is to tell the class, of the rows of a known group."""
MOSTLY = np.where(G.random(N) < 0.02, 1 - OF_GROUP, OF_GROUP)
CITY = np.char.add("city", G.permutation(GROUPS)[GROUP].astype(str))


@pytest.mark.parametrize("split", ["group", "hash"])
def test_a_column_that_names_the_group_tells_nothing_where_groups_stay_whole(split: str, tmp_path: Path) -> None:
    table = {"who": GROUP, "city": CITY, "noise": NOISE, "y": MOSTLY}
    columns = {"who": {"role": "id"}, "city": {"dtype": "category"}}
    by = {"method": split, "column": "who"}
    metrics, notes = prepared(tmp_path, table, columns=columns, split=by)
    assert metrics["checks"]["data.checks.leakage"]["value"] < 0.7
    assert not notes
    # By chance the groups are on both sides: there the name does tell.
    _, notes = prepared(tmp_path, table, columns=columns)
    assert any("the column that tells most alone is city: ROC AUC 0.9" in note for note in notes)
    leak = {**table, "leak": np.char.add("l", MOSTLY.astype(str))}
    with pytest.raises(DataCheckFailed, match=r"tell y: leak \(1.0000\)"):
        prepared(tmp_path, leak, columns=columns, split=by)


def test_a_column_that_names_the_day_tells_nothing_of_the_next(tmp_path: Path) -> None:
    table = {"at": GROUP, "day": np.char.add("day", GROUP.astype(str)), "noise": NOISE, "y": MOSTLY}
    columns = {"at": {"role": "time"}, "day": {"dtype": "category"}}
    metrics, notes = prepared(tmp_path, table, columns=columns, split={"method": "time", "column": "at"})
    assert metrics["checks"]["data.checks.leakage"]["value"] < 0.7
    assert not notes
    leak = {**table, "leak": MOSTLY}
    with pytest.raises(DataCheckFailed, match=r"tell y: leak \(1.0000\)"):
        prepared(tmp_path, leak, columns=columns, split={"method": "time", "column": "at"})


def test_halves_keep_together_what_folds_do() -> None:
    y = MOSTLY
    by_group = halves(Folding(method="group", column="__group__"), GROUP, y)
    assert {len(set(by_group[one == GROUP])) for one in range(GROUPS)} == {1}
    assert 0.4 < by_group.mean() < 0.6
    later = halves(Folding(method="time", column="__time__"), np.arange(N), y)
    assert later[N // 2 :].all()
    assert not later[: N // 2].any()


def test_a_text_is_judged_as_it_stands_and_by_its_length(tmp_path: Path) -> None:
    words = np.array(["no thanks", "yes please"])
    columns = {"said": {"dtype": "text"}}
    for said in (words[Y], np.array(["yes", "not"])[Y], [f"{i:05}" * (1 + 2 * y) for i, y in enumerate(Y.tolist())]):
        with pytest.raises(DataCheckFailed, match=r"tell y: said \(1.0000\)"):
            prepared(tmp_path, {"noise": NOISE, "said": said, "y": Y}, columns=columns)


def test_few_rows_tell_no_leak_from_chance(tmp_path: Path) -> None:
    table = {name: values[:60] for name, values in {"leak": Y, "noise": NOISE, "y": Y}.items()}
    few = {"task": "binary", "target": "y", "feasibility": {"min_rows": 10, "min_rows_per_class": 5}}
    metrics, _ = prepared(tmp_path, table, problem=few)
    told = metrics["checks"]["data.checks.leakage"]
    assert (told["outcome"], told["n"], told["value"]) == ("not measured", 48, None)


def people(shift: int) -> dict[str, Any]:
    return {"person": [f"p{i // shift:03}" for i in range(N)], "x": NOISE, "y": Y}


def test_people_on_both_sides_of_a_random_split_are_counted(tmp_path: Path) -> None:
    columns = {"person": {"role": "id"}}
    metrics, notes = prepared(tmp_path, people(4), columns=columns)
    told = metrics["checks"]["data.columns.person.role"]
    assert (told["outcome"], told["level"], told["n"]) == ("refused", "warn", 120)
    assert told["value"] > 100
    assert "held-out rows share their person with a training row" in notes[0]
    metrics, notes = prepared(tmp_path, people(1), columns=columns)
    assert "data.columns.person.role" not in metrics["checks"]
    assert not notes


def test_a_time_that_the_split_does_not_heed_is_told(tmp_path: Path) -> None:
    table = {"year": np.arange(N) // 50, "x": NOISE, "y": Y}
    columns = {"year": {"role": "time"}}
    metrics, notes = prepared(tmp_path, table, columns=columns)
    assert metrics["checks"]["data.split.method"]["level"] == "warn"
    assert "data.split: {method: time, column: year}" in notes[0]
    metrics, notes = prepared(tmp_path, table, columns=columns, split={"method": "time", "column": "year"})
    assert not notes
    assert "data.split.method" not in metrics["checks"]


def test_rows_on_both_sides_of_the_split_are_counted(tmp_path: Path) -> None:
    few = {"x": np.arange(N) % 5, "z": nullable(np.arange(N) % 3, np.arange(N) % 3 == 0), "y": Y}
    metrics, notes = prepared(tmp_path, few)
    told = metrics["checks"]["data.checks.overlap"]
    assert (told["outcome"], told["value"], told["n"]) == ("refused", 120, 120)
    assert notes[0].startswith("data.checks.overlap: 120 of 120 held-out rows stand among the training rows")
    with pytest.raises(DataCheckFailed, match="120 of 120"):
        prepared(tmp_path, few, checks={"overlap": {"max": 0, "level": "fail"}})


TEXTS: list[Any] = [
    (
        ["1", " 2 ", "", " ", None],
        [1, 2, None, None, None],
        "2 numbers that stood as text are read as such, 3 are missing",
    ),
    (
        ["True", "false", " ", None],
        [True, False, None, None],
        "2 booleans that stood as text are read as such, 2 are missing",
    ),
    (["true", "maybe"], None, ""),
    (["2020-01-01", "2021-02-03T10:00"], None, "its 2 texts are days"),
    (["1.5", "-2e3", "+.5", "7."], [1.5, -2000.0, 0.5, 7.0], "4 numbers"),
    (["10000000000000000000", "1"], [1e19, 1.0], "2 numbers"),
    (["02139", "00501"], None, ""),
    (["1", "2", "x"], None, "2 of its 3 texts are numbers, 1 are not"),
    (["1", "x", "y"], None, ""),
    (["1,234", "5,678.5", "3"], None, "separators of thousands or a decimal comma"),
    (["1,5", "2"], None, "separators of thousands"),
    (["", " "], None, ""),
    (["nan", "inf"], None, ""),
    (["1_000", "0x1f", "١٢"], None, ""),
]


@pytest.mark.parametrize(("texts", "numbers", "told"), TEXTS)
def test_texts_are_numbers_only_where_nothing_is_lost(texts: list[Any], numbers: list[Any] | None, told: str) -> None:
    values = pl.Series("x", texts, dtype=pl.String)
    found, what = as_written(values)
    assert found.to_list() == (texts if numbers is None else numbers)
    assert what.startswith(told) if numbers else told in what
    assert bool(what) == bool(told)


def test_a_repaired_column_is_a_feature_and_said(tmp_path: Path) -> None:
    texts = [" " if i % 50 == 0 else f"{x:.2f}" for i, x in enumerate(NOISE)]
    metrics, notes = prepared(tmp_path, {"x": NOISE, "bill": texts, "y": Y})
    assert notes == ["bill: 588 numbers that stood as text are read as such, 12 are missing"]
    assert metrics["repaired"]["bill"] == notes[0].removeprefix("bill: ")
    layout = Layout.model_validate_json((tmp_path / prepare.LAYOUT).read_bytes())
    assert {one.name: one.kind for one in layout.features} == {"x": "numeric", "bill": "numeric"}
    _, notes = prepared(tmp_path, {"x": NOISE, "bill": texts, "y": Y}, columns={"bill": {"dtype": "category"}})
    assert not notes


BEYOND = "1 whole numbers beyond ±2^53 are rounded; is it an id? Declare its role"


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt8, pl.Int32, pl.UInt32, pl.Int64, pl.UInt64, pl.Int128])
def test_numbers_of_every_width_are_looked_at(kind: Any) -> None:
    largest = int(pl.select(kind.max()).item())
    assert lossy(pl.Series("x", [0, 1, largest], dtype=kind)) == ("" if largest < 2**53 else BEYOND)
    assert not lossy(pl.Series("x", [None, 1, 2], dtype=kind))
    assert (
        lossy(pl.Series("x", [float("inf"), None, 1.0], dtype=pl.Float32)) == "1 infinite values are taken as missing"
    )
