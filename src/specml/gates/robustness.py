"""Small faults of the input do not change what the model says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import ROWS_TOLD, Answers, Evidence, Interval, Slice, Verdict, bounded, seldom, wilson
from specml.kinds import Gate, Stricter
from specml.metrics import TABLE, bootstrap
from specml.resamples import mean_over

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.data import Column
    from specml.evidence import Packaged, Serial
    from specml.spec import Spec

Perturbation = Literal["noise", "rounding", "missing", "stale"]

NOISE = 0.05
ANSWERS = 50_000
"""That are asked for in all: each perturbation has its share of them."""
FEWEST, MOST = 500, 3000
"""Held-out rows of one perturbation."""
GROUPS = 64
"""More columns than that are perturbed some at a time."""
TINY = 1e-30
"""Keeps a model that errs nowhere from a division by 0."""
COARSE = 0.1
"""What a value is rounded to, at most, as a share of its column's spread."""
TOLD = 50
"""Slices that a verdict has at most, and those that are refused."""


class Robustness(Gate):
    """Noise, rounding, a missing or a stale value seldom change a decision, or change a prediction little.

    Held-out rows are answered again with one fault in them, in each column by itself (noise and rounding also in all
    columns at once). Judged, of each perturbation, is the share of rows that are decided otherwise, on the upper end of
    its Wilson interval; in a regression the mean absolute change of predictions as a share of their spread, on that of
    its bootstrap interval. All must stay within ``max``: a claim about all of them, each at its own level, needs no
    correction for their number (Berger 1982, *Technometrics* 24:295-300). ``max_loss`` bounds by how much the primary
    metric gets worse, too.

    - ``noise``: normal, ``noise`` × the column's spread; whole numbers stay whole, and within those of training.
    - ``rounding``: to the power of ten next below a tenth of the spread, as people round what they write down.
    - ``missing``: no value, in each column that may lack one.
    - ``stale``: the value of the row before, as of a sensor that hangs; for tables in order of time.

    The spread is the interquartile range / 1.349 (the standard deviation of a normal), or the standard deviation where
    that is 0. Rows count alike, whatever their weights. Whether a change was for the better is not seen but by
    ``max_loss``; nor are faults in several columns at once, but for noise and rounding. After Hendrycks & Dietterich
    2019, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {"max_loss": "smaller", "noise": "larger", "perturbations": "more"}

    type: Literal["robustness"] = "robustness"
    max: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The upper confidence bound of the share decided otherwise, or of the mean change of predictions, must stay within
    it. Faults differ in what they may cost: two gates may hold ``noise`` and ``missing`` to bounds of their own."""
    max_loss: Annotated[float, Field(gt=0)] | None = None
    """How much worse the primary metric may get under any perturbation, on the upper end of its paired bootstrap
    interval; of an error in the target's unit as a share of it. Measured for the three perturbations that lose most;
    not judged unless said."""
    perturbations: Annotated[tuple[Perturbation, ...], Field(min_length=1)] = ("noise", "rounding", "missing")
    """Which; ``stale`` needs a split by time."""
    noise: Annotated[float, Field(gt=0, le=1)] = NOISE
    """Standard deviation, as a share of the column's spread."""
    columns: tuple[str, ...] = ()
    """Which are perturbed; all unless said."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided intervals."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if len(set(self.perturbations)) < len(self.perturbations):
            yield Disagreement(key=("perturbations",), what="names one twice.")
        if self.noise != NOISE and "noise" not in self.perturbations:
            what = "has no effect: perturbations do not name noise."
            yield Disagreement(key=("noise",), what=what, hint="Add noise to perturbations, or leave this out.")
        split = spec.data.split
        if "stale" in self.perturbations and getattr(split, "method", None) != "time":
            what = "asks for stale values, but rows that are not in order of time have none before them."
            yield Disagreement(key=("perturbations",), what=what, hint="Set data.split.method: time, or leave it out.")
        for index, name in enumerate(self.columns):
            if (role := spec.column(name).role) not in ("feature", "protected"):
                what = f"names {name!r}, a column with the role {role}: no model takes it."
                yield Disagreement(key=("columns", index), what=what, hint="Name a feature.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        threshold = f"≤ {self.max:g}"
        found = evidence.model and evidence.rows is not None and len(evidence.y) and self._asked(evidence)
        if not found:
            reason = "nothing could be perturbed: there are no held-out rows, or none of the columns that this takes."
            return Verdict(outcome="not measured", reason=reason, threshold=threshold)
        worst, n = found[0], len(found[0].rows)
        if lost := sum(one.lost for one in found):
            reason = f"{lost} of {n * len(found):,} perturbed rows have no finite answer."
            return Verdict(outcome="refused", reason=reason, n=n, threshold=threshold)
        name = worst.told(evidence)
        if not np.isfinite(evidence.scores[worst.rows]).all():
            reason = "the held-out rows themselves have answers that are not finite."
            return Verdict(outcome="refused", reason=reason, n=n, threshold=threshold)
        if evidence.task in _CLASSES:
            flips = int(worst.changed.sum())
            verdict = seldom(name, flips, n, lambda one: wilson(one, n, self.confidence), self.max)
        else:
            verdict = bounded(name, worst.value, worst.interval, n, maximum=self.max)
        slices = [one.slice(self.max) for one in found]
        beyond = sum(one.outcome == "refused" for one in slices)
        told = [verdict.reason, f"{beyond} of {len(found)} perturbations are beyond it, on {n:,} held-out rows each."]
        outcome = verdict.outcome
        if self.max_loss is not None:
            loss = self._loss(evidence, found)
            told.append(loss.reason)
            threshold = f"{threshold}, loss {loss.threshold}"
            outcome = max(outcome, loss.outcome, key=_ORDER.__getitem__)
        return verdict.model_copy(
            update={
                "outcome": outcome,
                "reason": "; ".join(one.removesuffix(".") for one in told) + ".",
                "threshold": threshold,
                "slices": tuple(slices[: max(TOLD, beyond)]),
                "rows": tuple(worst.rows[worst.changed > 0].tolist()[:ROWS_TOLD]),
            }
        )

    def _asked(self, evidence: Evidence) -> list[_Change]:
        """What each perturbation changes, the worst first."""
        import numpy as np

        model, rows = evidence.model, evidence.rows
        assert model is not None
        assert rows is not None
        faults = list(self._faults(model, rows))
        if not faults:
            return []
        taken = evidence.evenly(int(np.clip(ANSWERS // len(faults), FEWEST, MOST)))
        before = _of(evidence, taken)
        spread = float(np.std(before.scores)) or 1.0
        finite = np.isfinite(before.scores).all()
        changes = []
        for number, (kind, name, fault) in enumerate(faults):
            perturbed = fault(rows, taken, np.random.default_rng([evidence.seed, number]))
            after = model.answer(perturbed)
            lost = int((~np.isfinite(after.scores).reshape(len(taken), -1).all(axis=1)).sum())
            changed = _changed(before, after, spread)
            interval = None if lost or not finite else self._interval(evidence, taken, changed)
            changes.append(_Change(kind, name, taken, changed, after, interval, lost))
        return sorted(changes, key=lambda one: -one.bound)

    def _interval(self, evidence: Evidence, taken: np.ndarray, changed: np.ndarray) -> Interval | None:
        n = len(changed)
        if evidence.task in _CLASSES:
            return wilson(float(changed.sum()), n, self.confidence)
        return bootstrap(mean_over(changed, None), n, self.confidence, evidence.seed, _serial(evidence, taken))

    def _loss(self, evidence: Evidence, found: list[_Change]) -> Verdict:
        """By how much the primary metric gets worse, at most."""
        assert self.max_loss is not None
        metric = TABLE[evidence.metric].at(evidence.quantiles)
        taken = found[0].rows

        def worse(before: float, after: float) -> float:
            lost = metric.gain(before, after)
            return lost / max(before, TINY) if metric.of_target else lost

        y, scores, decisions, weight = evidence.at(taken)
        before, known = metric.over(y, scores, decisions, weight), metric.measure(y, scores, decisions, weight)
        losses = []
        for one in found:
            value = metric.measure(y, one.after.scores, one.after.decisions, weight)
            losses.append((worse(known, value), one))
        losses.sort(key=lambda pair: -pair[0] if math.isfinite(pair[0]) else -math.inf)
        verdicts = []
        for value, one in losses[:3]:
            after = metric.over(y, one.after.scores, one.after.decisions, weight)

            def lost(rows: np.ndarray, after: Callable[[np.ndarray], float] = after) -> float:
                return worse(before(rows), after(rows))

            interval = bootstrap(lost, len(y), self.confidence, evidence.seed, _serial(evidence, taken))
            share = ", as a share," if metric.of_target else ""
            name = f"the loss of {metric.name}{share} with {one.name}"
            verdicts.append(bounded(name, value, interval, len(y), maximum=self.max_loss))
        return max(verdicts, key=lambda one: (_ORDER[one.outcome], one.interval.high if one.interval else math.inf))

    def _faults(self, model: Packaged, rows: pl.DataFrame) -> Iterator[tuple[Perturbation, str, _Fault]]:
        columns = [one for one in model.inputs if not self.columns or one.name in self.columns]
        numbers = [one for one in columns if one.kind == "numeric" and rows[one.name].n_unique() > 1]
        spreads = {one.name: spread(rows, one.name) for one in numbers}
        by_kind: dict[str, tuple[list[Column], _Perturb]] = {
            "noise": (numbers, lambda *of: _noise(of, self.noise * spreads[of[1].name])),
            "rounding": (numbers, lambda *of: _rounded(of, spreads[of[1].name])),
            "missing": ([one for one in columns if one.nullable], _missing),
            "stale": (columns, _stale),
        }
        for kind in sorted(set(self.perturbations)):
            taken, perturb = by_kind[kind]
            for group in _groups(taken):
                yield kind, f"{kind} in {_named(group)}", _fault(group, perturb)
            if kind in ("noise", "rounding") and len(taken) > 1:
                yield kind, f"{kind} in all columns", _fault(taken, perturb)


_CLASSES = ("binary", "multiclass")
_ORDER = {"holds": 0, "not measured": 1, "refused": 2}

_Of = tuple[Any, ...]
"""The table, a column, the rows taken and a generator."""
_Perturb = Callable[..., Any]
"""That column's values in the rows taken, perturbed."""
_Fault = Callable[..., Any]
"""The rows taken, perturbed."""


