"""Fetch the champion, so that ``validate`` compares the challenger with it.

Which release that is stands in a small file of the project's own, to be committed: what is live is no file that DVC
could watch, and what a stage reads it must declare. ``specml run`` renews the file where a verdict may come of it
(see ``rollout.renew``); the bundle itself then travels with DVC's cache and remotes, as any output.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from specml import releases
from specml.errors import GateRefused
from specml.files import canonical_json, folder_atomic, read_json
from specml.plan import Stage
from specml.releases import POINTER

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.data import Layout
    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/champion"
BUNDLE = f"{OUT}/bundle"


def declare(spec: Spec) -> Stage:
    """Part of the plan only where a gate asks for the champion."""
    return Stage(name="champion", summary="fetch the live release to compare with", deps=(POINTER,), outs=(OUT,))


def work(work: Work) -> None:
    """The pointer → a copy of the bundle that it names, or of none.

    Raises:
        GateRefused: it is not in the project's store. It is no verdict of ``validate``, which DVC would keep as what
            follows from the pointer, though the store may have the bundle again.
        BundleError: it was altered there.
    """
    champion = releases.pointer(work.folder)
    with folder_atomic(work.path(OUT)) as temporary:
        if champion is not None:
            release = releases.of_bundle(work.folder, champion)
            if release is None:
                raise GateRefused(
                    f"not measured: the champion {champion[7:19]}, which {POINTER} names, is not kept here, so that "
                    "nothing can be compared with it.",
                    where="a gate of type champion",
                    hint=f"`dvc pull` brings it where a remote has it. To judge without one: remove {POINTER}.",
                )
            release.open()
            shutil.copytree(release.bundle, temporary / "bundle")
        (temporary / "champion.json").write_bytes(canonical_json({"bundle": champion}))
    work.say(f"the champion is {champion[7:19]}" if champion else "there is no champion yet")


def named(work: Work) -> str | None:
    """The digest of what this stage has fetched; None when there was no champion."""
    found: str | None = read_json(work.path(OUT) / "champion.json")["bundle"]
    return found


def unfit(contract: Contract, layout: Layout) -> str:
    """Why a champion of this contract can't answer rows of this layout; empty when it can."""
    if (contract.task, contract.target) != (layout.task, layout.target):
        return f"it estimates {contract.target} ({contract.task}), not {layout.target} ({layout.task})."
    if contract.quantiles != layout.quantiles:
        return f"it answers {_levels(contract.quantiles)}, not {_levels(layout.quantiles)}."
    if {str(one) for one in contract.classes} != {str(one) for one in layout.classes}:
        return f"its classes are {_named(contract.classes)}, not {_named(layout.classes)}."
    here: dict[str, str] = {column.name: column.kind for column in layout.features}
    if told := contract.group_thresholds:
        here |= {name: "categorical" for name in layout.protected if name == told.column and not layout.groups[name]}
    lacking = [column.name for column in contract.inputs if column.name not in here]
    if lacking:
        return f"the rows have no longer {_named(lacking)}, which it needs."
    past, now = contract.history, layout.history
    if past and now and (past.time, past.by, past.steps) != (now.time, now.by, now.steps):
        return "it looks back at other rows: features.history, data.split or problem.forecast has changed."
    other = [column.name for column in contract.inputs if column.kind != here[column.name]]
    return f"{_named(other)} is of another kind than it was trained on." if other else ""


def _levels(quantiles: tuple[float, ...]) -> str:
    return f"the quantiles {', '.join(f'{one:g}' for one in quantiles)}" if quantiles else "the mean"


def _named(values: object) -> str:
    assert isinstance(values, (list, tuple))
    return ", ".join(map(str, values))
