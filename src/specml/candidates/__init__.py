"""Candidates, one a file."""

from specml.candidates import (
    custom,
    dummy,
    extra_trees,
    hist_gradient_boosting,
    lightgbm,
    logistic_regression,
    random_forest,
    ridge,
    tabular_mlp,
)

__all__ = [
    "custom",
    "dummy",
    "extra_trees",
    "hist_gradient_boosting",
    "lightgbm",
    "logistic_regression",
    "random_forest",
    "ridge",
    "tabular_mlp",
]
