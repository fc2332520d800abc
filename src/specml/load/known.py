"""What the language allows at a path: read off the annotations of the blocks."""

from __future__ import annotations

from inspect import isclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from specml.component import Block, Component
from specml.spec import Spec
from specml.values import Secret

if TYPE_CHECKING:
    from specml.document import Path


def members(annotation: Any) -> tuple[Any, ...]:
    """What a value may be: the members of a union, None left out and ``Annotated`` unwrapped."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for each in get_args(annotation) for inner in members(each))
    return () if annotation is NoneType else (annotation,)


def is_kind(annotation: Any) -> bool:
    """Whether it is a kind: a block of one of many types."""
    return isclass(annotation) and issubclass(annotation, Component) and "table" in vars(annotation)


def inside(annotation: Any, key: str | int, node: Any) -> Any:
    """What may stand under ``key`` of a value ``node`` that is typed by ``annotation``; None where nothing is known."""
    for member in members(annotation):
        block = member.table.get(type_of(node)) if is_kind(member) else member
        if isclass(block) and issubclass(block, Block):
            field = block.model_fields.get(str(key))
            if field is not None:
                return field.annotation
        elif get_origin(block) is dict and isinstance(key, str):
            return get_args(block)[1]
        elif get_origin(block) in (tuple, list) and isinstance(key, int):
            return get_args(block)[0]
    return None


def at(path: Path, tree: Any) -> Any:
    """What may stand at ``path`` of ``tree``; None where nothing is known."""
    annotation: Any = Spec
    for key in path:
        annotation = inside(annotation, key, tree)
        tree = child(tree, key)
    return annotation


def child(node: Any, key: str | int) -> Any:
    """What stands under ``key``; None where nothing does."""
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, (list, tuple)) and isinstance(key, int) and -len(node) <= key < len(node):
        return node[key]
    return None


def found(path: Path, tree: Any) -> Any:
    """What stands at ``path``; None where nothing does."""
    for key in path:
        tree = child(tree, key)
    return tree


def type_of(node: Any) -> Any:
    """The ``type`` that a component's mapping names."""
    name = node.get("type") if isinstance(node, dict) else node
    return name if isinstance(name, str) else None


def keys(path: Path, tree: Any) -> list[str]:
    """The keys known in the block at ``path``; empty where any key may stand."""
    node = found(path, tree)
    names: list[str] = []
    for member in members(at(path, tree)):
        block = member.table.get(type_of(node)) if is_kind(member) else member
        if isclass(block) and issubclass(block, Block):
            names += block.model_fields
    return names


def is_component(path: Path) -> bool:
    """Whether a block picked by its ``type`` stands at ``path``."""
    return any(is_kind(member) for member in members(at(path, {})))


def is_secret(path: Path, tree: Any) -> bool:
    """Whether a secret is wanted at ``path``."""
    return Secret in members(at(path, tree))
