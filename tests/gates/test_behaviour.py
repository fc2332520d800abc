"""Cases from a file: each form, held and broken, and what is said of a file that is none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from specml.evidence import wilson
from specml.gates.behaviour import Behaviour
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from specml.evidence import Evidence, Verdict

ROW = "{age: 40, debt: 1, job: nurse, colour: red, owns: true}"


@pytest.fixture
def judge(real: Callable[[str], Evidence], tmp_path: Path) -> Callable[..., Verdict]:
    """What the gate says of cases, given as the text of a file."""

    def of(text: str, task: str = "binary", **options: Any) -> Verdict:
        (tmp_path / "cases.yaml").write_text(text)
        evidence = replace(real(task), folder=tmp_path)
        verdict = Behaviour(cases="cases.yaml", **options).check(evidence)
        assert Behaviour(cases="cases.yaml", **options).check(evidence) == verdict
        return verdict

    return of


def test_what_the_model_does_is_admitted(judge: Callable[..., Verdict]) -> None:
    verdict = judge(f"""
cases:
  - minimum: {{row: {{age: 75, debt: 0, job: pilot, colour: red, owns: true}}, label: yes}}
  - minimum: {{row: {{age: 20, debt: 12, job: clerk, colour: red, owns: false}}, label: "no"}}
  - invariance: {{row: {ROW}, change: {{colour: green}}}}
  - name: debt is not wanted
    direction: {{row: {ROW}, change: {{debt: {{add: 9}}}}, score: falls}}
  - direction: {{row: {ROW}, change: {{job: pilot, age: {{times: 1.5}}}}, score: rises}}
  - name: colours do not matter
    invariance: {{rows: held_out, change: {{colour: {{red: green, green: red}}}}}}
  - direction: {{rows: held_out, change: {{debt: {{add: 8}}}}, score: never_rises}}
""")
    assert verdict.outcome == "holds", verdict
    assert verdict.reason == "0 of 7 cases fail."
    assert {one.name for one in verdict.slices} >= {
        "debt is not wanted",
        "colours do not matter",
        "minimum at cases.yaml:3:5",
    }


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("minimum: {row: {age: 75, debt: 0, job: pilot, owns: true}, label: no}", "another label is decided"),
        (f"invariance: {{row: {ROW}, change: {{age: 20, debt: 15, job: clerk}}}}", "decided after the change"),
        (f"direction: {{row: {ROW}, change: {{debt: {{add: 9}}}}, score: rises}}", "the score does not rise"),
        (f"direction: {{row: {ROW}, change: {{debt: {{add: 9}}}}, score: never_falls}}", "the score falls"),
        (f"direction: {{row: {ROW}, change: {{debt: 1}}, score: falls}}", "the score does not fall"),
    ],
)
def test_an_example_that_fails_refuses(judge: Callable[..., Verdict], case: str, what: str) -> None:
    verdict = judge(f"cases:\n  - {case}\n")
    assert verdict.outcome == "refused"
    assert verdict.reason.startswith("1 of 1 cases fail; the first is ")
    assert what in verdict.reason
    assert ":2:5: " in verdict.reason


def test_a_swap_is_judged_by_the_share_of_rows_that_flip(
    judge: Callable[..., Verdict], real: Callable[[str], Evidence]
) -> None:
    text = "cases:\n  - {name: jobs, invariance: {rows: held_out, change: {job: {nurse: pilot, pilot: nurse}}}}\n"
    verdict = judge(text)
    evidence = real("binary")
    assert evidence.rows is not None
    assert evidence.model is not None
    swapped = evidence.rows.with_columns(pl.col("job").replace({"nurse": "pilot", "pilot": "nurse"}))
    has = evidence.rows["job"].is_in(["nurse", "pilot"]).to_numpy()
    other = evidence.model.answer(swapped).decisions != evidence.decisions
    flips, n = int(np.sum(other & has)), int(has.sum())
    assert (verdict.outcome, verdict.n) == ("refused", n)
    assert verdict.value == pytest.approx(flips / n)
    assert verdict.interval == wilson(flips, n, 0.95)
    assert verdict.rows == tuple(np.flatnonzero(other & has)[:50].tolist())
    assert judge(text, max=0.9).outcome == "holds"


def test_regressions_have_ends_and_a_tolerance(judge: Callable[..., Verdict]) -> None:
    text = f"""
cases:
  - minimum: {{row: {ROW}, between: [-100, 100]}}
  - invariance: {{row: {ROW}, change: {{age: 44}}}}
  - direction: {{rows: held_out, change: {{owns: {{true: false}}}}, score: never_rises}}
