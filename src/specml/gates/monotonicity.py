"""The score moves with a column in one direction alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import ROWS_TOLD, Evidence, Slice, Verdict, exact, seldom
from specml.kinds import Gate, Stricter

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.evidence import Packaged
    from specml.spec import Spec

ANSWERS = 50_000
"""That are asked for in all: each column has its share of them."""
FEWEST, MOST = 100, 2000
"""Held-out rows of one column."""
SIGNS = {"increasing": 1, "decreasing": -1}


class Monotonicity(Gate):
    """With a column's value rising, the score never falls (``increasing``), or never rises (``decreasing``).

    In every held-out row, the column alone is set to each value of a grid: quantiles of its held-out values, the
    least and the largest among them. A row violates the direction if its score, of the positive class or the
    prediction, anywhere on the grid lies by more than ``tolerance`` below what it was at a smaller value (above, where
    it is to fall). Judged, of each column, is the share of such rows, on the upper end of its exact binomial interval.

    What lies between the grid's points, or what two columns do together, is not seen. A promise for every value is made
    by the model itself: ``features.columns.X.monotone``, with a family that keeps it (boosted trees); this gate then
    proves it of the packaged graph. Individual conditional expectation: Goldstein et al. 2015, *Peeking Inside the
    Black Box*; monotone constraints: Sill 1998, *Monotonic Networks*.
    """

    reads_directions: ClassVar[bool] = True

    stricter: ClassVar[Mapping[str, Stricter]] = {"grid": "larger", "tolerance": "smaller"}

    type: Literal["monotonicity"] = "monotonicity"
    columns: dict[str, Literal["increasing", "decreasing"]] = {}
    """Columns with their directions; those of ``features.columns.X.monotone`` unless said."""
    max: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The upper confidence bound of the share of violating rows must stay within it, in each column."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-6
    """What does not count as a fall: of a probability, or of a prediction as a share of the predictions' spread. The
    default is what float32 arithmetic alone may do."""
    grid: Annotated[int, Field(ge=2, le=200)] = 20
    """Values of the column, at most."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.task == "multiclass":
            what = "needs one score, but of several classes none is the one whose score rises."
            yield Disagreement(key=("type",), what=what)
            return
        declared = [name for name, one in spec.features.columns.items() if getattr(one, "monotone", None)]
        if not self.columns and not declared:
            what = "names none, and no feature declares a direction: nothing would be judged."
            hint = "Name them, as columns: {income: increasing}, or set features.columns.income.monotone."
            yield Disagreement(key=("columns",), what=what, hint=hint)
        for name, direction in self.columns.items():
            if (role := spec.column(name).role) != "feature":
                what = f"is a column with the role {role}: no model takes it."
                yield Disagreement(key=("columns", name), what=what, hint="Name a feature.")
            said = getattr(spec.features.columns.get(name), "monotone", None)
            if said not in (None, direction):
                what = f"is {direction}, but features.columns.{name}.monotone is {said}."
                yield Disagreement(key=("columns", name), what=what, hint="Say the same in both.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        threshold = f"≤ {self.max:g}"
        wanted = {name: SIGNS[one] for name, one in self.columns.items()} or evidence.directions
        model = evidence.model
        if model is None or evidence.rows is None or not len(evidence.y) or not wanted:
            reason = "there are no held-out rows, or no columns with a direction."
            return Verdict(outcome="not measured", reason=reason, threshold=threshold)
        taken = {one.name for one in model.inputs if one.kind in ("numeric", "datetime", "boolean")}
        if strangers := sorted(wanted.keys() - taken):
            reason = f"{', '.join(strangers)}: among what the model takes there is no such number."
            return Verdict(outcome="not measured", reason=reason, threshold=threshold)
        asked = {name: grid(evidence.rows[name], self.grid) for name in sorted(wanted)}
        if alike := [name for name, points in asked.items() if len(points) < 2]:
            reason = f"{', '.join(alike)}: no two held-out rows have other values, so that nothing can rise."
            return Verdict(outcome="not measured", reason=reason, n=len(evidence.y), threshold=threshold)
        rows = evidence.evenly(max(FEWEST, min(MOST, ANSWERS // (self.grid * len(wanted)))))
        falls = [self._fall(evidence, model, points, wanted[name], rows) for name, points in asked.items()]
        verdicts = [(one, self._verdict(one)) for one in falls]
        verdicts.sort(key=lambda pair: (pair[1].outcome == "holds", -len(pair[0].violating)))
        worst, verdict = verdicts[0]
        slices = tuple(
            Slice(name=f"{one.column} {one.direction}", n=one.n, value=told.value, interval=told.interval,
                  outcome=told.outcome, note=one.note)
            for one, told in verdicts
        )  # fmt: skip
        told = [verdict.reason.removesuffix("."), *([worst.note] if worst.note else [])]
        beyond = sum(one.outcome == "refused" for _, one in verdicts)
        if beyond > 1:
            told.append(f"{beyond} of {len(verdicts)} columns are beyond it")
        if verdict.outcome == "refused":
            advice = f"declare features.columns.{worst.column}.monotone: {worst.direction} with a family that keeps it"
            told.append(f"{advice} (boosted trees), or take another family")
        reason = "; ".join(told) + "."
        named = tuple(worst.violating.tolist()[:ROWS_TOLD])
        return verdict.model_copy(update={"reason": reason, "slices": slices, "rows": named})

    def _verdict(self, fall: _Fall) -> Verdict:
        name = f"the share of {fall.n:,} rows in which the score {fall.verb} while {fall.column} rises"
        return seldom(name, len(fall.violating), fall.n, lambda one: exact(one, fall.n, self.confidence), self.max)

    def _fall(self, evidence: Evidence, model: Packaged, points: pl.Series, sign: int, rows: np.ndarray) -> _Fall:
        """By how much, at most, the score of each row moves the wrong way."""
        import numpy as np
        import polars as pl

        assert evidence.rows is not None
        table = evidence.rows[rows]
        repeated = table[np.tile(np.arange(len(rows)), len(points))]
        values = pl.Series(points.name, points.gather(np.repeat(np.arange(len(points)), len(rows))))
        scores = model.answer(repeated.with_columns(values)).scores.reshape(len(points), len(rows), -1) * sign
        fall = (np.maximum.accumulate(scores, axis=0) - scores).max(axis=(0, 2))
        unit = float(np.std(evidence.scores)) or 1.0 if evidence.task == "regression" else 1.0
        beyond = ~(fall <= self.tolerance * unit)
        largest = float(np.nanmax(fall)) if np.isfinite(fall).any() else float("nan")
        return _Fall(points.name, sign, len(rows), rows[beyond], largest)


class _Fall(NamedTuple):
    """What the score does along one column."""

    column: str
    sign: int
    n: int
    violating: np.ndarray
    largest: float

    @property
    def direction(self) -> str:
        return "increasing" if self.sign > 0 else "decreasing"

    @property
    def verb(self) -> str:
        return "falls" if self.sign > 0 else "rises"

    @property
    def note(self) -> str:
        return f"it {self.verb} by {self.largest:.4g} at most" if len(self.violating) and isfinite(self.largest) else ""


def grid(values: pl.Series, most: int) -> pl.Series:
    """At most ``most`` of the values in ``values``, rising, with the least and the largest: at equal steps of rank."""
    import numpy as np

    known = values.drop_nulls().unique().sort() if values.n_unique() <= most else values.drop_nulls().sort()
    taken = np.unique(np.linspace(0, max(len(known) - 1, 0), min(most, len(known))).astype(np.int64))
    return known.gather(taken).unique().sort()
