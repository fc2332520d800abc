"""What every component owes, of whatever kind."""

from __future__ import annotations

import pytest

import specml.spec  # noqa: F401 - fills the tables
from specml.component import Component, kinds

ALL = [
    pytest.param(component, id=f"{kind.__name__}-{name}")
    for kind in kinds()
    for name, component in sorted(kind.table.items())
]


def test_the_seven_kinds() -> None:
    assert [kind.__name__ for kind in kinds()] == ["Source", "Feature", "Candidate", "Gate", "Signal", "Rule", "Target"]


@pytest.mark.parametrize("component", ALL)
def test_it_says_what_it_is(component: type[Component]) -> None:
    assert component.__doc__, "a component's docstring is its page in the reference"
    assert component.__abstractmethods__ == frozenset()


@pytest.mark.parametrize("component", ALL)
def test_its_file_is_named_as_its_type_or_lies_in_its_kinds_folder(component: type[Component]) -> None:
    folder, file = component.__module__.split(".")[-2:]
    assert folder in {"sources", "features", "candidates", "gates", "signals", "rules", "targets"}
    assert component.model_fields["type"].default == file


@pytest.mark.parametrize("component", ALL)
def test_every_option_with_a_range_or_a_choice_is_explained(component: type[Component]) -> None:
    plain = {"type", "max_iter", "learning_rate", "num_leaves", "separator"}
    silent = [name for name, field in component.model_fields.items() if not field.description and name not in plain]
    assert silent == []


def test_a_type_can_be_taken_only_once() -> None:
    from typing import Literal

    from specml.gates.parity import Parity

    with pytest.raises(TypeError, match="type 'parity' is taken by Parity"):

        class Other(Parity):
            type: Literal["parity"] = "parity"
