"""A spec as YAML with a remark behind what was guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from specml.load.render import flow, scalar

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

ALIGNED = 76
"""Columns up to which the remarks of a block stand below each other."""
LINE = 120
"""Columns; a remark that goes beyond stands above its line."""
REVIEW = "review: "


@dataclass(frozen=True)
class Remark:
    """What stands behind a key; ``review``: a person should look at it."""

    words: str
    review: bool = True

    @override
    def __str__(self) -> str:
        return f"{REVIEW if self.review else ''}{self.words}"


Keys = tuple[str, ...]


def yaml(tree: Mapping[str, Any], remarks: Mapping[Keys, Remark], head: Iterable[str], blocks: Container[Keys]) -> str:
    """``tree`` as YAML; ``remarks`` by the keys that they stand behind.

    A mapping whose keys are among ``blocks``, or that is too long for a line, is written out line by line.
    """
    lines = [f"# {line}" for line in head]
    for key, value in tree.items():
        if isinstance(value, dict):
            lines.append("")
        lines += _block({key: value}, (), remarks, blocks)
    return "\n".join(lines) + "\n"


def _block(tree: Mapping[str, Any], above: Keys, remarks: Mapping[Keys, Remark], blocks: Container[Keys]) -> list[str]:
    indent, out = "  " * len(above), list[str]()
    texts = {key: f"{indent}{scalar(key)}: {flow(value)}" for key, value in tree.items()}
    opened = [
        key
        for key, value in tree.items()
        if (*above, key) in blocks or (isinstance(value, dict) and value and len(texts[key]) > LINE)
    ]
    texts |= {key: f"{indent}{scalar(key)}:" for key in opened}
    told = {key: str(remarks[*above, key]) for key in tree if (*above, key) in remarks}
    width = max((len(texts[key]) for key in told if len(texts[key]) <= ALIGNED), default=0)
    for key, value in tree.items():
        out += _told(texts[key], told.get(key, ""), width, indent)
        if key in opened:
            out += _block(value, (*above, key), remarks, blocks)
    return out


def _told(text: str, remark: str, width: int, indent: str) -> list[str]:
    """A line with its remark: below those of the other lines, just behind it, or above it, where there is room."""
    if not remark:
        return [text]
    behind = (f"{text:<{width}}  # {remark}", f"{text}  # {remark}")
    return next(([line] for line in behind if len(line) <= LINE), [f"{indent}# {remark}", text])
