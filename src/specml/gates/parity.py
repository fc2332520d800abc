"""The packaged model is the trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.errors import StageFailed
from specml.evidence import ROWS_TOLD, Evidence, Outcome, Verdict, differences
from specml.kinds import Gate, Stricter

SERVED = 5000
"""Rows that the server is asked for, at most."""


class Parity(Gate):
    """The ONNX graph and the library that trained the model agree on every holdout row.

    Its labels are, without exception, those that the contract's threshold and abstain band make of its probabilities.
    Every row is compared, with its prediction interval where there is one, so there is no confidence interval.
    In a regression the difference is relative to the spread of the predictions or, where that is larger, to the
    prediction itself: the graph answers in float32.

    With ``served`` the model behind HTTP answers the same rows, up to 5,000 of them evenly spaced, and as the graph
    does; a row that is decided otherwise is refused whatever the difference.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {"served": ("false", "true")}

    type: Literal["parity"] = "parity"
    max: Annotated[float, Field(gt=0)] = 1e-5
    """Largest difference allowed on any row; float32 arithmetic alone makes some 1e-7."""
    served: bool = False
    """Whether the server is asked, too. That takes a second or two, so only where it is said; ``stress``
    asks it more."""

    @property
    @override
    def asks_server(self) -> bool:
        return self.served

    @override
    def check(self, evidence: Evidence) -> Verdict:
        import numpy as np

        n = len(evidence.y)
        threshold = f"≤ {self.max:g}"
        if n == 0:
            return Verdict(outcome="not measured", reason="there are no holdout rows.", threshold=threshold)
        per_row = differences(evidence.task, evidence.scores, evidence.native)
        if evidence.ends is not None and evidence.native_ends is not None:
            per_row = np.maximum(per_row, differences(evidence.task, evidence.ends, evidence.native_ends))
        if not np.isfinite(per_row).all():
            return Verdict(
                outcome="refused",
                reason=f"{int((~np.isfinite(per_row)).sum())} of {n:,} rows have no finite answer.",
                n=n,
                threshold=threshold,
            )
        other = 0 if evidence.recomputed is None else int((evidence.recomputed != evidence.decisions).sum())
        if other:
            reason = f"{other} of {n:,} rows are decided otherwise than their own probability says."
            return Verdict(outcome="refused", reason=reason, n=n, threshold=threshold)
        worst = float(per_row.max())
        beyond = int((per_row > self.max).sum())
        found = Verdict(
            outcome="refused" if beyond else "holds",
            reason=f"{beyond} of {n:,} rows differ by more than {self.max:g}; the largest difference is {worst:.2g}.",
            value=worst,
            n=n,
            threshold=threshold,
        )
        return self._with_served(evidence, found) if self.served else found

    def _with_served(self, evidence: Evidence, found: Verdict) -> Verdict:
        """The verdict on the server's answers, too."""
        import numpy as np

        told = found.reason.removesuffix(".")
        if evidence.model is None or evidence.rows is None:
            reason = f"{told}; there is no server to ask."
            return found.model_copy(update={"outcome": _sterner(found, "not measured"), "reason": reason})
        rows = evidence.evenly(SERVED)
        try:
            answers = evidence.model.served().answer(evidence.rows[rows])
        except (StageFailed, OSError):
            reason = f"{told}; the server does not answer the held-out rows."
            return found.model_copy(update={"outcome": "refused", "reason": reason})
        per_row = differences(evidence.task, answers.scores, evidence.scores[rows])
        if answers.ends is not None and evidence.ends is not None:
            per_row = np.maximum(per_row, differences(evidence.task, answers.ends, evidence.ends[rows]))
        other = ~(per_row <= self.max)
        if answers.decisions is not None and evidence.decisions is not None:
            other = other | (answers.decisions != evidence.decisions[rows])
        reason = f"{told}; served, {int(other.sum())} of {len(rows):,} do."
        update = {"outcome": "refused" if other.any() else found.outcome, "reason": reason}
        return found.model_copy(update={**update, "rows": tuple(rows[other].tolist()[:ROWS_TOLD])})


def _sterner(found: Verdict, other: Outcome) -> Outcome:
    return found.outcome if found.outcome == "refused" else other
