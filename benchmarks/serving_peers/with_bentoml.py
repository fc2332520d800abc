"""BentoML, one worker: ``python with_bentoml.py FOLDER PORT``.

An ``async def``, which runs in the event loop; no batching (with it, BentoML refuses what would wait), no access log,
no metrics.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from model import Model


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Service:
    """Rows as lists."""

    def __init__(self) -> None:
        self._model = Model(os.environ["BENCH_FOLDER"])

    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> dict[str, list[float]]:
        """Answer one request."""
        return {"predictions": self._model(np.array(rows, np.float32)).tolist()}


if __name__ == "__main__":
    os.environ["BENCH_FOLDER"] = sys.argv[1]
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    here = str(Path(__file__).resolve().parent)
    command = [sys.executable, "-m", "bentoml", "serve", "with_bentoml:Service", "--working-dir", here]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", sys.argv[2]])
