"""What a column held some rows earlier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.data import MOST_BACK, past
from specml.features.numeric import Numeric

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from specml.graph import Graph
    from specml.kinds import Values


class Lag(Numeric):
    """What a column, or the target, held some rows earlier; then treated as a numeric column is.

    Rows are those of the same group (``features.history``) at strictly earlier times. Where there are not so many, the
    value is missing. Booleans are 0 and 1.
    """

    treats: ClassVar[tuple[str, ...]] = ()

    type: Literal["lag"] = "lag"  # type: ignore[assignment]
    of: str
    """The column."""
    lag: Annotated[int, Field(ge=1, le=MOST_BACK)] = 1
    """How many rows back: 1 is the latest earlier row."""

    @override
    def reads(self) -> Mapping[str, tuple[str, ...]]:
        return {past(self.of, self.lag): ("numeric", "boolean")}

    @override
    def derive(self, values: Mapping[str, Values]) -> np.ndarray:
        import numpy as np

        (value,) = values.values()
        return np.where(np.isinf(value), np.nan, value)

    @override
    def derive_in(self, graph: Graph, values: Mapping[str, str]) -> str:
        import numpy as np

        (value,) = values.values()
        return graph.node("Where", graph.node("IsInf", value), graph.constant(np.array(np.nan)), value)
