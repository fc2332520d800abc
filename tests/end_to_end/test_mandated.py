"""Each mandated package does real work: without it, the command that needs it ends, and says which one is missing.

Every row is run in processes in which the package can't be imported; the same commands pass with it, in
``prepared``, which goes all the way to the release; a server is brought up by ``tests/integration/test_serving.py``.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES, ROOT, specml

pytestmark = pytest.mark.slow

BLOCKED = """
import os, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == os.environ["WITHOUT"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
"""As sitecustomize on PYTHONPATH, it reaches every process that a command starts."""


@dataclass(frozen=True)
class Needs:
    """A package, and the command that needs it."""

    package: str
    module: str
    command: tuple[str, ...]
    status: int


# The last one changes what the others would find.
MANDATED = (
    Needs("hydra-core", "hydra", ("check", "candidates=fast"), 1),
    Needs("omegaconf", "omegaconf", ("check", "candidates=fast"), 1),
    Needs("pydantic", "pydantic", ("check",), 1),
    Needs("dvc", "dvc", ("run", "--no-deploy"), 1),
    Needs("lightgbm", "lightgbm", ("stage", "train", "gbm"), 8),
    Needs("pytorch-lightning", "pytorch_lightning", ("stage", "train", "net"), 8),
    Needs("onnxruntime-gpu", "onnxruntime", ("stage", "validate"), 8),
    Needs("whylogs", "whylogs", ("stage", "release"), 8),
    Needs("captum", "captum", ("explain", "one.csv"), 1),
    Needs("ray", "ray", ("deploy",), 9),
    Needs("scikit-learn", "sklearn", ("run", "--only", "train@line", "candidates.line.C=0.4"), 8),
)

CANDIDATES = """
candidates:
  line: {type: logistic_regression, C: 0.00001, max_iter: 1}
  gbm: {type: lightgbm, n_estimators: 1, num_leaves: 2, early_stopping: 0}
  net: {type: tabular_mlp, hidden: [16], epochs: 30, early_stopping: 0}
search: {folds: 2}
"""
"""Of which the network is chosen: captum explains it."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run with everything in its place."""
    folder = tmp_path_factory.mktemp("mandated") / "project"
    leave = shutil.ignore_patterns("artifacts", "metrics", "plots", ".specml", ".dvc", "dvc.*", "params.yaml")
    shutil.copytree(EXAMPLES / "breast_cancer", folder, ignore=leave)
    text = (folder / "spec.yaml").read_text()
    spec = re.sub(r"^candidates:\n(?:  .*\n)+", CANDIDATES, text, flags=re.MULTILINE).replace("8010", "18432")
    (folder / "spec.yaml").write_text(spec)
    (folder.parent / "sitecustomize.py").write_text(BLOCKED)
    specml("check", "candidates=fast", folder=folder)
    assert "net released" in specml("run", "--no-deploy", folder=folder).stderr
    (folder / "one.csv").write_text("\n".join((folder / "data/breast_cancer.csv").read_text().splitlines()[:2]))
    specml("explain", "one.csv", folder=folder)
    return folder


@pytest.mark.parametrize("row", MANDATED, ids=lambda row: row.package)
def test_without_it_the_command_ends_and_names_it(prepared: Path, row: Needs) -> None:
    blocked = {"PYTHONPATH": str(prepared.parent), "WITHOUT": row.module}
    done = specml(*row.command, folder=prepared, status=row.status, **blocked)
    told = [line for line in done.stderr.splitlines() if f"package {row.module} can't be imported" in line]
    assert told, done.stderr


def test_nothing_mandated_is_left_out() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=;]", one)[0] for one in declared}
    mandated = {
        "hydra-core", "omegaconf", "pydantic", "dvc", "scikit-learn", "lightgbm", "pytorch-lightning",
        "onnxruntime-gpu", "ray", "whylogs", "captum",
    }  # fmt: skip
    assert mandated <= names
    assert {row.package for row in MANDATED} == mandated
