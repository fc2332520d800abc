"""Reasons add up, and do not rest on what they must not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import ROWS_TOLD, Evidence, Outcome, Slice, Verdict, differences
from specml.kinds import Gate, Stricter
from specml.metrics import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from specml.spec import Spec

SAMPLED = {"tree_shap": 256, "linear": 1024, "deep_lift": 64, "integrated_gradients": 16, "shapley": 24}
"""Rows that are explained at most, by how long a method takes."""


class Draw(NamedTuple):
    """What resamples are drawn from."""

    rows: int
    seed: int


class Explanations(Gate):
    """What a caller is told for a reason is the model's, and named columns do not carry its answers.

    *Additivity*: base and contributions add up to the model's own answer, in the space that the contract names
    (local accuracy, Lundberg & Lee 2017, *A Unified Approach to Interpreting Model Predictions*, property 1). Compared
    as probability or, in a regression, as the prediction; every row of a sample must, so there is no interval.

    *Importance*: ``columns``, stand-ins for what must not decide (a postcode, a first name), have together at most the
    share ``max`` of all contributions' absolute values, and none is among the ``top`` most important. Judged on the
    upper end of a bootstrap interval over rows (Efron & Tibshirani 1993, ch. 13). The protected columns themselves are
    never given to a model; how well others stand for them together the gate ``proxy`` tells.

    At most 256 held-out rows are explained, evenly spaced; fewer where a method takes long.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {"columns": "more", "top": "larger", "tolerance": "smaller"}

    type: Literal["explanations"] = "explanations"
    columns: tuple[str, ...] = ()
    """Columns of the model that must not carry its answers."""
    max: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The upper confidence bound of their share of all importance must stay within it."""
    top: Annotated[int, Field(ge=1)] | None = None
    """None of them may be among this many most important columns; the bound of the difference must show it."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """By how much an answer and what its reasons add up to may differ, of a regression relative to the predictions'
    spread; a graph of float32 differs by some 1e-6."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 10
    """Fewer rows with an explanation are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        bounds = [name for name in ("max", "top") if getattr(self, name) is not None]
        if self.columns and not bounds:
            yield Disagreement(key=("columns",), what="has no effect without max or top.", hint="Say max: 0.1")
        for name in bounds if not self.columns else ():
            yield Disagreement(key=(name,), what="has no effect: no columns are named.", hint="Name columns.")
        for index, column in enumerate(self.columns):
            key = ("columns", index)
            if spec.column(column).role == "protected":
                what = f"names {column!r}, a protected column, which no model is given."
                yield Disagreement(key=key, what=what, hint="Name columns that may stand for it.")
            elif column == spec.problem.target:
                yield Disagreement(key=key, what=f"names {column!r}, the target.", hint="Leave it out.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        n, model = len(evidence.y), evidence.model
        threshold = (f"share ≤ {self.max:g}, " if self.max is not None else "") + f"sums within {self.tolerance:g}"
        threshold += f", none of the top {self.top}" if self.top is not None else ""

        def unmeasured(reason: str) -> Verdict:
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=threshold)

        if n < self.min_rows:
            return unmeasured(f"{n:,} rows are fewer than {self.min_rows:,}.")
        if model is None or evidence.rows is None:
            return unmeasured("no model can be asked for reasons.")
        names = [column.name for column in model.inputs]
        if self.columns and not set(self.columns) & set(names):
            return unmeasured(f"the model is given none of the columns {', '.join(self.columns)}.")
        taken = np.unique(np.linspace(0, n - 1, min(n, SAMPLED[model.explanation.method])).astype(int))
        told = model.explain(evidence.rows[taken])
        answers = (evidence.predicted if evidence.task == "regression" else evidence.scores)[taken]
        away = differences(evidence.task, summed(told.total, model.explanation.space, answers), answers)
        wrong = ~(away <= self.tolerance)
        parts = [self._adds_up(away, wrong)]
        moved = np.abs(told.contributions).sum(axis=1)
        known = moved[np.isfinite(moved).all(axis=1)]
        if self.columns:
            chosen = np.isin(names, self.columns)
            parts += self._carried(known, chosen, evidence.seed)
        outcomes = {one.outcome for one in parts}
        outcome: Outcome = (
            "refused" if "refused" in outcomes else "not measured" if "not measured" in outcomes else "holds"
        )
        means = known.mean(axis=0) if len(known) else np.zeros(len(names))
        first = names[int(means.argmax())]
        reason = "; ".join(f"{one.name}: {one.note}" for one in parts)
        reason += f"; of {len(taken):,} rows of {n:,} explained by {model.explanation.method}"
        reason += f", {first} is the most important column, with {means.max() / max(means.sum(), 1e-300):.1%}."
        main = next((one for one in parts if one.name == "share"), parts[0])
        return Verdict(
            outcome=outcome,
            reason=reason,
            value=main.value,
            interval=main.interval,
            n=len(taken),
            threshold=threshold,
            slices=tuple(parts),
            rows=tuple(taken[wrong][:ROWS_TOLD].tolist()),
        )

    def _adds_up(self, away: np.ndarray, wrong: np.ndarray) -> Slice:
        import numpy as np

        known = away[np.isfinite(away)]
        worst = float(known.max()) if len(known) else None
        furthest = "" if worst is None else f", at most by {worst:.2g}"
        note = f"{int(wrong.sum())} of {len(away):,} rows differ by more than {self.tolerance:g}{furthest}"
        outcome: Outcome = "refused" if wrong.any() else "holds"
        return Slice(name="additivity", n=len(away), value=worst, outcome=outcome, note=note)

    def _carried(self, moved: np.ndarray, chosen: np.ndarray, seed: int) -> Iterable[Slice]:
        """What the ``chosen`` columns carry of how all of them ``moved`` the answers [n, columns]."""
        import numpy as np

        n = len(moved)
        if n < self.min_rows or not moved.sum() > 0:
            yield Slice(name="share", n=n, outcome="not measured", note=f"{n} rows have reasons that are not 0")
            return

        def share(rows: np.ndarray) -> float:
            means = moved[rows].mean(axis=0)
            return float(means[chosen].sum() / means.sum()) if means.sum() > 0 else float("nan")

        def ahead(rows: np.ndarray) -> float:
            means = moved[rows].mean(axis=0)
            others = np.sort(means[~chosen])[::-1]
            kth = float(others[self.top - 1]) if self.top and len(others) >= self.top else 0.0
            return float((means[chosen].max() - kth) / means.sum()) if means.sum() > 0 else float("nan")

        if self.max is not None:
            yield self._judged("share", f"share of {', '.join(self.columns)}", self.max, share, Draw(n, seed))
        if self.top is not None:
            what = f"lead of the most important of {', '.join(self.columns)} over the {_place(self.top)} of the others"
            yield self._judged("top", what, 0.0, ahead, Draw(n, seed))

    def _judged(self, name: str, what: str, limit: float, statistic: Callable[[np.ndarray], float], of: Draw) -> Slice:
        import numpy as np

        n = of.rows
        value = statistic(np.arange(n))
        interval = bootstrap(statistic, n, self.confidence, of.seed)
        if interval is None:
            return Slice(name=name, n=n, outcome="not measured", note=f"the {what} is not defined")
        outcome: Outcome = "holds" if interval.high <= limit else "refused"
        note = f"the {what} is {value:.3f}, and the upper end of its interval, {interval.high:.3f}, "
        note += f"is {'' if outcome == 'holds' else 'not '}≤ {limit:g}"
        return Slice(name=name, n=n, value=value, interval=interval, outcome=outcome, note=note)


def summed(total: np.ndarray, space: str, like: np.ndarray) -> np.ndarray:
    """What reasons add up to, ``total`` [n, k] in their ``space``, shaped ``like`` the answers."""
    import numpy as np
    from scipy.special import expit, softmax

    if space == "log_odds":
        total = expit(total)
    elif space == "score":
        total = softmax(total, axis=1)
    return np.asarray(total[:, 0] if like.ndim == 1 else total)


def _place(k: int) -> str:
    return "first" if k == 1 else f"{k}{ {2: 'nd', 3: 'rd'}.get(k, 'th') }"
