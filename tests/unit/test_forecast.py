"""Forecasts: what follows from a horizon, what is refused, and what they are compared with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from specml import curves
from specml.bundle import open_bundle, predict
from specml.candidates.lagged_lightgbm import LaggedLightGBM
from specml.candidates.lightgbm import LightGBM
from specml.cli.predict import command
from specml.data import Design, Layout, PastRows, Steps, feature_array, in_words, past
from specml.errors import DataCheckFailed, NotEnoughData
from specml.evidence import Evidence, Serial
from specml.gates.baseline import Baseline
from specml.metrics import bootstrap
from specml.serving.request import named
from specml.spec import Spec
from specml.stages import prepare
from specml.tables import history
from specml.values import Duration
from tests.conftest import run_stages
from tests.unit.test_prepare import prepared

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 1, 1)
FORECAST = {"step": "1d", "horizon": 3, "season": "7d"}


def series(n: int = 200, *, shops: tuple[str, ...] = ("a", "b"), seed: int = 0) -> dict[str, list[Any]]:
    """Daily sales of shops with a week's rhythm, some days left out; what else is measured, and what is planned."""
    random = np.random.default_rng(seed)
    table: dict[str, list[Any]] = {name: [] for name in ("day", "shop", "sales", "visitors", "holiday")}
    for place, shop in enumerate(shops):
        for day in range(n):
            if random.random() < 0.05:
                continue
            holiday = day % 11 == 0
            value = 20 + 5 * place + 8 * np.sin(2 * np.pi * day / 7) - 6 * holiday + random.normal()
            for name, one in zip(
                table, (START + timedelta(days=day), shop, round(float(value), 3), value * 2, holiday), strict=True
            ):
                table[name].append(one)
    return table


def tree(**changes: Any) -> dict[str, Any]:
    """A forecast of those sales."""
    forecast = {**FORECAST, "by": ("shop",), "known_ahead": ("holiday",), **changes.pop("forecast", {})}
    return {
        "name": "shops",
        "problem": {"task": "forecast", "target": "sales", "forecast": forecast},
        "data": {
            "sources": {"rows": {"type": "csv", "path": "rows.csv"}},
            "columns": {"day": {"role": "time"}},
        },
        "candidates": {"naive": "seasonal_naive"},
        **changes,
    }


def spec(**changes: Any) -> Spec:
    return Spec.model_validate(tree(**changes))


def told(**changes: Any) -> list[str]:
    return [f"{'.'.join(map(str, one.key))}: {one.what}" for one in spec(**changes).contradictions()]


def test_what_follows_from_the_horizon() -> None:
    made = spec()
    assert told() == []
    split = made.data.split
    assert (split.method, split.column, str(split.embargo)) == ("time", "day", "3d")
    assert made.features.history.by == ("shop",)
    assert made.problem.metric == "mean_absolute_error"
    backs = sorted(back for backs in history.needed(made.features).values() for back in backs)
    assert backs[0] == 3
    assert {7, 14, 49} <= set(backs)
    assert made.features.columns["day"].parts == ("weekday", "month")  # type: ignore[attr-defined]
    # Rendered, it says the same.
    again = Spec.model_validate(made.model_dump())
    assert again.model_dump() == made.model_dump()


@pytest.mark.parametrize(
    ("horizon", "season", "looks"),
    [(3, "7d", 7), (7, 7, 7), (8, 7, 14), ("30d", "7d", 35), (1, 1, 1), (5, 1, 5), (1, 365, 365)],
)
def test_the_season_that_is_known_covers_the_horizon(horizon: Any, season: Any, looks: int) -> None:
    made = spec(forecast={"horizon": horizon, "season": season})
    asked = made.problem.forecast
    assert asked is not None
    assert asked.told == Steps(step=86400.0, horizon=asked.ahead, season=looks)
    assert told(forecast={"horizon": horizon, "season": season}) == []
    assert past("sales", looks) in made.features.read


@pytest.mark.parametrize(("step", "days"), [("month", 31), ("quarter", 92), ("year", 366)])
def test_steps_of_the_calendar_have_an_embargo_that_is_long_enough(step: str, days: int) -> None:
    made = spec(forecast={"step": step, "horizon": 2, "season": 4})
    assert made.data.split.embargo == Duration(2 * days * 86400)


