"""The language of formulas over columns: what they mean, in Python; no code of a formula is ever run."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

from specml.data import Column, feature_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import polars as pl

DEEPEST = 30
MOST_TERMS = 200

Sort = Literal["number", "truth", "text"]


@dataclass(frozen=True)
class Function:
    """The same elementwise function in numpy and in the graph, of float64 numbers and bool truths."""

    takes: tuple[Sort, ...]
    gives: Sort
    numpy: str
    onnx: str


_X: tuple[Sort, ...] = ("number",)
_XY: tuple[Sort, ...] = ("number", "number")
_TT: tuple[Sort, ...] = ("truth", "truth")

FUNCTIONS = {
    # Python's operators, by their name in ``ast``.
    "Add": Function(_XY, "number", "add", "Add"),
    "Sub": Function(_XY, "number", "subtract", "Sub"),
    "Mult": Function(_XY, "number", "multiply", "Mul"),
    "Div": Function(_XY, "number", "divide", "Div"),
    "Pow": Function(_XY, "number", "power", "Pow"),
    "USub": Function(_X, "number", "negative", "Neg"),
    "Lt": Function(_XY, "truth", "less", "Less"),
    "LtE": Function(_XY, "truth", "less_equal", "LessOrEqual"),
    "Gt": Function(_XY, "truth", "greater", "Greater"),
    "GtE": Function(_XY, "truth", "greater_equal", "GreaterOrEqual"),
    "Eq": Function(_XY, "truth", "equal", "Equal"),
    "And": Function(_TT, "truth", "logical_and", "And"),
    "Or": Function(_TT, "truth", "logical_or", "Or"),
    "Not": Function(("truth",), "truth", "logical_not", "Not"),
    "abs": Function(_X, "number", "abs", "Abs"),
    "exp": Function(_X, "number", "exp", "Exp"),
    "floor": Function(_X, "number", "floor", "Floor"),
    "isnan": Function(_X, "truth", "isnan", "IsNaN"),
    "log": Function(_X, "number", "log", "Log"),
    "maximum": Function(_XY, "number", "maximum", "Max"),
    "minimum": Function(_XY, "number", "minimum", "Min"),
    "sign": Function(_X, "number", "sign", "Sign"),
    "sqrt": Function(_X, "number", "sqrt", "Sqrt"),
    "where": Function(("truth", "number", "number"), "number", "where", "Where"),
    # What a comparison of a category with a text, and a truth that is counted with, become.
    "same": Function(("text", "text"), "truth", "", "Equal"),
    "count": Function(("truth",), "number", "float64", "Cast"),
}
JUMPS = {
    "floor": "floor or %",
    "sign": "the sign",
    **dict.fromkeys(("Lt", "LtE", "Gt", "GtE", "Eq"), "a comparison"),
}
"""What jumps where its argument hardly changes."""
ROUNDED = {"log": "log", "exp": "exp", "Pow": "**"}
"""What two libraries round differently; IEEE 754 leaves the others only one result."""
MANY = ("maximum", "minimum")
"""These take two arguments or more."""
SHORT: dict[str, tuple[int, Callable[..., Term]]] = {
    "clip": (3, lambda x, low, high: _call("minimum", _call("maximum", x, low), high)),
    "log1p": (1, lambda x: _call("log", _call("Add", Term("constant", "number", value=1.0), x))),
}
"""What is written with others: how many arguments it takes, and what it means."""
CALLED = tuple(sorted({*SHORT, *(name for name in FUNCTIONS if name.islower())} - {"same", "count"}))


@dataclass(frozen=True)
class Term:
    """A part of a formula: a column, a constant, or a function (of ``FUNCTIONS``) of other terms."""

    op: str
    sort: Sort
    terms: tuple[Term, ...] = ()
    value: Any = None
    """The column's name, or the constant."""
    size: int = 1
    """How many parts it has."""

    def parts(self) -> Iterator[Term]:
        """Itself and every part of it."""
        yield self
        for term in self.terms:
            yield from term.parts()

    def evaluate(self, columns: Mapping[str, Any], constant: Callable[[Any], Any], apply: Callable[..., Any]) -> Any:
        """Its value, from those of the ``columns``; ``apply``: the value of a function of values."""
        if self.op == "column":
            return columns[self.value]
        if self.op == "constant":
            return constant(self.value)
        return apply(self.op, *(term.evaluate(columns, constant, apply) for term in self.terms))


