"""How many rows of the holdout are decided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.evidence import ABSTAINED, Evidence, Verdict, bounded, wilson
from specml.kinds import Gate

if TYPE_CHECKING:
    from specml.spec import Spec


class DecisionRate(Gate):
    """The share of rows outside ``problem.decision.abstain_band`` reaches a bound.

    Scores of decisions are those of the rows that are decided, and the wider the band the better they look: this gate
    stands beside them. Judged on Wilson's interval (Wilson 1927); every row counts once, whatever its weight.
    """

    type: Literal["decision_rate"] = "decision_rate"
    min: Annotated[float, Field(gt=0, le=1)]
    """The lower confidence bound must reach it."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""
    min_rows: Annotated[int, Field(ge=2)] = 100
    """Fewer holdout rows are not measured."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if spec.problem.decision.abstain_band is None:
            hint = "Say problem.decision.abstain_band: [0.42, 0.58]"
            yield Disagreement(key=("type",), what="has no effect: every row is decided.", hint=hint)

    @override
    def check(self, evidence: Evidence) -> Verdict:
        n, value, interval = len(evidence.y), float("nan"), None
        if evidence.decisions is not None and n >= self.min_rows:
            made = int((evidence.decisions != ABSTAINED).sum())
            value, interval = made / n, wilson(made, n, self.confidence)
        return bounded("decision rate", value, interval, n, minimum=self.min)
