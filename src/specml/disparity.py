"""How far apart groups are in what a model decides, says and misses.

Whatever is compared is a mean over some rows of a group: a share (how many were selected) or a mean error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from specml.component import Disagreement
from specml.evidence import Interval, wilson
from specml.kinds import unprotected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from specml.evidence import Evidence
    from specml.spec import Spec

Policy = Literal["block", "warn"]
By = str | tuple[str, ...]
"""A protected column, or several whose combinations are the groups."""

ROUNDS = 1000
"""Fewest resamples."""
BEYOND = 10
"""Resamples that lie beyond each bound."""
DRAWS = 30_000_000
"""Rows drawn for all groups and rounds together, about; larger groups are drawn in bins."""
FEWEST_BINS = 200
FEWEST_MEANS = 10
"""Rows of a group below which resamples say nothing about its mean."""


class Measure(NamedTuple):
    """What is compared between groups."""

    of: Literal["decisions", "probabilities", "predictions"]
    words: str
    least: bool = False
    """The group with the lowest one is best off."""
    signed: bool = False
    """It may be 0 or below, so that a ratio says nothing."""

    @property
    def share(self) -> bool:
        """It is a share of rows."""
        return self.of == "decisions"


MEASURES: dict[str, Measure] = {
    "selection_rate": Measure("decisions", "selection rate"),
    "true_positive_rate": Measure("decisions", "true positive rate"),
    "false_positive_rate": Measure("decisions", "false positive rate"),
    "false_negative_rate": Measure("decisions", "false negative rate", least=True),
    "positive_predictive_value": Measure("decisions", "positive predictive value"),
    "calibration_gap": Measure("probabilities", "calibration gap", signed=True),
    "mean_absolute_error": Measure("predictions", "mean absolute error", least=True),
    "mean_error": Measure("predictions", "mean error", signed=True),
}
WORST_OF: dict[str, tuple[str, ...]] = {"equalized_odds": ("true_positive_rate", "false_positive_rate")}
"""Measures whose worst one is judged."""


class Rate(NamedTuple):
    """``hits`` of ``n`` rows."""

    hits: float
    n: float

    @property
    def value(self) -> float:
        """The share; NaN of no rows."""
        return self.hits / self.n if self.n else float("nan")


class Part(NamedTuple):
    """A group's mean: of ``n`` rows (weighted ones by Kish's effective number), which weigh ``total``.

    ``drawn`` float64 [2, rounds]: of each resample the weighted sum of values, and that of weights; None of shares.
    """

    mean: float
    n: float
    total: float
    drawn: np.ndarray | None = None

    @property
    def rate(self) -> Rate:
        """The same as a share."""
        return Rate(self.mean * self.n if self.n else 0.0, self.n)


def each(measure: str, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """What each row adds to a measure, float64 [n], and which rows it is a mean of, bool [n].

    A row that is not decided counts as one that did not get the favourable class.
    """
    import numpy as np

    every = np.ones(len(evidence.y), dtype=bool)
    kind = MEASURES[measure].of
    if kind == "predictions":
        missed = evidence.predicted - evidence.y
        return np.abs(missed) if measure == "mean_absolute_error" else missed, every
    wanted = evidence.y == evidence.favourable
    if kind == "probabilities":
        scores = evidence.scores if evidence.scores.ndim == 2 else np.stack([1 - evidence.scores, evidence.scores], 1)
        return scores[:, evidence.favourable] - wanted, every
    assert evidence.decisions is not None
    got = evidence.decisions == evidence.favourable
    values, over = {
        "selection_rate": (got, every),
        "true_positive_rate": (got, wanted),
        "false_positive_rate": (got, ~wanted),
        "false_negative_rate": (~got, wanted),
        "positive_predictive_value": (wanted, got),
    }[measure]
    return values.astype(np.float64), over


def grouped(evidence: Evidence, by: By) -> tuple[np.ndarray, list[str]]:
    """Of each row the index of its group, int64 [n], and what the groups are called: ``sex=f``, ``sex=f, race=x``.

    Of one column also groups without rows that are declared; of several the combinations that occur.
    """
    import numpy as np

    columns = (by,) if isinstance(by, str) else by
    code, names = np.zeros(len(evidence.y), dtype=np.int64), [""]
    for column in columns:
        here, values = np.unique(evidence.groups[column].astype(str), return_inverse=True)
        known = sorted({*here.tolist(), *(evidence.declared_groups.get(column, ()) if len(columns) == 1 else ())})
        places = {name: place for place, name in enumerate(known)}
        place = np.array([places[name] for name in here.tolist()], dtype=np.int64)
        code = code * len(known) + (place[values] if len(values) else code)
        names = [f"{before}{', ' if before else ''}{column}={name}" for before in names for name in known]
        if len(columns) > 1:
            met, code = np.unique(code, return_inverse=True)
            names = [names[one] for one in met.tolist()]
    return code, names


def members(code: np.ndarray, groups: int, over: np.ndarray | None = None) -> list[np.ndarray]:
    """Of each group its rows' indices, rising; of those rows that a measure is a mean ``over``, bool [n].

    By one sort: to look through all rows for each of many groups takes minutes.
    """
    import numpy as np

    rows = np.arange(len(code)) if over is None else np.flatnonzero(over)
    ends = np.cumsum(np.bincount(code[rows], minlength=groups))
    return np.split(rows[np.argsort(code[rows], kind="stable")], ends[:-1])


def columns(by: Iterable[By]) -> list[str]:
    """The columns of all, once each."""
    return list(dict.fromkeys(column for one in by for column in ((one,) if isinstance(one, str) else one)))


def unfit(spec: Spec, by: Sequence[By]) -> Iterator[Disagreement]:
    """What in a list of columns, and of lists of them, is not protected or says nothing."""
    for index, one in enumerate(by):
        names = (one,) if isinstance(one, str) else one
        if one in by[:index]:
            yield Disagreement(key=("by", index), what="stands there twice.", hint="Leave it out.")
        if not isinstance(one, str) and len(set(names)) < max(2, len(names)):
            what = "is to hold at least two columns, each once: their combinations are compared."
            yield Disagreement(key=("by", index), what=what)
        for name in names:
            yield from unprotected(spec, name, ("by", index))


def parts(
    measure: str, evidence: Evidence, code: np.ndarray, groups: int, *, drawn: Sequence[int] = (), rounds: int = 0
) -> list[Part]:
    """Of each group its mean; of those in ``drawn`` with so many ``rounds`` of resamples."""
    import numpy as np

    values, over = each(measure, evidence)
    weight = (np.ones(len(values)) if evidence.weight is None else evidence.weight)[over]
    values, code = values[over], code[over]
    total, squares, hits = (
        np.bincount(code, weights=one, minlength=groups) for one in (weight, weight**2, weight * values)
    )
    found = []
    for one in range(groups):
        if total[one] > 0:
            found.append(Part(float(hits[one] / total[one]), float(total[one] ** 2 / squares[one]), float(total[one])))
        else:
            found.append(Part(float("nan"), 0.0, 0.0))
    if not drawn:
        return found
    sums = np.stack([weight * values, weight])
    serial = evidence.serial
    if serial is not None:
        steps = np.unique(serial.number[over], return_inverse=True)[1]
        cells = _cells(sums, code, groups, steps)
        rows = _in_blocks(cells, serial.block, rounds, np.random.default_rng(evidence.seed))
    else:
        rows = {
            one: _within(sums[:, code == one], rounds, max(FEWEST_BINS, DRAWS // (rounds * len(drawn))), number)
            for one, number in zip(drawn, _generators(evidence.seed, len(drawn)), strict=True)
        }
    return [part._replace(drawn=rows[one]) if one in drawn else part for one, part in enumerate(found)]


def rounds(confidence: float) -> int:
    """How many resamples an interval takes."""
    return max(ROUNDS, round(2 * BEYOND / (1 - confidence)))


def _generators(seed: int, count: int) -> Iterator[np.random.Generator]:
    import numpy as np

    return (np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(count))


def _within(sums: np.ndarray, rounds: int, bins: int, generator: np.random.Generator) -> np.ndarray:
    """Sums [2, rounds] over as many rows as there are, drawn with replacement.

    More rows than ``bins`` are first put into so many bins by chance, and bins are drawn: the sums vary as much
    (Wolter 2007, *Introduction to Variance Estimation*, ch. 2, random groups).
    """
    import numpy as np

    n = sums.shape[1]
    if n > bins:
        order = generator.permutation(n)
        sums, n = np.add.reduceat(sums[:, order], np.arange(bins) * n // bins, axis=1), bins
    found = np.empty((2, rounds))
    at_once = max(1, 1_000_000 // n)
    for start in range(0, rounds, at_once):
        rows = generator.integers(0, n, (min(at_once, rounds - start), n), dtype=np.int32)
        for one in range(2):
            found[one, start : start + len(rows)] = sums[one].take(rows).sum(axis=1)
    return found


def _cells(sums: np.ndarray, code: np.ndarray, groups: int, step: np.ndarray) -> np.ndarray:
    """``sums`` [2, n] added up by step of time and group: [2, steps, groups]."""
    import numpy as np

    steps = int(step.max(initial=-1)) + 1
    place = step * groups + code
    return np.stack([np.bincount(place, weights=one, minlength=steps * groups).reshape(steps, groups) for one in sums])


def _in_blocks(cells: np.ndarray, block: int, rounds: int, generator: np.random.Generator) -> dict[int, np.ndarray]:
    """The same of rows that hang together in time: blocks of neighbouring steps are drawn, with all their rows.

    After the last step comes the first (Künsch 1989; Politis & Romano 1992), as in ``metrics.bootstrap``.
    """
    import numpy as np

    _, steps, groups = cells.shape
    length = max(1, min(block, steps // 4))
    times = np.empty((rounds, steps))
    for row in times:
        first = generator.integers(0, steps, -(-steps // length))
        drawn = ((first[:, None] + np.arange(length)).reshape(-1) % steps)[:steps]
        row[:] = np.bincount(drawn, minlength=steps)
    both = np.stack([times @ cell for cell in cells])
    return {one: both[:, :, one] for one in range(groups)}


def apart(one: Part, other: Part, *, relative: bool, confidence: float) -> tuple[float, Interval] | None:
    """How far two groups are apart: the lower by the higher, at most 1, or the absolute difference, with its interval.

    None where it is not defined: both are 0, or a group has no rows.
    """
    if not (one.n and other.n and math.isfinite(one.mean + other.mean)):
        return None
    low, high = (one, other) if one.mean <= other.mean else (other, one)
    if low.drawn is None or high.drawn is None:
        if not relative:
            return _folded(*difference(high.rate, low.rate, confidence), relative=False)
        value, interval = ratio(low.rate, high.rate, confidence)
        return None if value is None or interval is None else _folded(value, interval, relative=True)
    a, b = (part.drawn[0] / part.drawn[1] for part in (low, high) if part.drawn is not None)
    return _drawn(low.mean, high.mean, a, b, relative=relative, confidence=confidence)


def apart_from_all(one: Part, rest: Part, *, relative: bool, confidence: float) -> tuple[float, Interval] | None:
    """How far a group is apart from all rows, it and the ``rest`` together.

    All rows are the mean of both, so that the interval is that of the group beside the rest: a difference times the
    rest's share of the weight, a ratio by ``t / (w t + 1 - w)`` with the group's share ``w``, which only rises.
    """
    if not (one.n and rest.n and math.isfinite(one.mean + rest.mean)):
        return None
    w = one.total / (one.total + rest.total)
    everyone = w * one.mean + (1 - w) * rest.mean
    if one.drawn is not None and rest.drawn is not None:
        a, b = one.drawn[0] / one.drawn[1], (one.drawn[0] + rest.drawn[0]) / (one.drawn[1] + rest.drawn[1])
        return _drawn(one.mean, everyone, a, b, relative=relative, confidence=confidence)
    if not relative:
        _, interval = difference(one.rate, rest.rate, confidence)
        shrunk = {"low": (1 - w) * interval.low, "high": (1 - w) * interval.high}
        return _folded(one.mean - everyone, interval.model_copy(update=shrunk), relative=False)
    value, interval_of_ratio = ratio(one.rate, rest.rate, confidence)
    if value is not None and interval_of_ratio is not None:
        ends = [t / (w * t + 1 - w) for t in (interval_of_ratio.low, interval_of_ratio.high)]
    else:
        value, interval_of_ratio = ratio(rest.rate, one.rate, confidence)
        if value is None or interval_of_ratio is None:
            return None
        ends = [1 / (w + (1 - w) * t) for t in (interval_of_ratio.high, interval_of_ratio.low)]
    told = interval_of_ratio.model_copy(update={"low": ends[0], "high": ends[1]})
    return _folded(one.mean / everyone, told, relative=True)


def _drawn(
    one: float, other: float, a: np.ndarray, b: np.ndarray, *, relative: bool, confidence: float
) -> tuple[float, Interval] | None:
    """From means and resamples of them: the percentile interval (Efron & Tibshirani 1993, ch. 13)."""
    import numpy as np

    if relative and not (one > 0 or other > 0):
        return None
    if relative and other == 0:
        one, other, a, b = other, one, b, a
    with np.errstate(divide="ignore", invalid="ignore"):
        values = a / b if relative else a - b
    defined = values[np.isfinite(values)]
    if len(defined) < 0.95 * len(values):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    method = f"stratified bootstrap ({len(values)})"
    interval = Interval(low=low, high=high, confidence=confidence, method=method)
    return _folded(one / other if relative else one - other, interval, relative=relative)


def _folded(value: float, interval: Interval, *, relative: bool) -> tuple[float, Interval]:
    """Whichever of two is the larger: a ratio as a number up to 1, a difference as one from 0 on."""
    low, high = interval.low, interval.high
    if relative:
        upper, lower = (1 / low if low > 0 else math.inf), (1 / high if high > 0 else math.inf)
        if high <= 1:
            ends = (low, high)
        elif low >= 1:
            ends = (lower, upper)
        else:
            ends = (min(low, lower), 1.0)
        value = 1 / value if value > 1 else value
    else:
        if low >= 0:
            ends = (low, high)
        elif high <= 0:
            ends = (-high, -low)
        else:
            ends = (0.0, max(-low, high))
        value = abs(value)
    return value, interval.model_copy(update={"low": ends[0], "high": ends[1]})


def difference(a: Rate, b: Rate, confidence: float) -> tuple[float, Interval]:
    """``a - b`` with Newcombe's interval from two Wilson intervals."""
    wa, wb = wilson(*a, confidence), wilson(*b, confidence)
    low = a.value - b.value - ((a.value - wa.low) ** 2 + (wb.high - b.value) ** 2) ** 0.5
    high = a.value - b.value + ((wa.high - a.value) ** 2 + (b.value - wb.low) ** 2) ** 0.5
    return a.value - b.value, Interval(low=low, high=high, confidence=confidence, method="newcombe")


def ratio(a: Rate, b: Rate, confidence: float) -> tuple[float | None, Interval | None]:
    """``a / b`` with the MOVER interval from two Wilson intervals; None when ``b`` is 0."""
    if b.hits == 0:
        return None, None
    wa, wb = wilson(*a, confidence), wilson(*b, confidence)
    p, q, product = a.value, b.value, a.value * b.value
    low_root = max(0.0, product**2 - wa.low * wb.high * (2 * p - wa.low) * (2 * q - wb.high))
    high_root = max(0.0, product**2 - wa.high * wb.low * (2 * p - wa.high) * (2 * q - wb.low))
    low = (product - low_root**0.5) / (wb.high * (2 * q - wb.high))
    high = (product + high_root**0.5) / (wb.low * (2 * q - wb.low))
    return p / q, Interval(low=max(0.0, low), high=high, confidence=confidence, method="mover-wilson")


def group_rate(measure: str, evidence: Evidence, mask: np.ndarray) -> Rate:
    """A rate over the rows in ``mask``; weighted rows count as Kish's effective number of them (Kish 1965, p. 259)."""
    return parts(measure, evidence, (~mask).astype(int), 2)[0].rate
