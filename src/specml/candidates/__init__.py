"""Candidates, one a file."""

from specml.candidates import custom, lightgbm, logistic_regression, random_forest, ridge, tabular_mlp

__all__ = ["custom", "lightgbm", "logistic_regression", "random_forest", "ridge", "tabular_mlp"]
