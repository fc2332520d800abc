"""Which settings of a candidate a search may try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from specml.component import Block, Component, Disagreement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Setting = bool | int | float | str | None
Some = TypeVar("Some", bound=Component)


class Dimension(Block):
    """The values of one option: a range, or some choices."""

    low: int | float | None = None
    """Smallest value; with a whole ``high`` and an option of whole numbers, only whole numbers are tried."""
    high: int | float | None = None
    """Largest value."""
    log: bool = False
    """Try orders of magnitude equally often; ``low`` must be above 0."""
    choices: tuple[Setting, ...] = ()
    """Every value to be tried, in place of a range."""

    @property
    def ends(self) -> tuple[Setting, ...]:
        """Values that the option must take for all others to be possible."""
        return self.choices or (self.low, self.high)

    def faults(self) -> Iterator[str]:
        """What is wrong with it by itself."""
        ranged = self.low is not None or self.high is not None or self.log
        if self.choices and ranged:
            yield "has choices and a range: name one of the two."
        elif not self.choices and (self.low is None or self.high is None):
            yield "needs low and high, or choices."
        elif self.low is not None and self.high is not None:
            if self.low >= self.high:
                yield f"low is {self.low}, not below high ({self.high})."
            elif self.log and self.low <= 0:
                yield f"low is {self.low}: on a logarithmic scale it must be above 0."


def with_settings(component: Some, settings: Mapping[str, Setting]) -> Some:
    """``component`` with other options; ``a.b`` is the key ``b`` of the mapping ``a``.

    Raises:
        ValidationError: an option does not take its value.
    """
    content = component.model_dump()
    for name, value in settings.items():
        option, _, key = name.partition(".")
        if key:
            content[option] = {**content[option], key: value}
        else:
            content[option] = value
    return type(component).model_validate(content)


def setting(component: Component, name: str) -> Setting:
    """The value of an option, named as in ``with_settings``; None for a key that its mapping lacks."""
    option, _, key = name.partition(".")
    value: Any = getattr(component, option)
    found: Setting = value.get(key) if key else value
    return found


def takes(component: Component, name: str, value: Setting) -> str:
    """Why an option does not take a value; empty where it does."""
    try:
        with_settings(component, {name: value})
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return ""


def whole(component: Component, name: str, dimension: Dimension) -> bool:
    """Whether only whole numbers lie in a range: both ends are, and the option takes none between."""
    if not (isinstance(dimension.low, int) and isinstance(dimension.high, int)):
        return False
    return "." in name or bool(takes(component, name, dimension.low + 0.5))


def disagreements(component: Component, space: Mapping[str, Dimension]) -> Iterator[Disagreement]:
    """What in ``space`` the component's options refuse; keys are relative to the component."""
    fields = type(component).model_fields
    known = [name for name in fields if name not in ("type", "space")]
    for name, dimension in space.items():
        option, _, key = name.partition(".")
        path = ("space", name)
        if option not in known or (key and not isinstance(getattr(component, option), dict)):
            yield Disagreement(key=path, what="is no option of this type.", hint=f"Known: {', '.join(known)}.")
            continue
        faults = list(dimension.faults())
        yield from (Disagreement(key=path, what=fault) for fault in faults)
        for value in () if faults else dimension.ends:
            refusal = takes(component, name, value)
            if refusal:
                yield Disagreement(key=path, what=f"the option does not take {value!r}: {refusal.lower()}.")
