"""What is known of the training rows: relations, groups and shifts as they are, told of ten rows and more only."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency, kruskal, spearmanr

from specml import report
from specml.compile import compile_plan
from specml.compile.dvc import params_yaml
from specml.data import Column, Folding, Layout
from specml.errors import SpecmlError
from specml.evidence import wilson
from specml.files import canonical_json, read_json
from specml.profile import Profile
from specml.stages import explore, ingest, prepare
from specml.stages.work import Work, narrowed
from specml.tables import parts, relations
from tests.conftest import spec_of, specml
from tests.unit.test_report import CHROMIUM, EVIL, LIMIT, Page, browsed

N = 1200
DRAW = np.random.default_rng(3)


def columns(**kinds: Any) -> tuple[Column, ...]:
    return tuple(Column(name=name, kind=kind, nullable=True) for name, kind in kinds.items())


def layout(task: Any, features: tuple[Column, ...], **facts: Any) -> Layout:
    classes: dict[str, tuple[Any, ...]] = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}
    return Layout(task=task, target="y", classes=classes[task], features=features, **facts)


def table(n: int = N) -> pl.DataFrame:
    x = DRAW.normal(size=n)
    kinds = np.array([f"k{EVIL}", "other", "third"])[DRAW.integers(0, 3, n)]
    return pl.DataFrame({
        f"x{EVIL}": x,
        "flat": DRAW.normal(size=n),
        "gaps": [None if i % 3 else float(i % 7) for i in range(n)],
        "kind": kinds,
        "code": [f"secret{i}" for i in range(n)],
        "note": [f"private words of person {i}" for i in range(n)],
        "flag": [bool(i % 2) for i in range(n)],
        "seen": [datetime(2024, 1, 1) + timedelta(hours=i) for i in range(n)],
        "group": ["tiny"] * 5 + [f"g{EVIL}"] * (n // 2) + ["h"] * (n - n // 2 - 5),
        "y": (x + DRAW.normal(size=n) > 0).astype(int),
    })  # fmt: skip


def project(
    folder: Path, rows: pl.DataFrame, task: Any = "binary", columns: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """The stages up to ``explore``, in this process."""
    rows.write_parquet(folder / "rows.parquet")
    declared: dict[str, Any] = {
        "group": {"role": "protected"}, "note": {"dtype": "text"}, "code": {"dtype": "category"},
        "seen": {"dtype": "datetime", "role": "time"},
    }  # fmt: skip
    spec = spec_of(
        problem={"task": task, "target": "y"},
        candidates={"gbm": {"type": "lightgbm"}},
        data={
            "sources": {"rows": {"type": "parquet", "path": "rows.parquet"}},
            "columns": {name: one for name, one in declared.items() if name in rows.columns} | (columns or {}),
            **({"split": {"method": "time", "column": "seen"}} if "seen" in rows.columns else {}),
        },
        **changes,
    )
    plan = compile_plan(spec)
    for stage, module in (("ingest", ingest), ("prepare", prepare), ("explore", explore)):
        declared_stage = next(one for one in plan.stages if one.name == stage)
        key = (declared_stage.keys or ("",))[0]
        part = narrowed(spec, declared_stage, key)
        module.work(Work(declared_stage, folder, part, lambda *_, **__: None, key, ()))
    (folder / "params.yaml").write_text(params_yaml(plan, "spec.yaml", ()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("explored"), table())


def test_a_rank_correlation_is_spearmans() -> None:
    a = np.round(DRAW.normal(size=500), 1)
    rows = pl.DataFrame({"a": a, "b": a**3 + DRAW.normal(size=500)})
    told = relations.associations(rows, columns(a="numeric", b="numeric"))
    assert told["values"][0][1] == pytest.approx(spearmanr(rows["a"], rows["b"]).statistic, abs=1e-5)
    assert told["values"][1][0] == told["values"][0][1]


def test_a_number_and_categories_go_together_as_kruskal_and_wallis_say() -> None:
    kinds = DRAW.choice(["p", "q", "r"], 500)
    values = DRAW.normal(size=500) + (kinds == "p")
    told = relations.associations(pl.DataFrame({"a": values, "b": kinds}), columns(a="numeric", b="categorical"))
    h = kruskal(*(values[kinds == one] for one in "pqr")).statistic
    assert told["values"][0][1] == pytest.approx(np.sqrt(h / 499), abs=1e-5)


def test_categories_that_go_together_by_chance_only_do_not() -> None:
    a, b = DRAW.choice(list("pqrst"), 2000), DRAW.choice(list("uvwxy"), 2000)
    both = columns(a="categorical", b="categorical")
    assert relations.associations(pl.DataFrame({"a": a, "b": b}), both)["values"][0][1] < 0.05
    assert relations.associations(pl.DataFrame({"a": a, "b": a}), both)["values"][0][1] == pytest.approx(1, abs=1e-3)
    mixed = np.where(DRAW.random(2000) < 0.3, a, b)
    plain = chi2_contingency(np.array([[((a == p) & (mixed == q)).sum() for q in np.unique(mixed)] for p in "pqrst"]))
    told = relations.associations(pl.DataFrame({"a": a, "b": mixed}), both)["values"][0][1]
    assert told == pytest.approx(np.sqrt(plain.statistic / 2000 / 4), abs=0.1)


def test_rows_without_one_of_the_two_are_left_out() -> None:
    a = DRAW.normal(size=400)
    gaps = pl.Series([None if i % 2 else value for i, value in enumerate(a)])
    told = relations.associations(pl.DataFrame({"a": a, "b": gaps}), columns(a="numeric", b="numeric"))
    assert told["values"][0][1] == pytest.approx(1, abs=1e-3)


def test_a_constant_goes_with_nothing() -> None:
    rows = pl.DataFrame({"a": [1.0] * 50, "b": np.arange(50.0), "c": ["k"] * 50})
    told = relations.associations(rows, columns(a="numeric", b="numeric", c="categorical"))
    assert np.array_equal(told["values"], np.eye(3))


def test_rates_have_wilsons_interval() -> None:
    y = np.array([1] * 30 + [0] * 70)
    found = parts.Parts(np.zeros(100, dtype=np.int64), ("all",))
    (told,) = relations.by_part(found, y, layout("binary", ()))
    interval = wilson(30, 100, 0.95)
    assert told == {"name": "all", "n": 100, "rates": [pytest.approx((0.3, interval.low, interval.high), abs=1e-6)]}


def test_parts_hold_ten_rows_and_more() -> None:
    values = pl.Series("x", ["a"] * 50 + ["b"] * 9 + ["c"] * 9 + [parts.MISSING] * 9)
    found = parts.of_categories(values)
    assert dict(zip(found.names, found.counts.tolist(), strict=True)) == {"a": 50, "2 others": 18}
    assert (found.codes == -1).sum() == 9
    assert parts.of_categories(values, rest=False).names == ("a",)
    few = parts.parts(pl.Series("x", [1.0] * 50 + [2.0] * 9), Column(name="x", kind="numeric"))
    assert few.names == ("1",)
    assert parts.of_categories(pl.Series("x", ["a", "b"])).names == ()


@pytest.mark.parametrize("values", [DRAW.normal(size=999), DRAW.exponential(size=999) ** 4, DRAW.integers(0, 500, 999)])
def test_numbers_are_divided_in_about_equal_parts_at_round_edges(values: np.ndarray) -> None:
    found = parts.parts(pl.Series("x", values), Column(name="x", kind="numeric"))
    assert found.counts.sum() == 999
    assert found.counts.max() < 200
    for edge in {float(one) for name in found.names for one in re.findall(r"-?[\d.]+(?:e[+-]\d+)?", name)}:
        assert edge == float(f"{edge:.3g}")


def test_a_value_that_most_rows_have_is_a_part_of_its_own() -> None:
    values = np.concatenate([np.zeros(900), np.arange(1, 101)])
    found = parts.parts(pl.Series("x", values), Column(name="x", kind="numeric"))
    assert found.names[0] == "0"
    assert found.counts[0] == 900
    assert len(found.names) > 5


@pytest.mark.parametrize(
    "values",
    [
        DRAW.normal(size=5000), DRAW.exponential(size=5000) ** 5, DRAW.integers(0, 40, 5000), np.full(50, 7.0),
        np.concatenate([np.zeros(99), [1e12]]), np.array([np.nan] * 50), np.array([1.0, 2.0]),
        np.concatenate([np.full(60, np.inf), np.arange(60.0)]),
    ],
)  # fmt: skip
def test_a_histogram_counts_every_known_row_in_bins_of_ten_and_more(values: np.ndarray) -> None:
    told = parts.bins(values.astype(float))
    known = values[np.isfinite(values)]
    if told:
        assert sum(one["n"] for one in told) == len(known)
        assert min(one["n"] for one in told) >= 10
        assert len(told) <= 60
    else:
        assert len(known) < 10


def test_shifts_are_measured_against_the_first_period() -> None:
    n = 1600
    rows = pl.DataFrame({"same": DRAW.normal(size=n), "moves": DRAW.normal(size=n) + np.arange(n) / 400})
    found = relations.over_time(
        rows, columns(same="numeric", moves="numeric"), np.arange(n), DRAW.integers(0, 2, n), layout("binary", ())
    )
    assert found is not None
    assert [one["n"] for one in found["target"]] == [200] * 8
    assert max(found["columns"]["same"]) < 0.25
    assert found["columns"]["moves"][-1] > 1


def test_one_time_is_no_change() -> None:
    rows = pl.DataFrame({"a": DRAW.normal(size=300)})
    y = DRAW.integers(0, 2, 300)
    assert relations.over_time(rows, columns(a="numeric"), np.zeros(300), y, layout("binary", ())) is None
    few = relations.over_time(rows[:40], columns(a="numeric"), np.arange(40), y[:40], layout("binary", ()))
    assert few is None


def test_the_facts_tell_of_the_training_rows_only(explored: Path) -> None:
    told = read_json(explored / explore.FACTS)
    train = pl.read_parquet(explored / prepare.TRAIN)
    assert told["rows"] == train.height < N
    assert sum(told["target"]) == train.height
    groups = told["groups"]["group"]
    counts = {one["name"]: one["n"] for one in groups["groups"]}
    assert counts == {f"g{EVIL}": N // 2, "h": train.height - N // 2 - 5}
    assert groups["small"] == {"groups": 1, "rows": 5}
    assert len(told["over_time"]["target"]) == 8
    assert told["columns"][f"x{EVIL}"]["strength"] > 0.7 > told["columns"]["flat"]["strength"]


def test_a_small_group_is_counted_and_not_named() -> None:
    values = pl.Series("g", ["big"] * 50 + ["rare"] * 9 + ["odd"])
    told = relations.groups(values, np.array([0, 1] * 30), layout("binary", ()))
    assert [one["name"] for one in told["groups"]] == ["big"]
    assert told["small"] == {"groups": 2, "rows": 10}


def test_the_same_rows_have_the_same_facts(explored: Path) -> None:
    found = Layout.model_validate_json((explored / prepare.LAYOUT).read_bytes())
    strengths = read_json(explored / prepare.STRENGTHS)
    facts = explore.facts(found, pl.read_parquet(explored / prepare.TRAIN), strengths)
    assert canonical_json(facts) == (explored / explore.FACTS).read_bytes()


def test_what_tells_of_single_rows_is_nowhere(explored: Path) -> None:
    """The page and its facts; columns.json, which is also the reference of the bundle, tells of categories."""
    for text in (report.exploration(explored), (explored / explore.FACTS).read_text()):
        assert "private words" not in text
        assert "secret" not in text
        assert "tiny" not in text


def test_the_profile_is_one_of_the_training_rows(explored: Path) -> None:
    profile = Profile.read((explored / explore.PROFILE).read_bytes())
    train = pl.read_parquet(explored / prepare.TRAIN)
    assert set(profile.names()) == {f"x{EVIL}", "flat", "gaps", "kind", "code", "note", "flag"}
    assert profile.rows("gaps") == train.height
    assert profile.missing("gaps") == train["gaps"].null_count()


def test_nothing_in_the_page_runs_or_is_fetched(explored: Path) -> None:
    text = report.exploration(explored)
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "form", "base", "a"} & set(page.seen)
    assert page.seen["svg"] > 10
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "action", "style"):
            assert value == "data:,"
    assert "default-src 'none'" in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert len(text) < LIMIT
    assert report.exploration(explored) == text


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_are_drawn_too(tmp_path: Path, task: str) -> None:
    rows = table().drop("seen", "code", "note")
    x = rows[f"x{EVIL}"].to_numpy() + DRAW.normal(size=N)
    y = np.array(["a", "b", f"c{EVIL}"])[np.searchsorted([-0.5, 0.5], x)] if task == "multiclass" else x * 2
    text = report.exploration(project(tmp_path, rows.with_columns(y=y), task))
    Page(text)
    assert "no column orders the training rows" in text
    assert "Too small to be told: 1 group of fewer than ten rows" in text


def test_a_time_that_is_a_feature_orders_the_rows_as_well() -> None:
    n = 900
    rows = pl.DataFrame({
        "when": [None if i < 20 else datetime(2024, 1, 1) + timedelta(days=i) for i in range(n)],
        "x": np.arange(n) * 0.5,
        "y": [i % 2 for i in range(n)],
    })  # fmt: skip
    told = explore.facts(layout("binary", columns(when="datetime", x="numeric")), rows, {"when": 0.6, "x": 0.5})
    assert told["over_time"]["columns"].keys() == {"x"}
    assert all(re.search(r"\d{4}-\d\d-\d\d|missing", one["name"]) for one in told["columns"]["when"]["target"])


def test_a_column_for_gates_only_is_said_to_be_that(tmp_path: Path) -> None:
    rows = table().drop("seen", "code", "note")
    (tmp_path / "seen").mkdir()
    seen = project(tmp_path / "seen", rows)
    assert "kept for gates only" not in report.exploration(seen)
    assert "g&lt;" in report.exploration(seen)
    found = project(tmp_path, rows, columns={"group": {"role": "protected", "use": "audit_only"}})
    assert "group" not in pl.read_parquet(found / prepare.TRAIN).columns
    assert json.loads((found / explore.FACTS).read_text())["groups"] == {"group": None}
    text = report.exploration(found)
    assert "kept for gates only" in text
    assert "g&lt;" not in text  # no group is named


def test_a_wide_table_stays_below_the_limit(tmp_path: Path) -> None:
    wide = {f"column {i} {'x' * 500}": DRAW.normal(size=300) for i in range(400)}
    text = report.exploration(project(tmp_path, pl.DataFrame({**wide, "y": DRAW.integers(0, 2, 300)})))
    assert len(text) < LIMIT


def test_the_folding_of_a_split_by_time_is_what_orders() -> None:
    rows = pl.DataFrame({"x": np.arange(400.0), "__time__": np.arange(400), "y": [i % 2 for i in range(400)]})
    by_time = layout("binary", columns(x="numeric"), folding=Folding(method="time", column="__time__"))
    assert explore.facts(by_time, rows, {"x": 0.5})["over_time"] is not None
    by_group = layout("binary", columns(x="numeric"), folding=Folding(method="group", column="__time__"))
    assert explore.facts(by_group, rows, {"x": 0.5})["over_time"] is None


def test_without_the_stage_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecmlError, match="the stage explore has not run"):
        report.exploration(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to open the page in")
def test_a_browser_opens_it_without_an_error_or_a_request(explored: Path, tmp_path: Path) -> None:
    assert browsed(report.exploration(explored), tmp_path / "page", "How columns go together") == ([], [])


@pytest.mark.slow
def test_the_command_reads_draws_and_has_nothing_to_do_the_second_time(tmp_path: Path) -> None:
    table().drop("note", "code").write_csv(tmp_path / "rows.csv")
    specml("init", "rows.csv", "--target", "y", folder=tmp_path)
    done = specml("explore", folder=tmp_path)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "artifacts/explore.html")
    page = (tmp_path / "artifacts/explore.html").read_bytes()
    again = specml("explore", folder=tmp_path)
    assert "nothing to do" in again.stdout + again.stderr
    assert (tmp_path / "artifacts/explore.html").read_bytes() == page
    assert not (tmp_path / "artifacts/train").exists()
