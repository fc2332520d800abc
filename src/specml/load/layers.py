"""Layers of a spec: what each file and each override sets, and which of them won."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.document import Path
from specml.load.known import found, is_component

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Layer:
    """What one file or one override sets."""

    mark: str
    tree: dict[str, Any]
    places: Mapping[Path, str]
    root: Path = ()
    """Above it, its mappings only lead to what it sets."""

    def holds(self, path: Path) -> Any:
        """The value that it sets at ``path``; None when it sets none."""
        return found(path, self.tree)

    def place(self, path: Path) -> str:
        """Where it does so: at the path itself, or at what it is written in."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path) or next(iter(self.places.values()))


def nested(path: Path, value: Any) -> dict[str, Any]:
    """A tree that holds ``value`` at ``path`` and nothing else."""
    for key in reversed(path):
        value = {str(key): value}
    return dict(value)


def long(tree: dict[str, Any], path: Path = ()) -> dict[str, Any]:
    """``gbm: lightgbm`` as ``gbm: {type: lightgbm}``, so that options can be merged into it."""
    return {key: _long(value, (*path, key)) for key, value in tree.items()}


def _long(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return long(value, path)
    return {"type": value} if isinstance(value, str) and "${" not in value and is_component(path) else value


def marked(node: Any, mark: str) -> Any:
    """The shape of a tree, with ``mark`` in the place of every value."""
    return {key: marked(item, mark) for key, item in node.items()} if isinstance(node, dict) else mark


def drop_old_variants(marks: dict[str, Any], path: Path, layers: list[Layer], ranks: Mapping[str, int]) -> None:
    """Where a later layer changes a ``type``, forget the options that earlier layers gave the old one."""
    if isinstance(marks.get("type"), str):
        cut, before = 0, None
        for layer in layers:
            now = layer.holds((*path, "type"))
            if isinstance(now, str):
                cut = ranks[layer.mark] if before not in (None, now) else cut
                before = now
        _forget(marks, cut, ranks)
    for key, node in marks.items():
        if isinstance(node, dict):
            drop_old_variants(node, (*path, key), layers, ranks)


def _forget(marks: dict[str, Any], cut: int, ranks: Mapping[str, int]) -> None:
    for key, node in list(marks.items()):
        if isinstance(node, dict) and node:
            _forget(node, cut, ranks)
            if not node:
                del marks[key]
        elif isinstance(node, str) and ranks[node] < cut:
            del marks[key]


def values(marks: dict[str, Any], path: Path, layers: list[Layer], origins: dict[Path, str]) -> dict[str, Any]:
    """The tree that the marks stand for; its origins go into ``origins``."""
    holders = [layer for layer in layers if isinstance(layer.holds(path), dict)]
    own = [layer for layer in holders if path[: len(layer.root)] == layer.root]
    if holders:
        origins[path] = (own or holders)[-1].place(path)
    tree: dict[str, Any] = {}
    for key, node in marks.items():
        here = (*path, key)
        if isinstance(node, dict):
            tree[key] = values(node, here, layers, origins)
        else:
            layer = next(layer for layer in layers if layer.mark == node)
            tree[key] = layer.holds(here)
            _place(tree[key], here, layer, origins)
    return tree


def _place(value: Any, path: Path, layer: Layer, origins: dict[Path, str]) -> None:
    origins[path] = layer.place(path)
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _place(item, (*path, key), layer, origins)
