"""Better than knowing nothing, or than what was done before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml import formulas
from specml.component import Disagreement
from specml.evidence import ABSTAINED, Evidence, Verdict, bounded, effective
from specml.kinds import Gate
from specml.metrics import PINBALL, TABLE, bootstrap, known
from specml.resamples import mean_over

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from specml.metrics import Metric
    from specml.spec import Spec

    Statistic = Callable[[np.ndarray], float]


class Sides(NamedTuple):
    """The model and what it is held to, each over any rows; and of how many rows they tell."""

    model: Statistic
    before: Statistic
    counted: float


SCORE = {"binary": "log_loss", "multiclass": "log_loss", "regression": "root_mean_squared_error"}
COST = "expected cost"


class Baseline(Gate):
    """The model beats the prior (class frequencies, mean or quantiles of the training rows) on the same holdout rows.

    Judged by log loss, root mean squared error or pinball loss, which the prior minimises among constants, on the
    paired bootstrap interval of the difference. A forecast must beat the seasonal naive one, by its mean absolute
    error; errors of neighbours in time go together, and are drawn so.

    With a ``rule`` it beats that instead, the one that decided before or that anybody would come up with: a condition
    over columns, whose rows are decided positive, or a number. Both are judged by their decisions on the same rows: by
    expected cost where ``problem.costs`` are told, else by balanced accuracy, which a rule does not win by deciding all
    rows alike; of numbers by their root mean squared error, of forecasts and quantiles' medians by the mean absolute
    one. Rows that the model leaves undecided, or for which the rule gives no number, count for neither.
    """

    type: Literal["baseline"] = "baseline"
    rule: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """In the language of ``features.derive``, over columns that the model takes and protected ones: ``income < 2000 or
    late_payments > 2`` says which rows are of the positive class, a formula what is predicted. A comparison with a
    missing value is false."""
    metric: str | None = None
    """``rule``: another metric of decisions, or of predictions, to compare by."""
    min: float = 0.0
    """The lower bound of the improvement must exceed it; in the metric's unit."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 30
    """Fewer holdout rows are not measured: a bootstrap of so few says nothing. With a rule, rows that it and the model
    decide; weighted rows count as Kish's effective number of them."""

    @field_validator("rule")
    @classmethod
    def _formula(cls, rule: str | None) -> str | None:
        try:
            return rule if rule is None or formulas.parsed(rule) else None
        except ValueError as error:
            raise PydanticCustomError("rule", "{why}", {"why": str(error)}) from None

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        problem = spec.problem
        if self.rule is None:
            if self.metric is not None:
                what = "has no effect without a rule: the prior is no decision."
                yield Disagreement(key=("metric",), what=what, hint="Say a rule, or leave it out.")
            return
        if problem.task == "multiclass":
            hint = "Leave it out: the model is then held to the prior."
            yield Disagreement(key=("rule",), what="says one of two classes, and here are more.", hint=hint)
        if problem.target in formulas.columns(self.rule):
            what = f"names {problem.target!r}, the target, which nobody knows when a row is decided."
            yield Disagreement(key=("rule",), what=what, hint="Name columns that are known beforehand.")
        fit = [
            n for n, m in known(problem).items() if n != PINBALL and (problem.task != "binary" or m.of == "decisions")
        ]
        if self.metric is not None and self.metric not in fit and problem.task != "multiclass":
            judged = "decisions" if problem.task == "binary" else "predictions"
            what = f"{self.metric!r} is no metric of {judged}."
            yield Disagreement(key=("metric",), what=what, hint=f"Known: {', '.join(fit)}.")

    @override
    def check(self, evidence: Evidence) -> Verdict:
        return self._beats_prior(evidence) if self.rule is None else self._beats_rule(self.rule, evidence)

    def _beats_prior(self, evidence: Evidence) -> Verdict:
        usual = PINBALL if evidence.quantiles else SCORE[evidence.task]
        metric = TABLE["mean_absolute_error" if evidence.serial else usual].at(evidence.quantiles)
        y, scores, _, weight = evidence.at(slice(None))
        name = f"{metric.name} over the {'seasonal naive forecast' if evidence.serial else 'prior'}"
        model, prior = metric.over(y, scores, None, weight), metric.over(y, evidence.prior, None, weight)
        return self._judged(name, metric, Sides(model, prior, effective(weight, len(y))), evidence)

    def _beats_rule(self, rule: str, evidence: Evidence) -> Verdict:
        import numpy as np

        n, threshold = len(evidence.y), f"> {self.min:g}"

        def unmeasured(reason: str) -> Verdict:
            return Verdict(outcome="not measured", reason=f"the rule: {reason}", n=n, threshold=threshold)

        if evidence.rows is None or evidence.task == "multiclass":
            return unmeasured("it can't be asked about these rows.")
        try:
            said = formulas.computed(rule, evidence.rows)
        except ValueError as error:
            return unmeasured(str(error))
        y, scores, decisions, weight = evidence.at(slice(None))
        silent = int(np.isnan(said).sum())
        if evidence.task == "binary":
            if decisions is None or not np.isfinite(scores).all():
                return unmeasured("the model has decided nothing to compare with.")
            decisions = np.where(np.isnan(said), ABSTAINED, decisions)
            made = decisions != ABSTAINED
            counted = effective(None if weight is None else weight[made], int(made.sum()))
            theirs = np.where(decisions == ABSTAINED, ABSTAINED, (np.nan_to_num(said) != 0).astype(np.int64))
            if self.metric is None and evidence.price is not None:
                model, before = (mean_over(evidence.price(y, one), weight) for one in (decisions, theirs))
                return self._judged(f"{COST} over the rule", None, Sides(model, before, counted), evidence, silent)
            metric = TABLE[self.metric or "balanced_accuracy"]
            model = metric.over(y, scores, decisions, weight)
            before = metric.over(y, theirs.astype(float), theirs, weight)
        else:
            usual = "mean_absolute_error" if evidence.serial or evidence.quantiles else SCORE["regression"]
            metric = TABLE[self.metric or usual]
            heavy = np.ones(n) if weight is None else weight
            weight = np.where(np.isnan(said), 0.0, heavy) if silent else weight
            model = metric.over(y, evidence.predicted, None, weight)
            before, counted = metric.over(y, np.nan_to_num(said), None, weight), effective(weight, n)
        return self._judged(f"{metric.name} over the rule", metric, Sides(model, before, counted), evidence, silent)

    def _judged(self, name: str, metric: Metric | None, sides: Sides, evidence: Evidence, silent: int = 0) -> Verdict:
        """On the paired interval of the improvement; ``metric`` None: of costs."""
        import numpy as np

        n = len(evidence.y)

        def improvement(rows: np.ndarray) -> float:
            mine, its = sides.model(rows), sides.before(rows)
            return metric.gain(mine, its) if metric else its - mine

        value, interval, told = float("nan"), None, ""
        if (counted := round(sides.counted)) < self.min_rows:
            n = counted
        elif np.isfinite(evidence.scores).all():
            every = np.arange(n)
            value, told = improvement(every), f" ({sides.model(every):.4g} beside {sides.before(every):.4g})"
            interval = bootstrap(improvement, n, self.confidence, evidence.seed, evidence.serial)
        verdict = bounded(f"improvement in {name}", value, interval, n, minimum=self.min, strict=True)
        if self.rule is None or interval is None or not np.isfinite(value):
            return verdict
        left = f"; it says nothing of {silent} rows, which are left out" if silent else ""
        return verdict.model_copy(update={"reason": f"{verdict.reason[:-1]}{told}{left}."})
