"""Targets, one a file."""

from specml.targets import edge, local, ray

__all__ = ["edge", "local", "ray"]
