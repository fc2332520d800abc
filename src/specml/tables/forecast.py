"""Forecasts: how far ahead a value is to be told, and what may be known by then.

A forecast is a regression of each row on what was known ``horizon`` steps before its time: of what is looked back at
nothing is younger, and of the row itself only what is known ahead is taken (a *direct* forecast: Ben Taieb et al. 2012,
*Expert Systems with Applications* 39(8)). What a spec leaves open follows from the horizon: the split by time with its
embargo, the past values that features read, the parts of the calendar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from specml.component import Block, Disagreement
from specml.data import MOST_BACK, Calendar, PastRows, Steps, looks_back, past
from specml.errors import NotEnoughData
from specml.kinds import Feature
from specml.tables import history
from specml.values import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import polars as pl

    from specml.spec import Spec

LONGEST: dict[Calendar, float] = {"month": 31 * 86400.0, "quarter": 92 * 86400.0, "year": 366 * 86400.0}
"""Seconds that a step of the calendar takes at most."""

SEASONS = 7
"""Seasons that derived features look back at: of days those of a week, of months those of seven years."""

PARTS = (("minute", 3600.0), ("hour", 86400.0), ("weekday", 7 * 86400.0), ("month", 366 * 86400.0))
"""Parts of the calendar, each with the step from which on it no longer tells rows apart."""


class Forecast(Block):
    """How far ahead the target is told, of one series or of many, whose rows come in equal steps."""

    step: Annotated[Duration, Field(ge=1)] | Calendar
    """How far apart the rows of a series are: a duration, as ``1h`` or ``1d``, or ``month``, ``quarter`` or ``year`` by
    the calendar (UTC). A step without a row is a missing value; two rows of a series in one step are refused."""
    horizon: Annotated[int, Field(ge=1, le=MOST_BACK)] | Duration
    """How far ahead, in steps or as a duration: what a forecast of a row may look back at is this old, or older."""
    season: Annotated[int, Field(ge=1, le=MOST_BACK)] | Duration = 1
    """After how long the series tends to repeat itself, in steps or as a duration: ``24h`` of hours, ``7d`` of days, 12
    of months. The seasonal naive forecast, which every model must beat, repeats the latest season that is known."""
    by: tuple[str, ...] = ()
    """The columns that tell series apart, as ``[store, product]``; none: all rows are one series."""
    known_ahead: tuple[str, ...] = ()
    """Columns whose value at a row's time is known a horizon before: holidays, prices that are set, the calendar. All
    others are no features, but may be looked back at."""

    def steps(self, value: int | Duration) -> int:
        """How many steps ``value`` is; 0 where it is no whole number of them."""
        if not isinstance(value, Duration):
            return value
        if not isinstance(self.step, Duration):
            return 0
        count = round(value / self.step)
        return count if abs(count * self.step - value) < 1e-6 else 0

    @property
    def ahead(self) -> int:
        """The horizon in steps."""
        return self.steps(self.horizon)

    @property
    def period(self) -> int:
        """The season in steps."""
        return self.steps(self.season)

    @property
    def known_season(self) -> int:
        """How many steps back the seasonal naive forecast looks: the fewest whole seasons that cover the horizon.

        Hyndman & Athanasopoulos 2021, *Forecasting: principles and practice*, §5.2.
        """
        return self.period * -(-self.ahead // self.period)

    @property
    def embargo(self) -> Duration:
        """At least the horizon, as a duration: what a fold trains on was known when its first forecast was made."""
        return Duration(self.ahead * (self.step if isinstance(self.step, Duration) else LONGEST[self.step]))

    @property
    def told(self) -> Steps:
        """What a model's contract says of it."""
        step = float(self.step) if isinstance(self.step, Duration) else self.step
        return Steps(step=step, horizon=self.ahead, season=self.known_season)

    @property
    def named(self) -> tuple[str, ...]:
        """The columns whose value at a row's time is known a horizon before."""
        return (*self.known_ahead, *self.by)