def test_what_the_spec_says_stays_and_the_seasonal_forecast_is_among_it() -> None:
    derive = {"month": {"type": "rolling", "of": "sales", "window": 28, "lag": 3}}
    made = spec(features={"derive": derive})
    assert set(made.features.derive) == {"month", "lag_7"}
    assert made.features.columns == {}
    own = spec(features={"derive": {"week": {"type": "lag", "of": "sales", "lag": 7}}})
    assert set(own.features.derive) == {"week"}
    scaled = spec(features={"derive": {"lag_7": {"type": "lag", "of": "sales", "lag": 7, "scale": "robust"}}})
    assert set(scaled.features.derive) == {"lag_7", "season_7"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"problem": {"task": "forecast", "target": "sales"}}, "problem.forecast: is required"),
        (
            {"problem": {"task": "regression", "target": "sales", "forecast": FORECAST}},
            "problem.forecast: has no effect on a regression problem.",
        ),
        ({"forecast": {"horizon": "36h"}}, "problem.forecast.horizon: is 36h, which is no whole number of steps of 1d"),
        ({"forecast": {"step": "month", "season": "7d"}}, "problem.forecast.season: is 7d, which is no whole number"),
        ({"forecast": {"horizon": 300, "season": 200}}, "problem.forecast.season: makes the latest season"),
        ({"forecast": {"known_ahead": ("sales",)}}, "problem.forecast.known_ahead.0: names 'sales', whose role"),
        ({"features": {"history": {"by": ("town",)}}}, "features.history.by: is another list"),
        ({"features": {"columns": {"visitors": {"type": "numeric"}}}}, "features.columns.visitors: has no effect"),
        (
            {"features": {"derive": {"x": {"type": "lag", "of": "sales", "lag": 2}}}},
            "features.derive.x: reads 'sales' 2 steps back, but rows are told 3 steps ahead",
        ),
        (
            {"features": {"derive": {"x": {"type": "rolling", "of": "visitors", "window": 4, "lag": 2}}}},
            "features.derive.x: reads 'visitors' 2 steps back",
        ),
        (
            {"features": {"derive": {"x": {"type": "expression", "expr": "log1p(visitors)"}}}},
            "features.derive.x: reads 'visitors' at the row's own time",
        ),
        ({"candidates": {"one": "logistic_regression"}}, "candidates.one.type: solves binary and multiclass"),
        ({"gates": {"auc": {"type": "metric", "metric": "roc_auc", "min": 0.5}}}, "gates.auc.metric: 'roc_auc' is no"),
    ],
)
def test_what_would_be_no_forecast_is_refused(changes: Any, says: str) -> None:
    assert [one for one in told(**changes) if one.startswith(says)], told(**changes)


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"method": "random"}, "data.split.method: is 'random', but a forecast is judged by what comes later."),
        ({"method": "time", "column": "day", "embargo": "2d"}, "data.split.embargo: is 2d, but rows are told 3d ahead"),
        (
            {"folds": {"method": "time", "column": "day"}},
            "data.split.folds.embargo: is not said, but rows are told 3d ahead",
        ),
    ],
)
def test_a_split_that_knows_too_much_is_refused(split: Any, says: str) -> None:
    data = {**tree()["data"], "split": split}
    assert [one for one in told(data=data) if one.startswith(says)], told(data=data)


def test_a_forecast_needs_one_time() -> None:
    data = {**tree()["data"], "columns": {}}
    assert any(one.startswith("data.split.column: is required") for one in told(data=data))


def test_a_known_covariate_may_be_young() -> None:
    features = {
        "derive": {
            "eve": {"type": "lag", "of": "holiday"},
            "now": {"type": "expression", "expr": "where(holiday == 1, 1, 0)"},
        }
    }
    assert told(features=features) == []


def by_loop(rows: dict[str, list[Any]], back: int, of: str = "sales") -> list[float | None]:
    known = {(shop, day): value for shop, day, value in zip(rows["shop"], rows["day"], rows[of], strict=True)}
    return [known.get((shop, day - timedelta(days=back))) for shop, day in zip(rows["shop"], rows["day"], strict=True)]


