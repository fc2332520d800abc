"""What a spec names of its plug-ins: a function or class, as ``package.module:name``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import traceback
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from specml.component import Disagreement
from specml.errors import SpecmlError, StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from specml.spec import Spec

Place = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
"""Where it lies, as ``package.module:name``."""


def unplugged(spec: Spec, place: str, key: str) -> Iterator[Disagreement]:
    """That what the option ``key`` names lies in no plug-in of the spec, or is not there."""
    module, _, name = place.partition(":")
    if not any(module == plugin or module.startswith(f"{plugin}.") for plugin in spec.plugins):
        what, hint = f"lies in {module!r}, which is no plug-in of this spec.", f"Say plugins: [{module}]"
        yield Disagreement(key=(key,), what=what, hint=hint)
        return
    try:
        made = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # the plug-in's own code may fail in any way
        yield Disagreement(key=(key,), what=f"can't be imported: {type(error).__name__}: {error}")
        return
    if not callable(made):
        yield Disagreement(key=(key,), what=f"{module!r} has no function or class {name!r}.")


def found(place: str) -> Callable[..., Any]:
    """What a place names; its package is imported now, unless it was before."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def called(found: Callable[..., Any], *arguments: Any, options: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """What it returns, called with ``arguments`` and ``options`` and, where it has parameters so named, ``offered``."""
    asked = {key: offered[key] for key in inspect.signature(found).parameters if key in offered}
    listed = {key: list(one) if isinstance(one, tuple) else one for key, one in options.items()}
    return found(*arguments, **(asked | listed))


@contextlib.contextmanager
def blamed(where: str) -> Iterator[None]:
    """Tell of an error in the user's code as his; its text may hold values of rows, so only the log has it.

    Raises:
        StageFailed: there was one.
    """
    try:
        yield
    except (SpecmlError, MemoryError):
        raise
    except Exception as error:
        traceback.print_exc()
        what = f"ended in a {type(error).__name__}; the stage's log in .specml/log says where."
        raise StageFailed(what, where=where) from error
