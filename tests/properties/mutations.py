"""Ways to break a spec, each in one line of it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from specml.document import Path as Keys
from specml.document import read
from specml.load.known import at, child, keys, members

Text = list[str]


@dataclass(frozen=True)
class Mutant:
    """A broken spec and the line that is at fault."""

    kind: str
    raw: bytes
    line: int
    last: int = 0
    """The last line that may be told instead; 0: only ``line``."""


@dataclass(frozen=True)
class Base:
    """A valid spec, line by line."""

    name: str
    lines: tuple[str, ...]
    tree: dict[str, object]
    line_of: dict[Keys, int]

    @classmethod
    def of(cls, path: Path) -> Base:
        """The spec in a file."""
        document = read(path.read_bytes(), "spec.yaml")
        places = {keys: int(place.split(":")[1]) for keys, place in document.places.items()}
        return cls(path.stem, tuple(path.read_text().splitlines()), document.tree, places)

    def value(self, path: Keys) -> object:
        """What stands at a path."""
        node: object = self.tree
        for key in path:
            node = child(node, key)
        return node

    def mappings(self) -> list[Keys]:
        """The keys whose values are mappings of one line a key."""
        return [path for path in self.line_of if path and isinstance(self.value(path), dict)]

    def leaves(self) -> list[Keys]:
        """The keys whose value stands behind them in the same line."""
        return [
            path
            for path, line in self.line_of.items()
            if path and isinstance(path[-1], str) and re.search(r":\s+\S", self.lines[line - 1])
        ]

    def known(self, paths: list[Keys]) -> list[Keys]:
        """Those that are keys of the language, not names that people give."""
        return [path for path in paths if path[-1] in keys(path[:-1], self.tree)]

    def numbers(self) -> list[Keys]:
        """The leaves that hold numbers."""
        return [path for path in self.leaves() if type(self.value(path)) in (int, float)]


Mutator = Callable[[Base, random.Random], Mutant]
MUTATORS: dict[str, Mutator] = {}


def value_mutator(kind: str, paths: Callable[[Base], list[Keys]], values: list[str]) -> None:
    """A kind of mutation that puts another text in the place of a value."""

    def mutate(base: Base, rng: random.Random) -> Mutant:
        path = rng.choice(paths(base))
        lines, line = list(base.lines), base.line_of[path]
        lines[line - 1] = re.sub(r":\s.*$", lambda _: f": {rng.choice(values)}", lines[line - 1])
        return made(kind, lines, line)

    MUTATORS[kind] = mutate


def line_mutator(mutate: Mutator) -> Mutator:
    """Put a mutation into the table, by its name."""
    MUTATORS[mutate.__name__] = mutate
    return mutate


def made(kind: str, lines: Text, line: int) -> Mutant:
    """The mutant of some lines."""
    return Mutant(kind, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"), line)


def _enums(base: Base) -> list[Keys]:
    from typing import Literal, get_origin

    def is_enum(path: Keys) -> bool:
        found = members(at(path, base.tree))
        return bool(found) and all(get_origin(one) is Literal for one in found) and path[-1] != "type"

    return [path for path in base.leaves() if is_enum(path)]


def _types(base: Base) -> list[Keys]:
    return [path for path in base.leaves() if path[-1] == "type"]


def _known_leaves(base: Base) -> list[Keys]:
    return base.known(base.leaves())


def _unpaired(base: Base) -> list[Keys]:
    # A gate without its one bound is told of at the gate: neither key is there to point at.
    return [path for path in _known_leaves(base) if path[0] != "gates" or path[-1] not in ("min", "max")]


value_mutator("text for a number", Base.numbers, ["ten", "'5'", "1.2.3", "1_000", "12:30", "5%"])
value_mutator("negative number", Base.numbers, ["-1", "-0.5", "-1000000"])
value_mutator("number out of range", Base.numbers, ["1e999", "-1e999", ".inf", ".nan", "1e308", "9" * 400])
value_mutator("unknown enum", _enums, ["binry", "protectd", "tiem", "'1'", "TRUE"])
value_mutator("unknown type", _types, ["lightgmb", "logistic", "csvv", "os.system", "builtins.eval"])
value_mutator("mapping for a value", _known_leaves, ["{a: 1}", "{type: lightgbm}", "{}"])
value_mutator("list for a value", _known_leaves, ["[1, 2]", "[[a]]", "[{a: 1}]"])
value_mutator("empty value", _unpaired, ["", "null", "~", "''"])
value_mutator(
    "YAML 1.1 trap", _known_leaves, ["yes", "no", "on", "off", "010", "12:30", "0b11", "2026-01-01", "=", "1e-3"]
)
value_mutator(
    "bad reference", _known_leaves, ["${nope.x}", "${problem}", "a ${", "${a b}", "${}", "${.x}", "${search.${x}}"]
)
value_mutator(
    "foreign resolver",
    _known_leaves,
    ["${oc.env:HOME}", "x ${now:%Y}", "${oc.create:{}}", "${hydra:runtime.cwd}", "${eval:1}"],
)
value_mutator("secret where none belongs", _known_leaves, ["${secret:HOME}", "a${secret:HOME}", "${secret:not a name}"])
value_mutator(
    "foreign tag", _known_leaves, ["!!python/object/apply:os.system [id]", "!x 1", "!!binary aGk=", "!!set {a}"]
)
value_mutator("nested too deep", _known_leaves, ["[" * 60 + "]" * 60, "{a: " * 60 + "1" + "}" * 60, "[" * 3000])
value_mutator("unclosed", _known_leaves, ["'x", "[1, 2", "{a: 1"])
value_mutator("not UTF-8", _known_leaves, ["caf\udce9", "\udcff\udcfe", "\udc80"])
value_mutator("control character", _known_leaves, ["a\x01b", "\x00", "x\x7f"])
value_mutator("bad alias", _known_leaves, ["*nope", "&a [*a]", "@x", "`x`", "a: b: c"])


@line_mutator
def typo_in_key(base: Base, rng: random.Random) -> Mutant:
    """A key of the language with a letter lost, doubled or exchanged."""
    path = rng.choice(base.known([*base.leaves(), *base.mappings()]))
    key, line, lines = str(path[-1]), base.line_of[path], list(base.lines)
    spot = rng.randrange(len(key))
    wrong = rng.choice(
        [key[:spot] + key[spot + 1 :], key[:spot] + key[spot] * 2 + key[spot + 1 :], key.upper(), f"{key}_"]
    )
    lines[line - 1] = lines[line - 1].replace(f"{key}:", f"{wrong}:", 1)
    return made("typo in key", lines, line)


@line_mutator
def required_key_dropped(base: Base, rng: random.Random) -> Mutant:
    """A key that must be there is not; the mapping that lacks it is at fault."""
    choices: list[Keys] = [("name",), ("problem", "task"), ("problem", "target")]
    choices += [
        path for path in _types(base) if len(base.value(path[:-1])) > 1 and path[0] not in ("serving", "features")
    ]  # type: ignore[arg-type]
    choices = [path for path in choices if ("defaults",) not in base.line_of or path[0] != "candidates"]
    path = rng.choice(choices)
    lines = list(base.lines)
    dropped = base.line_of[path]
    del lines[dropped - 1]
    parent = base.line_of[path[:-1]]
    first = next(number for number, text in enumerate(lines, 1) if text.strip() and not text.startswith("#"))
    return made("required key dropped", lines, parent if len(path) > 1 else first)


@line_mutator
def duplicate_key(base: Base, rng: random.Random) -> Mutant:
    """A line that is there twice."""
    line = base.line_of[rng.choice(base.leaves())]
    return made("duplicate key", [*base.lines[:line], base.lines[line - 1], *base.lines[line:]], line + 1)


@line_mutator
def tab(base: Base, rng: random.Random) -> Mutant:
    """A line indented by a tab."""
    lines = list(base.lines)
    line = base.line_of[rng.choice([path for path in base.leaves() if len(path) > 1])]
    lines[line - 1] = "\t" + lines[line - 1].lstrip()
    return made("tab", lines, line)


@line_mutator
def indentation(base: Base, rng: random.Random) -> Mutant:
    """A line one column too far to the right or to the left."""
    lines = list(base.lines)
    line = base.line_of[rng.choice([path for path in base.leaves() if len(path) > 1])]
    lines[line - 1] = rng.choice([" " + lines[line - 1], lines[line - 1][1:]])
    # A line one column to the left may take the next one for its continuation.
    return Mutant("indentation", "\n".join(lines).encode(), line, line + 1)


@line_mutator
def code_key(base: Base, rng: random.Random) -> Mutant:
    """A key by which Hydra would call what it names."""
    path = rng.choice(base.leaves())
    line = base.line_of[path]
    indent = re.match(r" *", base.lines[line - 1])
    assert indent is not None
    key = rng.choice(["_target_: os.system", "_partial_: true", "_args_: [id]", "_recursive_: true", "_convert_: all"])
    return made("code key", [*base.lines[: line - 1], indent.group() + key, *base.lines[line - 1 :]], line)


@line_mutator
def unknown_section(base: Base, rng: random.Random) -> Mutant:
    """A section at the root that the language doesn't have."""
    text = rng.choice(["hydra: {searchpath: [file:///tmp]}", "monitorin: {}", "model: x", "defalts: []", "<<: {a: 1}"])
    return made("unknown section", [*base.lines, text], len(base.lines) + 1)


