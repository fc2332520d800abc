from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml import releases, rollout
from specml.bundle import open_bundle
from specml.cli.predict import ByBundle
from specml.errors import DataCheckFailed, DeployFailed, NotEnoughData
from specml.serving.request import named
from specml.serving.scoring import InPool, Part, Scored, Scorer, Wanted, read
from specml.serving.table import to_rows, with_predictions
from specml.targets.batch import events, pool, remote
from specml.targets.batch.journal import JOURNAL, Journal, Work, state_of
from specml.targets.batch.parts import Scoring
from specml.targets.batch.pool import Underway
from specml.targets.batch.reading import Reading, parts
from specml.targets.batch.remote import DRIVER
from tests.bundles import binary_bundle, release
from tests.conftest import spec_of

if TYPE_CHECKING:
    from specml.bundle import Bundle
    from specml.spec import Spec

PEOPLE = 1000


def people(n: int = PEOPLE, seed: int = 0) -> pl.DataFrame:
    """Rows that a small bundle answers, with a column that it does not know."""
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "customer": [f"c{number}" for number in range(n)],
            "age": draw.integers(17, 90, n),
            "hours": pl.Series(np.where(draw.random(n) < 0.1, np.nan, draw.normal(40, 9, n).round(1))).fill_nan(None),
            "member": draw.random(n) < 0.5,
            "workclass": draw.choice(["Private", "State-gov", "1"], n),
        }
    )


def scoring(**options: Any) -> Spec:
    return spec_of(deployment={"target": {"type": "batch", "input": "incoming", **options}})


def project(folder: Path, weight: float = 0.05) -> Path:
    binary_bundle(folder / "artifacts/bundle", weight=weight)
    release(folder)
    (folder / "incoming").mkdir(exist_ok=True)
    return folder


def deploy(spec: Spec, folder: Path) -> list[str]:
    said: list[str] = []
    rollout.go_live(spec, folder, said.append)
    return said


def tree(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    binary_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(made: Path) -> Bundle:
    return open_bundle(made)


def scorer(made: Path, **options: Any) -> Scorer:
    told = {"parent": os.getppid(), "rows_at_once": 64, "keep": None, "format": "parquet", **options}
    return Scorer(Wanted(bundle=str(made), digest=open_bundle(made).digest, **told))


def part(folder: Path, *, aside: bool = True) -> Part:
    return Part(first=101, size=0, file=str(folder / "part"), aside=str(folder / "aside") if aside else "")


# What a worker does


VALUES = {
    "age": st.integers(-5, 200) | st.none(),
    "hours": st.floats(-1e6, 1e6) | st.none() | st.just(math.nan),
    "member": st.sampled_from(["true", "False", " YES ", "0", "", None]),
    "workclass": st.sampled_from(["Private", " ", "1", "other", "__missing__", None]),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=8), st.booleans())
def test_columns_are_read_as_predict_reads_them(bundle: Bundle, rows: list[dict[str, Any]], as_text: bool) -> None:
    types: Any = {"age": pl.Int64, "hours": pl.Float64, "member": pl.String, "workclass": pl.String}
    table = pl.DataFrame(rows, schema=types)
    if as_text:
        table = table.with_columns(pl.col("age", "hours").cast(pl.String))
    found, wrong = read(table, bundle.contract)
    # Of the columns that always need a value, a row without one is told; the others are the same.
    lacking = {
        place for place, row in enumerate(to_rows(table, {one.name: one.kind for one in bundle.contract.inputs}))
        if row["age"] is None or row["member"] is None
    }  # fmt: skip
    assert wrong.keys() == lacking
    good = [place for place in range(table.height) if place not in lacking]
    if not good:
        return
    wanted = named(
        to_rows(table[good], {one.name: one.kind for one in bundle.contract.inputs}), bundle.contract
    ).columns
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name][good], array)


def test_answers_are_those_of_predict(made: Path, tmp_path: Path) -> None:
    table = people(200)
    told = scorer(made).score(table, part(tmp_path))
    assert (told.rows, told.bad, told.row, told.failed) == (200, 0, 0, "")
    found = pl.read_parquet(tmp_path / "part")
    asked = ByBundle(made)
    wanted = with_predictions(table, asked.predict(to_rows(table, asked.columns)))
    assert found.columns == wanted.columns
    for name in wanted.columns:
        if name.startswith("probability"):
            np.testing.assert_allclose(found[name].to_numpy(), wanted[name].to_numpy(), rtol=1e-6)
        else:
            assert found[name].equals(wanted[name])
    assert not (tmp_path / "aside").exists()


