"""Features, one a file."""

from specml.features import boolean, categorical, numeric

__all__ = ["boolean", "categorical", "numeric"]
