"""A regression's target as its models learn it: itself, its square root, or its logarithm.

scikit-learn's ``TransformedTargetRegressor``, in the graph, too. Amounts and counts often vary in proportion to their
size (Box & Cox 1964, *An analysis of transformations*): on a root or a logarithm, columns add up, and the few largest
targets do not decide alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml import quantiles
from specml.errors import DataCheckFailed
from specml.kinds import Candidate, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph

Transform = Literal["sqrt", "log"]

HIGHEST = 80.0
"""The largest logarithm that is answered, so that no answer is beyond float32."""


def check(candidate: Candidate, y: np.ndarray, where: str) -> None:
    """Make sure that the target of every training row can be learned as ``candidate``, or its space, says.

    Raises:
        DataCheckFailed: one is below 0.
    """
    space = candidate.space.get("target_transform")
    ways = {candidate.target_transform, *(space.choices if space else ())}
    below = int((y < 0).sum())
    if below and ways != {"none"}:
        what = f"takes no target below 0; {below:,} of {len(y):,} training rows have one."
        raise DataCheckFailed(what, where=f"{where}.target_transform", hint="Say none, or leave it out.")


def fit(
    candidate: Candidate,
    train: Design,
    levels: tuple[float, ...],
    *,
    seed: int,
    threads: int,
    stop_on: Design | None = None,
    fit: Callable[..., Model] = quantiles.fit,
) -> Model:
    """``fit`` on the target as the candidate's ``target_transform`` has it.

    A quantile of what rises with the target is what the target's quantile becomes: nothing is lost on the way back.
    """
    transform = candidate.target_transform
    if transform == "none":
        return fit(candidate, train, levels, seed=seed, threads=threads, stop_on=stop_on)
    watched = None if stop_on is None else _changed(stop_on, transform)
    train = _changed(train, transform)
    return Transformed(fit(candidate, train, levels, seed=seed, threads=threads, stop_on=watched), transform)


def load(candidate: Candidate, folder: Path, task: Task, levels: tuple[float, ...]) -> Model:
    """What ``fit`` made, from where ``Model.save`` wrote it."""
    model, transform = quantiles.load(candidate, folder, task, levels), candidate.target_transform
    return model if transform == "none" else Transformed(model, transform)


def _changed(rows: Design, transform: Transform) -> Design:
    import numpy as np

    return replace(rows, y=np.sqrt(rows.y) if transform == "sqrt" else np.log1p(rows.y))


class Transformed(Model):
    """A model of the square root of the target, or of ``log(1 + target)``; it answers with the target itself.

    Below 0 there is no root: such an answer is 0.
    """

    def __init__(self, model: Model, transform: Transform) -> None:
        self.model = model
        self.transform = transform
        self.learned = model.learned

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        found = self.model.predict(X)
        if self.transform == "sqrt":
            return np.asarray(np.maximum(found, 0.0) ** 2)
        return np.asarray(np.expm1(np.clip(found, 0.0, HIGHEST)))

    @override
    def save(self, folder: Path) -> None:
        self.model.save(folder)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np

        found = self.model.to_onnx(graph, X)
        if self.transform == "sqrt":
            root = graph.node("Relu", found)
            return graph.node("Mul", root, root)
        ends = (graph.constant(np.array(one, np.float32)) for one in (0.0, HIGHEST))
        power = graph.node("Exp", graph.node("Clip", found, *ends))
        return graph.node("Sub", power, graph.constant(np.array(1.0, np.float32)))