def test_a_bad_row_is_put_aside_with_its_number_and_the_others_are_answered(made: Path, tmp_path: Path) -> None:
    table = people(200).with_columns(pl.col("age").cast(pl.String))
    ages = ["1_0" if place == 150 else None if place == 7 else age for place, age in enumerate(table["age"])]
    table = table.with_columns(pl.Series("age", ages), hours=pl.Series([1e308] * 3 + [40.0] * 197))
    told = scorer(made, keep=("customer",)).score(table, part(tmp_path))
    assert (told.rows, told.bad, told.row, told.why) == (198, 2, 108, "age is missing, and always needs a value.")
    aside = pl.read_parquet(tmp_path / "aside")
    assert aside["row"].to_list() == [108, 251]
    assert aside["why"].to_list() == ["age is missing, and always needs a value.", "age is not a number."]
    assert aside["customer"].to_list() == ["c7", "c150"]
    found = pl.read_parquet(tmp_path / "part")
    assert found.columns == ["customer", "predicted", "probability_0", "probability_1"]
    assert found["customer"].to_list() == [f"c{place}" for place in range(200) if place not in (7, 150)]


def test_where_a_bad_row_refuses_nothing_is_written(made: Path, tmp_path: Path) -> None:
    table = people(20).with_columns(member=pl.Series(["maybe"] * 20))
    told = scorer(made).score(table, part(tmp_path, aside=False))
    assert (told.bad, told.row, told.why, told.digest) == (20, 101, "member is not true or false.", "")
    assert list(tmp_path.iterdir()) == []


def test_no_row_may_be_left_and_names_that_are_taken_get_another(made: Path, tmp_path: Path) -> None:
    table = people(2).with_columns(age=None, predicted=pl.Series(["a", "b"]))
    scorer(made, format="csv").score(table, part(tmp_path))
    head = (tmp_path / "part").read_text()
    assert head == "customer,age,hours,member,workclass,predicted,predicted_,probability_0,probability_1\n"


def test_what_can_not_be_scored_at_all_is_told(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="none of the model's columns"):
        scorer(made).score(pl.DataFrame({"x": [1]}), part(tmp_path))
    with pytest.raises(DataCheckFailed, match="no column 'id' to keep"):
        scorer(made, keep=("id",)).score(people(1), part(tmp_path))
    with pytest.raises(DataCheckFailed, match="workclass"):
        scorer(made).score(people(1).with_columns(workclass=pl.Series([["a"]])), part(tmp_path))


# What it is given


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 5))
def test_parts_are_all_rows_in_their_order(heights: list[int], rows: int) -> None:
    whole = pl.DataFrame({"x": range(sum(heights))}, schema={"x": pl.Int64})
    starts = np.cumsum([0, *heights])
    found = list(parts((whole.slice(int(a), b) for a, b in zip(starts, heights, strict=False)), rows))
    assert [one.height for one in found[:-1]] == [rows] * (len(found) - 1)
    assert [value for one in found for value in one["x"]] == list(range(sum(heights)))


def test_a_column_of_two_types_is_refused() -> None:
    with pytest.raises(DataCheckFailed, match="another type"):
        list(parts(iter([pl.DataFrame({"x": [1]}), pl.DataFrame({"x": ["a"]})]), 2))


def test_a_journal_forgets_a_torn_line_a_lost_file_and_other_options(tmp_path: Path) -> None:
    told = {"failed": "", "bad": 0, "row": 0, "why": "", "digest": "sha256:0", "rows": 5}
    journal = Journal(tmp_path / "work", {"input": "a", "part_rows": 5})
    for number in range(3):
        (journal.folder / f"part-{number}").write_text("")
        seen = {"part": number, "read": 5, "file": f"part-{number}", "aside": f"aside-{number}"}
        journal.take(seen, told, refuses=True)
    (journal.folder / "part-1").unlink()
    with (journal.folder / JOURNAL).open("ab") as file:
        file.write(b'{"part": 3, "re')
    again = Journal(tmp_path / "work", {"input": "a", "part_rows": 5})
    assert sorted(again.done) == [0, 2]
    assert (journal.folder / JOURNAL).read_bytes().count(b"\n") == 2
    assert Journal(tmp_path / "work", {"input": "a", "part_rows": 6}).done == {}
    assert not (journal.folder / "part-0").exists()


# On a cluster; a real one of two nodes scores in tests/integration/test_batch_cluster.py


