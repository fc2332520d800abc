"""Overrides of a spec from the command line, in Hydra's grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.document import CODE_KEYS, HUSH, MAX_DEPTH, MAX_KEY, Path
from specml.errors import Problem, first_line
from specml.values import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydra.core.override_parser.types import Override

    from specml.load.presets import Presets

MAX_CHARACTERS = 10_000


@dataclass(frozen=True)
class Setting:
    """One override: a value set, a key deleted, or a preset chosen."""

    text: str
    path: Path
    value: Any = None
    deletes: bool = False
    options: tuple[str, ...] | None = None
    """The presets of the group ``path[0]`` from here on; empty: none."""

    @property
    def where(self) -> str:
        """How messages call it."""
        return named(self.text)


def named(text: str) -> str:
    """How messages call an override: what may hold a secret without its value."""
    key, _, value = text.partition("=")
    if HUSH.search(text) and not Secret.PATTERN.match(value):
        text = f"{key}=…" if value else key
    return f"override {text if len(text) <= 120 else text[:117] + '...'!r}"


def parse(text: str, presets: Presets, choices: dict[str, tuple[str, ...]]) -> Setting | Problem:
    """Read an override; ``choices`` are the presets chosen so far."""
    found = _parsed(text)
    if isinstance(found, Problem):
        return found
    key, value = found.key_or_group, found.value()
    path = tuple(key.split("."))
    wrong = _wrong(found, path, value)
    if wrong is not None:
        return Problem(named(text), key, *wrong)
    if found.is_delete():
        if key in choices:
            return Setting(text, path, deletes=True, options=())
        return Setting(text, path, deletes=True)
    names = [value] if isinstance(value, str) else value
    if len(path) == 1 and presets.options(key) and isinstance(names, list) and names:
        for name in names:
            if (unknown := presets.unknown(key, name)) is not None:
                return Problem(named(text), key, *unknown)
        before = choices.get(key, ()) if found.is_add() else ()
        return Setting(text, path, options=(*before, *names))
    return Setting(text, path, value=_textual_keys(value))


def _parsed(text: str) -> Override | Problem:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if len(text) > MAX_CHARACTERS:
        return Problem(named(text), "", f"has {len(text)} characters; at most {MAX_CHARACTERS} are read.")
    if sum(map(text.count, "[{(")) > MAX_DEPTH:
        return Problem(named(text), "", f"opens more than {MAX_DEPTH} brackets.")
    if "=" not in text and not text.startswith("~"):
        return Problem(named(text), "", "is no override: those read a.b=value, +a.b=value, ~a.b or candidates=fast.")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = first_line(error.__cause__ or error)
        hint = "Quote text with special characters: 'a.b=\"x: y\"'."
        return Problem(named(text), "", f"can't be read: {reason}.", hint)


def _wrong(found: Override, path: Path, value: Any) -> tuple[str, str] | None:
    if found.is_sweep_override():
        return "gives several values; a spec has one.", "For a list write a=[1,2]; for text with a comma a='1,2'."
    if found.package is not None or "@" in found.key_or_group:
        return "names a package; a preset always goes under its own section.", ""
    if "/" in found.key_or_group:
        return "is no key: keys are separated by dots.", ""
    if path[0] == "hydra":
        return "sets hydra itself, which is closed.", ""
    if path[0] == "defaults":
        return "can't be overridden.", "Choose a preset by candidates=fast."
    if not all(path):
        return "is no key: a part of it is empty.", ""
    keys = {*map(str, path), *_keys(value)}
    if CODE_KEYS & keys:
        return "has no place in a spec: a spec names types, never code.", ""
    if max(map(len, keys)) > MAX_KEY:
        return f"has a key of more than {MAX_KEY} characters.", ""
    if found.is_delete() and value is not None:
        return "deletes by value.", f"Write ~{found.key_or_group}"
    return None


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from map(str, value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(item)


def _textual_keys(value: Any) -> Any:
    """``value`` with its keys as text, as in files."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _textual_keys(item) for key, item in value.items()}
    return [_textual_keys(item) for item in value] if isinstance(value, list) else value
