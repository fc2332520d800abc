"""Signals, one a file."""

from specml.signals import data_drift, performance

__all__ = ["data_drift", "performance"]
