"""Targets, one a file."""

from specml.targets import batch, edge, kubernetes, local, ray

__all__ = ["batch", "edge", "kubernetes", "local", "ray"]
