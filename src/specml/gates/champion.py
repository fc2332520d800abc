"""Not worse than what is live."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import ABSTAINED, Evidence, Verdict, bounded
from specml.kinds import Gate
from specml.metrics import TABLE, Judged, bootstrap, known

if TYPE_CHECKING:
    from specml.spec import Spec

TINY = 1e-30
"""Keeps a champion that errs nowhere from a division by 0: no challenger is better than it."""


class Champion(Gate):
    """The challenger is not worse than the champion, the live release, by more than a margin, on the same rows.

    The champion answers the held-out rows by its own packaged graph. Judged on the lower end of the paired bootstrap
    interval of the difference: what rows are drawn moves both scores alike, so the difference is known far better
    than either. A non-inferiority test (Wellek 2010, *Testing Statistical Hypotheses of Equivalence and
    Noninferiority*, 2nd ed., ch. 2). Positive differences are improvements, whatever the metric's direction; of an
    error in the target's unit the difference is taken as a share of the champion's error.

    A metric of decisions is that of the rows that both decide.

    Without a champion the gate holds, and says so. A champion that can't answer these rows is not measured.
    """

    against_champion: ClassVar[bool] = True

    type: Literal["champion"] = "champion"
    metric: str | None = None
    """A metric of the problem's task; the problem's primary one unless said."""
    min: Annotated[float, Field(le=0)] = -0.002
    """How much worse the lower confidence bound may be: at 0, chance would refuse nearly every challenger that is as
    good. The default is two in a thousand, less than what the choice of the held-out rows adds to either score."""
    confidence: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Of the two-sided interval; its bootstrap takes the more resamples the closer this is to 1."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Fewer holdout rows are not measured: the bootstrap is too coarse below. Of scores of decisions, rows that both
    decide; weighted rows count as Kish's effective number of them."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.metric is not None and self.metric not in (found := known(spec.problem)):
            yield Disagreement(
                key=("metric",),
                what=f"{self.metric!r} is no metric for a {spec.problem.task} problem.",
                hint=f"Known: {', '.join(found)}.",
            )

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        n, threshold = len(evidence.y), f"≥ {self.min:g}"
        if evidence.champion is None or n == 0:
            reason = "what is live was not asked." if n else "there are no holdout rows."
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=threshold)
        champion = evidence.champion()
        if champion is None:
            return Verdict(
                outcome="holds", reason="there is no champion yet: nothing was ever live.", n=n, threshold=threshold
            )
        if champion.scores is None:
            reason = f"the champion, {champion.bundle[7:19]}, can't be compared: {champion.wanting}"
            return Verdict(outcome="not measured", reason=reason, n=n, threshold=threshold)
        metric = TABLE[self.metric or evidence.metric].at(evidence.quantiles)
        relative = metric.of_target

        def gain(mine: float, its_own: float) -> float:
            found = metric.gain(mine, its_own)
            return found / max(its_own, TINY) if relative else found

        y, scores, decisions, weight = evidence.at(slice(None))
        theirs = champion.decisions
        if decisions is not None and theirs is not None:
            both = (decisions != ABSTAINED) & (theirs != ABSTAINED)
            decisions, theirs = np.where(both, decisions, ABSTAINED), np.where(both, theirs, ABSTAINED)
        ours = (y, scores, decisions, weight)
        its = (y, champion.scores, theirs, weight)
        interval = None
        if (counted := metric.counted(Judged(*ours))) < self.min_rows:
            n = counted
        else:
            challenger, before = metric.over(*ours), metric.over(*its)
            interval = bootstrap(
                lambda rows: gain(challenger(rows), before(rows)), n, self.confidence, evidence.seed, evidence.serial
            )
        share = ", as a share," if relative else ""
        name = f"gain in {metric.name}{share} over the champion {champion.bundle[7:19]}"
        return bounded(name, gain(metric.measure(*ours), metric.measure(*its)), interval, n, minimum=self.min)
