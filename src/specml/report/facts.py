"""The files of a run, read once: what the report tells stands in one of them."""

from __future__ import annotations

import contextlib
import csv
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

from specml import admission
from specml.bundle import RELEASE
from specml.compile import compile_plan, ruled_spec
from specml.compile.dvc import Parameters, read_params
from specml.data import Layout
from specml.errors import SpecmlError
from specml.files import digest, read_json
from specml.ledger import LedgerError
from specml.load import validate as validated
from specml.stages import compare, explore, feasibility, package, prepare, select, train, validate
from specml.verdicts import opened

if TYPE_CHECKING:
    from pathlib import Path

    from specml.plan import Stage
    from specml.spec import Spec

LIBRARIES = ("specml", "dvc", "lightgbm", "numpy", "onnxruntime-gpu", "onnxruntime", "polars", "ray", "scikit-learn")


class Point(NamedTuple):
    """A point of the learning curve: training rows, score and the bounds of its interval."""

    rows: float
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Facts:
    """What the files of one run say; None where a file is not there."""

    spec: Spec
    params: Parameters
    stages: tuple[Stage, ...]
    layout: Layout
    choice: dict[str, Any]
    evidence: dict[str, Any]
    curves: dict[str, Any] | None
    columns: dict[str, Any]
    prepared: dict[str, Any]
    target: list[tuple[float, int]]
    """Regression: middles of bins of the target, and training rows in each."""
    feasibility: dict[str, Any] | None
    """None where no learning curve was asked for."""
    learning: list[Point]
    trained: dict[str, dict[str, Any]]
    """By candidate: what its training wrote to ``cross_validation.json``."""
    release: dict[str, Any] | None
    """None when the bundle that was judged has not come to a release."""
    approved: list[str] | None
    """Who has approved it so far; None where nobody must, or a ledger that was changed does not tell."""
    held_out: dict[str, Any] | None
    """How often the held-out rows were opened (see ``verdicts.opened``); None where that is not recorded here."""
    importance: dict[str, Any] | None
    compared: dict[str, Any] | None
    """What a mitigation did to the groups; None where there is none."""
    bundle: str
    sources: dict[str, tuple[str, str, int]]
    """Files of the rows by path: kind of digest, digest, bytes, as DVC locked them."""
    changed: tuple[str, ...]
    """Keys of params.yaml that are other than when the stages before the release ran."""
    commit: str
    versions: dict[str, str]


def gather(folder: Path) -> Facts:
    """The facts of the project in ``folder``.

    Raises:
        SpecmlError: no run got as far as the verdicts, or a file of it is broken.
    """
    try:
        params = read_params((folder / "params.yaml").read_text(encoding="utf-8"))
        evidence, choice = read_json(folder / validate.OUT), read_json(folder / select.OUT)
        layout = Layout.model_validate_json((folder / prepare.LAYOUT).read_bytes())
        columns, prepared = read_json(folder / explore.OUT), read_json(folder / prepare.METRICS)
        bundle = digest(folder / package.OUT / "manifest.json")
    except FileNotFoundError as error:
        raise SpecmlError(
            "is missing: no run of this project got as far as the verdicts.",
            where=str(error.filename),
            hint="Run `specml run` first.",
        ) from None
    spec = validated(ruled_spec(params.values), lambda _: "params.yaml", folder)
    stages = compile_plan(spec, (params.spec,)).stages
    release = _optional(folder / RELEASE)
    if release and release.get("verdicts") == digest(folder / validate.OUT):
        evidence["gates"] = admission.waived(evidence["gates"], release)
    if release and not release["bundle"] == evidence["bundle"] == bundle:
        release = None
    ran = locked(folder)
    names = [row["candidate"] for row in choice["leaderboard"]]
    return Facts(
        spec=spec,
        params=params,
        stages=stages,
        layout=layout,
        choice=choice,
        evidence=evidence,
        curves=_optional(folder / validate.CURVES),
        columns=columns,
        prepared=prepared,
        target=_target(folder / explore.TARGET) if layout.task == "regression" else [],
        feasibility=_optional(folder / feasibility.METRICS),
        learning=learning(folder)[0],
        trained={name: _trained(folder, name) for name in names},
        release=release,
        approved=_approved(folder, release),
        held_out=opened(folder, evidence["bundle"]),
        importance=_optional(folder / validate.IMPORTANCE),
        compared=_optional(folder / compare.OUT) if spec.mitigation.asked else None,
        bundle=bundle,
        sources=_sources(ran),
        changed=_changed(ran, params.values, stages),
        commit=_commit(folder),
        versions=_versions(),
    )


def learning(folder: Path) -> tuple[list[Point], str]:
    """The learning curve and what it is measured by; no points where none was drawn."""
    path = folder / feasibility.CURVE
    if not path.exists():
        return [], ""
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = list(csv.reader(file))
    return [Point(*map(float, line)) for line in lines], head[1]


def _approved(folder: Path, release: dict[str, Any] | None) -> list[str] | None:
    if release and "approval" in release:
        with contextlib.suppress(LedgerError):
            return admission.approved_by(folder, release)
    return None


def _optional(path: Path) -> dict[str, Any] | None:
    return dict(read_json(path)) if path.exists() else None


def _target(path: Path) -> list[tuple[float, int]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(float(row["value"]), int(row["rows"])) for row in csv.DictReader(file)]


def _trained(folder: Path, name: str) -> dict[str, Any]:
    return _optional(folder / train.OUT.replace("${key}", name) / "cross_validation.json") or {}


def locked(folder: Path) -> dict[str, Any]:
    """The stages as DVC locked them when they ran; none without DVC."""
    from ruamel.yaml import YAML

    lock = folder / "dvc.lock"
    # By the parser that DVC wrote it with: to one of YAML 1.1, 1e-05 is text.
    return dict(YAML(typ="safe").load(lock).get("stages", {})) if lock.exists() else {}


def _sources(ran: dict[str, Any]) -> dict[str, tuple[str, str, int]]:
    deps = [dep for name, stage in ran.items() if name.startswith("ingest@") for dep in stage["deps"]]
    return {
        dep["path"]: (dep.get("hash", "md5"), dep.get(dep.get("hash", "md5"), ""), dep.get("size", 0))
        for dep in deps
        if not dep["path"].startswith("artifacts/") or dep["path"].startswith("artifacts/fingerprint/")
    }


def _changed(ran: dict[str, Any], values: dict[str, Any], stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """Sections that changed, the widest that some stage names: ``search`` and not also ``search.folds``.

    What a stage that is no longer in the plan ran with is past; the lock of a refused release is an older one's.
    """
    names = {f"{stage.name}@{key}" if key else stage.name for stage in stages for key in stage.keys or ("",)}
    before = [stage for name, stage in ran.items() if name in names - {"release"}]
    then = {key: value for stage in before for key, value in stage.get("params", {}).get("params.yaml", {}).items()}
    changed = {key for key, value in then.items() if value != _at(values, key)}
    parents = {key: {key[:place] for place, sign in enumerate(key) if sign == "."} for key in changed}
    return tuple(sorted(key for key in changed if not parents[key] & changed))


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _commit(folder: Path) -> str:
    """The commit that is checked out, and whether something differs from it; empty outside of git."""
    git = shutil.which("git")
    if git is None:
        return ""
    asked = [
        subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    ]
    if asked[0].returncode:
        return ""
    return asked[0].stdout.strip() + (", with changes that are not committed" if asked[1].stdout.strip() else "")


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # onnxruntime comes under one of two names
    return found
