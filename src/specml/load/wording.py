"""What pydantic found, as problems a person can mend: the key, the value seen, what would be right."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from specml.document import HUSH, Path
from specml.errors import Problem
from specml.load import known
from specml.load.reference import dotted
from specml.spec import Spec
from specml.values import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PATTERNS = {
    r"^[a-z][a-z0-9_]{0,39}$": "a name of lower case letters, digits and underscores, at most 40",
    r"^[a-z0-9][a-z0-9-]{0,62}$": "a name of lower case letters, digits and dashes, at most 63",
    r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$": "the name of a Python package, as my_package",
}

KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of a sane size",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "none_required": "null",
    "is_instance_of": "a mapping with a type",
}


def problems(errors: Iterable[Mapping[str, Any]], tree: Any, where: Callable[[Path], str]) -> dict[Path, Problem]:
    """One problem for each path at fault; several errors at one path are the members of a union."""
    at: dict[Path, list[Mapping[str, Any]]] = {}
    for error in errors:
        path = path_of(error, tree)
        if error["type"] == "missing" and _misspelt(path, tree):
            continue
        at.setdefault(path, []).append(error)
    return {path: _problem(path, found, tree, where) for path, found in at.items()}


def path_of(error: Mapping[str, Any], tree: Any) -> Path:
    """The YAML path of an error: pydantic's own without the types and union members that it passes through."""
    path: Path = ()
    annotation: Any = Spec
    node = tree
    loc = error["loc"]
    for index, step in enumerate(loc):
        tagged = any(known.is_kind(member) for member in known.members(annotation))
        if tagged and step == known.type_of(node):
            annotation = next(m.table[step] for m in known.members(annotation) if known.is_kind(m) and step in m.table)
            continue
        there = isinstance(node, dict) and step in node
        there = there or (isinstance(node, (list, tuple)) and isinstance(step, int))
        lacks = error["type"] == "missing" and index == len(loc) - 1
        if step == "[key]" or not (there or lacks):
            continue
        annotation = known.inside(annotation, step, node)
        path, node = (*path, step), known.child(node, step)
    return path


def _problem(path: Path, errors: list[Mapping[str, Any]], tree: Any, where: Callable[[Path], str]) -> Problem:
    first = errors[0]
    place, key, node = where(path), dotted(path), known.at(path, tree)
    kind = first["type"]
    if first["loc"] and first["loc"][-1] == "[key]":
        return Problem(place, key, f"{path[-1]!r} must be {_wanted(first)}.")
    if kind == "missing":
        return Problem(place, key, "is required.")
    if kind == "extra_forbidden":
        return Problem(place, key, "is not a key known here.", near(str(path[-1]), known.keys(path[:-1], tree)))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        value = first["input"]
        if isinstance(value, dict):
            written = "type" if "type" in value else closest("type", list(value))
            if written is not None:
                place, key = where((*path, written)), dotted((*path, written))
            if written not in (None, "type"):
                return Problem(place, key, "is not a key known here.", "Did you mean 'type'?")
        return Problem(place, key, *_type(first, node, seen(value, path)))
    if kind in KNOWN_ENDS or kind not in (*KINDS, *LIMITS, "literal_error", "string_pattern_mismatch"):
        return Problem(place, key, _sentence(first))
    wanted = list(dict.fromkeys(_wanted(error) for error in errors))
    value = first["input"]
    return Problem(place, key, f"must be {' or '.join(wanted)}; it is {seen(value, path)}.", _help(errors, value))


KNOWN_ENDS = ("value_error", "assertion_error")

LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
    "too_short": ("min_length", "of at least"),
    "too_long": ("max_length", "of at most"),
    "string_too_short": ("min_length", "text of at least"),
    "string_too_long": ("max_length", "text of at most"),
}


def _wanted(error: Mapping[str, Any]) -> str:
    """What would be right, to follow ``must be``."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        values = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
    if kind in LIMITS:
        name, words = LIMITS[kind]
        unit = {
            "too_short": " entries",
            "too_long": " entries",
            "string_too_short": " characters",
            "string_too_long": " characters",
        }
        number = context[name]
        units = unit.get(kind, "")
        if number == 1:
            units = {" entries": " entry", " characters": " character"}.get(units, units)
        return f"{words} {number:g}{units}" if isinstance(number, float) else f"{words} {number}{units}"
    return KINDS.get(kind, str(error["msg"]).removeprefix("must be ").removesuffix("."))


def _sentence(error: Mapping[str, Any]) -> str:
    """A component's own words."""
    text = re.sub(r"^(Value error|Assertion failed), ", "", str(error["msg"]))
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _type(error: Mapping[str, Any], annotation: Any, shown: str) -> tuple[str, str]:
    kind = next(member for member in known.members(annotation) if known.is_kind(member))
    noun = kind.__name__.lower()
    if error["type"] == "union_tag_not_found":
        return (
            f"lacks its type: one of {', '.join(kind.table)}."
            if shown == "a mapping"
            else f"must be a {noun}: {', '.join(kind.table)}; it is {shown}.",
            "",
        )
    value = error["input"]
    tag = value.get("type") if isinstance(value, dict) else value
    return f"{tag!r} is no {noun} known here: {', '.join(kind.table)}.", near(str(tag), list(kind.table), listed=False)


def _misspelt(path: Path, tree: Any) -> bool:
    """Whether a missing key is an unknown one beside it, which is told of by itself."""
    there = known.found(path[:-1], tree)
    allowed = known.keys(path[:-1], tree)
    return any(closest(key, allowed) == path[-1] for key in there if key not in allowed)


def closest(word: str, words: list[str]) -> str | None:
    """Which of ``words`` may be meant by ``word``, whatever its case."""
    lower = {each.lower(): each for each in words}
    close = get_close_matches(word.lower(), lower, n=1)
    return lower[close[0]] if close else None


def near(word: str, words: list[str], *, listed: bool = True) -> str:
    """The same as a hint, or what is known when nothing comes close."""
    close = closest(word, words)
    if close is not None:
        return f"Did you mean {close!r}?"
    return f"Known: {', '.join(words)}." if listed and words else ""


def _help(errors: list[Mapping[str, Any]], value: Any) -> str:
    kinds = {error["type"] for error in errors}
    if isinstance(value, str):
        if "bool_type" in kinds and value.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false"):
            return f"Write {'true' if value.lower() in ('yes', 'on', 'y', 'true') else 'false'}, without quotes."
        if kinds & {"int_type", "float_type"} and re.fullmatch(r"[-+]?\d+(\.\d+)?", value):
            return f"Write {value} without quotes."
        for error in errors:
            if error["type"] == "literal_error":
                return near(value, expected(error), listed=False)
    if "string_type" in kinds and isinstance(value, (bool, int, float)):
        return "Put it in quotes."
    return ""


def expected(error: Mapping[str, Any]) -> list[str]:
    """The texts that a ``Literal`` allows."""
    return re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))


def seen(value: Any, path: Path) -> str:
    """A value as messages show it: short, and never one that looks like a secret."""
    if isinstance(value, (dict, Spec)):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if any(HUSH.search(str(key)) for key in path) and not (isinstance(value, str) and Secret.PATTERN.match(value)):
        return "not shown here"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1] if isinstance(value, str) else ''}"
