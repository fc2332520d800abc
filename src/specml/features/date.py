"""Times: parts of the calendar, and age."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.data import FIRST, LAST
from specml.features.numeric import FittedNumeric, Numeric
from specml.graph import Number, cosine, floor, sine
from specml.kinds import Feature, FittedFeature, Training
from specml.values import Day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np

    from specml.data import Column
    from specml.graph import Graph
    from specml.spec import Spec

DAY = 86400.0

Part = Literal["year", "month", "day", "weekday", "day_of_year", "hour", "minute"]
ROUND: dict[str, tuple[float, float]] = {
    "month": (1, 12),
    "day": (1, 31),
    "weekday": (0, 7),
    "day_of_year": (1, 366),
    "hour": (0, 24),
    "minute": (0, 60),
}
"""Of what comes round, the first value and how many there are."""


class Date(Feature):
    """Parts of the calendar, as numbers or, for what comes round, as sine and cosine; and days since a day. In UTC."""

    treats: ClassVar[tuple[str, ...]] = ("datetime",)

    type: Literal["date"] = "date"
    parts: Annotated[tuple[Part, ...], Field(max_length=7)] = ("year", "month", "day", "weekday", "hour")
    """``weekday`` is 0 on Mondays. A part that is the same in every training row is left out."""
    cyclic: Literal["auto"] | bool = "auto"
    """Whether parts that come round (all but the year) are told by sine and cosine, so that December is next to
    January; ``auto``: for linear models and networks, which want scaled numbers, but not for trees."""
    since: Day | None = None
    """Adds the days since this day. Days since another column are a formula: ``(sold_at - built_at) / 86400``."""
    missing: Literal["auto", "native", "median", "mean"] = "auto"
    """As of numbers."""

    @override
    def fit(self, column: Column, values: np.ndarray, training: Training) -> FittedDate:
        import numpy as np

        cyclic = training.prefers.scale != "none" if self.cyclic == "auto" else self.cyclic
        since = None if self.since is None else _seconds(self.since)
        raw = dict(_columns(np.clip(values, FIRST, LAST), tuple(dict.fromkeys(self.parts)), cyclic, since))
        kept = [name for name, one in raw.items() if len(np.unique(one[np.isfinite(one)])) > 1] or list(raw)[:1]
        numeric = Numeric(missing=self.missing)
        named = {name: column.model_copy(update={"name": f"{column.name}: {name}"}) for name in kept}
        fitted = tuple(numeric.fit(named[name], raw[name], training) for name in kept)
        return FittedDate(column.name, self.parts, cyclic, since, tuple(kept), fitted)

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if not self.parts and self.since is None:
            yield Disagreement(key=("parts",), what="is empty, and since is not said: nothing is left of the time.")

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedDate:
        fitted = tuple(Numeric.restore(one) for one in state["fitted"])
        parts, kept = tuple(state["parts"]), tuple(state["kept"])
        return FittedDate(state["name"], parts, state["cyclic"], state["since"], kept, fitted)


def _seconds(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class FittedDate(FittedFeature):
    """Which columns are made of a time, and each as a number."""

    name: str
    parts: tuple[str, ...]
    cyclic: bool
    since: float | None
    kept: tuple[str, ...]
    fitted: tuple[FittedNumeric, ...]

    @property
    @override
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(one.names[0] for one in self.fitted)

    @override
    def transform(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        raw = dict(_columns(np.clip(values, FIRST, LAST), self.parts, self.cyclic, self.since))
        return np.hstack([one.transform(raw[name]) for name, one in zip(self.kept, self.fitted, strict=True)])

    @override
    def to_onnx(self, graph: Graph, value: str) -> str:
        import numpy as np

        ends = (graph.constant(np.array(end)) for end in (FIRST, LAST))
        time = Number(graph, graph.node("Clip", value, *ends))
        raw = dict(_columns(time, self.parts, self.cyclic, self.since))
        blocks = [one.to_onnx(graph, raw[name].name) for name, one in zip(self.kept, self.fitted, strict=True)]
        return graph.node("Concat", *blocks, axis=1)

    @override
    def state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parts": list(self.parts),
            "cyclic": self.cyclic,
            "since": self.since,
            "kept": list(self.kept),
            "fitted": [one.state() for one in self.fitted],
        }


def _columns(time: Any, parts: tuple[str, ...], cyclic: bool, since: float | None) -> Iterator[tuple[str, Any]]:
    """What is told of a time (seconds since 1970): an array or a value of the graph, by name."""
    for part in parts:
        value = PARTS[part](time)
        if cyclic and part in ROUND:
            first, length = ROUND[part]
            angle = (value - first) * (2 * math.pi / length)
            yield f"{part} sine", sine(angle)
            yield f"{part} cosine", cosine(angle)
        else:
            yield part, value
    if since is not None:
        yield "days since", (time - since) / DAY


def _day(time: Any) -> Any:
    """Days since 1970."""
    return floor(time / DAY)


def _date(time: Any) -> tuple[Any, Any, Any]:
    """Year, month and day (Hinnant 2013, *chrono-Compatible Low-Level Date Algorithms*, ``civil_from_days``)."""
    days = _day(time) + 719468.0  # since the 1st of March of the year 0
    era = floor(days / 146097)
    of_era = days - era * 146097
    years = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
    of_year = of_era - (years * 365 + floor(years / 4) - floor(years / 100))
    month = floor((of_year * 5 + 2) / 153)  # 0 is March
    day = of_year - floor((month * 153 + 2) / 5) + 1
    january = floor((month + 2) / 12)  # 1 in January and February, which belong to the next year
    return years + era * 400 + january, month + 3 - january * 12, day


def _day_of_year(time: Any) -> Any:
    before = _date(time)[0] - 1
    first = before * 365 + floor(before / 4) - floor(before / 100) + floor(before / 400) - 719162
    return _day(time) - first + 1


def _of_day(time: Any) -> Any:
    """Seconds since midnight."""
    return time - _day(time) * DAY


def _weekday(time: Any) -> Any:
    monday = _day(time) + 3  # 1970 began on a Thursday
    return monday - floor(monday / 7) * 7


def _minute(time: Any) -> Any:
    minutes = floor(_of_day(time) / 60)
    return minutes - floor(minutes / 60) * 60


PARTS: dict[str, Callable[[Any], Any]] = {
    "year": lambda time: _date(time)[0],
    "month": lambda time: _date(time)[1],
    "day": lambda time: _date(time)[2],
    "weekday": _weekday,
    "day_of_year": _day_of_year,
    "hour": lambda time: floor(_of_day(time) / 3600),
    "minute": _minute,
}
