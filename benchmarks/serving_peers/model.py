"""The same model for every peer: the bundle's graph, with its thirty columns as one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime


class Model:
    """The graph that ``serving.py`` wrote to ``folder``, on one thread of the CPU."""

    def __init__(self, folder: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = str(Path(folder) / "rows.onnx")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The probability of the positive class [n] for float32 ``rows`` [n, 30]."""
        return self._session.run(["probabilities"], {"rows": rows})[0][:, 1]