def work(folder: Path, made: Path, name: str = "rows.parquet", **options: Any) -> Work:
    told = {"input": name, "content": "sha256:0", "format": "parquet", "bad_rows": "refuse", **options}
    reading = Reading.of(folder / name, made, (), part_rows=100)
    return Work(folder / name, state_of(folder / name), folder / "home" / name, told, {}, reading)


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.jsonl", "a.ndjson", "a.arrow", "a.xlsx"]
)
def test_another_machine_is_told_all_that_it_needs_to_read_a_file(made: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    known = spec_of(
        data={
            "sources": {
                "x": {"type": "csv", "path": "x.csv", "separator": ";", "decimal": ",", "missing": ["-"]},
                "y": {"type": "excel", "path": "x.xlsx"},
            }
        },
    ).data.sources.values()
    found = replace(work(tmp_path, made, name), reading=Reading.of(tmp_path / name, made, known, part_rows=7))
    assert Work.told(json.loads(json.dumps(found.tell()))) == found


def test_who_reads_on_a_cluster_skips_what_is_done_and_says_how_much_there_is(made: Path, tmp_path: Path) -> None:
    people(250).write_parquet(tmp_path / "rows.parquet")
    found = [json.loads(table["job"][0].as_py()) for table in pool._read(3, work(tmp_path, made), tmp_path, {1})]
    assert [job.get("seen", {}).get("part") for job in found] == [0, 2, None]
    assert [job["part"]["first"] for job in found[:2]] == [1, 201]
    assert found[-1] == {"file": 3, "parts": 3}
    (tmp_path / "rows.parquet").write_text("none")
    ((last,),) = (
        [json.loads(table["job"][0].as_py())] for table in pool._read(0, work(tmp_path, made), tmp_path, set())
    )
    assert (last["parts"], last["failed"]["status"]) == (0, 6)


def underway(folder: Path, made: Path, name: str) -> Underway:
    people(1).write_parquet(folder / name)
    return Underway(work(folder, made, name), lambda _: None)


def row(number: int, **told: Any) -> dict[str, str]:
    names = {"file": f"part-{number}", "aside": f"quarantine-{number}"}
    job = {"part": {"aside": ""}, "seen": {"part": number, "read": 1, **names}}
    return {"job": json.dumps(job), "told": Scored(**{"rows": 1, **told}).model_dump_json(), "attempt": ".1"}


def test_the_first_failure_is_told_once_all_before_it_is_done(made: Path, tmp_path: Path) -> None:
    first, second = (underway(tmp_path, made, name) for name in ("a.parquet", "b.parquet"))
    second.take(row(1, bad=1, row=102, why="age is missing."))
    pool._settle([first, second], print)  # of the second, part 0 is not done
    second.take(row(2, failed="age holds lists."))
    second.take(row(0, digest="sha256:0"))
    assert second.failure is not None
    assert second.failure.what == "row 102: age is missing."
    pool._settle([first, second], print)  # the first may yet fail
    first.take({"job": '{"file": 0, "parts": 0}', "told": "{}", "attempt": ""})
    with pytest.raises(DataCheckFailed, match="row 102") as refused:
        pool._settle([first, second], print)
    assert refused.value.where == "b.parquet"
    assert (first.finished, first.work.done) == (True, True)


def test_of_two_attempts_at_a_part_the_first_counts(made: Path, tmp_path: Path) -> None:
    one = underway(tmp_path, made, "a.parquet")
    for attempt, content in ((".1", "first"), (".2", "second"), (".3", "nobody's")):
        (one.journal.folder / f"part-0{attempt}").write_text(content)
    for attempt in (".1", ".2"):
        one.take({**row(0, digest="sha256:0"), "attempt": attempt})
    one.take({"job": '{"file": 0, "parts": 1}', "told": "{}", "attempt": ""})
    pool._settle([one], print)
    assert {path.name for path in one.work.home.iterdir()} == {"part-0", "manifest.json"}
    assert (one.work.home / "part-0").read_text() == "first"


def test_a_file_that_was_changed_meanwhile_is_told(made: Path, tmp_path: Path) -> None:
    one = underway(tmp_path, made, "a.parquet")
    people(2).write_parquet(one.work.path)
    one.parts = 0
    with pytest.raises(DataCheckFailed, match="changed while it was scored"):
        pool._settle([one], print)


def test_what_a_job_says_comes_whole_through_its_log() -> None:
    error = NotEnoughData("there is no row.", where="a.csv", hint="Bring some.")
    log = f"Ray says something\n{events.line({'said': 'a …'})}\n{events.line({'failed': events.told(error)})}\n"
    said, failed = events.events(f"{log}{events.line({'done': True})[:-3]}")
    assert said == {"said": "a …"}
    found = events.error_of(failed["failed"])
    assert (type(found), str(found), found.status) == (NotEnoughData, str(error), 7)


# The job's process on a Ray of its own; without a dashboard, which takes seconds to start.
DRIVE = f"""\
import functools, importlib, pathlib, sys, ray
ray.init = functools.partial(ray.init, "local", include_dashboard=False, num_cpus=2)
sys.exit(importlib.import_module("{DRIVER}").main(pathlib.Path(sys.argv[1])))
"""


class Outage:
    """A job that said something and ended well, but of whose cluster's answers every second one is lost."""

    def __init__(self) -> None:
        self.asked = 0

    def status(self, job: str) -> tuple[str, str]:
        self.asked += 1
        if self.asked % 2:
            raise DeployFailed("no Ray dashboard answers.")
        return "RUNNING" if self.asked < 5 else "SUCCEEDED", ""

    def logs(self, job: str) -> str:
        said = [{"said": "a …"}, {"said": "a: 1 rows scored."}, {"done": True}]
        return "".join(f"{events.line(one)}\n" for one in said[: self.asked // 2])


def test_what_a_job_says_is_told_once_though_its_cluster_is_silent_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0)
    said: list[str] = []
    cluster: Any = Outage()
    remote.Remote(cluster, Path(), said.append)._follow("job")
    assert said == ["a …", "a: 1 rows scored."]
    monkeypatch.setattr(remote, "SILENT", 0)
    cluster.asked = 0
    with pytest.raises(DeployFailed, match="no Ray dashboard answers"):
        remote.Remote(cluster, Path(), said.append)._follow("job")


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Scoring, Path]:
    """What is left to score of files, and what is made of them on this machine."""
    here, there = project(tmp_path / "here"), project(tmp_path / "there")
    spec = scoring(part_rows=300, bad_rows="quarantine", workers=1)
    for folder in (here, there):
        people().with_columns(
            member=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("?")).otherwise("member")
        ).write_csv(folder / "incoming/a.csv")
        people(700, seed=1).write_parquet(folder / "incoming/b.parquet")
        people(0).write_parquet(folder / "incoming/none.parquet")
    deploy(spec, here)
    kept = releases.keep(there, releases.admitted(there))
    target: Any = spec.deployment.target
    return Scoring(target, spec, there, kept, target._folder(there, kept.entry.bundle), print), here / "scored"


