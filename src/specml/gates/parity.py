"""The packaged model is the trained one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from specml.evidence import Evidence, Verdict, differences
from specml.kinds import Gate


class Parity(Gate):
    """The ONNX graph and the library that trained the model agree on every holdout row.

    Its labels are, without exception, those that the contract's threshold and abstain band make of its probabilities.
    Every row is compared, with its prediction interval where there is one, so there is no confidence interval.
    In a regression the difference is relative to the spread of the predictions or, where that is larger, to the
    prediction itself: the graph answers in float32.
    """

    type: Literal["parity"] = "parity"
    max: Annotated[float, Field(gt=0)] = 1e-5
    """Largest difference allowed on any row; float32 arithmetic alone makes some 1e-7."""

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
                reason=f"{int((~np.isfinite(per_row)).sum())} of {n} rows have no finite answer.",
                n=n,
                threshold=threshold,
            )
        other = 0 if evidence.recomputed is None else int((evidence.recomputed != evidence.decisions).sum())
        if other:
            reason = f"{other} of {n} rows are decided otherwise than their own probability says."
            return Verdict(outcome="refused", reason=reason, n=n, threshold=threshold)
        worst = float(per_row.max())
        beyond = int((per_row > self.max).sum())
        return Verdict(
            outcome="refused" if beyond else "holds",
            reason=f"{beyond} of {n} rows differ by more than {self.max:g}; the largest difference is {worst:.2g}.",
            value=worst,
            n=n,
            threshold=threshold,
        )
