"""The server's answers beside the graph's; the graph's beside the library's are in ``tests/unit/test_gates.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.errors import StageFailed
from specml.gates.parity import Parity
from tests.gates.conftest import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from specml.evidence import Answers, Evidence


@pytest.mark.parametrize("task", TASKS)
def test_the_server_says_what_the_graph_does(real: Callable[[str], Evidence], task: str) -> None:
    verdict = Parity(served=True).check(real(task))
    assert verdict.outcome == "holds"
    assert verdict.reason.endswith("; served, 0 of 1,200 do.")


@pytest.mark.parametrize(
    "bend",
    [
        lambda found: found._replace(scores=found.scores + np.eye(1, len(found.scores), 7)[0] * 1e-3),
        lambda found: found._replace(decisions=np.where(np.arange(len(found.decisions)) == 7, 1 - found.decisions, 1)),
        lambda found: found._replace(scores=np.where(np.arange(len(found.scores)) == 7, np.nan, found.scores)),
    ],
)
def test_a_server_that_says_otherwise_is_refused(real: Callable[[str], Evidence], bend: Callable[..., Any]) -> None:
    evidence = real("binary")
    assert evidence.model is not None
    sound = evidence.model.served()

    class Bent:
        def served(self) -> Bent:
            return self

        def answer(self, rows: pl.DataFrame) -> Answers:
            found: Answers = bend(sound.answer(rows))
            return found

    bent: Any = Bent()
    verdict = Parity(served=True).check(replace(evidence, model=bent))
    assert verdict.outcome == "refused"
    assert 7 in verdict.rows
    assert Parity().check(replace(evidence, model=bent)).outcome == "holds"


def test_a_server_that_does_not_answer_is_refused(real: Callable[[str], Evidence]) -> None:
    class Lost:
        def served(self) -> Any:
            raise StageFailed("the bundle's server does not come up.")

    lost: Any = Lost()
    evidence = real("binary")
    assert Parity(served=True).check(replace(evidence, model=lost)).outcome == "refused"
    assert Parity(served=True).check(replace(evidence, model=None)).outcome == "not measured"
    assert (Parity(served=True).asks_server, Parity().asks_server) == (True, False)
