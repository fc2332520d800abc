"""LitServe as it comes, one worker on the CPU: ``python with_litserve.py FOLDER PORT``.

No batching: with it (``max_batch_size``, ``batch_timeout``) single rows wait, and many gain little.
"""

from __future__ import annotations

import sys

import litserve
import numpy as np
from model import Model


class Api(litserve.LitAPI):
    """Rows as lists."""

    def setup(self, device: str) -> None:
        """Open the graph."""
        self._model = Model(sys.argv[1])

    def decode_request(self, request: dict) -> np.ndarray:
        """The rows."""
        return np.array(request["rows"], np.float32)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Their probabilities."""
        return self._model(rows)

    def encode_response(self, told: np.ndarray) -> dict[str, list[float]]:
        """The answer."""
        return {"predictions": told.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
