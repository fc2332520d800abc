"""The job of a cluster that scores files: ``python -m specml.targets.batch.driver PLAN``.

``PLAN`` is a file of the project, which all nodes see: ``project``, ``works`` (``Work.tell``), ``wanted``
(``scoring.Wanted``) and ``most``. It prints ``events``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from specml.errors import SpecmlError, of_system
from specml.files import locked, read_json
from specml.targets.batch.events import line, told
from specml.targets.batch.journal import Work
from specml.targets.batch.parts import LOCK
from specml.targets.batch.pool import score


def main(path: Path) -> int:
    """Score what the plan names and is not scored; returns the status to exit with."""
    import ray

    importlib.import_module("specml.sources")  # by name: those that read files are known by type then
    try:
        plan = read_json(path)
        ray.init(log_to_driver=False)
        with locked(Path(plan["project"]) / LOCK):
            works = [one for one in map(Work.told, plan["works"]) if not one.done]
            score(works, plan["wanted"], plan["most"], say)
    except (SpecmlError, OSError) as error:
        known = error if isinstance(error, SpecmlError) else of_system(error, path)
        print(line({"failed": told(known)}), flush=True)  # noqa: T201
        return known.status
    print(line({"done": True}), flush=True)  # noqa: T201
    return 0


def say(text: str) -> None:
    """For who follows the job."""
    print(line({"said": text}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
