"""What several tests need: small real tables, specs from a dictionary, and projects to run in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from specml.data import Column, Design

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from specml.data import Task
    from specml.errors import Problem
    from specml.evidence import Evidence
    from specml.spec import Spec

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a background job, whose children could not be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about who else wants the machine than about the code.
settings.register_profile("specml", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("specml")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def tree(**changes: Any) -> dict[str, Any]:
    """A small valid spec as plain values; sections are replaced whole."""
    base: dict[str, Any] = {
        "name": "small",
        "problem": {"task": "binary", "target": "y"},
        "data": {"sources": {"rows": {"type": "csv", "path": "rows.csv"}}},
        "candidates": {"line": {"type": "logistic_regression"}},
    }
    return {**base, **changes}


def spec_of(**changes: Any) -> Spec:
    """The same, validated."""
    from specml.spec import Spec

    return Spec.model_validate(tree(**changes))


def design(task: Task, n: int = 400, seed: int = 0, d: int = 6) -> Design:
    """Rows with a signal, some noise, ties and missing values."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, d)).astype(np.float32)
    X[:, 0] = np.round(X[:, 0] * 2) / 2
    X[:, 1] = generator.integers(0, 5, n)
    signal = X[:, 0] + 0.5 * X[:, 1] - X[:, 2] ** 2 + generator.normal(scale=0.3, size=n)
    X[generator.random((n, d)) < 0.05] = np.nan
    if task == "regression":
        return Design(X, signal.astype(np.float64), None, task, 2)
    k = 2 if task == "binary" else 3
    edges = np.quantile(signal, np.linspace(0, 1, k + 1)[1:-1])
    return Design(X, np.searchsorted(edges, signal).astype(np.int64), None, task, k)


def column(name: str, kind: Any = "numeric", **facts: Any) -> Column:
    """A feature column."""
    return Column(name=name, kind=kind, nullable=True, **facts)


def run_stages(spec: Spec, folder: Path, *, until: str = "") -> None:
    """Every stage of ``spec``, or up to one, one after the other in this process; DVC is left out."""
    from specml.compile import compile_plan, ruled_spec
    from specml.stages import STAGES
    from specml.stages.work import Work, narrowed

    plan = compile_plan(spec)
    ruled = type(spec).model_validate(ruled_spec(plan.params))
    for stage in plan.stages:
        for key in stage.keys or ("",):
            part = narrowed(ruled, stage, key)
            STAGES[stage.name].work(Work(stage, folder, part, lambda *_, **__: None, key, plan.obligations))
        if stage.name == until:
            break


@contextlib.contextmanager
def evidence_of(spec: Spec, folder: Path) -> Iterator[Evidence]:
    """The evidence that gates judge, of a project whose stages up to ``package`` were run; nothing is mocked."""
    from specml.bundle import open_bundle
    from specml.compile import compile_plan
    from specml.data import Layout
    from specml.stages import package, prepare, validate
    from specml.stages.work import Work, narrowed

    plan = compile_plan(spec)
    (stage,) = (one for one in plan.stages if one.name == "validate")
    stage = replace(stage, params=(*stage.params, *validate.SERVING))
    work = Work(stage, folder, narrowed(spec, stage), lambda *_, **__: None)
    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    with validate.gathered(work, layout, open_bundle(work.path(package.OUT))) as evidence:
        yield evidence


def problem_of(folder: Path, text: str) -> Problem:
    """The one thing that is wrong in a spec, written to ``folder``; fails the test when it is another number."""
    from specml.errors import SpecError
    from specml.load import load

    (folder / "spec.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        load(folder)
    (problem,) = error.value.problems
    return problem


def specml(
    *arguments: str, folder: Path, status: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would; fails the test when the exit status is another."""
    done = subprocess.run(
        [sys.executable, "-m", "specml", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    told = f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in told, told
    if status is not None:
        assert done.returncode == status, told
    return done


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """Copy an example into a folder of its own, without git."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        leave = shutil.ignore_patterns("artifacts", "metrics", "plots", ".specml", ".dvc", "dvc.lock")
        shutil.copytree(EXAMPLES / name, folder, ignore=leave)
        return folder

    return copy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start servers or whole runs come first: side by side, the last file decides when all are done."""
    costs: Counter[Path] = Counter()
    for item in items:
        costs[item.path] += 10 * bool(item.get_closest_marker("serve")) + bool(item.get_closest_marker("slow"))
    items.sort(key=lambda item: -costs[item.path])
