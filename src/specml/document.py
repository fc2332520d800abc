"""One YAML file: read as YAML 1.2, within bounds, every value with its place.

ruamel scans and parses; the tree is built here from its events, so that every bound holds before
anything is built, aliases stay shared until they are counted, and scalars mean what the YAML 1.2 core
schema says (``no``, ``on``, ``12:30`` and dates are text, ``010`` is ten, ``1e-3`` is a number).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from specml.errors import Problem, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path as File


Path = tuple[str | int, ...]
"""The keys and indices from the root of a tree to a value."""

MAX_BYTES = 1_000_000
MAX_ALIASES = 100
MAX_NODES = 100_000
MAX_DEPTH = 50
MAX_KEY = 500

HUSH = re.compile(r"token|password|passwd|secret|credential|api_?key", re.IGNORECASE)
"""Keys whose values are never shown."""

CODE_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_", "__specml__"})
"""Keys by which Hydra would call what a file names (the last is the loader's own mark)."""

NULL = re.compile(r"(null|Null|NULL|~|)")
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)")
INT = re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")} | {"!"}


@dataclass(frozen=True)
class Document:
    """A file's tree of plain values and where each of them stands."""

    name: str
    """How messages call the file."""
    tree: dict[str, Any]
    places: dict[Path, str]
    """``name:line:column`` of the key of every value (of the item itself in lists)."""
    package: str | None
    """What Hydra's header ``# @package`` says."""


@dataclass
class _Node:
    """A value before aliases are expanded; ``size`` and ``depth`` count it as if they were."""

    value: Any
    line: int
    column: int
    size: int = 1
    depth: int = 1
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)


