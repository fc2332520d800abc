"""Who was in the training rows can't be told from the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml import intervals
from specml.component import Disagreement
from specml.evidence import Evidence, Interval, Outcome, Slice, Verdict, bounded
from specml.kinds import Gate, Stricter, unprotected
from specml.resamples import area, losses

if TYPE_CHECKING:
    import numpy as np

    from specml.spec import Spec

NAME = "the area under the ROC curve of guessing by its loss whether a row was trained on"


class Privacy(Gate):
    """An attacker who knows a row and its outcome can't tell by the model's loss whether it was trained on.

    Membership inference by a threshold on the loss (Yeom, Giacomelli, Fredrikson & Jha 2018, *Privacy Risk in Machine
    Learning*, IEEE CSF, adversary 1), here over all thresholds at once: the area under the ROC curve that parts
    training rows from held-out ones, 0.5 where they are alike. Judged on the upper end of DeLong's interval. The loss
    is the log loss, of regressions the squared error. Every row counts once, whatever its weight.

    ``by`` looks at the groups of protected columns by themselves, for a model may remember the rare: a group refuses
    where its whole interval, by Bonferroni over all groups, lies beyond the limit; one that can't be told is named.

    Not seen: attacks that train models of their own, which find more (Carlini et al. 2022, *Membership Inference
    Attacks From First Principles*, IEEE S&P), and single rows that are remembered while most are not. Held-out rows
    that are later than the training rows differ from them by more than membership: part of what is seen is then drift.
    DeLong's interval takes rows for independent; neighbours in time are not quite.
    """

    # Of a larger one, a group is told less often, and then it does not refuse.
    stricter: ClassVar[Mapping[str, Stricter]] = {"confidence": (), "min_rows": ()}
    reads_training: ClassVar[bool] = True

    type: Literal["privacy"] = "privacy"
    max: Annotated[float, Field(gt=0.5, le=1)] = 0.6
    """The upper confidence bound must stay within it. 0.5 is a coin; memorised rows come near 1."""
    by: tuple[str, ...] = ()
    """Protected columns whose groups are looked at, too."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided intervals; over all groups together."""
    min_rows: Annotated[int, Field(ge=10)] = 100
    """Fewer training or holdout rows, in all or of a group, are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        for index, column in enumerate(self.by):
            yield from unprotected(spec, column, ("by", index))

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        n, value, interval = len(evidence.y), float("nan"), None
        training = evidence.training() if evidence.training is not None and n >= self.min_rows else None
        if training is None or len(training.y) < self.min_rows:
            return bounded(NAME, value, interval, n, maximum=self.max)
        members, others = losses(training), losses(evidence)
        if not np.isfinite(members).all() or not np.isfinite(others).all():
            return bounded(NAME, value, interval, n, maximum=self.max)
        value, interval = self._told_apart(members, others, self.confidence)
        verdict = bounded(NAME, value, interval, n, maximum=self.max)
        # Yeom's own threshold: the mean loss of the rows that were trained on.
        mean = members.mean()
        advantage = float((members <= mean).mean() - (others <= mean).mean())
        slices = tuple(self._groups(training, evidence, members, others))
        reason = f"{verdict.reason[:-1]}; at the mean training loss the guess is {max(advantage, 0.0):.3f} above chance"
        measured = [one for one in slices if one.value is not None]
        worst = max(measured, key=lambda one: one.value or 0.0, default=None)
        if worst is not None:
            reason += f", and the most exposed group is {worst.name}, {worst.note}"
        refused = any(one.outcome == "refused" for one in slices)
        outcome = "refused" if refused else verdict.outcome
        return verdict.model_copy(update={"outcome": outcome, "reason": f"{reason}.", "slices": slices})

    def _told_apart(self, members: np.ndarray, others: np.ndarray, confidence: float) -> tuple[float, Interval | None]:
        """How well losses tell members from others, and its interval."""
        import numpy as np

        y, scores = np.repeat([1, 0], [len(members), len(others)]), -np.concatenate([members, others])
        return area(y, scores, None)(np.arange(len(y))), intervals.delong(y, scores, None, confidence)

    def _groups(
        self, training: Evidence, evidence: Evidence, members: np.ndarray, others: np.ndarray
    ) -> Iterable[Slice]:
        """Each group of each column, those with too few rows unmeasured."""
        names = [(column, name) for column in self.by for name in sorted(set(evidence.groups[column].tolist()))]
        confidence = 1 - (1 - self.confidence) / max(1, len(names))
        for column, name in names:
            inner, outer = members[training.groups[column] == name], others[evidence.groups[column] == name]
            n, called = len(outer), f"{column}={name}"
            if min(len(inner), n) < self.min_rows:
                note = f"{len(inner)} training and {n} holdout rows, one of them fewer than {self.min_rows}"
                yield Slice(name=called, n=n, outcome="not measured", note=note)
                continue
            value, interval = self._told_apart(inner, outer, confidence)
            assert interval is not None
            note = f"{value:.3f}, {interval.low:.3f} to {interval.high:.3f}"
            within: Outcome = "holds" if interval.high <= self.max else "not measured"
            outcome: Outcome = "refused" if interval.low > self.max else within
            yield Slice(name=called, n=n, value=value, interval=interval, outcome=outcome, note=note)