class _Change(NamedTuple):
    """What one perturbation changed: float64 [n], 1 or 0 of a decision."""

    kind: Perturbation
    name: str
    rows: np.ndarray
    changed: np.ndarray
    after: Answers
    interval: Interval | None
    lost: int
    """Rows without a finite answer."""

    @property
    def value(self) -> float:
        return float(self.changed.mean())

    @property
    def bound(self) -> float:
        """What the perturbations are ordered by: what can't be measured comes first."""
        return math.inf if self.interval is None else self.interval.high

    def told(self, evidence: Evidence) -> str:
        if evidence.task in _CLASSES:
            return f"with {self.name}, the share of rows that are decided otherwise"
        return f"with {self.name}, the mean change of predictions as a share of their spread"

    def slice(self, most: float) -> Slice:
        outcome: Any = "not measured" if self.interval is None else "holds" if self.bound <= most else "refused"
        n, value = len(self.rows), self.value if math.isfinite(self.value) else None
        return Slice(name=self.name, n=n, value=value, interval=self.interval, outcome=outcome)


def _of(evidence: Evidence, taken: np.ndarray) -> Answers:
    decisions = None if evidence.decisions is None else evidence.decisions[taken]
    return Answers(evidence.scores[taken], decisions)


def _serial(evidence: Evidence, taken: np.ndarray) -> Serial | None:
    return None if evidence.serial is None else replace(evidence.serial, number=evidence.serial.number[taken])


