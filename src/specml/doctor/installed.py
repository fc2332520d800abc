"""What is installed: versions beside those that specml asks for, and whether each library really loads."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from specml.doctor.finding import Finding, ok, told, wrong
from specml.doctor.probe import tried

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEEDED = (3, 11)
AGAIN = "pip install --force-reinstall 'specml' -c constraints.txt"

LOADED = (
    ("hydra", "omegaconf", "pydantic", "dvc.repo", "polars", "optuna", "sklearn.linear_model", "lightgbm", "ray",
     "whylogs.core"),
    ("torch", "pytorch_lightning", "captum.attr"),
)  # fmt: skip
"""Modules that stages and the server load, in two processes that take about as long."""

PACKAGE = {"hydra": "hydra-core", "dvc": "dvc", "sklearn": "scikit-learn", "pytorch_lightning": "pytorch-lightning"}
"""Packages that are called otherwise than their module."""


def python() -> Finding:
    """The interpreter."""
    here = sys.version.split()[0]
    if sys.version_info < NEEDED:
        why, mend = "specml does not run on it.", "Make the environment again with Python 3.11 or later."
        return wrong("python", f"{here} at {sys.executable}", why, mend)
    return ok("python", f"{here} at {sys.executable}")


def versions() -> Iterator[Finding]:
    """What specml's own metadata asks for, beside what is here."""
    asked = [Requirement(text) for text in metadata.requires("specml") or ()]
    asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    bad = 0
    for one in sorted(asked, key=lambda one: one.name):
        here = _version(one.name)
        if here and one.specifier.contains(here, prereleases=True):
            continue
        bad += 1
        why = f"specml asks for {one.name}{one.specifier}."
        yield wrong(one.name, f"{here} is installed" if here else "is not installed", why, f"Mend it: {AGAIN}")
    if not bad:
        yield ok("versions", f"all {len(asked)} packages are as specml asks for")
    yield from _untested([canonicalize_name(one.name) for one in asked])


def _untested(names: Iterable[str]) -> Iterator[Finding]:
    """Versions that specml's tests have not seen; a local part, as in 2.13.0+cpu, makes no difference."""
    tested = _constraints()
    here = {name: (_version(name) or "").partition("+")[0] for name in names if name in tested}
    others = [f"{name} {version} (tested: {tested[name]})" for name, version in here.items() if version != tested[name]]
    if others:
        yield told("tested versions", ", ".join(others), "specml's tests ran with others.")


def _constraints() -> dict[str, str]:
    """The tested versions; none in an installation that does not bring them."""
    package = Path(__file__).parents[1]
    found = [path for path in (package / "constraints.txt", package.parents[1] / "constraints.txt") if path.exists()]
    pairs = re.findall(r"^([\w.-]+)==(\S+)$", found[0].read_text(), re.MULTILINE) if found else []
    return {canonicalize_name(name): version for name, version in pairs}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def loading() -> Iterator[Finding]:
    """Whether each library loads: in processes of their own, for a broken one may crash or hang."""
    with ThreadPoolExecutor(len(LOADED)) as pool:
        ends = list(pool.map(lambda modules: tried([f"import:{one}" for one in modules]), LOADED))
    count = 0
    for group in ends:
        for trial, end in group.items():
            module = trial.partition(":")[2]
            package = PACKAGE.get(module.partition(".")[0], module.partition(".")[0])
            count += not end.error
            if end.error:
                yield wrong(package, f"import {module}: {end.error}", "Stages or the server need it.", AGAIN)
    yield ok("imports", f"{count} libraries load")


def one_onnxruntime() -> Finding:
    """Two distributions write the same folder: the one that comes last wins, and CUDA is gone without a word."""
    names = (dist.metadata["Name"] or "" for dist in metadata.distributions())
    here = sorted({canonicalize_name(name) for name in names if re.fullmatch(r"onnxruntime(?!.*extensions).*", name)})
    told_of = ", ".join(f"{name} {_version(name)}" for name in here)
    if len(here) == 1:
        return ok("onnxruntime", told_of)
    if not here:
        return wrong("onnxruntime", "is not installed", "Nothing can be packaged or served.", AGAIN)
    why = "They overwrite each other's files: CUDA then is gone, though pip finds nothing wrong."
    mend = f"pip uninstall -y {' '.join(here)}, and then install the one that you want."
    return wrong("onnxruntime", f"{len(here)} distributions: {told_of}", why, mend)