def test_parts_on_their_way_through_a_cluster_come_to_the_same_bytes(twice: tuple[Scoring, Path]) -> None:
    found, wanted = twice
    actor, files = InPool(found.wanted), [Underway(one, print) for one in found.left()]
    for place, one in enumerate(files):
        for table in pool._read(place, one.work, one.journal.folder, set()):
            answered = actor(table)
            one.take({name: values[0] for name, values in answered.items()})
    pool._settle(files, print)
    assert tree(found.folder.parent) == tree(wanted)


@pytest.mark.sweep
def test_ray_data_makes_the_same_bytes(twice: tuple[Scoring, Path], tmp_path: Path) -> None:
    found, wanted = twice
    plan = {"project": str(found.project), "works": [one.tell() for one in found.left()], "wanted": found.wanted}
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "most": 1}))
    done = subprocess.run(
        [sys.executable, "-c", DRIVE, str(tmp_path / "plan.json")],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    *said, last = events.events(done.stdout)
    assert last == {"done": True}
    assert {"said": "incoming/a.csv: 999 rows scored, 1 put aside."} in said
    assert tree(found.folder.parent) == tree(wanted)


# The target


def test_new_files_are_scored_and_a_rollback_leads_back(tmp_path: Path) -> None:
    folder, spec = project(tmp_path), scoring(keep=["customer"], part_rows=300, bad_rows="quarantine")
    with pytest.raises(NotEnoughData, match="no file to score"):
        deploy(spec, folder)
    assert spec.deployment.target.status(spec, folder) is None
    people().write_parquet(folder / "incoming/first.parquet")
    said = deploy(spec, folder)
    assert said == ["incoming/first.parquet …", "incoming/first.parquet: 1,000 rows scored."]
    assert "nothing to do" in deploy(spec, folder)[0]
    people(10, seed=1).with_columns(age=pl.lit("old")).write_csv(folder / "incoming/second.csv")
    assert deploy(spec, folder)[-1] == "incoming/second.csv: 0 rows scored, 10 put aside."
    live = spec.deployment.target.status(spec, folder)
    assert live is not None
    assert live.scored is not None
    assert (live.scored.rows, live.scored.files, live.scored.unfinished) == (1000, 2, 0)
    answered = pl.read_parquet(folder / "scored/live/first.parquet-*/part-*.parquet")
    assert answered["customer"].to_list() == people()["customer"].to_list()
    (manifest,) = (folder / "scored/live").glob("first*/manifest.json")
    told = json.loads(manifest.read_text())
    assert [(one["read"], one["rows"]) for one in told["parts"]] == [(300, 300)] * 3 + [(100, 100)]
    first = (folder / "scored/live").readlink()
    project(folder, weight=0.2)
    deploy(spec, folder)
    assert (folder / "scored/live").readlink() != first
    again: list[str] = []
    rollout.roll_back(spec, folder, "", "", again.append)
    assert (folder / "scored/live").readlink() == first
    assert "nothing to do" in again[0]


def test_a_bad_row_refuses_the_run_and_what_is_live_stays(tmp_path: Path) -> None:
    folder, spec = project(tmp_path), scoring(part_rows=100)
    table = people().with_columns(pl.col("age").cast(pl.String))
    ages = [("secret" if place in (421, 900) else age) for place, age in enumerate(table["age"])]
    table.with_columns(pl.Series("age", ages)).write_csv(folder / "incoming/rows.csv")
    with pytest.raises(DataCheckFailed) as refused:
        deploy(spec, folder)
    assert (refused.value.what, refused.value.where) == ("row 422: age is not a number.", "incoming/rows.csv")
    assert spec.deployment.target.status(spec, folder) is None
    assert not (folder / "scored/live").exists()
    begun = next(one for one in (folder / "scored").rglob(JOURNAL))
    assert len(begun.read_text().splitlines()) >= 4  # what was scored is kept


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"serving": {"replicas": {"max": 3}}}, "serving.replicas"),
        ({"serving": {"explain": {"max_rows": 7}}}, "serving.explain"),
        ({"serving": {"auth": {"tokens": "${secret:TOKENS}"}}}, "serving.auth"),
        ({"serving": {"batching": {"max_wait": "5ms"}}}, "serving.batching.max_wait"),
        ({"serving": {"hosts": ["a.example"]}}, "serving.hosts"),
        ({"monitoring": {"capture": {}}}, "monitoring.capture"),
        ({"deployment": {"target": {"type": "batch", "input": "a", "output": "a/b"}}}, "deployment.target.output"),
    ],
)
def test_what_has_no_effect_is_refused(sections: dict[str, Any], key: str) -> None:
    told = {"deployment": {"target": {"type": "batch", "input": "incoming"}}, **sections}
    (found,) = spec_of(**told).contradictions()
    assert key == ".".join(map(str, found.key))


