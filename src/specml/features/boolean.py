"""True and false."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from specml.features.numeric import FittedNumeric, Numeric
from specml.kinds import Feature, Training

if TYPE_CHECKING:
    import numpy as np

    from specml.data import Column


class Boolean(Feature):
    """0, 1 and, where the model can't take a missing value, the commoner of the two in its place."""

    treats: ClassVar[tuple[str, ...]] = ("boolean",)

    type: Literal["boolean"] = "boolean"
    missing: Literal["auto", "native", "mode"] = "auto"
    """``native`` leaves a missing value to the model (trees, networks); ``auto``: native for those, mode otherwise."""

    @override
    def fit(self, column: Column, values: np.ndarray, training: Training) -> FittedNumeric:
        import numpy as np

        native = self.missing == "native" or (self.missing == "auto" and training.prefers.missing == "native")
        known = values[np.isfinite(values)]
        commoner = float(len(known) > 0 and np.mean(known) >= 0.5)
        return FittedNumeric((column.name,), None if native else commoner, 0.0, 1.0)

    @classmethod
    @override
    def restore(cls, state: dict[str, Any]) -> FittedNumeric:
        return Numeric.restore(state)