def completed(tree: Any) -> Any:
    """A spec's tree with what follows from its horizon, where it does not say otherwise."""
    problem, data = _section(tree, "problem"), _section(tree, "data")
    try:
        asked = Forecast.model_validate(_tuples(problem.get("forecast")), strict=True)
    except ValidationError:
        return tree
    target, features = problem.get("target"), _section(tree, "features")
    if problem.get("task") != "forecast" or not isinstance(target, str) or not asked.ahead or not asked.period:
        return tree
    split, columns = _section(data, "split"), _section(data, "columns")
    times = [name for name, one in columns.items() if isinstance(one, dict) and one.get("role") == "time"]
    time = split.get("column") or (times[0] if len(times) == 1 else None)
    if split.get("method", "time") == "time" and time:
        data = {**data, "split": {"method": "time", "column": time, "embargo": str(asked.embargo), **_said(split)}}
    if asked.by:
        features = {**features, "history": {"by": asked.by, **_said(_section(features, "history"))}}
    told, treated = _section(features, "derive"), _section(features, "columns")
    if not told:
        known = _section(features, "defaults").get("datetime") or time in treated
        parts = tuple(part for part, step in PARTS if asked.embargo / asked.ahead < step)
        if isinstance(time, str) and parts and not known:
            treated = {**treated, time: {"type": "date", "parts": parts}}
    derive = told
    if asked.known_season <= MOST_BACK:
        derive = _with_season(told or dict(_derived(asked, target)), asked, target)
    return {**tree, "data": data, "features": {**features, "columns": treated, "derive": derive}}


def _section(tree: Any, name: str) -> dict[str, Any]:
    found = tree.get(name) if isinstance(tree, dict) else None
    return found if isinstance(found, dict) else {}


def _said(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if value is not None}


def _tuples(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: tuple(value) if isinstance(value, list) else value for key, value in node.items()}
    return node


