"""A guess at what an invalid spec means, so that its contradictions can be told together with its faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specml.document import Path
from specml.load import known, wording

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOUNDATIONS = ("problem", "data")
"""Sections that all others are checked against."""


@dataclass
class Repaired:
    """A tree whose faults were replaced by what they are nearest to, or left out where nothing is near."""

    tree: Any
    left_out: list[Path] = field(default_factory=list)

    def trusts(self, path: Path) -> bool:
        """Whether a contradiction at ``path`` is the spec's own, and not of what was left out."""
        return not any(out[:1] == path[:1] or out[0] in FOUNDATIONS for out in self.left_out)


def repaired(tree: Any, errors: Iterable[Mapping[str, Any]]) -> Repaired:
    """What ``tree`` may have been meant to be."""
    found = Repaired(_copy(tree))
    for path, error in {wording.path_of(error, tree): error for error in errors}.items():
        parent = found.tree
        for key in path[:-1]:
            parent = known.child(parent, key)
        if not isinstance(parent, dict) or path[-1] not in parent:
            continue
        how, word = _guess(path, error, tree)
        value = parent.pop(path[-1])
        if how == "key":
            parent[word] = value
        elif how == "type" and isinstance(value, dict):
            parent[path[-1]] = {**value, "type": word}
        elif how in ("value", "type"):
            parent[path[-1]] = word
        elif not how:
            found.left_out.append(path)
    return found


def _guess(path: Path, error: Mapping[str, Any], tree: Any) -> tuple[str, str]:
    """What to change at ``path`` (key, value, type; surplus: nothing) and into what; empty when nothing is near."""
    kind, value = error["type"], error["input"]
    near: str | None = None
    if kind == "extra_forbidden":
        near = wording.closest(str(path[-1]), known.keys(path[:-1], tree))
        if near is None:
            return "", ""
        return ("key", near) if near not in known.found(path[:-1], tree) else ("surplus", "")
    if kind == "literal_error" and isinstance(value, str):
        near = wording.closest(value, wording.expected(error))
        return ("value", near) if near is not None else ("", "")
    if kind == "union_tag_invalid":
        kinds = [member for member in known.members(known.at(path, tree)) if known.is_kind(member)]
        near = wording.closest(str(known.type_of(value)), list(kinds[0].table))
        return ("type", near) if near is not None else ("", "")
    return "", ""


def _copy(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copy(item) for key, item in node.items()}
    return [_copy(item) for item in node] if isinstance(node, (list, tuple)) else node
