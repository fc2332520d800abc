"""The stages, in the order of the lifecycle: each file holds what is declared to DVC beside what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from specml.stages import (
    champion,
    compare,
    explore,
    feasibility,
    fingerprint,
    guard,
    ingest,
    package,
    prepare,
    release,
    screen,
    select,
    train,
    validate,
)

if TYPE_CHECKING:
    from specml.plan import Stage
    from specml.spec import Spec
    from specml.stages.work import Work


class StageModule(Protocol):
    """What a file of this folder offers."""

    def declare(self, spec: Spec) -> Stage:
        """The stage as DVC sees it; pure."""

    def work(self, work: Work) -> None:
        """Do it: read only the declared dependencies and parameters, write only the declared outputs."""


STAGES: dict[str, StageModule] = {
    "guard": guard,
    "fingerprint": fingerprint,
    "ingest": ingest,
    "prepare": prepare,
    "explore": explore,
    "feasibility": feasibility,
    "screen": screen,
    "train": train,
    "select": select,
    "compare": compare,
    "package": package,
    "champion": champion,
    "validate": validate,
    "release": release,
}