def _derived(asked: Forecast, target: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is derived unless the spec says: the latest values, those a season and more before, and their means."""
    latest, season, known = asked.ahead, asked.period, asked.known_season
    for back in dict.fromkeys((latest, latest + 1, *(known + season * count for count in range(SEASONS)))):
        if back <= MOST_BACK:
            yield f"lag_{back}", {"type": "lag", "of": target, "lag": back}
    for window in dict.fromkeys((season, season * SEASONS)):
        if 2 <= window <= MOST_BACK + 1 - latest:
            yield f"mean_{window}", {"type": "rolling", "of": target, "window": window, "lag": latest}


def _with_season(derive: dict[str, Any], asked: Forecast, target: str) -> dict[str, Any]:
    """``derive`` with the seasonal naive forecast among it, untreated."""
    back = asked.known_season
    if any(isinstance(one, dict) and _is_season(one, target, asked.told) for one in derive.values()):
        return derive
    name = next(name for name in (f"lag_{back}", f"season_{back}", f"season_{back}_before") if name not in derive)
    return {**derive, name: {"type": "lag", "of": target, "lag": back}}


def _is_season(one: dict[str, Any], target: str, told: Steps) -> bool:
    if one.get("type") != "lag":
        return False
    try:
        return is_season(Feature.table["lag"].model_validate(_tuples(one)), target, told)  # type: ignore[arg-type]
    except ValidationError:
        return False


def is_season(feature: Feature, target: str, told: Steps) -> bool:
    """Whether a derived feature is the seasonal naive forecast, treated as each candidate prefers."""
    untreated = {"of": target, "lag": told.season} if told.season > 1 else {"of": target}
    return getattr(feature, "type", "") == "lag" and feature.model_dump(exclude_defaults=True) == untreated


def disagreements(spec: Spec) -> Iterator[Disagreement]:
    """What no forecast can be made of, or what would tell it what is not yet known; keys are paths from the root."""
    problem, path = spec.problem, ("problem", "forecast")
    asked = problem.forecast
    if problem.task != "forecast":
        if asked is not None:
            yield Disagreement(key=path, what=f"has no effect on a {problem.task} problem.", hint="Say task: forecast.")
        return
    if asked is None:
        hint = "Say problem.forecast: {step: 1h, horizon: 24h, season: 24h}, as your rows come."
        yield Disagreement(key=path, what="is required: how far ahead is to be told?", hint=hint)
        return
    odd = [name for name, steps in (("horizon", asked.ahead), ("season", asked.period)) if not steps]
    for name in odd:
        what = f"is {getattr(asked, name)}, which is no whole number of steps of {asked.step}."
        yield Disagreement(key=(*path, name), what=what, hint="Give the number of steps, as 12.")
    if odd:
        return
    if asked.known_season > MOST_BACK:
        what = f"makes the latest season that is known begin {asked.known_season} steps back; the most is {MOST_BACK}."
        yield Disagreement(key=(*path, "season"), what=what)
    yield from _split(spec, asked)
    yield from _columns(spec, asked)
    yield from _reads(spec, asked)


def _split(spec: Spec, asked: Forecast) -> Iterator[Disagreement]:
    split, path = spec.data.split, ("data", "split")
    if split.method not in ("time", "auto"):
        what = f"is {split.method!r}, but a forecast is judged by what comes later."
        yield Disagreement(key=(*path, "method"), what=what, hint="Leave it out, or say time.")
        return
    if split.column is None or split.method == "auto":
        count = len(spec.with_role("time"))
        what = f"is required: by which the rows are in order ({count} columns have the role time)."
        hint = "Declare data.columns.NAME.role: time, or say data.split: {method: time, column: NAME}."
        yield Disagreement(key=(*path, "column"), what=what, hint=hint)
        return
    judged: list[tuple[Duration | None, tuple[str, ...]]] = [(split.embargo, (*path, "embargo"))]
    if split.folds.method == "time":
        judged.append((split.folds.embargo, (*path, "folds", "embargo")))
    for embargo, key in judged:
        if embargo is None or embargo < asked.embargo:
            what = (
                f"is {embargo or 'not said'}, but rows are told {asked.embargo} ahead: nothing later is known by then."
            )
            yield Disagreement(key=key, what=what, hint="Leave it out, or let it be as long as the horizon.")


def _columns(spec: Spec, asked: Forecast) -> Iterator[Disagreement]:
    path = ("problem", "forecast")
    if spec.features.history.by != asked.by:
        what = "is another list than problem.forecast.by, which tells series apart."
        yield Disagreement(key=("features", "history", "by"), what=what, hint="Leave it out.")
    for place, name in enumerate(asked.known_ahead):
        role = spec.column(name).role
        if role != "feature":
            what = f"names {name!r}, whose role is {role}: it is no feature."
            yield Disagreement(key=(*path, "known_ahead", place), what=what)
        elif spec.column(name).known_after:
            what = f"names {name!r}, which data.columns.{name}.known_after says is known only later."
            yield Disagreement(key=(*path, "known_ahead", place), what=what)
    for name in spec.features.columns:
        if spec.column(name).role == "feature" and name not in asked.named:
            what = "has no effect: at a row's time the column is not known so far ahead."
            hint = f"Add {name} to problem.forecast.known_ahead if it is, or look back at it under features.derive."
            yield Disagreement(key=("features", "columns", name), what=what, hint=hint)


def _reads(spec: Spec, asked: Forecast) -> Iterator[Disagreement]:
    """Past values that are too young, and present ones that are not yet known."""
    for name, feature in spec.features.derive.items():
        for column in feature.reads():
            of, back = looks_back(column) or (column, 0)
            if back >= asked.ahead or of in asked.named or spec.column(of).role == "time":
                continue
            when = f"{back} steps back" if back else "at the row's own time"
            what = f"reads {of!r} {when}, but rows are told {asked.ahead} steps ahead: it is not known by then."
            hint = f"Look back {asked.ahead} steps or more."
            if of != spec.problem.target:
                hint = f"{hint[:-1]}, or add {of} to problem.forecast.known_ahead."
            yield Disagreement(key=("features", "derive", name), what=what, hint=hint)
            break


def unknown(spec: Spec, name: str) -> str:
    """Why a column is not known when its row is forecast; empty where it is, or where nothing is forecast."""
    asked = spec.problem.forecast
    if asked is None or name in asked.named:
        return ""
    return "its value is not known a horizon ahead: look back at it, or see problem.forecast.known_ahead"


def seasonal_error(table: pl.DataFrame, target: str, asked: Forecast, time: str) -> float | None:
    """Mean absolute error of the seasonal naive forecast of the season before, over the rows of ``table``.

    By it errors are scaled (Hyndman & Koehler 2006, *International Journal of Forecasting* 22(4)); None where it is 0,
    or no row has another a season before.
    """
    season = asked.period
    told = PastRows(rows=season, columns=(target,), time=time, by=asked.by, steps=asked.told)
    (before,) = history.values(table, {target: [season]}, told)
    error = (table[target] - before).abs().mean()
    return error if isinstance(error, float) and error > 0 else None


def begun(spec: Spec, table: pl.DataFrame) -> np.ndarray:
    """Of which rows the series had begun a known season before, bool [n]; all where nothing is forecast.

    Those of the first season can't have what all later rows have: a model of them would be of another kind.

    Raises:
        NotEnoughData: there are none.
    """
    import numpy as np
    import polars as pl

    asked, time = spec.problem.forecast, spec.data.split.column
    if asked is None or time is None or not table.height:
        return np.ones(table.height, dtype=bool)
    number = pl.Series("@step", history.numbered(table[time], asked.told))
    first = pl.col("@step").min()
    after = pl.col("@step") - (first.over(asked.by) if asked.by else first)
    rows = pl.DataFrame([number, *(table[name] for name in asked.by)])
    found: np.ndarray = rows.select(after >= asked.known_season).to_series().to_numpy()
    if not found.any():
        what = f"no series is known for {asked.known_season} steps before the held-out ones: none has a season before."
        raise NotEnoughData(what, where="problem.forecast.season", hint="Take more rows, or a smaller data.split.test.")
    return found


def seasonal(steps: Steps, target: str) -> str:
    """The column that holds the seasonal naive forecast."""
    return past(target, steps.season)
