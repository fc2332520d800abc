"""A model for each quantile, which answer together and never cross.

What answers is sorted (Chernozhukov, Fernández-Val & Galichon 2010, *Quantile and probability curves without
crossing*): where two models cross, each takes the other's answer, and together they are no further from the true ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from specml.bundle import quantile_name
from specml.kinds import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.kinds import Candidate


def fit(
    candidate: Candidate,
    train: Design,
    quantiles: tuple[float, ...],
    *,
    seed: int,
    threads: int,
    stop_on: Design | None = None,
) -> Model:
    """``candidate.fit``, or of ``quantiles`` one of each."""

    def one(rows: Design) -> Model:
        stop = None if stop_on is None else replace(stop_on, quantile=rows.quantile)
        return candidate.fit(rows, seed=seed, threads=threads, stop_on=stop)

    return each(quantiles, train, one)


def each(quantiles: tuple[float, ...], train: Design, fit: Callable[[Design], Model]) -> Model:
    """``fit(train)``, or of ``quantiles`` one of each."""
    if not quantiles:
        return fit(train)
    return Quantiles(quantiles, tuple(fit(replace(train, quantile=one)) for one in quantiles))


def load(candidate: Candidate, folder: Path, task: Task, quantiles: tuple[float, ...]) -> Model:
    """The model that ``fit`` made and ``save`` wrote to ``folder``."""
    if not quantiles:
        return candidate.load(folder, task)
    return Quantiles(quantiles, tuple(candidate.load(folder / quantile_name(one), task) for one in quantiles))


class Quantiles(Model):
    """``parts`` answer the quantiles of these ``levels``, rising: float64 [n, q]."""

    def __init__(self, levels: tuple[float, ...], parts: tuple[Model, ...]) -> None:
        self.levels = levels
        self.parts = parts
        names = sorted({name for one in parts for name in one.learned})
        # One number for all: a refit of the tails in as few rounds as the folds found for each would rest on few rows.
        self.learned = {name: round(sum(one.learned[name] for one in parts) / len(parts)) for name in names}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.sort(np.stack([one.predict(X) for one in self.parts], axis=1), axis=1)

    @override
    def save(self, folder: Path) -> None:
        """A folder for each quantile."""
        for level, one in zip(self.levels, self.parts, strict=True):
            (folder / quantile_name(level)).mkdir()
            one.save(folder / quantile_name(level))

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np

        answers = graph.node("Concat", *(one.to_onnx(graph, X) for one in self.parts), axis=1)
        width = graph.constant(np.array([len(self.parts)]))
        return graph.node("TopK", answers, width, axis=1, largest=0, sorted=1, spare=1)
