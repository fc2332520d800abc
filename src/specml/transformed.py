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
from specml.files import canonical_json, read_json
from specml.graph import Number
from specml.kinds import Candidate, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph

Transform = Literal["sqrt", "log"]

FILE = "transformed.json"

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
    import numpy as np

    forward = {"sqrt": np.sqrt, "log": np.log1p}
    way = candidate.target_transform
    if way == "none":
        return fit(candidate, train, levels, seed=seed, threads=threads, stop_on=stop_on)
    y = forward[way](train.y)
    centre = float(np.average(y, weights=train.weight))
    watched = None if stop_on is None else replace(stop_on, y=forward[way](stop_on.y) - centre)
    train = replace(train, y=y - centre)
    return Transformed(fit(candidate, train, levels, seed=seed, threads=threads, stop_on=watched), way, centre)


def load(candidate: Candidate, folder: Path, task: Task, levels: tuple[float, ...]) -> Model:
    """What ``fit`` made, from where ``Model.save`` wrote it."""
    model, way = quantiles.load(candidate, folder, task, levels), candidate.target_transform
    return model if way == "none" else Transformed(model, way, read_json(folder / FILE)["centre"])


class Transformed(Model):
    """A model of how far the target's square root, or ``log(1 + target)``, is from ``centre``, its mean in training.

    It answers with the target itself. Below 0 there is no root: such an answer is 0. The graph adds the centre in
    float64, for a power makes a large error of a small one.
    """

    def __init__(self, model: Model, way: Transform, centre: float) -> None:
        self.model = model
        self.way = way
        self.centre = centre
        self.learned = model.learned

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        found = np.clip(self.model.predict(X) + self.centre, 0.0, HIGHEST if self.way == "log" else None)
        return np.asarray(np.expm1(found) if self.way == "log" else found**2)

    @override
    def save(self, folder: Path) -> None:
        self.model.save(folder)
        (folder / FILE).write_bytes(canonical_json({"centre": self.centre}))

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        found = Number(graph, graph.node("Cast", self.model.to_onnx(graph, X), to=11))
        found = (found + self.centre).call("Max", 0.0)
        answer = found.call("Min", HIGHEST).call("Exp") - 1.0 if self.way == "log" else found * found
        return graph.node("Cast", answer.name, to=1)
