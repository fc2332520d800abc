"""Features, one a file."""

from specml.features import boolean, categorical, date, expression, lag, numeric, rolling, text

__all__ = ["boolean", "categorical", "date", "expression", "lag", "numeric", "rolling", "text"]
