"""Features, one a file."""

from specml.features import boolean, categorical, expression, numeric

__all__ = ["boolean", "categorical", "expression", "numeric"]
