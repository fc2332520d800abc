"""Have DVC do the plan: one run at a time, what a crash tore healed first, independent stages side by side."""

from specml.repro.alone import alone
from specml.repro.ask import changes, tidy
from specml.repro.run import Order, Running, started
from specml.repro.setup import set_up

__all__ = ["Order", "Running", "alone", "changes", "set_up", "started", "tidy"]