def test_prepared_rows_are_told_what_a_loop_finds(tmp_path: Path) -> None:
    rows = series()
    train, test, layout = prepared(tmp_path, rows, **tree())
    at = {(shop, day): place for place, (shop, day) in enumerate(zip(rows["shop"], rows["day"], strict=True))}
    first = min(test["day"])
    assert max(train["day"]) <= first - timedelta(days=3)
    for back in (3, 7, 49):
        found = by_loop(rows, back)
        for row in test.to_dicts():
            assert row[past("sales", back)] == found[at[row["shop"], row["day"]]]
    inside = [p for p, day in enumerate(rows["day"]) if day <= first - timedelta(days=3)]
    before = by_loop(rows, 7)
    errors = [abs(rows["sales"][p] - value) for p in inside if (value := before[p]) is not None]
    begun = {shop: min(d for s, d in at if s == shop) + timedelta(days=7) for shop in ("a", "b")}
    assert train.height == sum(rows["day"][p] >= begun[rows["shop"][p]] for p in inside)
    told = json.loads((tmp_path / prepare.METRICS).read_bytes())["rows"]
    assert told["first_season"] == len(inside) - train.height
    assert sum(told.values()) == len(rows["day"])
    assert layout.seasonal_error == pytest.approx(np.mean(errors))
    assert {c.name for c in layout.features if "@" not in c.name} == {"shop", "holiday", "day"}
    assert "visitors" in json.loads((tmp_path / prepare.METRICS).read_bytes())["set_aside"]


def test_nothing_younger_than_the_horizon_changes_a_row(tmp_path: Path) -> None:
    """Whatever happens to any row later than the origin, its own included: only what is known ahead is read."""
    rows = series(120)
    test = prepared(tmp_path, rows, **tree())[1]
    read = [name for name in test.columns if name != "sales"]
    random = np.random.default_rng(3)
    for one in random.choice(test.height, 3, replace=False):
        row = test.row(int(one), named=True)
        origin = row["day"] - timedelta(days=3)
        late = [day > origin for day in rows["day"]]
        changed = {
            **rows,
            **{
                name: [v + random.normal() * 100 if hit else v for v, hit in zip(rows[name], late, strict=True)]
                for name in ("sales", "visitors")
            },
        }
        again = prepared(tmp_path, changed, **tree())[1]
        same = again.filter((pl.col("day") == row["day"]) & (pl.col("shop") == row["shop"]))
        assert same.select(read).row(0, named=True) == {name: row[name] for name in read}
        # The test can fail: a step nearer and the row is another.
        near = [day > origin - timedelta(days=1) for day in rows["day"]]
        changed["sales"] = [v + 500 if hit else v for v, hit in zip(rows["sales"], near, strict=True)]
        other = prepared(tmp_path, changed, **tree())[1].filter(
            (pl.col("day") == row["day"]) & (pl.col("shop") == row["shop"])
        )
        known = (row["shop"], origin) in set(zip(rows["shop"], rows["day"], strict=True))
        assert (other.select(read).row(0, named=True) != {name: row[name] for name in read}) == known


def test_the_seasonal_naive_forecast_is_a_lag_and_beats_itself_by_nothing(tmp_path: Path) -> None:
    rows = series(260)
    pl.DataFrame(rows).write_csv(tmp_path / "rows.csv")
    problem = {**tree()["problem"], "feasibility": {"learning_curve": False}}
    features = {"derive": {"before": {"type": "lag", "of": "sales", "lag": 7}}}
    run_stages(spec(problem=problem, features=features, gates={"baseline": {"level": "warn"}}), tmp_path)
    test = pl.read_parquet(tmp_path / prepare.TEST)
    train = pl.read_parquet(tmp_path / prepare.TRAIN)
    opened = open_bundle(tmp_path / "artifacts/bundle")
    answers = predict(opened.session(), {c.name: feature_array(test, c) for c in opened.contract.inputs})
    at = {(shop, day): place for place, (shop, day) in enumerate(zip(rows["shop"], rows["day"], strict=True))}
    before, mean = by_loop(rows, 7), train["sales"].mean()
    wanted = [before[at[shop, day]] for shop, day in test.select("shop", "day").rows()]
    assert None in wanted
    assert answers["prediction"] == pytest.approx([mean if one is None else one for one in wanted], rel=1e-6)
    assert opened.contract.history is not None
    assert opened.contract.history.steps == Steps(step=86400.0, horizon=3, season=7)
    metrics = json.loads((tmp_path / "metrics/holdout.json").read_bytes())
    assert metrics["skill"] == pytest.approx(0, abs=1e-6)
    layout = Layout.model_validate_json((tmp_path / prepare.LAYOUT).read_bytes())
    assert layout.seasonal_error is not None
    assert metrics["mean_absolute_scaled_error"] == pytest.approx(
        metrics["mean_absolute_error"] / layout.seasonal_error
    )
    asked_of_the_bundle(tmp_path, rows, opened, float(mean))  # type: ignore[arg-type]
    verdicts = json.loads((tmp_path / "artifacts/validate/verdicts.json").read_bytes())["gates"]
    assert verdicts["baseline"]["outcome"] == "refused"
    assert "over the seasonal naive forecast" in verdicts["baseline"]["reason"]


