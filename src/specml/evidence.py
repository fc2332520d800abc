"""Measured facts and what follows from them: metrics, intervals, slices and verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from specml.data import Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import polars as pl

    from specml.bundle import Explanation
    from specml.data import Column
    from specml.explain import Explained

TRAINING_ROWS = 20_000
"""Of the training rows as many are answered, where a gate asks for them, at most."""
ABSTAINED = -1
"""In place of a class: the model decides nothing, for its probability lies in the contract's abstain band."""
MEDIAN = 0.5
"""Of quantiles the one that is the prediction."""

ROWS_TOLD = 50
"""Rows that a verdict names at most: enough to look at, few enough to be kept with every verdict."""

Outcome = Literal["holds", "refused", "not measured"]


class Interval(BaseModel):
    """A two-sided confidence interval."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    confidence: float
    method: str


class Slice(BaseModel):
    """A measured group of rows."""

    model_config = ConfigDict(frozen=True)

    name: str
    n: int
    value: float | None = None
    interval: Interval | None = None
    outcome: Outcome = "holds"
    note: str = ""


class Verdict(BaseModel):
    """What a gate concluded, and all that a reader needs to check it."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    reason: str
    """One sentence with the figures in it."""
    value: float | None = None
    interval: Interval | None = None
    n: int = 0
    threshold: str = ""
    """The bound in words, as ``≥ 0.8``."""
    slices: tuple[Slice, ...] = ()
    rows: tuple[int, ...] = ()
    """Numbers of held-out rows that stand behind the verdict, from 0 on, ``ROWS_TOLD`` at most: those of the worst
    slice, or those that fail."""
    blocking: bool = True
    """False when ``not measured`` is allowed to pass by the gate's own policy."""


@dataclass(frozen=True)
class Champion:
    """The live release on the same rows."""

    bundle: str
    """Its digest."""
    scores: np.ndarray | None = None
    """As in ``Evidence``; None when it can't answer these rows."""
    decisions: np.ndarray | None = None
    wanting: str = ""
    """Why it can't, in one sentence."""


@dataclass(frozen=True)
class Serial:
    """Rows whose errors depend on those of their neighbours in time.

    ``number`` int64 [n]: in which step of time each row stands; ``block``: over how many steps errors go together;
    ``season``: after how many steps the series tends to repeat itself.
    """

    number: np.ndarray
    block: int
    season: int = 1


class Answers(NamedTuple):
    """What the model says of rows: as in ``Evidence``."""

    scores: np.ndarray
    decisions: np.ndarray | None
    ends: np.ndarray | None = None


