"""Targets, one a file."""

from specml.targets import local

__all__ = ["local"]