def test_errors_are_drawn_by_one_season_however_long_the_horizon(tmp_path: Path) -> None:
    pl.DataFrame(series(260)).write_csv(tmp_path / "rows.csv")
    asked = {**FORECAST, "horizon": 10, "by": ("shop",)}
    problem = {"task": "forecast", "target": "sales", "forecast": asked, "feasibility": {"learning_curve": False}}
    run_stages(spec(problem=problem), tmp_path, until="validate")
    layout = Layout.model_validate_json((tmp_path / prepare.LAYOUT).read_bytes())
    assert layout.history is not None
    assert layout.history.steps == Steps(step=86400.0, horizon=10, season=14)
    drawn = json.loads((tmp_path / "artifacts/validate/curves.json").read_bytes())
    assert [one["phase"] for one in drawn["phases"]] == list(range(7))


@pytest.mark.parametrize("named", [{"by": ("shp",)}, {"known_ahead": ("holidy",)}], ids=["by", "known_ahead"])
def test_a_forecast_of_columns_that_are_not_there_is_told_by_its_own_key(tmp_path: Path, named: Any) -> None:
    with pytest.raises(DataCheckFailed, match="the data has no column") as error:
        prepared(tmp_path, series(60), **tree(forecast=named))
    assert error.value.where == "problem.forecast"


def test_a_forecast_may_be_in_quantiles(tmp_path: Path) -> None:
    """What is told and drawn of it beside the seasonal naive forecast is its median."""
    pl.DataFrame(series(120)).write_csv(tmp_path / "rows.csv")
    problem = {**tree()["problem"], "quantiles": (0.1, 0.5, 0.9), "feasibility": {"learning_curve": False}}
    run_stages(spec(problem=problem, candidates={"line": "quantile_regression"}), tmp_path, until="validate")
    test, opened = pl.read_parquet(tmp_path / prepare.TEST), open_bundle(tmp_path / "artifacts/bundle")
    answers = predict(opened.session(), {c.name: feature_array(test, c) for c in opened.contract.inputs})
    assert (answers["quantile_0.1"] < answers["quantile_0.9"]).any()
    metrics = json.loads((tmp_path / "metrics/holdout.json").read_bytes())
    prior = json.loads((tmp_path / "artifacts/select/choice.json").read_bytes())["prior"]
    y, naive = test["sales"].to_numpy(), test[past("sales", 7)].fill_null(prior[1]).to_numpy()
    error = np.abs(answers["quantile_0.5"] - y)
    assert metrics["mean_absolute_error"] == pytest.approx(error.mean())
    assert metrics["skill"] == pytest.approx(1 - error.mean() / np.abs(naive - y).mean())
    drawn = json.loads((tmp_path / "artifacts/validate/curves.json").read_bytes())["course"]
    total = sum(one["n"] for one in drawn)
    assert total == len(y)
    for name, value in (("forecast", answers["quantile_0.5"]), ("error", error), ("naive_error", np.abs(naive - y))):
        assert sum(one["n"] * one[name] for one in drawn) / total == pytest.approx(value.mean(), rel=1e-4)


def asked_of_the_bundle(folder: Path, rows: dict[str, list[Any]], opened: Any, mean: float) -> None:
    """Three days after the end, all at once: by a request with one history, and by a file with the past in it."""
    end, session = max(rows["day"]), opened.session()
    days = [end + timedelta(days=ahead) for ahead in (1, 2, 3)]
    history = [
        {"day": day.isoformat(), "shop": shop, "sales": sales}
        for day, shop, sales in zip(rows["day"], rows["shop"], rows["sales"], strict=True)
    ]
    future = [{"day": day.isoformat(), "shop": shop, "holiday": False} for shop in ("a", "b") for day in days]
    told = predict(session, named(future, opened.contract, history).columns)["prediction"]
    known = {(shop, day): value for shop, day, value in zip(rows["shop"], rows["day"], rows["sales"], strict=True)}
    wanted = [known.get((shop, day - timedelta(days=7)), mean) for shop in ("a", "b") for day in days]
    assert told == pytest.approx(wanted, rel=1e-6)
    later = {"day": days * 2, "shop": ["a"] * 3 + ["b"] * 3, "sales": [None] * 6, "visitors": [None] * 6}
    table = pl.concat([pl.DataFrame(rows), pl.DataFrame({**later, "holiday": [False] * 6})], how="vertical_relaxed")
    table.write_csv(folder / "both.csv")
    done = CliRunner().invoke(command, [str(folder / "both.csv"), "--bundle", str(folder / "artifacts/bundle")])
    assert done.exit_code == 0, done.output
    assert pl.read_csv(done.stdout.encode())["predicted"].to_list()[-6:] == pytest.approx(wanted, rel=1e-6)
    assert "- Problem: forecast, 3 × 1d ahead" in (folder / "artifacts/release/card.md").read_text()
    plots = (folder / "artifacts/validate/curves.json").read_bytes()
    assert {"course", "phases"} <= json.loads(plots).keys()


