"""Extremely randomized trees by scikit-learn."""

from __future__ import annotations

from typing import ClassVar, Literal

from specml.forest import Forest


class ExtraTrees(Forest):
    """Trees grown on all rows, each split at the best of random thresholds; their answers are averaged.

    Geurts, Ernst & Wehenkel 2006, *Extremely randomized trees*. Smoother than a random forest, and faster to train.
    """

    grown_by: ClassVar[str] = "ExtraTrees"

    type: Literal["extra_trees"] = "extra_trees"
