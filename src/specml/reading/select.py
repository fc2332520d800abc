"""One SELECT: what a query may be, and where its parameters stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


@dataclass(frozen=True)
class Select:
    """A query that only reads, as it was written."""

    text: str
    places: tuple[tuple[int, int, str], ...]
    """Of each ``:name``: where it starts and ends in ``text``, and the name."""

    def written(self, parameter: Callable[[str], str], colon: str = ":") -> str:
        """The query with every ``:name`` as a database writes it, and every other colon as ``colon``."""
        out, end = [], 0
        for start, after, name in self.places:
            out += [self.text[end:start].replace(":", colon), parameter(name)]
            end = after
        return "".join([*out, self.text[end:].replace(":", colon)])


def parse_select(query: str, dialect: str, parameters: Collection[str], where: str) -> Select:
    """``query`` if it is exactly one SELECT (a UNION of some, or one WITH others before it).

    Args:
        query: the text; its parameters are written ``:name``.
        dialect: sqlglot's name of the database's language; empty: any.
        parameters: the names for which values are declared.
        where: what errors name.

    Raises:
        DataCheckFailed: it is more, or another statement, or one that changes something; or its parameters and the
            declared ones are not the same.
    """
    import sqlglot
    from sqlglot import exp

    if re.search(r"/\*M?!", query):
        hint = "Leave the comment out; as a value, bind it: `:name`."
        raise DataCheckFailed("holds /*!, which MySQL runs.", hint=hint, where=where)
    query = query.strip().rstrip(";").rstrip()
    try:
        statements = [one for one in sqlglot.parse(query, read=dialect or None) if one is not None]
    except sqlglot.errors.SqlglotError as error:
        place = error.errors[0] if isinstance(error, sqlglot.errors.ParseError) and error.errors else {}
        line = f" in line {place['line']}, column {place['col']}" if place.get("line") else ""
        raise DataCheckFailed(f"can't be parsed{line}.", hint="It must be one SELECT.", where=where) from None
    if not statements:
        raise DataCheckFailed("holds no statement; it must be one SELECT.", where=where)
    if len(statements) > 1 or any(token.text == ";" for token in sqlglot.tokenize(query, read=dialect or None)):
        raise DataCheckFailed("holds more than one statement; it must be one SELECT.", where=where)
    (tree,) = statements
    if not isinstance(tree, exp.Select | exp.SetOperation):
        raise DataCheckFailed(f"is no SELECT but {tree.key.upper()}.", where=where)
    if isinstance(tree, exp.Select) and not tree.expressions and not tree.args.get("from_"):
        raise DataCheckFailed("is a SELECT of nothing.", where=where)
    changing = tree.find(exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock)
    if changing is not None:
        told = {"into": "SELECT … INTO", "lock": "SELECT … FOR UPDATE"}.get(changing.key, changing.key.upper())
        raise DataCheckFailed(f"holds {told}; it must only read.", where=where)
    return Select(query, _places(query, tree, dialect, parameters, where))


def _places(
    query: str, tree: object, dialect: str, parameters: Collection[str], where: str
) -> tuple[tuple[int, int, str], ...]:
    import sqlglot
    from sqlglot import exp

    assert isinstance(tree, exp.Expression)
    found = [
        one.this if isinstance(one, exp.Placeholder) else None for one in tree.find_all(exp.Placeholder, exp.Parameter)
    ]
    tokens = sqlglot.tokenize(query, read=dialect or None)
    numbered = any(token.token_type.name == "VAR" and token.text.startswith("$") for token in tokens)
    if numbered or not all(isinstance(name, str) and name.isidentifier() for name in found):
        hint = "Values come from `params`: `where year >= :since` and params: {since: 2013}."
        raise DataCheckFailed("holds a parameter that is not written :name.", hint=hint, where=where)
    if unknown := sorted({str(name) for name in found} ^ set(parameters)):
        what = "which `params` does not name" if unknown[0] in found else "of `params` that the query does not hold"
        raise DataCheckFailed(f":{unknown[0]} is a parameter {what}.", where=where)
    places = [
        (colon.start, name.end + 1, name.text)
        for colon, name in pairwise(tokens)
        if colon.text == ":" and colon.end + 1 == name.start and name.text in parameters
    ]
    if sorted(name for *_, name in places) != sorted(map(str, found)):
        hint = "Write a space after a colon that is no parameter's, or another name."
        raise DataCheckFailed("its parameters can't be told from its other colons.", hint=hint, where=where)
    return tuple(places)
