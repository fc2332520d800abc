"""How fast trees answer as ONNX's operator and as tensor operators, on the provider at hand.

Models of four shapes are fitted to drawn rows and put into a graph in both forms (``serving.trees``); each graph
answers batches of three sizes in turn, so that what else the machine does falls on both alike. Printed are the rows
that each answers in a second (the median batch), and by how many times the tensors are faster. Where CUDA opens,
nodes that copy between the CPU and the GPU are counted, too.

    python benchmarks/trees.py [--cuda]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

import specml.spec  # noqa: F401 - fills the tables
from specml.data import Design
from specml.graph import Graph
from specml.kinds import Candidate

if TYPE_CHECKING:
    from specml.graph import Trees

COLUMNS, ROWS = 30, 20_000
SHAPES: dict[str, dict[str, Any]] = {
    "1000 trees of depth 2": {"type": "lightgbm", "num_leaves": 4, "n_estimators": 1000},
    "300 trees of 31 leaves": {"type": "lightgbm", "num_leaves": 31, "n_estimators": 300},
    "300 trees of 127 leaves": {"type": "lightgbm", "num_leaves": 127, "n_estimators": 300},
    "200 trees of depth 14": {"type": "random_forest", "n_estimators": 200, "max_depth": 14},
}
BATCHES = (1, 256, 8192)
SECONDS = 1.0
"""How long each batch size of each shape is measured."""


def main() -> None:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuda", action="store_true", help="on CUDA, not on the CPU")
    provider = "CUDAExecutionProvider" if parser.parse_args().cuda else "CPUExecutionProvider"
    random = np.random.default_rng(7)
    X = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    X[random.random(X.shape) < 0.05] = np.nan
    y = (np.nansum(X[:, :8] * X[:, 8:16], axis=1) + random.normal(size=ROWS) > 0).astype(np.int64)
    rows = Design(X, y, None, "binary", 2, (0,) * COLUMNS)
    print(f"{provider}, onnxruntime {onnxruntime.__version__}, one thread")
    print(f"{'':26}{'batch':>8}{'operator':>14}{'tensors':>14}{'ratio':>9}")
    for name, options in SHAPES.items():
        kind = options["type"]
        model = Candidate.table[kind](**options).fit(rows, seed=7, threads=1)  # type: ignore[attr-defined]
        forms: list[Trees] = ["operator", "tensors"]
        sessions = [_session(model, form, provider) for form in forms]
        for batch in BATCHES:
            rates = _rates(sessions, X[np.arange(batch) % ROWS])
            print(f"{name:26}{batch:8}{rates[0]:10,.0f} /s{rates[1]:10,.0f} /s{rates[1] / rates[0]:9.2f}")


def _session(model: Any, form: Trees, provider: str) -> onnxruntime.InferenceSession:
    graph = Graph("benchmark", form)
    graph.output("out", model.to_onnx(graph, graph.input("x", "float32", COLUMNS)), "float32", 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        if provider.startswith("CUDA"):
            onnxruntime.preload_dlls()
            options.optimized_model_filepath = str(path)
        providers = list(dict.fromkeys([provider, "CPUExecutionProvider"]))
        session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=providers)
        if session.get_providers()[0] != provider:
            raise SystemExit(f"{provider} does not open here.")
        if path.exists():
            copies = sum(node.op_type.startswith("Memcpy") for node in onnx.load(path).graph.node)
            print(f"{form}: {copies} nodes copy between the CPU and the GPU")
    return session


def _rates(sessions: list[onnxruntime.InferenceSession], X: np.ndarray) -> list[float]:
    """Rows in a second of each session."""
    taken: list[list[float]] = [[] for _ in sessions]
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(taken[0]) < 3:
        for session, times in zip(sessions, taken, strict=True):
            started = time.perf_counter()
            session.run(None, {"x": X})
            times.append(time.perf_counter() - started)
    return [len(X) / float(np.median(times)) for times in taken]


if __name__ == "__main__":
    main()