class Server(Protocol):
    """The packaged model behind HTTP, as it is deployed: one replica, on this machine's loopback."""

    path: str
    """Where it takes tensors by the Open Inference Protocol."""
    max_rows: int
    """Of one request, at most."""

    max_body: int
    """Bytes of one request, at most."""

    def answer(self, rows: pl.DataFrame, at_once: int = 1000) -> Answers:
        """What it answers to rows, ``at_once`` of them in a request, by the Open Inference Protocol.

        Raises:
            StageFailed: it refuses them.
            OSError: there is no answer.
        """

    def ask(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Status and body of the answer to a ``POST``.

        Raises:
            OSError: there is none.
        """

    def timed(self, rows: int, calls: int, connections: int = 1) -> tuple[list[float], float]:
        """The seconds that each of ``calls`` requests for ``rows`` rows took, and those of all together.

        ``connections`` ask at the same time. A request that was refused, or not answered, has no time among them.
        """


class Packaged(Protocol):
    """The packaged model, for gates that ask more of it than what it said of the held-out rows.

    Tables have the columns that the model takes, and may have others.
    """

    inputs: tuple[Column, ...]
    """The columns that it takes."""
    graph_bytes: int
    explanation: Explanation
    """How it is explained, and what base and contributions add up to."""

    def answer(self, rows: pl.DataFrame) -> Answers:
        """What it answers to rows."""

    def explain(self, rows: pl.DataFrame) -> Explained:
        """Why, by column, in the order of ``inputs``."""

    def timed(self, rows: int, calls: int) -> list[float]:
        """The seconds of each of ``calls`` runs of the graph on ``rows`` held-out rows, in this process."""

    def served(self) -> Server:
        """The model behind HTTP: started when first asked for, and ended with the stage.

        For gates of which ``asks_server`` is true.
        """


BY_ROW = (
    "y", "scores", "native", "prior", "decisions", "weight", "rows", "costs", "ends", "native_ends", "recomputed",
)  # fmt: skip
"""What ``Evidence`` has of each held-out row, beside groups, places in time and the champion's answers."""


@dataclass(frozen=True)
class Evidence:
    """The rows that no training stage has read, and what the packaged model said of them.

    ``scores`` float64 [n] (probability of the positive class, or the prediction) or [n, k] (multiclass);
    ``native`` the same from the unpackaged model; ``decisions`` int64 class indices [n] (classification),
    ``ABSTAINED`` for a row that is not decided;
    ``prior`` the scores of the naive model (training prior or mean; of a forecast the seasonal naive one).
    """

    task: Task
    y: np.ndarray
    scores: np.ndarray
    decisions: np.ndarray | None
    native: np.ndarray
    prior: np.ndarray
    weight: np.ndarray | None = None
    classes: tuple[str | int | float | bool, ...] = ()
    """The labels, by their indices; () of a regression."""
    favourable: int = 1
    """Index of the class that a person wants."""
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    """Protected columns: group names as str objects [n]."""
    declared_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Groups that the spec names for a protected column, whether rows of them are here or not."""
    seed: int = 0
    serial: Serial | None = None
    """Of a forecast: which rows are near in time; None where each row stands by itself."""
    rows: pl.DataFrame | None = None
    """The held-out rows: every column that the model takes, the protected ones, and the target."""
    model: Packaged | None = None
    """What can be asked for more."""
    training: Callable[[], Evidence] | None = None
    """The same of rows that the model was trained on, at most ``TRAINING_ROWS``, evenly spaced; for gates of which
    ``reads_training`` is true."""
    folds: tuple[float, ...] = ()
    """The primary metric of the model that was taken, over the folds of cross-validation."""
    folder: Path | None = None
    """The project's, for gates that name ``files``."""
    metric: str = ""
    """The problem's primary metric."""
    directions: dict[str, int] = field(default_factory=dict)
    """Columns with a declared direction: 1 where the score of the positive class, or the prediction, may only rise
    with the value, -1 where it may only fall; for gates of which ``reads_directions`` is true."""
    costs: np.ndarray | None = None
    """What each row cost as it was decided, float64 [n], NaN where that is not known; None where the spec names no
    costs."""
    price: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """What rows of true classes [n] cost, decided so [n]: float64 [n], as ``costs``; None where the spec names none."""
    quantiles: tuple[float, ...] = ()
    """Regression: of which quantiles ``scores``, ``native`` and ``prior`` [n, q] are; () where they are predictions."""
    ends: np.ndarray | None = None
    """Regression with a prediction interval: its lower and upper end, float64 [n, 2]."""
    native_ends: np.ndarray | None = None
    """The same from the unpackaged model."""
    recomputed: np.ndarray | None = None
    """``decisions`` as Python makes them of the graph's probabilities by the contract."""
    champion: Callable[[], Champion | None] | None = None
    """What the live release says of the rows, computed when a gate asks; None when nothing was ever live."""

    @property
    def predicted(self) -> np.ndarray:
        """Regression: the prediction of each row [n]; of quantiles the median."""
        return self.scores[:, self.quantiles.index(MEDIAN)] if self.quantiles else self.scores

    def only(self, rows: Any) -> Evidence:
        """The evidence about some held-out rows, by their indices; the rest is as it was."""

        def of(column: Any) -> Any:
            return None if column is None else column[rows]

        def champion() -> Champion | None:
            its = self.champion() if self.champion is not None else None
            return its and replace(its, scores=of(its.scores), decisions=of(its.decisions))

        return replace(
            self,
            **{name: of(getattr(self, name)) for name in BY_ROW},
            groups={name: values[rows] for name, values in self.groups.items()},
            serial=self.serial and replace(self.serial, number=self.serial.number[rows]),
            champion=None if self.champion is None else champion,
        )

    def evenly(self, most: int) -> np.ndarray:
        """Numbers of the rows, of ``most`` of them at most, evenly spaced."""
        import numpy as np

        n = len(self.y)
        return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))

    def at(self, rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """``y, scores, decisions, weight`` of some rows: what ``Metric.measure`` takes."""
        decisions = None if self.decisions is None else self.decisions[rows]
        return self.y[rows], self.scores[rows], decisions, None if self.weight is None else self.weight[rows]


def held(
    y: np.ndarray, ends: np.ndarray, weight: np.ndarray | None, confidence: float
) -> tuple[float, Interval | None, float]:
    """The share of targets ``y`` [n] that lie between ``ends`` [n, 2], its interval, and of how many rows that is.

    Weighted rows count as their ``effective`` number.
    """
    import numpy as np

    inside = (ends[:, 0] <= y) & (y <= ends[:, 1])
    n = effective(weight, len(y))
    if not n:
        return float("nan"), None, 0.0
    share = float(np.average(inside, weights=weight))
    return share, wilson(share * n, n, confidence), n


def effective(weight: np.ndarray | None, n: int) -> float:
    """How many rows of one weight tell as much as these ``n`` (Kish 1965, *Survey Sampling*, p. 259)."""
    if weight is None:
        return float(n)
    total = float(weight.sum())
    return total**2 / float((weight**2).sum()) if total > 0 else 0.0


TINY = 1e-30
"""Keeps a model that answers 0 to every row from a division by 0."""


def differences(task: Task, answers: np.ndarray, native: np.ndarray) -> np.ndarray:
    """How far ``answers`` lie from those of the model itself: the largest of each row [n].

    In a regression relative to the spread of the predictions or, where that is larger, to the prediction itself: a
    graph answers in float32.
    """
    import numpy as np

    difference = np.abs(answers - native)
    if task == "regression":
        difference = difference / np.maximum(np.maximum(float(np.std(native)), np.abs(native)), TINY)
    return np.asarray(difference.reshape(len(difference), -1).max(axis=1))


def bounded(
    name: str,
    value: float,
    interval: Interval | None,
    n: int,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    strict: bool = False,
) -> Verdict:
    """The verdict on a value whose confidence bound must meet ``minimum`` or stay within ``maximum``.

    ``strict``: the bound itself is not enough, it must be passed.
    """
    sign = ">" if strict else "≥"
    threshold = f"{sign} {minimum:g}" if minimum is not None else f"≤ {maximum:g}"
    if interval is None or not math.isfinite(value):
        return Verdict(
            outcome="not measured", reason=f"{name} could not be measured on {n:,} rows.", n=n, threshold=threshold
        )
    bound = interval.low if minimum is not None else interval.high
    if minimum is not None:
        holds = bound > minimum if strict else bound >= minimum
    else:
        holds = maximum is not None and bound <= maximum
    side = "lower" if minimum is not None else "upper"
    is_or_not = "is" if holds else "is not"
    end = f"the {side} end of its {interval.confidence * 100:.4g} % interval"
    reason = f"{name} is {value:.4g}; {end}, {bound:.4g}, {is_or_not} {threshold}."
    return Verdict(
        outcome="holds" if holds else "refused", reason=reason, value=value, interval=interval, n=n, threshold=threshold
    )


def seldom(name: str, failing: int, n: int, interval: Callable[[int], Interval], maximum: float) -> Verdict:
    """The verdict on a share of ``n`` rows that must stay within ``maximum``, by ``interval`` of so many failing.

    Not measured where even no failing row would prove it, unless more fail than are allowed.
    """
    if n == 0 or (failing <= maximum * n and interval(0).high > maximum):
        reason = f"{n:,} rows are too few to tell that {name} is {maximum:g} at most."
        return Verdict(outcome="not measured", reason=reason, n=n, threshold=f"≤ {maximum:g}")
    return bounded(name, failing / n, interval(failing), n, maximum=maximum)


def accused(
    name: str, value: float, interval: Interval, n: int, *, minimum: float | None = None, maximum: float | None = None
) -> Verdict:
    """The verdict on what is live: refused where the whole interval lies below ``minimum``, or above ``maximum``."""
    threshold = f"≥ {minimum:g}" if minimum is not None else f"≤ {maximum:g}"
    beyond = interval.high < minimum if minimum is not None else maximum is not None and interval.low > maximum
    ends = f"its {interval.confidence * 100:.4g} % interval, {interval.low:.4g} to {interval.high:.4g}"
    return Verdict(
        outcome="refused" if beyond else "holds",
        reason=f"{name} is {value:.4g}; {ends}, is {'' if beyond else 'not wholly '}beyond {threshold}.",
        value=value,
        interval=interval,
        n=n,
        threshold=threshold,
    )


def stability_index(p: np.ndarray, q: np.ndarray) -> float:
    """Σ (p - q) ln(p / q) of two distributions over the same bins, none of them empty: float64 [bins] each.

    The population stability index (Siddiqi 2006, *Credit Risk Scorecards*, ch. 9).
    """
    import numpy as np

    return float(((p - q) * np.log(p / q)).sum())


def wilson(successes: float, n: float, confidence: float) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927; Newcombe 1998, method 3)."""
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half), confidence=confidence, method="wilson")


def exact(successes: int, n: int, confidence: float) -> Interval:
    """The exact interval for a proportion, from the binomial's tails (Clopper & Pearson 1934, *Biometrika* 26:404-413).

    Never too short, also where the proportion is 0 or 1.
    """
    from scipy.special import betaincinv

    outside = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, outside)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - outside)) if successes < n else 1.0
    return Interval(low=low, high=high, confidence=confidence, method="clopper-pearson")
