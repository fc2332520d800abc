"""Gates, one a file."""

from specml.gates import (
    baseline,
    calibration,
    champion,
    coverage,
    decision_rate,
    expected_cost,
    group_disparity,
    latency,
    metric,
    monotonicity,
    parity,
    proxy,
    robustness,
    size,
    throughput,
)

__all__ = [
    "baseline",
    "calibration",
    "champion",
    "coverage",
    "decision_rate",
    "expected_cost",
    "group_disparity",
    "latency",
    "metric",
    "monotonicity",
    "parity",
    "proxy",
    "robustness",
    "size",
    "throughput",
]
