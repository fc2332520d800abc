"""Targets, one a file."""

from specml.targets import batch, edge, local, ray

__all__ = ["batch", "edge", "local", "ray"]
