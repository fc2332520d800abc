"""Conditions of the user's own: what they may return, what is refused, and that they can do no harm."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from specml.errors import StageFailed
from specml.evidence import Champion
from specml.gates.custom import CustomGate
from specml.metrics import bootstrap
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.evidence import Evidence


def gate(name: str, options: dict[str, Any] | None = None, **others: Any) -> CustomGate:
    return CustomGate(function=f"tests.models.checks:{name}", options=options or {}, **others)


def test_a_number_for_each_row_is_judged_on_its_bootstrap_interval(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    held = gate("error", max=0.5).check(evidence)
    errors = np.abs(evidence.scores - evidence.y)
    reference = bootstrap(lambda rows: float(errors[rows].mean()), len(errors), 0.95, evidence.seed)
    assert held.outcome == "holds"
    assert held.value == pytest.approx(errors.mean())
    assert held.interval == reference
    assert held.rows == ()
    assert reference is not None
    between = (errors.mean() + reference.high) / 2  # the mean itself would pass
    refused = gate("error", max=between).check(evidence)
    assert refused.outcome == "refused"
    assert len(refused.rows) == 50
    assert refused.rows[0] == int(np.argmax(errors))
    # A model that knows less, of the same rows, is refused where this one is admitted.
    worse = replace(evidence, scores=np.random.default_rng(0).permutation(evidence.scores))
    assert gate("error", max=0.35).check(evidence).outcome == "holds"
    assert gate("error", max=0.35).check(worse).outcome == "refused"
    assert gate("error", {"scale": 2.0}, min=0.1).check(evidence).outcome == "holds"


def test_a_number_with_its_own_interval(real: Callable[[str], Evidence]) -> None:
    evidence = replace(real("binary"), seed=10)
    held = gate("undecided", max=0.9).check(evidence)
    assert held.interval is not None
    assert held.value is not None
    assert held.interval.high - held.value == pytest.approx(0.095)
    assert gate("undecided", max=held.value).check(evidence).outcome == "refused"
    assert gate("undecided", min=held.value - 0.2).check(evidence).outcome == "holds"


def test_a_number_that_was_counted(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    held = gate("columns", max=5).check(evidence)
    assert (held.outcome, held.value, held.interval, held.threshold) == ("holds", 5.0, None, "≤ 5")
    assert gate("columns", max=4).check(evidence).reason == "columns is 5, without an interval, and is not ≤ 4."
    assert gate("columns", min=6).check(evidence).outcome == "refused"


def test_what_it_concludes_itself(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    held, refused = (gate("said", {"holds": one}).check(evidence) for one in (True, False))
    assert (held.outcome, refused.outcome) == ("holds", "refused")
    assert held.reason == "one sentence with 2 figures."
    assert (held.n, held.threshold) == (len(evidence.y), "as said says")
    assert gate("verdict").check(evidence).outcome == "holds"
    assert gate("verdict", {"value": 0.0}).check(evidence).outcome == "not measured"


def test_what_can_not_be_measured_is_not(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert gate("fails").check(evidence.only(np.arange(0))).outcome == "not measured"
    assert gate("error", max=1).check(evidence.only(np.arange(99))).outcome == "not measured"
    assert gate("returns", {"what": "nan"}, max=1).check(evidence).outcome == "not measured"
    verdict = gate("returns", {"what": "nans"}, max=1).check(evidence)
    assert (verdict.outcome, verdict.reason) == ("not measured", "returns is not finite for 1 of 1,200 rows.")


WRONG: dict[str, tuple[CustomGate, str]] = {
    "a text": (gate("returns", {"what": "text"}, max=1), "returned a str, and not a Verdict"),
    "no sentence": (gate("returns", {"what": "bool"}), r"returned a bool, and not a Verdict, \(bool, sentence\)"),
    "too few rows": (gate("returns", {"what": "short"}, max=1), r"returned a ndarray of shape \(1199,\)"),
    "two columns": (gate("returns", {"what": "wide"}, max=1), r"of shape \(1200, 2\)"),
    "texts": (gate("returns", {"what": "texts"}, max=1), "returned a ndarray"),
    "a list": (gate("returns", {"what": "list"}, max=1), "returned a list"),
    "nothing": (gate("returns", {"what": "nothing"}, max=1), "returned a NoneType"),
    "crossed ends": (gate("returns", {"what": "crossed"}, max=1), "lower end is above"),
    "a number without a bound": (gate("returns", {"what": "number"}), "neither min nor max"),
    "a bound without a number": (gate("verdict", max=1), "max has no effect"),
    "no reason": (gate("said", {"holds": True, "why": " "}), "says not why"),
    "an error": (gate("fails", max=1), "ended in a ValueError; the stage's log"),
    "a wrong option": (gate("error", {"what": 1}, max=1), "ended in a TypeError"),
    "writing to the evidence": (gate("writes", max=1), "ended in a ValueError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_verdict_ends_the_stage(real: Callable[[str], Evidence], case: str) -> None:
    wrong, told = WRONG[case]
    with pytest.raises(StageFailed, match=told) as error:
        wrong.check(real("binary"))
    assert error.value.where == wrong.function
    assert "secret" not in str(error.value)


def test_it_is_given_what_it_asks_for(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    evidence = replace(evidence, champion=lambda: Champion("sha256:0", evidence.scores, evidence.decisions))
    assert gate("asks").check(evidence).reason == "given nothing."
    both = gate("asks", asks=("training", "champion"))
    assert both.check(evidence).reason == "given training and champion."
    assert (both.reads_training, both.against_champion, both.asks_server) == (True, True, False)


def test_the_plan_has_what_it_asks_for() -> None:
    from specml.stages import champion, prepare
    from specml.stages.validate import SERVING, declare

    own = {"type": "custom", "function": "tests.models.checks:asks"}
    plain = declare(spec_of(gates={"own": own}, plugins=("tests.models",)))
    own |= {"asks": ("training", "champion", "server"), "reads": ("limits.yaml",)}
    asking = declare(spec_of(gates={"own": own}, plugins=("tests.models",)))
    assert set(asking.deps) - set(plain.deps) == {champion.OUT, prepare.TRAIN, "limits.yaml"}
    assert set(asking.params) - set(plain.params) == set(SERVING)


@pytest.mark.parametrize(
    ("function", "plugins", "told"),
    [
        ("tests.models.checks:error", (), "is no plug-in of this spec"),
        ("os:system", ("tests.models",), "lies in 'os', which is no plug-in"),
        ("tests.models.checks:absent", ("tests.models",), "has no function or class 'absent'"),
        ("tests.models.checks:number", ("tests.models",), "has no function or class 'number'"),
        ("tests.models.gone:check", ("tests.models",), "can't be imported: ModuleNotFoundError"),
    ],
)
def test_only_what_the_plug_ins_hold_is_called(function: str, plugins: tuple[str, ...], told: str) -> None:
    spec = spec_of(gates={"own": {"type": "custom", "function": function}}, plugins=plugins)
    (found,) = spec.contradictions()
    assert found.key == ("gates", "own", "function")
    assert told in found.what


def test_only_one_bound() -> None:
    with pytest.raises(ValidationError, match="min or max, not both"):
        gate("error", min=0, max=1)


def test_its_table_is_its_own(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.rows is not None
    columns = evidence.rows.columns
    gate("spoils", max=1e9).check(evidence)
    assert evidence.rows.columns == columns
