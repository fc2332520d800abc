"""A statistic of what a column held over some earlier rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field
from typing_extensions import override

from specml.component import Disagreement
from specml.data import MOST_BACK, past
from specml.features.numeric import Numeric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from specml.graph import Graph
    from specml.kinds import Values
    from specml.spec import Spec

Stat = Literal["mean", "sum", "min", "max", "std", "count"]


class Rolling(Numeric):
    """A statistic of what a column, or the target, held over some earlier rows; then treated as a numeric column is.

    Rows are those of the same group (``features.history``) at strictly earlier times. Missing values are left out; of
    nothing the statistic is missing, its count 0. What is not finite, as a sum beyond float64, is missing.
    """

    treats: ClassVar[tuple[str, ...]] = ()

    type: Literal["rolling"] = "rolling"  # type: ignore[assignment]
    of: str
    """The column."""
    window: Annotated[int, Field(ge=2, le=MOST_BACK)]
    """How many rows."""
    lag: Annotated[int, Field(ge=1, le=MOST_BACK)] = 1
    """How many rows back the latest of them is: 1 is the latest earlier row."""
    stat: Stat = "mean"
    """``std``: with the divisor n - 1, missing of fewer than two values; ``count``: of the values that are known."""

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        yield from super().disagreements(spec)
        if self.lag + self.window - 1 > MOST_BACK:
            what = f"reaches {self.lag + self.window - 1} rows back; the most is {MOST_BACK}."
            yield Disagreement(key=("window",), what=what)

    @override
    def reads(self) -> Mapping[str, tuple[str, ...]]:
        backs = range(self.lag, self.lag + self.window)
        return {past(self.of, back): ("numeric", "boolean") for back in backs}

    @override
    def derive(self, values: Mapping[str, Values]) -> np.ndarray:
        import numpy as np

        window = np.column_stack([values[name] for name in self.reads()])
        with np.errstate(all="ignore"):
            return np.asarray(_statistic(self.stat, window, self.window, _Numpy())).reshape(-1)

    @override
    def derive_in(self, graph: Graph, values: Mapping[str, str]) -> str:
        window = graph.node("Concat", *(values[name] for name in self.reads()), axis=1)
        return str(_statistic(self.stat, window, self.window, _Nodes(graph)))


class _Operators(Protocol):
    """ONNX's operators, computed or written down."""

    def __call__(self, op: str, *values: Any) -> Any:
        """The value of an elementwise operator."""

    def constant(self, number: float) -> Any:
        """A float64."""

    def columns(self, matrix: Any, start: int, end: int) -> Any:
        """Part of a matrix [n, k]."""


def _statistic(stat: Stat, window: Any, width: int, do: _Operators) -> Any:
    """The statistic [n, 1] of each row of ``window`` [n, ``width``], in the same operations whoever does them."""
    zero, one, missing = do.constant(0.0), do.constant(1.0), do.constant(math.nan)
    known = do("Not", do("Or", do("IsNaN", window), do("IsInf", window)))

    def over(op: str, matrix: Any, unknown: float) -> Any:
        return _folded(op, do("Where", known, matrix, do.constant(unknown)), width, do)

    count = _folded("Add", do("Where", known, one, zero), width, do)
    if stat == "count":
        return count
    if stat in ("min", "max"):
        found = over("Min", window, math.inf) if stat == "min" else over("Max", window, -math.inf)
    else:
        found = over("Add", window, 0.0)
    if stat in ("mean", "std"):
        found = do("Div", found, count)
    if stat == "std":
        off = do("Sub", window, found)
        # Of one value the sum is 0, and so is the divisor.
        divisor = do("Max", do("Sub", count, one), zero)
        found = do("Sqrt", do("Div", over("Add", do("Mul", off, off), 0.0), divisor))
    usable = do("And", do("Greater", count, zero), do("Not", do("IsInf", found)))
    return do("Where", usable, found, missing)


def _folded(op: str, matrix: Any, width: int, do: _Operators) -> Any:
    """The columns of ``matrix`` put together by ``op``, half by half: a sum in one order only, so in one result."""
    rest = []
    while width > 1:
        half = width // 2
        if width % 2:
            rest.append(do.columns(matrix, width - 1, width))
        matrix = do(op, do.columns(matrix, 0, half), do.columns(matrix, half, 2 * half))
        width = half
    for column in rest:
        matrix = do(op, matrix, column)
    return matrix


class _Numpy:
    """With arrays."""

    NAMES: ClassVar[dict[str, str]] = {
        "Add": "add", "And": "logical_and", "Div": "divide", "Greater": "greater", "IsInf": "isinf", "IsNaN": "isnan",
        "Max": "maximum", "Min": "minimum", "Mul": "multiply", "Not": "logical_not", "Or": "logical_or",
        "Sqrt": "sqrt", "Sub": "subtract", "Where": "where",
    }  # fmt: skip

    def __call__(self, op: str, *values: Any) -> Any:
        import numpy as np

        return getattr(np, self.NAMES[op])(*values)

    def constant(self, number: float) -> Any:
        import numpy as np

        return np.float64(number)

    def columns(self, matrix: Any, start: int, end: int) -> Any:
        return matrix[:, start:end]


class _Nodes:
    """As nodes of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __call__(self, op: str, *values: Any) -> Any:
        return self._graph.node(op, *values)

    def constant(self, number: float) -> Any:
        import numpy as np

        return self._graph.constant(np.array(number, dtype=np.float64))

    def columns(self, matrix: Any, start: int, end: int) -> Any:
        import numpy as np

        ends = (self._graph.constant(np.array([one], dtype=np.int64)) for one in (start, end, 1))
        return self._graph.node("Slice", matrix, *ends)
