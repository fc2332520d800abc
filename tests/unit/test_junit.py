"""Verdicts as JUnit XML, read back by a reader of its own."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from specml.errors import GateRefused, NotEnoughData
from specml.report.junit import xml

BOUNDS = {"low": 0.4, "high": 0.6, "confidence": 0.95, "method": "wilson"}


def verdict(outcome: str, **facts: Any) -> dict[str, Any]:
    base = {"type": "metric", "outcome": outcome, "value": 0.5, "interval": BOUNDS, "n": 100, "threshold": "≥ 0.8"}
    rest = {"level": "fail", "passes": outcome == "holds", "reason": f"it is {outcome}.", "slices": [], "rows": []}
    return {**base, **rest, **facts}


def read(content: bytes) -> Any:
    from junitparser import JUnitXml

    return JUnitXml.fromstring(content)


def test_a_refusal_fails_and_what_is_only_told_is_skipped() -> None:
    waiver = {"name": "pilot", "state": "used", "expires": "2999-12-31", "approver": "ann", "reason": "few rows"}
    worst = [
        {"name": "a", "n": 9, "value": 0.9, "interval": None, "outcome": "holds", "note": ""},
        {"name": "b", "n": 8, "value": 0.1, "interval": None, "outcome": "refused", "note": ""},
    ]
    gates = {
        "ok": verdict("holds"),
        "bad": verdict("refused", slices=worst, rows=[3, 5]),
        "open": verdict("not measured", value=None, interval=None),
        "told": verdict("refused", level="warn"),
        "lenient": verdict("not measured", passes=True),
        "waived": verdict("refused", waiver=waiver),
    }
    found = read(xml("census", gates, "sha256:1", GateRefused("a gate refused")))
    (suite,) = found
    assert (found.tests, found.failures, found.errors) == (6, 2, 0)
    assert (suite.name, suite.tests, suite.failures, suite.skipped) == ("census", 6, 2, 3)
    assert [one.value for one in suite.properties()] == ["sha256:1"]
    cases = {case.name: case for case in suite}
    (failed,) = cases["bad"].result
    assert (failed.type, failed.message) == ("refused", "it is refused.")
    assert "worst: b: refused, 0.1, 8 rows" in failed.text
    assert "held-out rows behind it: 3, 5" in failed.text
    assert cases["open"].result[0].type == "not measured"
    assert cases["ok"].is_passed
    assert "told only" in cases["told"].result[0].message
    assert "waived until 2999-12-31, by ann: few rows" in cases["waived"].result[0].message
    assert cases["bad"].classname == "census.metric"


def test_another_error_is_a_test_case_of_its_own() -> None:
    found = read(xml("census", {"ok": verdict("holds")}, "", NotEnoughData("3 rows.")))
    assert (found.tests, found.failures, found.errors) == (2, 0, 1)
    (suite,) = found
    assert [case.result[0].message for case in suite if case.result] == ["3 rows."]


@given(st.text())
def test_any_text_is_carried(text: str) -> None:
    (suite,) = read(xml(text, {text: verdict("refused", reason=text)}, ""))
    (case,) = suite
    assert case.result[0].type == "refused"