def parsed(expr: str) -> Term:
    """The formula as a term of sort number; no code of it is ever run.

    Raises:
        ValueError: it is no formula of this language, is too large, or names no column.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(expr.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"is no formula: {error.msg} (column {error.offset}).") from None
    except (ValueError, RecursionError, MemoryError):
        raise ValueError("is no formula.") from None
    term = _number(_term(tree.body, 0))
    if not any(part.op == "column" for part in term.parts()):
        raise ValueError("names no column.")
    return term


def _term(node: ast.expr, depth: int) -> Term:  # noqa: C901, PLR0912 - one case for each thing that may be written
    if depth > DEEPEST:
        raise ValueError(f"is nested deeper than {DEEPEST}.")

    def inner(part: ast.expr) -> Term:
        return _term(part, depth + 1)

    match node:
        case ast.Constant(value=bool()):
            raise ValueError("says True or False: write 1 or 0.")
        case ast.Constant(value=int() | float() as value):
            return Term("constant", "number", value=_finite(value))
        case ast.Constant(value=str() as value):
            return Term("constant", "text", value=value)
        case (
            ast.Name(id=name)
            | ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)], keywords=[])
        ):
            return Term("column", "number", value=name)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in CALLED:
            return _called(name, [inner(one) for one in arguments])
        case ast.BinOp(left=left, op=ast.Mod(), right=right):
            a, b = inner(left), inner(right)
            return _call("Sub", a, _call("Mult", b, _call("floor", _call("Div", a, b))))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return inner(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op).__name__ in FUNCTIONS:
            return _call(type(op).__name__, inner(left), inner(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op).__name__ in FUNCTIONS:
            return _call(type(op).__name__, inner(operand))
        case ast.BoolOp(op=op, values=values):
            return reduce(lambda a, b: _call(type(op).__name__, a, b), map(inner, values))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [inner(one) for one in (left, *others)]
            pairs = [_compared(op, a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
            return reduce(lambda a, b: _call("And", a, b), pairs)
        case _:
            pass
    raise ValueError(f"holds {_short(node)}, which no formula may. Its functions: {', '.join(CALLED)}.")


def _called(name: str, terms: list[Term]) -> Term:
    wanted, made = SHORT[name] if name in SHORT else (len(FUNCTIONS[name].takes), None)
    if len(terms) != wanted and not (name in MANY and len(terms) > wanted):
        more = " or more" if name in MANY else ""
        raise ValueError(f"gives {name} {len(terms)} arguments; it takes {wanted}{more}.")
    if made:
        return made(*terms)
    return reduce(lambda a, b: _call(name, a, b), terms) if name in MANY else _call(name, *terms)


def _compared(op: ast.cmpop, a: Term, b: Term) -> Term:
    name, texts = type(op).__name__, [one for one in (a, b) if one.sort == "text"]
    if name not in FUNCTIONS and name != "NotEq":
        raise ValueError(f"compares by {name}; only <, <=, >, >=, == and != are taken.")
    if not texts:
        return _call("Not", _call("Eq", a, b)) if name == "NotEq" else _call(name, a, b)
    (column,) = [one for one in (a, b) if one.sort != "text"] or (texts[0],)
    if column.op != "column" or name not in ("Eq", "NotEq"):
        raise ValueError("compares a text with something else than a column, or otherwise than by == and !=.")
    same = _call("same", Term("column", "text", value=column.value), texts[0])
    return _call("Not", same) if name == "NotEq" else same


def _call(name: str, *terms: Term) -> Term:
    function = FUNCTIONS[name]
    given = []
    for sort, term in zip(function.takes, terms, strict=True):
        if sort == "truth" and term.sort != "truth":
            raise ValueError(f"takes a {term.sort} for a truth in {name.lower()}: compare it, as by == 1.")
        given.append(_number(term) if sort == "number" else term)
    if name in JUMPS and (found := {part.op for term in given for part in term.parts()} & ROUNDED.keys()):
        inside = " and ".join(sorted(ROUNDED[one] for one in found))
        raise ValueError(
            f"takes {JUMPS[name]} of {inside}, whose last digit is not the same in Python and in the graph: "
            "at a jump the two would differ. Take it of columns, or of what + - * / and sqrt make of them."
        )
    size = 1 + sum(term.size for term in given)
    if size > MOST_TERMS:
        raise ValueError(f"has more than {MOST_TERMS} parts.")
    return Term(name, function.gives, tuple(given), size=size)


def _number(term: Term) -> Term:
    if term.sort == "text":
        raise ValueError("takes a text for a number: texts can only be compared with columns.")
    return _call("count", term) if term.sort == "truth" else term


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("holds a number that is not finite.")
    return number


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def columns(expr: str) -> frozenset[str]:
    """The columns that a formula names."""
    return frozenset(term.value for term in parsed(expr).parts() if term.op == "column")


def evaluated(expr: str, values: Mapping[str, Any]) -> np.ndarray:
    """The formula of ``values``, by column: float64 [n] with NaN for missing, or a String series of categories.

    float64 [n], NaN where the result is not finite.
    """
    import numpy as np

    def apply(name: str, *arguments: Any) -> Any:
        if name == "same":
            return (arguments[0] == arguments[1]).to_numpy()
        return getattr(np, FUNCTIONS[name].numpy)(*arguments)

    with np.errstate(all="ignore"):
        out = parsed(expr).evaluate(values, lambda x: x if isinstance(x, str) else np.float64(x), apply)
    return np.where(np.isinf(out), np.nan, out)


def computed(expr: str, table: pl.DataFrame) -> np.ndarray:
    """The formula of the rows of a table that is in order (see ``tables``): float64 [n], as ``evaluated``.

    Raises:
        ValueError: it names a column that the table does not have, or takes texts for numbers, or numbers for texts.
    """
    import polars as pl

    values: dict[str, Any] = {}
    for term in parsed(expr).parts():
        if term.op != "column":
            continue
        if term.value not in table.columns:
            raise ValueError(f"the rows have no column {term.value!r}.")
        kind = table.schema[term.value]
        texts = kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)
        if texts != (term.sort == "text"):
            what = "a text where a number is meant" if texts else "a number where a text is meant"
            raise ValueError(f"the column {term.value!r} is {what}.")
        named = Column(
            name=term.value, kind="categorical" if texts else "datetime" if kind.is_temporal() else "numeric"
        )
        values[term.value] = feature_values(table, named)
    return evaluated(expr, values)
