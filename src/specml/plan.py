"""The plan: what will be done. Frozen values, no logic, no input or output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from typing_extensions import override


@dataclass(frozen=True)
class Stage:
    """One DVC stage.

    Paths are relative to the project folder and use ``/``; ``params`` are dotted keys of params.yaml,
    the only part of the spec that the stage's work may read.
    """

    name: str
    summary: str
    params: tuple[str, ...] = ()
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    each: str = ""
    """The spec's map that the stage is repeated over (``candidates``); ``${key}`` in the paths is its key."""
    keys: tuple[str, ...] = ()
    items: dict[str, str] = field(default_factory=dict)
    """By key, what ``${item}`` in the paths stands for; where given, the stage is repeated over these."""
    always: bool = False
    """Whether it is done at each run: what it looks at is not DVC's to see."""
    keeps: bool = False
    """Whether its outputs are still there when it runs again."""


@dataclass(frozen=True)
class Plot:
    """A data file that ``dvc plots`` draws with one of its stock templates."""

    path: str
    template: str
    x: str
    y: str
    title: str


@dataclass(frozen=True)
class Obligation:
    """What a rule demands of whatever serves the model and keeps its data.

    The names are closed, for each is acted on: ``capture_retention`` and ``data_retention`` (durations, as the spec
    writes them) by server and ``specml watch``, which delete what is older; the others are told with every answer.
    """

    name: Literal["capture_retention", "data_retention", "automated_decision", "human_review", "contest"]
    value: str
    source: str
    """What demands it: article and paragraph."""

    @property
    def told(self) -> bool:
        """Whether every answer says it."""
        return not self.name.endswith("_retention")

    @override
    def __str__(self) -> str:
        """Its value and source, as a release and people are told."""
        return f"{self.value} ({self.source})"


@dataclass(frozen=True)
class Plan:
    """Everything that one spec compiles to, before any of it is written."""

    name: str
    stages: tuple[Stage, ...]
    params: dict[str, object] = field(default_factory=dict)
    """The content of params.yaml: the spec with every default, and with what its rules add."""
    obligations: tuple[Obligation, ...] = ()
