"""The finished trials of a search on the disk: what a kill can't take away, and what is never done twice."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml import __version__
from specml.files import canonical_json, digest, write_atomic
from specml.stages import prepare
from specml.stages.cross_validation import Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from specml.kinds import Candidate
    from specml.space import Setting
    from specml.spec import Spec
    from specml.stages.work import Work

FOLDER = ".specml/search/${key}"
LIBRARIES = ("lightgbm", "numpy", "optuna", "polars", "pytorch-lightning", "scikit-learn", "scipy", "torch")
"""Those whose version may change a score."""
EXTRAS = {"catboost": ("catboost",), "xgboost": ("xgboost", "xgboost-cpu")}
"""By candidate, the distributions of which one brings the library of its extra."""
HOW_FAR = {"trials", "patience", "max_cpu_seconds", "screen", "executor", "ray_address"}
"""Keys of ``search`` that say how far it goes and where, and change no trial: with more, it goes on from fewer."""


@dataclass(frozen=True)
class Trial:
    """One setting of a candidate, judged."""

    number: int
    settings: dict[str, Setting]
    """The options that differ from trial to trial."""
    judged: Judged
    cpu_seconds: float = 0.0
    """What judging it took."""

    @property
    def mean(self) -> float:
        """Mean of the folds' scores; of a pruned trial, of its first ones alone."""
        import numpy as np

        return float(np.mean(self.judged.folds))

    def told(self) -> dict[str, Any]:
        """What ``cross_validation.json`` keeps of it; the mean is null where folds are lacking."""
        mean = None if self.judged.pruned else self.mean
        told = {"number": self.number, "options": self.settings, "folds": self.judged.folds, "mean": mean}
        return {**told, "pruned": True} if self.judged.pruned else told


@dataclass(frozen=True)
class Journal:
    """The finished trials of one search, a line each with its digest; beside it lie their out-of-fold predictions."""

    path: Path

    @classmethod
    def open(cls, work: Work, candidate: Candidate) -> Journal:
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
            judged = Judged(tuple(told["folds"]), told["learned"], np.empty(0), told["pruned"])
            yield Trial(told["number"], told["options"], judged, told["cpu_seconds"])

    def write(self, trial: Trial) -> None:
        """Add a trial; its predictions first, so that the journal never names what is not there."""
        predictions = npy(trial.judged.out_of_fold)
        write_atomic(self._predictions(trial.number), predictions)
        told = {
            "number": trial.number,
            "options": trial.settings,
            "folds": trial.judged.folds,
            "learned": trial.judged.learned,
            "pruned": trial.judged.pruned,
            "cpu_seconds": trial.cpu_seconds,
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
        "versions": versions(candidate),
        "code": {name: digest(Path(name)) for name in _code(spec, candidate)},
        "inputs": [digest(work.path(path)) for path in (prepare.TRAIN, prepare.LAYOUT)],
        "candidate": candidate.model_dump(mode="json"),
        "usual_space": {name: one.model_dump(mode="json") for name, one in candidate.usual_space.items()},
        "portfolio": [dict(one) for one in candidate.portfolio],
        "features": spec.features.model_dump(mode="json"),
        "mitigation": spec.mitigation.reweighing and spec.mitigation.reweighing.model_dump(mode="json"),
        "metric": spec.problem.metric,
        "threshold": spec.problem.decision.threshold,
        "search": spec.search.model_dump(mode="json", exclude=HOW_FAR),
    }
    return digest(canonical_json(told))


def versions(candidate: Candidate) -> dict[str, str]:
    """Of specml and the libraries that may change a score."""
    return {"specml": __version__, **{name: version(name) for name in LIBRARIES}, **_extra(candidate)}


def _extra(candidate: Candidate) -> dict[str, str]:
    """The version of the extra that a candidate needs, as far as it is installed."""
    found = {}
    for name in EXTRAS.get(candidate.type, ()):  # type: ignore[attr-defined]
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _code(spec: Spec, candidate: Candidate) -> list[str]:
    """The source files that decide what a fit does, where they aren't specml's."""
    found: set[Path] = set()
    for name in (*spec.plugins, type(candidate).__module__):
        origin = Path(getattr(sys.modules[name], "__file__", None) or "")
        found |= {*origin.parent.rglob("*.py")} if origin.name == "__init__.py" else {origin}
    return sorted(str(path) for path in found if path.is_file())


def npy(array: np.ndarray) -> bytes:
    """``array`` in numpy's format."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
