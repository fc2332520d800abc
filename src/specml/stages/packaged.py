"""The packaged model, asked: what it answers to rows, and what gates ask it beside."""

from __future__ import annotations

import contextlib
import time
from functools import cached_property
from typing import TYPE_CHECKING

from specml import bundle, explain
from specml.data import feature_array
from specml.evidence import ABSTAINED, Answers
from specml.stages.served import Served, serving

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnxruntime
    import polars as pl

    from specml.data import Column, Layout
    from specml.evidence import Server
    from specml.explain import Explain, Explained
    from specml.spec import Spec

ROWS_AT_ONCE = 4096
WARM_UP = 20
"""Calls before those that are timed."""


class Asked:
    """An opened bundle as ``evidence.Packaged``; to be closed, for a server may have been started.

    ``layout`` says in which order classes are numbered; ``test``: the held-out rows, which are timed.
    """

    def __init__(self, opened: bundle.Bundle, folder: Path, layout: Layout, test: pl.DataFrame, spec: Spec) -> None:
        self.inputs: tuple[Column, ...] = opened.contract.inputs
        self.graph_bytes = len(opened.model)
        self.explanation = opened.contract.explained
        self._opened, self._folder, self._layout, self._test, self._spec = opened, folder, layout, test, spec
        self._open = contextlib.ExitStack()

    def close(self) -> None:
        """End the server, if there is one."""
        self._open.close()

    def outputs(self, rows: pl.DataFrame) -> list[dict[str, np.ndarray]]:
        """The graph's outputs for rows, in parts."""
        return [bundle.predict(self._session, self._columns(part)) for part in rows.iter_slices(ROWS_AT_ONCE)]

    def read(self, outputs: list[dict[str, np.ndarray]]) -> Answers:
        """The graph's outputs as ``Evidence`` has them: classes numbered as in the layout."""
        import numpy as np

        layout = self._layout
        if layout.task == "regression":
            names = list(map(bundle.quantile_name, layout.quantiles)) or ["prediction"]
            found = np.concatenate([np.stack([a[name] for name in names], axis=1) for a in outputs]).astype(np.float64)
            return Answers(found if layout.quantiles else found[:, 0], None, self._ends(outputs))
        # A champion may have its classes in another order.
        order = [[str(one) for one in self._opened.contract.classes].index(str(label)) for label in layout.classes]
        probabilities = np.concatenate([a["probabilities"] for a in outputs]).astype(np.float64)[:, order]
        place = {"": ABSTAINED} | {str(label): index for index, label in enumerate(layout.classes)}
        decisions = np.array([place[label] for label in np.concatenate([a["label"] for a in outputs]).tolist()])
        return Answers(probabilities[:, 1] if layout.task == "binary" else probabilities, decisions)

    def answer(self, rows: pl.DataFrame) -> Answers:
        """What it answers to rows."""
        return self.read(self.outputs(rows))

    def explain(self, rows: pl.DataFrame) -> Explained:
        """Why, by column."""
        return self._explain(self._columns(rows))

    def timed(self, rows: int, calls: int) -> list[float]:
        """The seconds of each of ``calls`` runs of the graph on ``rows`` held-out rows, after some to warm up."""
        import numpy as np

        height = self._test.height
        taken = [self._test[(np.arange(rows) + start * rows) % height] for start in range(min(64, 1 + 4096 // rows))]
        inputs = [self._columns(part) for part in taken]
        seconds = []
        for number in range(WARM_UP + calls):
            columns = inputs[number % len(inputs)]
            started = time.perf_counter()
            bundle.predict(self._session, columns)
            seconds.append(time.perf_counter() - started)
        return seconds[WARM_UP:]

    def served(self) -> Server:
        """The model behind HTTP, by the spec's limits."""
        return self._served

    @cached_property
    def _served(self) -> Served:
        declared = self._spec.serving
        args = {
            "bundle": str(self._folder.resolve()),
            "digest": self._opened.digest,
            "batching": {key: getattr(declared.batching, key) for key in ("max_batch_size", "max_wait")},
            "fast_path": declared.fast_path == "auto",
            "max_rows": declared.max_rows,
            "max_body": declared.max_body,
        }
        port = self._open.enter_context(serving(args))
        served = Served(port, self._opened.contract, self._test, self.read, (declared.max_rows, declared.max_body))
        return self._open.enter_context(contextlib.closing(served))

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return self._opened.session()

    @cached_property
    def _explain(self) -> Explain:
        return explain.explainer(self._opened)

    def _columns(self, rows: pl.DataFrame) -> dict[str, np.ndarray]:
        return {column.name: feature_array(rows, column) for column in self.inputs}

    def _ends(self, outputs: list[dict[str, np.ndarray]]) -> np.ndarray | None:
        """float64 [n, 2]: lower and upper ends of the prediction intervals, where there are such."""
        import numpy as np

        if self._opened.contract.prediction_interval is None:
            return None
        return np.concatenate([np.stack([a["lower"], a["upper"]], axis=1) for a in outputs]).astype(np.float64)
