"""Gates, one a file."""

from specml.gates import baseline, group_disparity, metric, parity

__all__ = ["baseline", "group_disparity", "metric", "parity"]