def steps_of(values: list[Any], step: Any, dtype: Any = None) -> list[int]:
    numbers = history.numbered(pl.Series("at", values, dtype=dtype), Steps(step=step, horizon=1, season=1))
    return [int(one) for one in numbers - numbers[0]]


def test_steps_are_counted_by_the_clock_or_the_calendar() -> None:
    hours = [START + timedelta(hours=one) for one in (0, 5, 2, -3)]
    assert steps_of(hours, 3600.0) == [0, 5, 2, -3]
    ends = [datetime(2024, 1, 31), datetime(2024, 2, 29), datetime(2025, 1, 1), datetime(2023, 12, 31)]
    assert steps_of(ends, "month") == [0, 1, 12, -1]
    assert steps_of(ends, "quarter") == [0, 0, 4, -1]
    assert steps_of(ends, "year") == [0, 0, 1, -1]
    assert steps_of([one.date() for one in ends], "month") == [0, 1, 12, -1]
    assert steps_of(["2024-01-31", "2024-02-01"], "month") == [0, 1]
    zoned = [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 31, 23, 30, tzinfo=UTC)]
    assert steps_of(zoned, "month", pl.Datetime("us", "Asia/Tokyo")) == [0, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shop": ["a"] * 4}, "2 rows stand in the same step of 1d as another of their series"),
        ({"day": [START, START, START + timedelta(days=1), START + timedelta(hours=30)]}, "1 rows stand between the"),
        ({"day": [1, 1, 2, 2]}, "holds Int64 values; a forecast goes by times"),
    ],
)
def test_rows_that_are_no_steps_are_refused(change: dict[str, list[Any]], says: str) -> None:
    days = [START, START, START + timedelta(days=1), START + timedelta(days=1)]
    table = pl.DataFrame({"day": days, "shop": ["a", "b", "a", "b"], "sales": [1.0, 2.0, 3.0, 4.0], **change})
    told = PastRows(
        rows=1, columns=("sales",), time="day", by=("shop",), steps=Steps(step=86400.0, horizon=1, season=1)
    )
    with pytest.raises(DataCheckFailed, match=says):
        history.values(table, {"sales": [1]}, told)


def test_blocks_of_neighbours_are_drawn_together() -> None:
    number = np.repeat(np.arange(50), 2)[::-1].copy()
    drawn: list[Any] = []

    def keep(rows: np.ndarray) -> float:
        drawn.append(number[rows])
        return 0.0

    bootstrap(keep, 100, 0.95, 0, Serial(number, 5))
    for one in drawn:
        assert len(one) == 100
        steps = one[::2]
        assert (one[1::2] == steps).all()
        assert (np.diff(steps.reshape(10, 5)) % 50 == 1).all()
    assert set(np.concatenate(drawn)) == set(range(50))


def test_an_interval_of_errors_that_go_together_is_wider() -> None:
    random = np.random.default_rng(0)
    error = np.repeat(random.normal(size=60), 10)
    alone = bootstrap(lambda rows: float(error[rows].mean()), 600, 0.95, 0)
    together = bootstrap(lambda rows: float(error[rows].mean()), 600, 0.95, 0, Serial(np.arange(600), 10))
    assert alone is not None
    assert together is not None
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.method == "block bootstrap (400)"


def test_the_baseline_of_a_forecast_is_the_seasonal_naive_one() -> None:
    random = np.random.default_rng(0)
    y = random.normal(size=400)
    naive, model = y + random.normal(size=400), y + 0.5 * random.normal(size=400)
    serial = Serial(np.arange(400), 24)
    verdict = Baseline().check(Evidence("regression", y, model, None, model, naive, serial=serial))
    assert verdict.outcome == "holds"
    assert verdict.value == pytest.approx(np.abs(naive - y).mean() - np.abs(model - y).mean())
    assert "mean_absolute_error over the seasonal naive forecast" in verdict.reason
    assert Baseline().check(Evidence("regression", y, naive, None, naive, naive, serial=serial)).outcome == "refused"


