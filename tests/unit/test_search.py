"""A search finds the same whatever runs at once and whenever it is killed, and repeats nothing."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from specml.candidates.lightgbm import LightGBM
from specml.data import Column, Layout
from specml.errors import NotEnoughData, StageFailed
from specml.kinds import Candidate
from specml.metrics import TABLE
from specml.spec import Spec
from specml.stages import prepare
from specml.stages.judges import Judges
from specml.stages.proposals import planned
from specml.stages.pruning import hopeless
from specml.stages.search import GENERATION
from specml.stages.train import declare, work
from specml.stages.work import Work, narrowed
from tests.conftest import ROOT, spec_of

TRIALS = 10
FILES = ("out_of_fold.npy", "cross_validation.json", "preprocessing.json", "lightgbm.txt")


def spec(trials: int = TRIALS, **options: Any) -> Spec:
    gbm = {"type": "lightgbm", "n_estimators": 30, "early_stopping": 0, **options}
    return spec_of(candidates={"gbm": gbm}, search={"trials": trials, "folds": 3})


def prepared(folder: Path, n: int = 300) -> Path:
    """A project whose rows are prepared."""
    generator = np.random.default_rng(1)
    X = generator.normal(size=(n, 4))
    y = (X[:, 0] * X[:, 1] + 0.5 * generator.normal(size=n) > 0).astype(np.int64)
    (folder / prepare.TRAIN).parent.mkdir(parents=True)
    pl.DataFrame({**{f"x{i}": X[:, i] for i in range(4)}, "y": y}).write_parquet(folder / prepare.TRAIN)
    columns = tuple(Column(name=f"x{i}", kind="numeric") for i in range(4))
    layout = Layout(task="binary", target="y", classes=(0, 1), features=columns)
    (folder / prepare.LAYOUT).write_text(layout.model_dump_json())
    return folder


def searched(folder: Path, one: Spec, said: list[str] | None = None) -> dict[str, bytes]:
    stage = declare(one)
    say = (lambda *_, **__: None) if said is None else (lambda text, **_: said.append(text))
    work(Work(stage, folder, narrowed(one, stage, "gbm"), say, "gbm"))
    return outputs(folder)


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "artifacts/train/gbm" / name).read_bytes() for name in FILES}


def journal(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / ".specml/search/gbm").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECML_THREADS", "1")
        return searched(prepared(tmp_path_factory.mktemp("undisturbed")), spec())


def test_the_first_trial_is_the_candidates_own_and_the_best_is_taken(undisturbed: dict[str, bytes]) -> None:
    told = json.loads(undisturbed["cross_validation.json"])
    assert [one["number"] for one in told["trials"]] == list(range(TRIALS))
    assert told["trials"][0]["options"]["num_leaves"] == 31
    finished = [one for one in told["trials"] if not one.get("pruned")]
    best = max(finished, key=lambda one: one["mean"])
    assert told["options"] == best["options"]
    assert np.mean(told["folds"]) == best["mean"]
    assert told["search"] == {"planned": TRIALS, "pruned": TRIALS - len(finished), "ended_by": "trials"}
    assert len({json.dumps(one["options"]) for one in told["trials"]}) == TRIALS


def test_the_portfolio_comes_before_what_optuna_proposes(undisturbed: dict[str, bytes]) -> None:
    trials = [one["options"] for one in json.loads(undisturbed["cross_validation.json"])["trials"]]
    own, portfolio = trials[0], LightGBM.portfolio
    assert trials[1 : 1 + len(portfolio)] == [{**own, **one} for one in portfolio]


def test_the_portfolio_keeps_to_a_space_of_ones_own() -> None:
    def plan(**options: Any) -> list[Any]:
        gbm = LightGBM(**options)
        return [sorted(one.items() - planned(gbm, gbm.space)[0].items()) for one in planned(gbm, gbm.space)[1:]]

    leaves = {"low": 5, "high": 60}
    assert plan(space={"num_leaves": leaves}) == [[("num_leaves", 8)]]  # 31 is its own, 127 lies outside
    assert plan(num_leaves=20, space={"num_leaves": leaves}) == [[("num_leaves", 31)], [("num_leaves", 8)]]
    assert plan(space={"colsample_bytree": {"choices": (0.6, 0.9)}}) == [[("colsample_bytree", 0.6)]]
    assert plan(space={"reg_lambda": {"low": 0.1, "high": 1.0}}) == []
    assert plan(num_leaves=31, space={"num_leaves": {"low": 9, "high": 20}}) == [[("num_leaves", 20)]]  # the nearest


def test_another_portfolio_is_another_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    searched(prepared(tmp_path), spec(2))
    first = journal(tmp_path)
    monkeypatch.setattr(LightGBM, "portfolio", ({"num_leaves": 9},))
    searched(tmp_path, spec(2))
    assert [one["options"]["num_leaves"] for one in journal(tmp_path)] == [31, 9]
    assert [one["options"]["num_leaves"] for one in first] == [31, 31]


def test_a_pruned_trial_keeps_its_folds_and_is_never_compared_as_a_whole(undisturbed: dict[str, bytes]) -> None:
    trials = json.loads(undisturbed["cross_validation.json"])["trials"]
    pruned = [one for one in trials if one.get("pruned")]
    assert pruned, "nothing was pruned: this and what is killed below shows less than it says"
    for one in pruned:
        assert one["number"] >= GENERATION  # the first generation knows no rival
        assert (one["mean"], 1 <= len(one["folds"]) < 3) == (None, True)
        earlier = [two for two in trials[: one["number"] // GENERATION * GENERATION] if not two.get("pruned")]
        rival = max(earlier, key=lambda two: two["mean"])["folds"]
        assert hopeless(TABLE["roc_auc"], one["folds"], rival)
        assert not any(hopeless(TABLE["roc_auc"], one["folds"][:k], rival) for k in range(1, len(one["folds"])))
    assert all(len(one["folds"]) == 3 for one in trials if not one.get("pruned"))


BEST = (0.80, 0.82, 0.78, 0.81, 0.79)


@pytest.mark.parametrize(
    ("metric", "scores", "best", "given_up"),
    [
        ("roc_auc", (0.72,), BEST, True),  # 0.28 of error against 0.20
        ("roc_auc", (0.74,), BEST, False),
        ("log_loss", (0.28,), tuple(1 - one for one in BEST), True),
        ("log_loss", (0.26,), tuple(1 - one for one in BEST), False),
        ("r2", (-3.0,), BEST, True),
        ("accuracy", (0.98,), (0.99, 1.0, 0.97, 0.99, 1.0), False),  # twice the error, by one row of a hundred
        ("accuracy", (0.90,), (0.99, 1.0, 0.97, 0.99, 1.0), True),
        ("roc_auc", (0.79, 0.81), BEST, True),  # a little worse, but by the same on each fold
        ("roc_auc", (0.79, 0.82), BEST, False),
        ("roc_auc", (0.79, 0.80, 0.77), BEST, True),
        ("roc_auc", (0.70, 0.83, 0.79), BEST, False),
        ("roc_auc", BEST[:3], BEST, False),
        ("roc_auc", (0.85,), BEST, False),
        ("root_mean_squared_error", (0.0,), (0.0, 0.0, 0.0), False),
        ("root_mean_squared_error", (0.1,), (0.0, 0.0, 0.0), True),
    ],
)
def test_what_is_hopeless_after_some_folds(
    metric: str, scores: tuple[float, ...], best: tuple[float, ...], given_up: bool
) -> None:
    assert hopeless(TABLE[metric], scores, best) is given_up


def patient(folder: Path, trials: int, patience: int | None) -> dict[str, Any]:
    one = spec_of(
        candidates={"gbm": {"type": "lightgbm", "n_estimators": 30, "early_stopping": 0}},
        search={"trials": trials, "folds": 3, "patience": patience},
    )
    searched(folder, one)
    told: dict[str, Any] = json.loads(outputs(folder)["cross_validation.json"])
    return told


def test_patience_ends_a_search_at_a_generation_and_without_it_the_search_goes_on(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    trials = json.loads(undisturbed["cross_validation.json"])["trials"]
    patience = 3

    def is_over(made: int) -> bool:
        best = max((one for one in trials[:made] if not one.get("pruned")), key=lambda one: one["mean"])
        return bool(made - 1 - best["number"] >= patience)

    end = next(made for made in range(GENERATION, TRIALS, GENERATION) if is_over(made))
    told = patient(prepared(tmp_path), 1000, patience)
    assert told["trials"] == trials[:end]
    assert told["search"] == {
        "planned": 1000,
        "pruned": sum("pruned" in one for one in trials[:end]),
        "ended_by": "patience",
    }
    assert searched(tmp_path, spec()) == undisturbed
    assert len(journal(tmp_path)) == TRIALS
    assert patient(tmp_path, 1000, patience)["trials"] == trials[:end]  # also where the journal holds more


@pytest.mark.parametrize("threads", ["1", pytest.param("2", marks=pytest.mark.sweep)])
def test_the_cap_ends_a_search_and_is_told_and_a_higher_one_goes_on(
    undisturbed: dict[str, bytes], tmp_path: Path, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", threads)
    prepared(tmp_path)
    gbm = {"type": "lightgbm", "n_estimators": 30, "early_stopping": 0}
    wanted = {"trials": TRIALS, "folds": 3}
    said: list[str] = []
    searched(tmp_path, spec_of(candidates={"gbm": gbm}, search={**wanted, "max_cpu_seconds": 1e-6}), said)
    told = json.loads(outputs(tmp_path)["cross_validation.json"])
    made = len(told["trials"])
    assert 1 <= made <= int(threads)
    assert told["search"]["ended_by"] == "max_cpu_seconds"
    assert f"search.max_cpu_seconds (1e-06) ended the search after {made} of {TRIALS} trials" in " ".join(said)
    metrics = json.loads((tmp_path / "metrics/train/gbm.json").read_text())
    assert metrics["max_cpu_seconds_reached"] is True
    assert metrics["trials"] == {"made": made, "pruned": 0, "planned": TRIALS}
    said.clear()
    searched(tmp_path, spec_of(candidates={"gbm": gbm}, search={**wanted, "max_cpu_seconds": 1e6}), said)
    assert outputs(tmp_path) == undisturbed
    assert len([text for text in said if text.startswith("trial ")]) == TRIALS - made
    assert all(one["cpu_seconds"] > 0 for one in journal(tmp_path))


def test_progress_tells_the_best_so_far_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    told: list[tuple[str, dict[str, Any]]] = []
    stage = declare(spec(6))
    prepared(tmp_path)
    work(
        Work(stage, tmp_path, narrowed(spec(6), stage, "gbm"), lambda text, **facts: told.append((text, facts)), "gbm")
    )
    trials = [(text, facts["search"]) for text, facts in told if "search" in facts]
    assert [facts["trials"] for _, facts in trials] == [1, 2, 3, 4, 5, 6]
    bests = [facts["best"] for _, facts in trials]
    assert bests == sorted(bests)
    assert bests[-1] == max(
        one["mean"] or 0 for one in json.loads(outputs(tmp_path)["cross_validation.json"])["trials"]
    )
    assert [facts["seconds_left"] > 0 for _, facts in trials] == [True] * 5 + [False]
    for text, facts in trials:
        assert f"trial {facts['trials']} of 6: best roc_auc {facts['best']:.4f} (trial {facts['best_trial']})" in text


def test_two_workers_find_the_same(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", "2")
    assert searched(prepared(tmp_path), spec()) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("finished", [*(pytest.param(n, marks=pytest.mark.sweep) for n in (1, 3, 4, 9)), 7])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_killed_it_goes_on_and_repeats_nothing(
    undisturbed: dict[str, bytes], tmp_path: Path, finished: int, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", threads)
    prepared(tmp_path)
    started = subprocess.Popen(
        [sys.executable, "-c", "from tests.unit.test_search import alone; alone()"],
        cwd=ROOT,
        env={**os.environ, "PROJECT": str(tmp_path)},
    )
    folder = tmp_path / ".specml/search/gbm"
    while started.poll() is None and sum(p.read_bytes().count(b"\n") for p in folder.glob("*.jsonl")) < finished:
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    started.wait()
    before = journal(tmp_path)
    assert finished <= len(before)
    said: list[str] = []
    assert searched(tmp_path, spec(), said) == undisturbed
    after = journal(tmp_path)
    assert after[: len(before)] == before
    assert sorted(one["number"] for one in after) == list(range(TRIALS))
    assert len([text for text in said if text.startswith("trial ")]) == TRIALS - len(before)


def alone() -> None:
    """What the process that is killed does."""
    searched(Path(os.environ["PROJECT"]), spec())


def test_a_torn_line_is_dropped_and_more_trials_go_on_from_fewer(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    searched(prepared(tmp_path), spec(6))
    (path,) = (tmp_path / ".specml/search/gbm").glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"number": 6, "fol')
    said: list[str] = []
    assert searched(tmp_path, spec(), said) == undisturbed
    assert len([text for text in said if text.startswith("trial ")]) == 4
    searched(tmp_path, spec(6))
    assert len(json.loads(outputs(tmp_path)["cross_validation.json"])["trials"]) == 6


def test_an_altered_trial_is_judged_anew(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    assert searched(prepared(tmp_path), spec()) == undisturbed
    (path,) = (tmp_path / ".specml/search/gbm").glob("*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    score = json.loads(lines[1])["folds"][0]
    lines[1] = lines[1].replace(repr(score), repr(score + 0.2))
    lines[2] = "\x00" * (len(lines[2]) - 1) + "\n"
    path.write_text("".join(lines))
    predictions = path.with_suffix(".5.npy")
    raw = bytearray(predictions.read_bytes())
    raw[-3] ^= 1
    predictions.write_bytes(raw)
    path.with_suffix(".6.npy").unlink()
    said: list[str] = []
    assert searched(tmp_path, spec(), said) == undisturbed
    assert len([text for text in said if text.startswith("trial ")]) == 4


def test_another_search_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    searched(prepared(tmp_path), spec(2))
    first = journal(tmp_path)
    searched(tmp_path, spec(2, num_leaves=5))
    assert journal(tmp_path) != first
    assert len(journal(tmp_path)) == 2


class _Late:
    """A pool that finds out at the second task that its first worker is gone, while its second one is starting."""

    def __init__(self) -> None:
        self.tasks, self._processes = 0, {1: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])}

    def submit(self, *_: object) -> Future[Any]:
        self.tasks += 1
        future: Future[Any] = Future()
        if self.tasks == 2:
            future.set_exception(BrokenProcessPool())
        return future

    def shutdown(self, **_: object) -> None:
        """As the real one, wait for every process."""
        assert self._processes[1].wait(timeout=10) == -signal.SIGKILL


def test_a_worker_killed_while_the_next_one_starts_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECML_THREADS", "2")

    def judged() -> None:
        with Judges(print, 2, tmp_path / "begin") as judges:  # type: ignore[arg-type]
            judges._pool = _Late()
            list(judges({0: LightGBM(), 1: LightGBM()}, (), lambda _: True))

    with pytest.raises(StageFailed, match="was killed"):
        judged()


def test_one_trial_keeps_no_journal(tmp_path: Path) -> None:
    searched(prepared(tmp_path), spec(1))
    assert "trials" not in json.loads(outputs(tmp_path)["cross_validation.json"])
    assert not (tmp_path / ".specml/search").exists()


def test_an_error_of_a_worker_is_the_same_as_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "2")
    prepared(tmp_path, n=4)
    with pytest.raises(NotEnoughData, match="folds"):
        searched(tmp_path, spec(2))
    error = NotEnoughData("too few.", where="search.folds", hint="Take more.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("option", "dimension", "told"),
    [
        ("leaves", {"low": 1, "high": 2}, "is no option of this type"),
        ("num_leaves", {"low": 1, "high": 20}, "does not take 1"),
        ("num_leaves", {"low": 30, "high": 20}, "not below high"),
        ("num_leaves", {"low": 20}, "needs low and high"),
        ("num_leaves", {"low": 2, "high": 20, "choices": [3]}, "choices and a range"),
        ("learning_rate", {"low": 0, "high": 1, "log": True}, "above 0"),
        ("num_leaves", {"choices": [3, "many"]}, "does not take 'many'"),
    ],
)
def test_a_space_that_the_options_refuse_is_told(option: str, dimension: dict[str, Any], told: str) -> None:
    one = spec(4, space={option: dimension})
    assert any(told in found.what and found.key[:3] == ("candidates", "gbm", "space") for found in one.contradictions())


def test_a_space_without_trials_is_told() -> None:
    one = spec(1, space={"num_leaves": {"low": 3, "high": 9}})
    assert [found.what for found in one.contradictions()] == ["has no effect: there is one trial."]


@pytest.mark.parametrize(
    ("search", "key"),
    [
        ({"patience": 3}, "patience"),
        ({"max_cpu_seconds": 60}, "max_cpu_seconds"),
        ({"executor": "ray"}, "executor"),
        ({"trials": 5, "ray_address": "10.0.0.1:6379"}, "ray_address"),
    ],
)
def test_what_has_no_effect_on_a_search_is_told(search: dict[str, Any], key: str) -> None:
    found = list(spec_of(candidates={"gbm": "lightgbm"}, search=search).contradictions())
    assert [(one.key, "has no effect" in one.what) for one in found] == [(("search", key), True)]
    assert not list(spec_of(candidates={"gbm": "lightgbm"}, search={"trials": 5, "executor": "ray"}).contradictions())


def test_workers_that_can_share_nothing_are_told_before_the_search(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    said: list[str] = []
    nowhere = {"folds": 2, "ray_address": "127.0.0.1:1"}
    one = spec_of(candidates={"gbm": {"type": "tabular_mlp"}}, train={"workers": 2}, search=nowhere)
    with pytest.raises(StageFailed, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        searched(prepared(tmp_path), one, said)
    assert said == []


def test_workers_that_nothing_shares_are_told() -> None:
    told = list(spec_of(candidates={"gbm": "lightgbm"}, train={"workers": 2}).contradictions())
    assert [one.key for one in told] == [("train", "workers")]
    cluster = {"ray_address": "10.0.0.1:6379"}
    assert not list(spec_of(candidates={"net": "tabular_mlp"}, train={"workers": 2}, search=cluster).contradictions())


def test_a_space_of_ones_own_is_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECML_THREADS", "1")
    space = {"num_leaves": {"low": 3, "high": 9}, "subsample": {"choices": [0.5, 1.0]}}
    searched(prepared(tmp_path), spec(6, space=space))
    trials = json.loads(outputs(tmp_path)["cross_validation.json"])["trials"]
    assert {type(one["options"]["num_leaves"]) for one in trials} == {int}
    assert all(3 <= one["options"]["num_leaves"] <= 9 for one in trials[1:])
    assert {one["options"]["subsample"] for one in trials[1:]} <= {0.5, 1.0}


def test_every_usual_space_is_taken_by_its_options() -> None:
    from specml.space import disagreements

    for kind in Candidate.table.values():
        if not any(field.is_required() for field in kind.model_fields.values()):
            assert not list(disagreements(kind(), kind.usual_space))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(Candidate.table))
def test_every_portfolio_lies_in_the_usual_space_and_says_something_new(name: str) -> None:
    kind = cast("type[Candidate]", Candidate.table[name])
    if not any(field.is_required() for field in kind.model_fields.values()):
        assert len(planned(kind(), kind.usual_space)) == 1 + len(kind.portfolio)
    for one in kind.portfolio:
        assert one.keys() <= kind.usual_space.keys()
