"""The problem that a target column poses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.drafting import words
from specml.errors import DataCheckFailed, NotEnoughData

if TYPE_CHECKING:
    import polars as pl

    from specml.data import Task
    from specml.drafting.columns import Facts

FEW_NUMBERS = 10
"""Whole numbers with at most this many different values are taken for classes."""
MOST_CLASSES = 100

HAPPENED = frozenset({
    "1", "abnormal", "attrition", "bad", "bought", "canceled", "cancelled", "case", "churn", "churned", "click",
    "clicked", "closed", "converted", "dead", "default", "defaulted", "delinquent", "died", "disease", "employed",
    "event", "exited", "fail", "failed", "failure", "fraud", "fraudulent", "high", "hired", "ill", "left", "lost",
    "malicious", "malignant", "p", "phishing", "pos", "positive", "present", "purchased", "readmitted", "repaid",
    "sick", "spam", "success", "survived", "t", "true", "won", "y", "yes",
})  # fmt: skip
"""Labels of what is looked for: their probability is what people ask for."""
HARM = frozenset({
    "abnormal", "arrears", "arrest", "attrition", "bad", "bankruptcy", "cancel", "canceled", "cancellation",
    "cancelled", "charge", "churn", "churned", "crash", "dead", "death", "default", "defaulted", "delinquency",
    "delinquent", "died", "disease", "exited", "fail", "failed", "failure", "fraud", "fraudulent", "ill", "late",
    "left", "loss", "malicious", "malignant", "mortality", "phishing", "readmission", "readmitted", "recid",
    "recidivism", "rejected", "sick", "spam", "stroke", "theft",
})  # fmt: skip
"""In a label or the target's name: what nobody wants."""


@dataclass(frozen=True)
class Guessed:
    """A task, and for a binary one which label is which."""

    task: Task
    rows: int
    """With a label."""
    counts: tuple[tuple[Any, int], ...] = ()
    """Rows by class, sorted by class; none for a regression."""
    positive: Any = None
    """None where it need not be said."""
    favourable: Any = None
    why: str = ""
    """Of the positive class."""
    doubt: str = ""
    """Of the task; empty where the values leave none."""

    @property
    def rarest(self) -> int:
        """Rows of the rarest class."""
        return min((n for _, n in self.counts), default=0)


def guess(target: Facts, task: Task | None = None) -> Guessed:
    """The problem of predicting ``target``; ``task``: what the person says that it is.

    Raises:
        DataCheckFailed: no task fits its values.
        NotEnoughData: it has no value, or one only.
    """
    import polars as pl

    where = f"--target {target.name}"
    if target.distinct < 2:
        raise NotEnoughData("has fewer than two different values: there is nothing to predict.", where=where)
    numeric = target.values.dtype.is_numeric()
    task = task or _task(target)
    if task == "regression":
        if not numeric:
            raise DataCheckFailed(f"holds {target.values.dtype} values, not numbers.", where=where)
        doubt = f"{target.distinct} different numbers; multiclass?" if target.distinct <= 2 * FEW_NUMBERS else ""
        return Guessed("regression", target.known, doubt=doubt)
    if not numeric and not (target.is_text or target.values.dtype == pl.Boolean):
        raise DataCheckFailed(f"holds {target.values.dtype} values, which are no labels.", where=where)
    if target.distinct > MOST_CLASSES:
        what = f"has {target.distinct:,} different values: too many for classes."
        raise DataCheckFailed(
            what, where=where, hint="" if numeric else "Is it another column that is to be predicted?"
        )
    if (target.distinct == 2) != (task == "binary"):
        what = f"has {target.distinct} different values, which is no {task} problem."
        raise DataCheckFailed(what, where=where, hint="Leave --task out.")
    # A text stays one as a label, also when it looks like a number.
    counts = _counts(target.values if target.texts is None else target.texts)
    if task == "multiclass":
        return Guessed("multiclass", target.known, counts, doubt=f"{len(counts)} whole numbers; regression?" * numeric)
    return _binary(target, counts)


def _task(target: Facts) -> Task:
    if target.distinct == 2:
        return "binary"
    if not target.values.dtype.is_numeric():
        return "multiclass"
    known = target.values.drop_nulls()
    whole = target.is_whole or bool((known == known.round()).all())
    return "multiclass" if whole and target.distinct <= FEW_NUMBERS else "regression"


def _counts(values: pl.Series) -> tuple[tuple[Any, int], ...]:
    import polars as pl

    known = values.drop_nulls()
    if known.dtype in (pl.Categorical, pl.Enum):
        known = known.cast(pl.String)
    if known.dtype.is_float() and (known == known.round()).all():
        known = known.cast(pl.Int64)
    table = known.alias("label").value_counts(name="n").sort("label")
    return tuple((label, int(n)) for label, n in table.iter_rows())


def _binary(target: Facts, counts: tuple[tuple[Any, int], ...]) -> Guessed:
    (first, _), (second, _) = counts
    labels = [first, second]
    if labels in ([0, 1], [False, True]):
        positive, why = second, ""
    else:
        positive, why = _positive(counts)
    other = first if positive == second else second
    harm = HARM.intersection(words.tokens(str(positive))) or HARM.intersection(words.tokens(target.name))
    return Guessed("binary", target.known, counts, positive, other if harm else positive, why)


def _positive(counts: tuple[tuple[Any, int], ...]) -> tuple[Any, str]:
    """The label of what is looked for, and why it is taken for that."""
    for label, _ in counts:
        (other,) = (one for one, _ in counts if one != label)
        mine, its = _words(label), _words(other)
        if mine & HAPPENED and not its & HAPPENED:
            return label, "by convention"
        if its & {"no", "not", "non", "un"} and not mine & {"no", "not", "non", "un"}:
            return label, "the other says no"
        if str(label).strip().startswith(">") and not str(other).strip().startswith(">"):
            return label, "the larger"
    rarer = min(counts, key=lambda one: one[1])[0]
    return rarer, "the rarer one"


def _words(label: Any) -> set[str]:
    text = str(label).strip().lower()
    return {text, *(words.tokens(str(label)) if any(map(str.isalpha, text)) else ())}
