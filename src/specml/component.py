"""Blocks of a spec, and components: blocks that are picked by their ``type``.

A component *is* its own schema: a frozen pydantic class whose fields are the YAML keys,
whose field docstrings document those keys, and whose methods are the behaviour. Defining
the class registers it in its kind's table; nothing else has to be kept in step.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import core_schema
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from specml.spec import Spec


class Block(BaseModel):
    """Any part of the spec: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Disagreement(BaseModel):
    """A value that is valid by itself but not beside the rest of the spec."""

    model_config = ConfigDict(frozen=True)

    key: tuple[str | int, ...]
    """Where it stands, from the block that reports it."""
    what: str
    hint: str = ""
    from_root: bool = False
    """``key`` is a path from the root of the spec."""


class Component(Block, ABC):
    """A block picked by its ``type``; direct subclasses are the kinds.

    Fields are frozen and validated strictly: a list of the language is a ``tuple[…]`` here, never a ``list``.
    """

    table: ClassVar[dict[str, type[Component]]]

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Component in cls.__bases__:
            cls.table = {}
        elif "type" in cls.model_fields:
            (name,) = get_args(cls.model_fields["type"].annotation)
            if cls.table.setdefault(name, cls) is not cls:
                raise TypeError(f"{cls.__qualname__}: type {name!r} is taken by {cls.table[name].__qualname__}")

    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        """What in this component contradicts the rest of ``spec``."""
        return ()


class ByType:
    """Annotation: validate a kind as a union that its ``type`` discriminates.

    ``{type: lightgbm}`` and, where every option has a default, plain ``lightgbm`` mean the same.
    ``default``: the type of a mapping that names none.
    """

    def __init__(self, default: str = "") -> None:
        self.default = default

    def _long(self, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value}
        if self.default and isinstance(value, dict):
            return {"type": self.default, **value}
        return value

    def __get_pydantic_core_schema__(
        self, kind: type[Component], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        choices = {name: handler.generate_schema(kind.table[name]) for name in sorted(kind.table)}
        if not choices:
            return core_schema.is_instance_schema(kind)
        union = core_schema.tagged_union_schema(choices, discriminator="type")
        short = [
            name for name in choices if not any(field.is_required() for field in kind.table[name].model_fields.values())
        ]
        return core_schema.no_info_before_validator_function(
            self._long,
            union,
            json_schema_input_schema=core_schema.union_schema([union, core_schema.literal_schema(short)])
            if short
            else union,
        )


def kinds() -> Iterator[type[Component]]:
    """The kinds, in the order of their definition."""
    for kind in Component.__subclasses__():
        if "table" in vars(kind):
            yield kind


def load_plugins(names: Iterable[str], folder: Path) -> None:
    """Import third-party components: every installed entry point of the group ``specml``, then ``names``.

    Importing a plug-in runs its code. The installed ones were trusted by who installed them; of the project's
    files only ``names``, the spec's ``plugins``, are imported. ``folder`` (the project's) comes last on the path,
    so that a user's own package needs no installation and none of his files takes the place of a library.

    Raises:
        ImportError: a plug-in can't be imported.
    """
    for entry in sorted(entry_points(group="specml"), key=lambda e: (e.name, e.value)):
        entry.load()
    if names and str(folder) not in sys.path:
        sys.path.append(str(folder))
    for name in names:
        importlib.import_module(name)
