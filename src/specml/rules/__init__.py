"""Rules, one a file."""

from specml.rules import gdpr

__all__ = ["gdpr"]
