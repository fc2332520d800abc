"""Ask the sources that are no files of the project whether their rows are others than before.

DVC can't look into a database or at a server. So this stage does at each run, and writes what it was told to a small
file on which ``ingest`` depends: where that is the same, nothing is read and nothing after it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.files import canonical_json, write_atomic
from specml.plan import Stage
from specml.stages import guard

if TYPE_CHECKING:
    from specml.spec import Spec
    from specml.stages.work import Work

UNTOLD = ("cursor",)
"""What is a value of the data."""
OUT = "artifacts/fingerprint/${key}.json"


def declare(spec: Spec) -> Stage:
    """Part of the plan only where a source is remote."""
    remote = {name: str(source.model_dump()["type"]) for name, source in spec.data.sources.items() if source.remote}
    return Stage(
        name="fingerprint",
        summary="ask whether the source has other rows",
        each="data.sources",
        keys=tuple(remote),
        items=remote,
        params=("data.sources.${key}",),
        deps=(guard.OUT,),
        outs=(OUT,),
        always=True,
    )


def work(work: Work) -> None:
    """What identifies the rows → JSON.

    Raises:
        DataCheckFailed: the source can't be reached, or refuses.
    """
    found = work.spec.data.sources[work.key].fingerprint(work.folder)
    write_atomic(work.path(OUT), canonical_json(found))
    work.say(", ".join(f"{name} {value}" for name, value in found.items() if value is not None and name not in UNTOLD))
