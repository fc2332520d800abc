"""What every rule owes: it only adds, adds nothing twice, says its date, and is pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from specml.compile import compile_plan, ruled_spec
from specml.compile.diff import differences
from specml.kinds import Rule
from specml.load import load
from specml.plan import Plan
from specml.spec import Spec
from tests.conftest import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

COMPLIES = {"gdpr": EXAMPLES / "loans"}
"""By rule, a project that complies with it, and would be another without it."""

RULES = [name for name in sorted(Rule.table) if Rule.table[name].__module__.startswith("specml.")]


@pytest.fixture(params=RULES)
def both(request: pytest.FixtureRequest) -> tuple[Rule, Plan, Plan]:
    """A rule, and the plan of a spec without and with it."""
    spec = load(COMPLIES[request.param]).spec
    (rule,) = spec.compliance.rules.values()
    assert rule.type == request.param  # type: ignore[attr-defined]
    bare = spec.model_copy(update={"compliance": spec.compliance.model_copy(update={"rules": {}})})
    return rule, compile_plan(bare), compile_plan(spec)


@pytest.mark.parametrize("name", RULES)
def test_it_says_what_it_encodes_and_as_of_when(name: str) -> None:
    rule: Any = Rule.table[name]
    assert re.search(r"\d{4}-\d{2}-\d{2}", rule.text)


def test_applying_it_twice_adds_nothing(both: tuple[Rule, Plan, Plan]) -> None:
    rule, without, _ = both
    once = rule.apply(without)
    assert once != without
    assert rule.apply(once) == once


def test_it_is_pure(both: tuple[Rule, Plan, Plan]) -> None:
    rule, without, _ = both
    before = repr(without)
    assert rule.apply(without) == rule.apply(replace(without))
    assert repr(without) == before


def test_it_takes_nothing_away(both: tuple[Rule, Plan, Plan]) -> None:
    rule, without, _ = both
    under = rule.apply(without)
    assert [stage.name for stage in under.stages] == [stage.name for stage in without.stages]
    for before, after in zip(without.stages, under.stages, strict=True):
        for part in ("params", "deps", "outs", "metrics", "plots", "keys"):
            assert set(getattr(before, part)) <= set(getattr(after, part))
    gates: Callable[[Plan], dict[str, Any]] = lambda plan: plan.params["gates"]  # type: ignore[assignment,return-value]  # noqa: E731
    assert gates(without).items() <= gates(under).items()
    assert set(without.obligations) <= set(under.obligations)
    # Of the values that the spec has, a rule changes this one only, to the stricter of its two.
    changed = {key for key, old, new in differences(without.params, under.params) if old is not None}
    assert changed <= {"data.undeclared"}


def test_a_compiled_plan_compiles_to_itself(both: tuple[Rule, Plan, Plan]) -> None:
    """What stands in params.yaml is a spec again, and the stages declare the same from it."""
    *_, plan = both
    again = compile_plan(Spec.model_validate(ruled_spec(plan.params)))
    assert again == plan


def test_the_plan_is_another_with_the_rule(both: tuple[Rule, Plan, Plan]) -> None:
    _, without, under = both
    assert without.params != under.params
    assert without.stages != under.stages
    assert (without.obligations == ()) == bool(under.obligations)
