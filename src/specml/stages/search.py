"""Search a candidate's settings: proposed by Optuna, judged by cross-validation, kept in a journal.

Trials are proposed in generations of fixed size, each from the results of the generations before alone: how many
run at once, in which order they end, and whether the search was interrupted change nothing in what is found.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import __version__
from specml.errors import StageFailed
from specml.files import canonical_json, digest, write_atomic
from specml.metrics import TABLE
from specml.processes import begin_worker
from specml.space import setting, whole, with_settings
from specml.stages import prepare
from specml.stages.cross_validation import Judged, cross_validate
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import optuna
    import polars as pl

    from specml.data import Layout
    from specml.kinds import Candidate
    from specml.space import Dimension, Setting
    from specml.spec import Spec
    from specml.stages.work import Work

FOLDER = ".specml/search/${key}"
GENERATION = 4
"""Trials proposed at once."""
LIBRARIES = ("lightgbm", "numpy", "optuna", "polars", "pytorch-lightning", "scikit-learn", "torch")
"""Those whose version may change a score."""


@dataclass(frozen=True)
class Trial:
    """One setting of a candidate, judged."""

    number: int
    settings: dict[str, Setting]
    """The options that differ from trial to trial."""
    judged: Judged

    @property
    def mean(self) -> float:
        """Mean of the folds' scores."""
        import numpy as np

        return float(np.mean(self.judged.folds))


def search(work: Work, candidate: Candidate, layout: Layout, train: pl.DataFrame) -> tuple[Trial, list[dict[str, Any]]]:
    """The best trial, the first of equals, and every trial as ``number``, ``options`` and ``mean``."""
    spec, space = work.spec, candidate.space or candidate.usual_space
    judge = partial(cross_validate, spec, layout=layout, train=train)
    if spec.search.trials == 1 or not space:
        return Trial(0, {}, judge(candidate=candidate, threads=threads(), say=work.say)), []
    better = max if TABLE[spec.problem.metric].larger_is_better else min
    journal = Journal.open(work, candidate, layout)
    found = {trial.number: trial for trial in journal.read() if trial.number < spec.search.trials}
    with _Judges(partial(judge, say=_silent)) as judges:
        for first in range(0, spec.search.trials, GENERATION):
            numbers = range(first, min(first + GENERATION, spec.search.trials))
            settings = _proposed(candidate, space, spec, [found[number] for number in range(first)], numbers)
            new = {n: with_settings(candidate, one) for n, one in settings.items() if n not in found}
            for number, judged in judges(new):
                found[number] = Trial(number, settings[number], judged)
                journal.write(found[number])
                leading = better(trial.mean for trial in found.values())
                text = f"trial {len(found)} of {spec.search.trials}: best {spec.problem.metric} {leading:.4f}"
                work.say(text, done=0.9 * len(found) / spec.search.trials)
    trials = [found[number] for number in sorted(found)]
    best = better(trials, key=lambda trial: trial.mean)
    told = [{"number": one.number, "options": one.settings, "mean": one.mean} for one in trials]
    return replace(best, judged=replace(best.judged, out_of_fold=journal.out_of_fold(best.number))), told


def _proposed(
    candidate: Candidate, space: Mapping[str, Dimension], spec: Spec, before: list[Trial], numbers: range
) -> dict[int, dict[str, Setting]]:
    """Settings for the trials ``numbers``; a function of what is given alone."""
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(np.random.SeedSequence((spec.search.seed, numbers.start)).generate_state(1)[0])
    study = optuna.create_study(
        direction="maximize" if TABLE[spec.problem.metric].larger_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    )
    ranges = {name: _distribution(candidate, name, one) for name, one in sorted(space.items())}
    for trial in before:
        if all(_lies_in(ranges[name], value) for name, value in trial.settings.items()):
            study.add_trial(optuna.trial.create_trial(params=trial.settings, distributions=ranges, value=trial.mean))
    own = {name: setting(candidate, name) for name in ranges}
    return {number: own if number == 0 else dict(study.ask(ranges).params) for number in numbers}


def _distribution(candidate: Candidate, name: str, one: Dimension) -> optuna.distributions.BaseDistribution:
    import optuna

    if one.choices:
        return optuna.distributions.CategoricalDistribution(one.choices)
    if whole(candidate, name, one):
        return optuna.distributions.IntDistribution(one.low, one.high, log=one.log)
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)


def _lies_in(distribution: Any, value: Setting) -> bool:
    """Whether Optuna can learn from a value: the candidate's own may lie outside of its space."""
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(distribution.low <= value <= distribution.high)


