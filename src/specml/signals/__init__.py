"""Signals, one a file."""

from specml.signals import coverage, data_drift, performance

__all__ = ["coverage", "data_drift", "performance"]
