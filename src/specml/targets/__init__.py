"""Targets, one a file."""

from specml.targets import edge, local

__all__ = ["edge", "local"]