@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.sweep)])
def test_killed_at_any_moment_and_gone_on_the_answers_are_the_same_bytes(tmp_path: Path, kills: int) -> None:
    undisturbed, killed = project(tmp_path / "a"), project(tmp_path / "b")
    spec = {
        "name": "census",
        "problem": {"task": "binary", "target": "income"},
        "data": {"sources": {"people": {"type": "csv", "path": "people.csv"}}},
        "candidates": {"line": "logistic_regression"},
        "deployment": {"target": {"type": "batch", "input": "incoming", "part_rows": 1000, "bad_rows": "quarantine"}},
    }
    table = people(40_000).with_columns(pl.col("age").cast(pl.String))
    bad = pl.when(pl.int_range(pl.len()) % 7001 == 5).then(pl.lit("?")).otherwise(pl.col("age"))
    for folder in (undisturbed, killed):
        (folder / "spec.yaml").write_text(json.dumps(spec))
        table.with_columns(age=bad).write_csv(folder / "incoming/rows.csv")
    command = [sys.executable, "-m", "specml", "deploy", "--quiet"]
    subprocess.run(command, cwd=undisturbed, check=True, capture_output=True)
    draw, done = random.Random(kills), 0
    for kill in range(kills):
        run = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        enough = draw.randint(done, 40 * (kill + 1) // (kills + 1))
        while (done := journalled(killed)) <= enough and run.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.random() / 100)
        run.kill()
        assert run.wait() == -signal.SIGKILL
    assert not (killed / "scored/live").exists()
    subprocess.run(command, cwd=killed, check=True, capture_output=True)
    wanted, found = tree(undisturbed / "scored"), tree(killed / "scored")
    assert found.keys() == wanted.keys()
    assert found == wanted
    assert pl.read_parquet(killed / "scored/live/*/part-*.parquet").height == 40_000 - 6


def journalled(folder: Path) -> int:
    """Parts that are done of the file that is being scored."""
    found = next((folder / "scored").glob(f"*/.*/{JOURNAL}"), None)
    return found.read_bytes().count(b"\n") if found else 0
