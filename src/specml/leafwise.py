"""Trees grown leaf by leaf: the options that ``lightgbm`` and ``lagged_lightgbm`` share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from specml.kinds import Candidate, Preference


class LeafWise(Candidate):
    """Trees by LightGBM; a family says what they learn."""

    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    stops_early: ClassVar[bool] = True

    n_estimators: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most boosting rounds; early stopping usually ends before."""
    early_stopping: Annotated[int, Field(ge=0)] = 30
    """Rounds without a better validation loss until a fold stops; 0 always trains all rounds."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    num_leaves: Annotated[int, Field(ge=2, le=4096)] = 31
    min_child_samples: Annotated[int, Field(ge=1)] = 20
    """Fewest training rows in a leaf."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of rows drawn for each round."""
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of columns drawn for each tree."""
    reg_lambda: Annotated[float, Field(ge=0)] = 1.0
    """L2 penalty of the leaf values."""
