"""Candidates, one a file."""

from specml.candidates import lightgbm, logistic_regression, random_forest, ridge, tabular_mlp

__all__ = ["lightgbm", "logistic_regression", "random_forest", "ridge", "tabular_mlp"]