def _changed(before: Answers, after: Answers, spread: float) -> np.ndarray:
    import numpy as np

    if before.decisions is not None and after.decisions is not None:
        return np.asarray(before.decisions != after.decisions, dtype=np.float64)
    change = np.abs(after.scores - before.scores) / spread
    return np.asarray(change.reshape(len(change), -1).mean(axis=1))


def spread(rows: pl.DataFrame, name: str) -> float:
    """How far apart a column's values are: see ``Robustness``."""
    import numpy as np
    import polars as pl

    values = rows[name].cast(pl.Float64).drop_nulls().to_numpy()
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / 1.349 or float(np.std(np.clip(values, -1e100, 1e100)))


def _groups(columns: list[Column]) -> list[list[Column]]:
    size = -(-len(columns) // GROUPS)
    return [columns[start : start + size] for start in range(0, len(columns), size)] if columns else []


def _named(group: list[Column]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} … {group[-1].name}"


def _fault(group: list[Column], perturb: _Perturb) -> _Fault:
    def fault(rows: pl.DataFrame, taken: np.ndarray, generator: np.random.Generator) -> pl.DataFrame:
        return rows[taken].with_columns([perturb(rows, one, taken, generator).alias(one.name) for one in group])

    return fault


def _noise(of: _Of, deviation: float) -> pl.Series:
    import numpy as np

    _, column, taken, generator = of
    values = _numbers(of) + generator.normal(0, deviation, len(taken))
    values = np.round(values) if column.integral else values
    return _series(np.clip(values, column.minimum, column.maximum))


def _rounded(of: _Of, apart: float) -> pl.Series:
    import numpy as np

    values = _numbers(of)
    step = 10.0 ** math.floor(math.log10(COARSE * apart)) if 0 < apart < math.inf else 0.0
    if step == 0 or (of[1].integral and step < 1):
        return _series(values)
    return _series(np.round(values / step) * step)


def _missing(*of: Any) -> pl.Series:
    import polars as pl

    rows, column, taken, _ = of
    return pl.Series([None] * len(taken), dtype=rows[column.name].dtype)


def _stale(*of: Any) -> pl.Series:
    import numpy as np

    rows, column, taken, _ = of
    before: pl.Series = rows[column.name][np.maximum(taken - 1, 0)]
    return before


def _numbers(of: _Of) -> np.ndarray:
    import numpy as np
    import polars as pl

    rows, column, taken, _ = of
    return np.array(rows[column.name][taken].cast(pl.Float64).to_numpy(), dtype=np.float64)


def _series(values: np.ndarray) -> pl.Series:
    import polars as pl

    return pl.Series(values).fill_nan(None)
