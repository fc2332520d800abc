"""From a probability to a decision: what decisions cost, and how the threshold between them is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from specml.component import Block
from specml.evidence import ABSTAINED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(allow_inf_nan=False)]


def decided(
    p: np.ndarray,
    threshold: float,
    band: tuple[float, float] | None,
    groups: np.ndarray | None,
    by_group: Mapping[str, float],
) -> np.ndarray:
    """Class indices int64 [n] of probabilities ``p`` [n], ``evidence.ABSTAINED`` in the ``band``; the graph's own rule.

    ``groups`` str objects [n]: whose threshold is the one ``by_group``, if it has one. All is compared in float32.
    """
    import numpy as np

    p, cuts = p.astype(np.float32), np.full(len(p), threshold, np.float32)
    if groups is not None:
        cuts = np.array([by_group.get(one, threshold) for one in groups.tolist()], np.float32)
    made = (p >= cuts).astype(np.int64)
    if band is not None:
        low, high = (np.float32(end) for end in band)
        made[(p >= low) & (p < high)] = ABSTAINED
    return made


class Costs(Block):
    """What a decision costs, by what was true and what was decided; the same unit for all, of one row.

    Elkan 2001, *The Foundations of Cost-Sensitive Learning* (IJCAI), section 1.
    """

    false_negative: Amount
    """A row of the positive class that is decided negative."""
    false_positive: Amount
    """A row of the negative class that is decided positive."""
    true_positive: Amount = 0.0
    """A row of the positive class that is decided positive; below 0 it is a gain."""
    true_negative: Amount = 0.0
    """A row of the negative class that is decided negative; below 0 it is a gain."""
    abstention: Amount | None = None
    """A row in ``decision.abstain_band``, as the time of a person who looks at it. Unless it is said, the expected cost
    is that of the rows that are decided."""
    currency: Annotated[str, StringConstraints(max_length=20, pattern=r"^[^\x00-\x1f|<>&]*$")] = ""
    """What the amounts are, as ``EUR``; shown beside every expected cost."""

    @model_validator(mode="after")
    def _errors_cost_more(self) -> Self:
        for wrong, right in (("false_negative", "true_positive"), ("false_positive", "true_negative")):
            if getattr(self, wrong) <= getattr(self, right):
                raise PydanticCustomError(
                    "costs",
                    "needs {wrong} above {right}: else the wrong decision is never worse than the right one.",
                    {"wrong": wrong, "right": right},
                )
        return self

    @property
    def threshold(self) -> float:
        """From which probability on deciding positive costs less, if probabilities come true (Elkan 2001, eq. 2)."""
        return self.alarmed / (self.alarmed + self.missed)

    @property
    def missed(self) -> float:
        """By how much deciding a row of the positive class negative costs more than deciding it positive."""
        return self.false_negative - self.true_positive

    @property
    def alarmed(self) -> float:
        """By how much deciding a row of the negative class positive costs more than deciding it negative."""
        return self.false_positive - self.true_negative

    def each(self, y: np.ndarray, decisions: np.ndarray) -> np.ndarray:
        """What each row cost, float64 [n], of class indices int64 [n] that were true and that were decided.

        NaN where nothing was decided (``evidence.ABSTAINED``) and ``abstention`` does not say what that costs.
        """
        import numpy as np

        undecided = np.nan if self.abstention is None else self.abstention
        # The last column is that of ABSTAINED, -1.
        table = np.array([
            [self.true_negative, self.false_positive, undecided],
            [self.false_negative, self.true_positive, undecided],
        ])  # fmt: skip
        return np.asarray(table[y, decisions])


class Decision(Block):
    """How a probability becomes a label (binary problems)."""

    threshold: Literal["auto", "costs"] | Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which the positive class is decided. ``auto`` takes the one with the best ``metric`` on the
    out-of-fold predictions of the chosen model, calibrated if it is; ``costs`` the one whose expected cost there is
    least, by ``problem.costs``."""
    metric: Literal["balanced_accuracy", "accuracy", "f1", "f1_macro"] = "balanced_accuracy"
    """What ``auto`` makes largest. Balanced accuracy, where both classes count alike however rare one is, is largest
    where Youden's J is."""
    abstain_band: tuple[Probability, Probability] | None = None
    """``[low, high]``: a row whose probability is ``low`` or more and below ``high`` gets no decision (Chow 1970, *On
    optimum recognition error and reject tradeoff*). The threshold must lie in it: below it nothing is decided positive,
    from its end on everything. Compared in float32, as the graph does."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.abstain_band is not None and self.abstain_band[0] >= self.abstain_band[1]:
            raise PydanticCustomError("band", "needs abstain_band to rise, as [0.42, 0.58].")
        return self

    def within(self, threshold: float) -> bool:
        """Whether the band, if there is one, holds a threshold, in float32 as the graph does; its end still does."""
        import numpy as np

        if self.abstain_band is None:
            return True
        low, cut, high = (np.float32(one) for one in (self.abstain_band[0], threshold, self.abstain_band[1]))
        return bool(low <= cut <= high)
