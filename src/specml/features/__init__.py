"""Features, one a file."""

from specml.features import boolean, categorical, date, expression, numeric, text

__all__ = ["boolean", "categorical", "date", "expression", "numeric", "text"]
