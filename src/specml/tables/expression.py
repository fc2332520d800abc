"""A condition over the columns of one row, in SQL: compared, never executed as a statement."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    import polars as pl

FUNCTIONS = ("abs", "ceil", "coalesce", "floor", "length", "lower", "round", "upper")
BEFORE_BRACKETS = {*FUNCTIONS, "and", "between", "in", "like", "not", "or", "when"}
STATEMENTS = {"explain", "from", "over", "select", "table", "union", "values", "with"}
TOKEN = re.compile(
    r"""(?P<word>[A-Za-z_]\w*)|(?P<column>"[^"]+")|'(?:[^']|'')*'|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\b"""
    r"""|<=|>=|<>|!=|-(?!-)|/(?!\*)|[+*%=<>,()]|\s+"""
)


def _condition(text: str) -> str:
    """Only what looks at one row: columns, values, comparisons, arithmetic and a few functions.

    polars' SQL knows much more; what is not named here is refused before it sees it.
    """
    place = 0
    while place < len(text):
        token = TOKEN.match(text, place)
        if token is None:
            raise PydanticCustomError("condition", "can't hold {sign!r} there.", {"sign": text[place]})
        place = token.end()
        word = (token["word"] or "").lower()
        called = text[place:].lstrip().startswith("(")
        if word in STATEMENTS or (word and called and word not in BEFORE_BRACKETS):
            known = ", ".join(FUNCTIONS)
            raise PydanticCustomError("condition", f"can't use {word}; the functions are {known}.", {})
    _parsed(text)
    return text


Condition = Annotated[str, AfterValidator(_condition), Field(min_length=1, max_length=1000)]
"""A condition in SQL over the columns of a row, as ``"amount > 0 AND kind = 'sale'"``."""


def _parsed(text: str) -> pl.Expr:
    import polars as pl

    try:
        return pl.sql_expr(text)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().splitlines()[0]
        raise PydanticCustomError("condition", "is no condition: {reason}", {"reason": reason}) from None


def columns(text: str) -> list[str]:
    """The columns that a condition names, each once."""
    return list(dict.fromkeys(_parsed(text).meta.root_names()))


def holds(text: str, table: pl.DataFrame) -> pl.Series | None:
    """Whether the condition holds, by row; None when it is no condition.

    A comparison with a missing value is neither true nor false in SQL; ``x IS NULL`` asks for it.
    """
    import polars as pl

    try:
        found = table.select(condition=_parsed(text))["condition"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    if found.dtype != pl.Boolean or len(found) != table.height:
        return None
    return found.fill_null(value=False)
