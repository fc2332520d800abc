"""Gates, one a file."""

from specml.gates import baseline, calibration, group_disparity, latency, metric, parity

__all__ = ["baseline", "calibration", "group_disparity", "latency", "metric", "parity"]
