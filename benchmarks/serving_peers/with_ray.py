"""Ray Serve as its guide to batching shows it, with its own defaults: ``python with_ray.py FOLDER PORT``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

sys.path.insert(0, str(Path(__file__).parent))


@serve.deployment
class Server:
    """Rows of several requests in one call of the model."""

    def __init__(self, here: str, folder: str) -> None:
        sys.path.insert(0, here)
        from model import Model

        self._model = Model(folder)

    @serve.batch
    async def batch(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        """What each request is answered."""
        told = self._model(np.concatenate(requests))
        return np.split(told, np.cumsum([len(rows) for rows in requests])[:-1])

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Answer one request."""
        rows = np.array((await request.json())["rows"], np.float32)
        return {"predictions": (await self.batch(rows)).tolist()}


if __name__ == "__main__":
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, proxy_location="HeadOnly")
    serve.run(Server.bind(str(Path(__file__).parent), sys.argv[1]), route_prefix="/predict")
    threading.Event().wait()
