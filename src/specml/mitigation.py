"""What is done to make a disparity between protected groups smaller; whether it did is measured, never supposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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


class Mitigation(Block):
    """What is done about a disparity; the run then tells of each group what it did."""

    reweighing: Reweighing | None = None
    """Classification: how much each training row counts."""


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