def plain(text: str) -> Any:
    """What an unquoted scalar means in the YAML 1.2 core schema.

    Raises:
        OverflowError: a number too large to be held.
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if INT.fullmatch(text):
        if len(text) > 300:
            raise OverflowError
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise OverflowError
        return number
    if SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def quoted(text: str) -> str:
    """``text`` as a double-quoted scalar that every reader of YAML takes for the same text."""
    written = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08X}" for one in written)


def read_file(path: File, name: str) -> Document:
    """The document in a file; ``name`` is how messages call it.

    Raises:
        SpecError: it can't be read, or ``read`` refuses what is in it.
    """
    try:
        with path.open("rb") as file:
            return read(file.read(MAX_BYTES + 1), name)
    except OSError as error:
        raise SpecError([Problem(name, "", f"can't be read: {error.strerror}.")]) from None


def read(raw: bytes, name: str) -> Document:
    """The document in ``raw``; ``name`` is how messages call it.

    Raises:
        SpecError: the first thing in it that is not plain YAML 1.2, or beyond the bounds.
    """
    text = _decode(raw, name)
    root = _Builder(name, text).build()
    places: dict[Path, str] = {(): f"{name}:{root.line}:{root.column}"}
    tree = _expand(root, (), places, name)
    header = re.match(r"(?:\s*#[^\n]*\n|\s*\n)*?\s*#\s*@package\s+(\S+)", text)
    return Document(name, tree, places, header.group(1) if header else None)


def _refuse(where: str, what: str, hint: str = "", key: str = "") -> NoReturn:
    raise SpecError([Problem(where, key, what, hint)])


def _decode(raw: bytes, name: str) -> str:
    if len(raw) > MAX_BYTES:
        _refuse(f"{name}:1:1", f"has more than {MAX_BYTES} bytes.")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        _refuse(f"{name}:1:1", "starts with a byte-order mark.", "Save it as UTF-8 without BOM.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        _refuse(f"{name}:{line}:{column}", f"is not UTF-8: byte 0x{raw[error.start]:02x}.", "Save it as UTF-8.")


class _Builder:
    """Turns ruamel's events into nodes, one document, refusing what goes beyond the bounds."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.events = self._scan()
        self.anchors: dict[str, _Node | None] = {}
        self.aliases = 0
        self.nodes = 0
        self.path: list[str] = []

    def build(self) -> _Node:
        next(self.events)  # the stream's start
        start = next(self.events)
        if type(start).__name__ == "StreamEndEvent":
            _refuse(f"{self.name}:1:1", "is empty.", "A spec needs at least name, problem, data and candidates.")
        version = getattr(start, "version", None)
        if version is not None and tuple(version) != (1, 2):
            self.refuse(
                start, f"asks for YAML {'.'.join(map(str, version))}; specs are YAML 1.2.", "Remove the directive."
            )
        event = next(self.events)
        if type(event).__name__ != "MappingStartEvent":
            kind = "a list" if type(event).__name__ == "SequenceStartEvent" else "a single value"
            if getattr(event, "value", None) == "":
                kind = "nothing"
            self.refuse(event, f"holds {kind} at its top; a spec is a mapping of keys.")
        root = self.node(event, 1)
        next(self.events)  # the document's end
        after = next(self.events)
        if type(after).__name__ != "StreamEndEvent":
            self.refuse(after, "starts a second document; a spec is one.", "Remove the line ---.")
        return root

    def _scan(self) -> Iterator[Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        try:
            yield from YAML(typ="safe", pure=True).parse(self.text)
        except MarkedYAMLError as error:
            # What is never closed is at fault where it was opened.
            opened = re.search(r"flow|quoted", error.context or "") is not None
            mark = (error.context_mark if opened else None) or error.problem_mark or error.context_mark
            place = f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{self.name}:1:1"
            _refuse(place, *_wording(error, self.text, mark.line if mark else 0))
        except ReaderError as error:
            before = self.text[: error.position]
            line, column = before.count("\n") + 1, error.position - before.rfind("\n")
            _refuse(
                f"{self.name}:{line}:{column}",
                f"holds the character U+{ord(self.text[error.position]):04X}, which YAML forbids.",
            )
        except YAMLError as error:
            _refuse(f"{self.name}:1:1", f"is not YAML: {error}")

    def refuse(self, event: Any, what: str, hint: str = "", key: str = "") -> NoReturn:
        place = f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        _refuse(place, what, hint, ".".join([*self.path, *([key] if key else [])]))

    def node(self, event: Any, depth: int) -> _Node:
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event, depth)
        if depth > MAX_DEPTH:
            self.refuse(event, f"is nested more than {MAX_DEPTH} deep.")
        if event.tag is not None and str(event.tag) not in TAGS:
            self.refuse(event, f"carries the tag {event.tag}; a spec holds plain values only.", "Remove the tag.")
        node = _Node(None, event.start_mark.line + 1, event.start_mark.column + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if kind == "ScalarEvent":
            node.value = self._scalar(event)
        elif kind == "SequenceStartEvent":
            self._sequence(node, depth)
        else:
            self._mapping(node, depth)
        self._count(event, 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self.refuse(event, f"brings the spec to more than {MAX_NODES} values once its aliases are expanded.")

    def _alias(self, event: Any, depth: int) -> _Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            self.refuse(event, f"is the alias number {self.aliases}; at most {MAX_ALIASES} are allowed.")
        if event.anchor not in self.anchors:
            self.refuse(event, f"*{event.anchor} names no anchor that stands before it.")
        target = self.anchors[event.anchor]
        if target is None:
            self.refuse(event, f"*{event.anchor} stands inside the value that it repeats.")
        if depth + target.depth - 1 > MAX_DEPTH:
            self.refuse(event, f"is nested more than {MAX_DEPTH} deep.")
        self._count(event, target.size)
        return target

    def _sequence(self, node: _Node, depth: int) -> None:
        node.value = []
        while type(event := next(self.events)).__name__ != "SequenceEndEvent":
            self._adopt(node, item := self.node(event, depth + 1))
            node.value.append(item)

    def _mapping(self, node: _Node, depth: int) -> None:
        node.value = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            key = self._key(event, node)
            node.keys[key] = (event.start_mark.line + 1, event.start_mark.column + 1)
            self.path.append(key)
            self._adopt(node, item := self.node(next(self.events), depth + 1))
            self.path.pop()
            node.value[key] = item

    def _adopt(self, node: _Node, item: _Node) -> None:
        node.size += item.size
        node.depth = max(node.depth, item.depth + 1)

    def _key(self, event: Any, node: _Node) -> str:
        if type(event).__name__ != "ScalarEvent" or (event.value == "" and event.implicit[0]):
            self.refuse(event, "is no key: a key is text.", "A value like {{ … }} must be put in quotes.")
        key = str(event.value)
        if event.tag is not None and str(event.tag) not in TAGS:
            self.refuse(event, f"carries the tag {event.tag}; a spec holds plain values only.", "Remove the tag.", key)
        if len(key) > MAX_KEY:
            self.refuse(event, f"is a key of {len(key)} characters; at most {MAX_KEY} are read.")
        if key == "<<" and event.implicit[0]:
            self.refuse(
                event, "merges mappings, which YAML 1.2 doesn't know.", "Repeat the keys, or use a preset.", key
            )
        if key in CODE_KEYS:
            self.refuse(event, "has no place in a spec: a spec names types, never code.", "", key)
        if key in node.value:
            line, column = node.keys[key]
            self.refuse(event, f"is there twice; first in line {line}, column {column}.", "Remove one of the two.", key)
        if event.anchor is not None:
            self.refuse(event, "carries an anchor; only values can.", "", key)
        return key

    def _scalar(self, event: Any) -> Any:
        tag = str(event.tag or "").rpartition(":")[2]
        try:
            value = plain(event.value) if event.implicit[0] or tag in ("int", "float", "bool", "null") else event.value
        except OverflowError:
            self.refuse(event, f"is beyond what a number can hold: {event.value[:40]}.")
        wanted: Any = {"int": int, "float": (int, float), "bool": bool, "null": type(None)}.get(tag, object)
        if not isinstance(value, wanted) or (tag in ("int", "float") and isinstance(value, bool)):
            self.refuse(event, f"is tagged !!{tag}, but reads {event.value[:40]!r}.", "Remove the tag.")
        if isinstance(value, str) and event.tag is not None and tag in ("map", "seq"):
            self.refuse(event, f"is tagged !!{tag}, but is a single value.", "Remove the tag.")
        return float(value) if tag == "float" else value


def _wording(error: Any, text: str, line: int) -> tuple[str, str]:
    """The scanner's complaint in our words, and what helps."""
    lines = text.splitlines()
    at_fault = lines[line] if line < len(lines) else ""
    problem = str(error.problem or error)
    if "\t" in at_fault and ("'\\t'" in problem or re.match(r" *\t", at_fault)):
        return "is indented with a tab.", "YAML is indented with spaces."
    if "mapping values are not allowed" in problem:
        return (
            "is not YAML: a second ': ' in one value.",
            "Put a text that holds ': ' in quotes, or check the indentation.",
        )
    if "block end" in problem or "did not find expected" in problem:
        return "is not YAML: the indentation fits no line above.", "Keys of one mapping start in one column."
    if "flow" in str(error.context) or "quoted" in str(error.context):
        return (
            "opens a bracket or a quote that is not closed as it should be.",
            "Put text with such characters in quotes.",
        )
    context = f"{error.context}: " if error.context else ""
    return f"is not YAML: {context}{problem}.", "Put text with special characters in quotes."


def _expand(node: _Node, path: Path, places: dict[Path, str], name: str) -> Any:
    if isinstance(node.value, dict):
        tree = {}
        for key, item in node.value.items():
            line, column = node.keys[key]
            places[*path, key] = f"{name}:{line}:{column}"
            tree[key] = _expand(item, (*path, key), places, name)
        return tree
    if isinstance(node.value, list):
        for index, item in enumerate(node.value):
            places[*path, index] = f"{name}:{item.line}:{item.column}"
        return [_expand(item, (*path, index), places, name) for index, item in enumerate(node.value)]
    return node.value