def test_people_are_told_that_it_is_a_forecast() -> None:
    told = PastRows(rows=7, columns=("sales",), time="day", steps=Steps(step=86400.0, horizon=3, season=7))
    assert in_words("regression", told) == "forecast, 3 × 1d ahead"
    assert in_words("regression", told.model_copy(update={"steps": None})) == "regression"
    monthly = Steps(step="month", horizon=6, season=12)
    assert in_words("regression", told.model_copy(update={"steps": monthly})) == "forecast, 6 × month ahead"


def growing(n: int = 400) -> Design:
    """A series that grows without end, with a week's rhythm: what it was 7 steps before, and which of 7 days it is."""
    day = np.arange(n)
    y = 0.5 * day + 5 * np.sin(2 * np.pi * day / 7)
    X = np.stack([np.where(day < 7, np.nan, np.roll(y, 7)), day % 7], axis=1).astype(np.float32)
    return Design(X, y, None, "regression", 2, seasonal=0)


def test_a_difference_follows_a_series_that_grows() -> None:
    data = growing()
    early, late = data.rows(np.arange(300)), data.rows(np.arange(300, 400))
    errors = {}
    for difference in ("season", "none"):
        model = LaggedLightGBM(difference=difference, n_estimators=40).fit(early, seed=1, threads=1)
        errors[difference] = np.abs(model.predict(late.X) - late.y).mean()
    assert errors["season"] < 0.5
    assert errors["none"] > 10


def test_without_a_difference_it_is_lightgbm() -> None:
    data = growing(200)
    own = LaggedLightGBM(difference="none", n_estimators=10).fit(data, seed=1, threads=1)
    plain = LightGBM(n_estimators=10).fit(data, seed=1, threads=1)
    assert np.allclose(own.predict(data.X), plain.predict(data.X), rtol=1e-6)


def test_its_options_are_those_of_lightgbm() -> None:
    ours, theirs = LaggedLightGBM.model_fields, LightGBM.model_fields
    for name in ours.keys() - {"type", "space", "difference"}:
        assert (ours[name].default, ours[name].metadata) == (theirs[name].default, theirs[name].metadata), name


def test_a_forecast_is_drawn_by_whole_seasons_and_never_by_single_rows() -> None:
    number = np.arange(24 * 100)
    y = np.sin(2 * np.pi * number / 24)
    naive = np.zeros(len(y))
    told = Evidence("regression", y, y + 0.5, None, y, naive, serial=Serial(number, 24, 24))
    drawn = curves.drawn(told, ())
    assert len(drawn["course"]) == 50
    assert all(one["n"] == 48 and abs(one["actual"]) < 1e-6 for one in drawn["course"])
    assert [one["phase"] for one in drawn["phases"]] == list(range(24))
    assert drawn["phases"][6]["error"] == pytest.approx(0.5)
    assert drawn["phases"][6]["naive_error"] == pytest.approx(1)
    few = Evidence("regression", y[:60], y[:60], None, y[:60], naive[:60], serial=Serial(number[:60], 24, 24))
    drawn = curves.drawn(few, ())
    assert min(one["n"] for one in drawn["course"]) >= curves.FEWEST
    assert drawn["phases"] == []


def test_a_series_may_be_shorter_than_what_is_looked_back_at(tmp_path: Path) -> None:
    train, _, layout = prepared(tmp_path, series(50, shops=tuple("abcdef")), **tree())
    assert train[past("sales", 49)].null_count() == train.height
    assert past("sales", 49) in {column.name for column in layout.features}
    with pytest.raises(NotEnoughData, match="no series is known for 45 steps before the held-out ones"):
        prepared(tmp_path, series(50, shops=tuple("abcdef")), **tree(forecast={"season": 45}))


def test_all_rows_may_be_one_series(tmp_path: Path) -> None:
    rows = series(220, shops=("a",))
    train, test, _ = prepared(tmp_path, rows, **tree(forecast={"by": ()}))
    assert min(train["day"]) >= START + timedelta(days=7)
    found = dict(zip(rows["day"], by_loop(rows, 7), strict=True))
    assert test[past("sales", 7)].to_list() == [found[day] for day in test["day"]]