"""
    assert judge(text, "regression", tolerance=0.5).outcome == "holds"
    assert judge(text, "regression", tolerance=0.0).outcome == "refused"
    assert judge(text.replace("-100", "99"), "regression", tolerance=0.5).outcome == "refused"


def test_of_several_classes_a_direction_names_one(judge: Callable[..., Verdict]) -> None:
    text = f"cases:\n  - direction: {{row: {ROW}, change: {{debt: {{add: 9}}}}, score: rises, of: large}}\n"
    assert judge(text, "multiclass").outcome == "holds"
    assert judge(text.replace("large", "small"), "multiclass").outcome == "refused"
    assert "cases.yaml:2:5: needs the class" in judge(text.replace(", of: large", ""), "multiclass").reason


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cases.yaml:1:1: "),
        ("cases:\n  - minimum: [1\n", "cases.yaml:"),
        ("cases: []\n", "cases.yaml:1:1: "),
        ("cases:\n  - minimum: {row: {age: 1}, lable: yes}\n", "cases.yaml:2:30: 'lable' is no key known here."),
        ("cases:\n  - minimum: {label: yes}\n", "cases.yaml:2:5: lacks row."),
        ("cases:\n  - name: none\n", "cases.yaml:2:5: a case is one of"),
        ("cases:\n  - minimum: {row: {agee: 1}, label: yes}\n", "cases.yaml:2:21: agee is no column"),
        ("cases:\n  - minimum: {row: {age: old}, label: yes}\n", "cases.yaml:2:21: age takes a finite number."),
        ("cases:\n  - minimum: {row: {age: [1]}, label: yes}\n", "cases.yaml:2:21: age takes a finite number."),
        ("cases:\n  - minimum: {row: {age: .nan}, label: yes}\n", "cases.yaml:2:21: age takes a finite number."),
        ("cases:\n  - minimum: {row: {age: 1}, label: maybe}\n", "2:30: is no class of this model: no, yes."),
        ("cases:\n  - minimum: {row: {age: 1}, between: [0, 1]}\n", "cases.yaml:2:5: says the label"),
        ("cases:\n  - invariance: {change: {age: 1}}\n", "cases.yaml:2:5: needs either row"),
        ("cases:\n  - invariance: {rows: held_out, change: {sex: {f: m}}}\n", "cases.yaml:2:43: sex is no column"),
        ("cases:\n  - invariance: {rows: held_out, change: {age: {f: m}}}\n", "cases.yaml:2:43: of a number says"),
        ("cases:\n  - invariance: {row: {job: clerk}, change: {job: {pilot: nurse}}}\n", "changes nothing in this row"),
        (f"cases:\n  - &a {{name: a, minimum: {{row: {ROW}, label: yes}}}}\n  - *a\n", "another case has this name"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_not_measured(judge: Callable[..., Verdict], text: str, told: str) -> None:
    verdict = judge(text)
    assert verdict.outcome == "not measured"
    assert verdict.blocking
    assert told.removesuffix(".") in verdict.reason


def test_every_problem_is_told(judge: Callable[..., Verdict]) -> None:
    verdict = judge("cases:\n  - minimum: {row: {a: 1}, label: yes}\n  - minimum: {row: {b: 1}, label: yes}\n")
    assert [one.name for one in verdict.slices] == ["cases.yaml:2:21", "cases.yaml:3:21"]
    assert "; 1 more is wrong." in verdict.reason


def test_it_stays_in_the_projects_folder(real: Callable[[str], Evidence], tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("cases: []\n")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "cases.yaml").symlink_to(tmp_path / "outside.yaml")
    verdict = Behaviour(cases="cases.yaml").check(replace(real("binary"), folder=folder))
    assert (verdict.outcome, verdict.reason) == (
        "not measured",
        "cases.yaml: lies outside the project folder.",
    )
    assert Behaviour(cases="no.yaml").check(replace(real("binary"), folder=folder)).outcome == "not measured"
    for path in ("../cases.yaml", "/cases.yaml"):
        assert [one.key for one in Behaviour(cases=path).disagreements(spec_of())] == [("cases",)]
    told = list(Behaviour(cases="cases.yaml", tolerance=0.2).disagreements(spec_of()))
    assert [one.key for one in told] == [("tolerance",)]


def test_too_few_rows_are_not_measured(judge: Callable[..., Verdict]) -> None:
    verdict = judge("cases:\n  - invariance: {rows: held_out, change: {colour: {blue: red}}}\n")
    assert (verdict.outcome, verdict.n) == ("not measured", 0)
