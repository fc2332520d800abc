"""Values that the spec language adds to YAML's: names, secrets and durations."""

from __future__ import annotations

import math
import os
import re
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, Field, GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import override

from specml.errors import SpecmlError

if TYPE_CHECKING:
    from collections.abc import Iterator

Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A name that people give to a part: lower case, digits, underscores; it names files, stages and overrides."""

Person = Annotated[str, Field(min_length=1, max_length=200)]
"""Who answers for something: an address or a name, as it is given to ``specml approve --as``."""

Label = str | int | float | bool


class Secret:
    """``${secret:NAME}``: the value of the environment variable NAME, read at the moment of use.

    Only the reference is ever kept, printed or written.
    """

    PATTERN: ClassVar[re.Pattern[str]] = re.compile(r"^\$\{secret:([A-Za-z_][A-Za-z0-9_]*)\}$")

    def __init__(self, reference: str) -> None:
        match = self.PATTERN.match(reference)
        if match is None:
            raise ValueError(reference)
        self.reference = reference
        self.name = match.group(1)

    def value(self, where: str, hint: str = "") -> str:
        """What the environment holds now; for the moment of use only.

        Raises:
            SpecmlError: it holds nothing; ``where`` is told, and how to mend it.
        """
        found = os.environ.get(self.name, "")
        if not found:
            raise SpecmlError(f"the environment variable {self.name} is not set.", where=where, hint=hint)
        return found

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reference == self.reference

    @override
    def __hash__(self) -> int:
        return hash(self.reference)

    @override
    def __repr__(self) -> str:
        return self.reference

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def parse(value: Any) -> Secret:
            if isinstance(value, Secret):
                return value
            if isinstance(value, str) and cls.PATTERN.match(value):
                return cls(value)
            raise PydanticCustomError("secret", "must be a reference like ${secret:NAME}, never the secret itself.")

        return core_schema.no_info_before_validator_function(
            parse,
            core_schema.is_instance_schema(cls),
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=cls.PATTERN.pattern),
        )

    @override
    def __str__(self) -> str:
        return self.reference


def secrets(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Secret]]:
    """Every secret in a part of a spec, each with where it stands."""
    if isinstance(value, Secret):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from secrets(item, (*path, str(name)))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from secrets(item, (*path, str(index)))


class Duration(float):
    """Seconds, written as ``250ms``, ``30s``, ``10m``, ``2h`` or ``7d``."""

    UNITS: ClassVar[dict[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

    PATTERN: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)$", re.ASCII)

    @classmethod
    def parse(cls, text: str) -> Duration | None:
        """The duration that ``text`` says; None when it says none."""
        match = cls.PATTERN.fullmatch(text)
        seconds = float(match.group(1)) * cls.UNITS[match.group(2)] if match else math.inf
        return cls(seconds) if math.isfinite(seconds) else None

    @override
    def __str__(self) -> str:
        """The shortest way to say it that is read back as the same number."""
        for unit in ("d", "h", "m", "s"):
            count = round(float(self) / self.UNITS[unit])
            if count and self.parse(text := f"{count}{unit}") == self:
                return text
        if self.parse(text := f"{float(self) * 1000:.12g}ms") == self:
            return text
        return f"{Decimal(repr(float(self))):f}s"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def parse(value: Any) -> Duration:
            if isinstance(value, Duration):
                return value
            found = cls.parse(value) if isinstance(value, str) else None
            if found is None:
                raise PydanticCustomError("duration", "must be a duration like 250ms, 30s, 10m, 2h or 7d.")
            return found

        return core_schema.no_info_before_validator_function(
            parse,
            core_schema.is_instance_schema(cls),
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$"),
        )


def at_most(limit: str) -> AfterValidator:
    """Annotation: a duration no longer than ``limit``."""
    longest = Duration.parse(limit)
    assert longest is not None

    def check(value: Duration) -> Duration:
        if value > longest:
            raise PydanticCustomError("too_long_a_duration", "must be at most {limit}.", {"limit": limit})
        return value

    return AfterValidator(check)


def _day(text: str) -> str:
    try:
        known = date.fromisoformat(text).isoformat() == text
    except ValueError:
        known = False
    if not known:
        raise PydanticCustomError("day", "must be a date like 2026-12-31.")
    return text


Day = Annotated[str, AfterValidator(_day), Field(json_schema_extra={"format": "date"})]
"""A date, written as ``2026-12-31``."""


def _file(path: str) -> str:
    if not path or path.endswith(("/", ".")):
        raise PydanticCustomError("file", "must be the path of a file.")
    return path


FilePath = Annotated[str, AfterValidator(_file)]
"""A file, relative to the project folder."""


def _ascii(character: str) -> str:
    if not character.isascii():
        raise PydanticCustomError("ascii", "must be an ASCII character.")
    return character


Separator = Annotated[str, Field(min_length=1, max_length=1), AfterValidator(_ascii)]
"""What stands between two values of a line."""
