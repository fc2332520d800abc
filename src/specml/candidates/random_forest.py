"""Random forests by scikit-learn."""

from __future__ import annotations

from typing import ClassVar, Literal

from specml.forest import Forest


class RandomForest(Forest):
    """Trees grown on samples of the rows, each split on a sample of the columns; their answers are averaged."""

    grown_by: ClassVar[str] = "RandomForest"

    type: Literal["random_forest"] = "random_forest"
