"""What is done to make a disparity between protected groups smaller; whether it did is measured, never supposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from specml.component import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class Reweighing(Block):
    """Training rows weighed so that group and label are independent.

    Kamiran & Calders 2012, *Data preprocessing techniques for classification without discrimination*, Knowledge and
    Information Systems 33:1-33, section 5.3. The model sees the protected columns as little as before.
    """

    by: Annotated[tuple[str, ...], Field(min_length=1)]
    """Protected columns; of several, each combination of their groups is one."""


class GroupThresholds(Block):
    """A threshold for each group of a protected column, which the model then asks of every row that it decides.

    That a person's group decides with which threshold is different treatment by it, which law may forbid: see
    ``docs/decisions.md``.
    """

    by: str
    """A protected column of categories; each of its values is a group."""
    metric: Literal["selection_rate_ratio", "true_positive_rate_ratio"] = "selection_rate_ratio"
    """What is to come near: how often the favourable class is decided, among all rows or among those whose true outcome
    it is; the lowest such rate by the highest."""
    min: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The ratio that thresholds must keep out of fold. On other rows it differs by chance: ask for more than a gate
    does."""
    min_group_size: Annotated[int, Field(ge=1)] = 100
    """Groups with fewer rows that the rate is over are decided by the threshold of all rows, as an unknown one is."""


class Mitigation(Block):
    """What is done about a disparity; the run then tells of each group what it did."""

    reweighing: Reweighing | None = None
    """Classification: how much each training row counts."""
    group_thresholds: GroupThresholds | None = None
    """Binary: a threshold for each group."""

    @property
    def asked(self) -> bool:
        """Whether anything is done."""
        return self.reweighing is not None or self.group_thresholds is not None


def reweighed(groups: Sequence[np.ndarray], y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """What each row counts, float64 [n]: as before, times (weight of its group x of its class) / (of both x of all).

    ``groups``: names [n] of each protected column; ``y`` int64 class indices [n]. Where every group has every class,
    all rows together weigh as before, and so does each group and each class.
    """
    import numpy as np

    before = np.ones(len(y)) if weight is None else weight
    group = np.zeros(len(y), dtype=np.int64)
    for names in groups:
        _, place = np.unique(names.astype(str), return_inverse=True)
        _, group = np.unique(group * (place.max(initial=0) + 1) + place, return_inverse=True)
    cell = group * (y.max(initial=0) + 1) + y

    def sums(of: np.ndarray) -> np.ndarray:
        return np.asarray(np.bincount(of, weights=before)[of])

    both = sums(cell)
    # A cell whose rows weigh nothing keeps nothing.
    factor = np.divide(sums(group) * sums(y), both * before.sum(), out=np.zeros(len(y)), where=both > 0)
    return np.asarray(before * factor)
