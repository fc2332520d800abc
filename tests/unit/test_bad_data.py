"""Bad data has the outcome that is documented: one message, or a note; never a traceback, a value, or silence."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from specml.compile import compile_plan
from specml.errors import SpecmlError
from specml.serving.app import Args
from specml.stages import STAGES
from specml.stages.work import Work, narrowed
from tests.bad_data import CASES, SECRET, Case
from tests.conftest import spec_of
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.serving.conftest import Asked


def outcome(case: Case, folder: Path) -> tuple[int, list[str]]:
    """The exit status, and what was said."""
    made = case.rows()
    file = case.file if isinstance(made, bytes) else "rows.parquet"
    if isinstance(made, bytes):
        (folder / file).write_bytes(made)
    else:
        pl.DataFrame(made, strict=False).write_parquet(folder / file)
    kind = "parquet" if file.endswith(".parquet") else "csv"
    data = {"sources": {"rows": {"type": kind, "path": file}}, **case.spec.get("data", {})}
    spec = spec_of(**{**case.spec, "data": data})
    assert not list(spec.contradictions())
    said: list[str] = []

    def say(text: str, *_: object, note: bool = False, **__: object) -> None:
        said.extend([text] if note or "found out" in text else [])

    plan = compile_plan(spec)
    try:
        for stage in plan.stages:
            for key in stage.keys or ("",):
                STAGES[stage.name].work(Work(stage, folder, narrowed(spec, stage, key), say, key, plan.obligations))
            if stage.name == "prepare" and not case.whole:
                break
    except SpecmlError as error:
        return error.status, [*said, str(error)]
    return 0, [*said, *(answered(case, folder) if case.asked else ())]


def answered(case: Case, folder: Path) -> list[str]:
    """What a server's counters say of values that no training row had, once the bundle has answered."""
    service = Args(bundle=str(folder / "artifacts/bundle")).service("r")

    async def main() -> tuple[Asked, str]:
        answer = await ask(service, "POST", "/predict", json.dumps({"rows": [case.asked]}).encode())
        return answer, (await ask(service, "GET", "/metrics")).body.decode()

    answer, told = asyncio.run(main())
    service.close()
    assert answer.status == 200
    (prediction,) = json.loads(answer.body)["predictions"]
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)
    assert 0 < prediction["probability"] < 1
    return [line for line in told.splitlines() if line.startswith("specml_unseen_categories_total")]


@pytest.mark.parametrize(
    "case", [pytest.param(one, id=one.what, marks=[pytest.mark.slow] if one.slow else []) for one in CASES]
)
def test_it_has_the_documented_outcome(case: Case, tmp_path: Path) -> None:
    status, said = outcome(case, tmp_path)
    told = "\n".join(said)
    assert status == case.status, told
    assert case.says in told
    assert bool(said) == bool(case.says), told
    assert bool(case.how) == (case.status == 0)
    assert SECRET not in told


def test_each_case_is_told_once() -> None:
    assert len({case.what for case in CASES}) == len(CASES)