@dataclass(frozen=True)
class Journal:
    """The finished trials of one search, a line each with its digest; beside it lie their out-of-fold predictions."""

    path: Path

    @classmethod
    def open(cls, work: Work, candidate: Candidate, layout: Layout) -> Journal:
        """The journal of this very search; those of other searches of the candidate are removed."""
        folder = work.path(FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        name = _identity(work, candidate).removeprefix("sha256:")[:32]
        for other in folder.iterdir():
            if not other.name.startswith(name):
                other.unlink()
        journal = cls(folder / f"{name}.jsonl")
        content = journal.path.read_bytes() if journal.path.exists() else b""
        lines = content.splitlines(keepends=True)
        write_atomic(journal.path, b"".join(line for line in lines if journal._is_sound(line)))
        return journal

    def read(self) -> Iterator[Trial]:
        """The trials in it, in the order in which they ended."""
        import numpy as np

        for line in self.path.read_text().splitlines():
            told = json.loads(line)
            judged = Judged(tuple(told["folds"]), told["learned"], np.empty(0))
            yield Trial(told["number"], told["options"], judged)

    def write(self, trial: Trial) -> None:
        """Add a trial; its predictions first, so that the journal never names what is not there."""
        predictions = npy(trial.judged.out_of_fold)
        write_atomic(self._predictions(trial.number), predictions)
        told = {
            "number": trial.number,
            "options": trial.settings,
            "folds": trial.judged.folds,
            "learned": trial.judged.learned,
            "predictions": digest(predictions),
        }
        told["digest"] = digest(canonical_json(told))
        with self.path.open("ab") as file:
            file.write(json.dumps(told, sort_keys=True, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def out_of_fold(self, number: int) -> np.ndarray:
        """The predictions of a trial."""
        import numpy as np

        return np.asarray(np.load(self._predictions(number), allow_pickle=False))

    def _is_sound(self, line: bytes) -> bool:
        """Whether a line and its predictions are as they were written; a trial that was cut or altered is done anew."""
        try:
            told = json.loads(line)
            seal = told.pop("digest")
            predictions = digest(self._predictions(told["number"]))
        except (ValueError, LookupError, TypeError, AttributeError, OSError):
            return False
        return seal == digest(canonical_json(told)) and predictions == told["predictions"] and line.endswith(b"\n")

    def _predictions(self, number: int) -> Path:
        return self.path.with_suffix(f".{number}.npy")


def _identity(work: Work, candidate: Candidate) -> str:
    """Digest of everything that the trials depend on, their number apart: more trials go on from fewer."""
    spec = work.spec
    told = {
        "specml": __version__,
        "libraries": {name: version(name) for name in LIBRARIES},
        "code": {name: digest(Path(name)) for name in _code(spec, candidate)},
        "inputs": [digest(work.path(path)) for path in (prepare.TRAIN, prepare.LAYOUT)],
        "candidate": candidate.model_dump(mode="json"),
        "features": spec.features.model_dump(mode="json"),
        "metric": spec.problem.metric,
        "threshold": spec.problem.decision.threshold,
        "search": spec.search.model_dump(mode="json", exclude={"trials"}),
    }
    return digest(canonical_json(told))


def _code(spec: Spec, candidate: Candidate) -> list[str]:
    """The source files that decide what a fit does, where they aren't specml's."""
    found: set[Path] = set()
    for name in (*spec.plugins, type(candidate).__module__):
        origin = Path(getattr(sys.modules[name], "__file__", None) or "")
        found |= {*origin.parent.rglob("*.py")} if origin.name == "__init__.py" else {origin}
    return sorted(str(path) for path in found if path.is_file())


class _Judges:
    """Judges settings: in processes of their own where there are threads for more than one, else here."""

    def __init__(self, judge: Callable[..., Judged]) -> None:
        self._judge = judge
        self._workers = min(threads(), GENERATION)
        self._pool: Any = None

    def __enter__(self) -> _Judges:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, candidates: dict[int, Candidate]) -> Iterator[tuple[int, Judged]]:
        """Judge each candidate; yields them as they end."""
        if self._workers == 1 or not candidates:
            for number, candidate in candidates.items():
                yield number, self._judge(candidate=candidate, threads=1)
            return
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from concurrent.futures.process import BrokenProcessPool
        from multiprocessing import get_context

        if self._pool is None:
            share = threads() // self._workers
            begin = pickle.dumps(partial(_begin, partial(self._judge, threads=share)))
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), begin_worker, (os.getpid(), begin))
        waiting = {self._pool.submit(_judged, candidate): number for number, candidate in candidates.items()}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                hint = f"It may have taken too much memory: set SPECML_THREADS below {threads()}."
                raise StageFailed("a process that judged a trial was killed.", where="search", hint=hint) from None


_JUDGE: list[Callable[..., Judged]] = []
"""In a process of ``_Judges``: what it was begun with."""


def _begin(judge: Callable[..., Judged]) -> None:
    _JUDGE.append(judge)


def _judged(candidate: Candidate) -> Judged:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return _JUDGE[0](candidate=candidate)


def _silent(text: str, done: float = 0.0) -> None:
    """Tell nobody: the trial is told as a whole."""


def npy(array: np.ndarray) -> bytes:
    """``array`` in numpy's format."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
