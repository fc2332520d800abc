"""Break the model of one replica when told to: on the PYTHONPATH of such a server alone (see ``tests/faults.py``).

``SPECML_BREAK`` names a file. Once it exists, the first replica that runs its model takes it (by renaming it), and its
session raises from then on. In every replica, a row whose age is 13 raises.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_MODULE = "specml.serving.session"
_ORDER = os.environ.get("SPECML_BREAK", "")


class _Broken(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        run, taken = module.Session.run, Path(f"{_ORDER}.{os.getpid()}")

        def breaking(self: Any, columns: Any) -> Any:
            if Path(_ORDER).exists():
                try:
                    Path(_ORDER).rename(taken)
                except FileNotFoundError:  # another replica was faster
                    return run(self, columns)
            if taken.exists() or 13 in columns.get("age", ()):
                raise RuntimeError("the session fails, as the test wants it")
            return run(self, columns)

        module.Session.run = breaking


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != _MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Broken(spec.loader)
        return spec


if _ORDER:
    sys.meta_path.insert(0, _Finder())
