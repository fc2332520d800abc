"""This machine, by Ray Serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import override

from pydantic import Field

from specml.kinds import Deployment, Target

if TYPE_CHECKING:
    from specml.spec import Spec


class Local(Target):
    """A Ray Serve cluster of this machine's own, bound to loopback."""

    type: Literal["local"] = "local"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Where HTTP is answered, on 127.0.0.1."""

    @override
    def emit(self, spec: Spec) -> dict[str, str]:
        raise NotImplementedError

    @override
    def deploy(self, spec: Spec, project: Path, say: Callable[[str], None]) -> Deployment:
        raise NotImplementedError

    @override
    def status(self, spec: Spec, project: Path) -> Deployment | None:
        raise NotImplementedError

    @override
    def stop(self, project: Path) -> bool:
        raise NotImplementedError