@line_mutator
def list_for_mapping(base: Base, rng: random.Random) -> Mutant:
    """A list or a value where a mapping must be."""
    path = rng.choice(base.known(base.mappings()))
    line, lines = base.line_of[path], list(base.lines)
    indent = len(lines[line - 1]) - len(lines[line - 1].lstrip())
    end = next(
        (n for n, text in enumerate(lines[line:], line) if text.strip() and len(text) - len(text.lstrip()) <= indent),
        len(lines),
    )
    value = rng.choice(["[1, 2]", "7", "text", "null", "[]", "[{type: csv}]"])
    return made("list for mapping", [*lines[: line - 1], f"{lines[line - 1]} {value}", *lines[end:]], line)


@line_mutator
def whole_file(base: Base, rng: random.Random) -> Mutant:
    """Something about the file as a whole; what follows is the same spec."""
    text = "\n".join(base.lines) + "\n"
    first = text.encode()
    raw, line = rng.choice(
        [
            (b"\xef\xbb\xbf" + first, 1),
            (text.encode("utf-16"), 1),
            (b"%YAML 1.1\n---\n" + first, 2),
            (b"", 1),
            (b"# nothing\n", 1),
            (b"- a\n- b\n", 1),
            (first + b"---\nname: other\n", len(base.lines) + 1),
            (first.replace(b"\n", b"\r\n"), 1),
            (first + b"# " + b"x" * 1_000_000, 1),
            (b"spec: 2\n" + re.sub(rb"(?m)^spec: 1\n", b"", first), 1),
        ]
    )
    return Mutant("whole file", raw, line)


def mutants(bases: list[Base], count: int, seed: int) -> Iterator[Mutant]:
    """``count`` mutants, the kinds in turn."""
    rng = random.Random(seed)
    kinds = list(MUTATORS.values())
    for number in range(count):
        yield kinds[number % len(kinds)](bases[(number // len(kinds)) % len(bases)], rng)
