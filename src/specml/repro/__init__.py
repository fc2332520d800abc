"""Have DVC do the plan: one run at a time, what a crash tore healed first, independent stages side by side."""

from specml.repro.alone import alone, at_work
from specml.repro.ask import changes, dead_lock, forget_the_dead, tidy
from specml.repro.lockfile import put_in_order
from specml.repro.opened import OURS
from specml.repro.run import Order, Running, started
from specml.repro.setup import set_up

__all__ = [
    "OURS",
    "Order",
    "Running",
    "alone",
    "at_work",
    "changes",
    "dead_lock",
    "forget_the_dead",
    "put_in_order",
    "set_up",
    "started",
    "tidy",
]
