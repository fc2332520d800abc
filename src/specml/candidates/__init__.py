"""Candidates, one a file."""

from specml.candidates import (
    catboost,
    custom,
    dummy,
    extra_trees,
    hist_gradient_boosting,
    image_cnn,
    lagged_lightgbm,
    lightgbm,
    logistic_regression,
    quantile_regression,
    random_forest,
    ridge,
    seasonal_naive,
    tabular_mlp,
    xgboost,
)

__all__ = [
    "catboost",
    "custom",
    "dummy",
    "extra_trees",
    "hist_gradient_boosting",
    "image_cnn",
    "lagged_lightgbm",
    "lightgbm",
    "logistic_regression",
    "quantile_regression",
    "random_forest",
    "ridge",
    "seasonal_naive",
    "tabular_mlp",
    "xgboost",
]
