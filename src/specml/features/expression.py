"""A number computed from other columns by a formula."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.features.numeric import Numeric
from specml.formulas import FUNCTIONS, evaluated, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from specml.graph import Graph
    from specml.kinds import Values


class Expression(Numeric):
    """A number computed from columns of the data by a formula, and then treated as a numeric column is.

    Arithmetic ``+ - * / % **``, comparisons, ``and or not``, and the functions ``abs clip exp floor isnan log log1p
    maximum minimum sign sqrt where``. A column is named as it is, or ``column("its name")`` where that is no word;
    booleans are 0 and 1, times are seconds since 1970 (UTC), and categories can be compared with texts by ``==`` and
    ``!=``. A result that is not finite, as of a division by 0, is missing.
    """

    treats: ClassVar[tuple[str, ...]] = ()

    type: Literal["expression"] = "expression"  # type: ignore[assignment]
    expr: Annotated[str, Field(min_length=1, max_length=1000)]
    """The formula, as ``loan_amount / maximum(income, 1)``."""

    @field_validator("expr")
    @classmethod
    def _allowed(cls, expr: str) -> str:
        try:
            parsed(expr)
        except ValueError as error:
            raise PydanticCustomError("expression", "{why}", {"why": str(error)}) from None
        return expr

    @override
    def reads(self) -> Mapping[str, tuple[str, ...]]:
        kinds = {"text": ("categorical",), "number": ("numeric", "boolean", "datetime")}
        return {term.value: kinds[term.sort] for term in parsed(self.expr).parts() if term.op == "column"}

    @override
    def derive(self, values: Mapping[str, Values]) -> np.ndarray:
        return evaluated(self.expr, values)

    @override
    def derive_in(self, graph: Graph, values: Mapping[str, str]) -> str:
        import numpy as np
        from onnx import TensorProto

        def apply(name: str, *arguments: str) -> str:
            to = {"to": TensorProto.DOUBLE} if name == "count" else {}
            return graph.node(FUNCTIONS[name].onnx, *arguments, **to)

        def constant(x: Any) -> str:
            return graph.constant(np.array(x, dtype=object if isinstance(x, str) else np.float64))

        out = parsed(self.expr).evaluate(values, constant, apply)
        return graph.node("Where", graph.node("IsInf", out), constant(math.nan), out)
