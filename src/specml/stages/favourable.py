"""Which of the classes a person wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specml.data import Layout
    from specml.spec import Spec


def favourable(spec: Spec, layout: Layout) -> int:
    """Its index; the positive class unless the spec says so."""
    wanted = spec.problem.favourable_class
    if wanted is None or layout.task == "regression":
        return 1
    return layout.classes.index(wanted)
