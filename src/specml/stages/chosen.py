"""The model that ``select`` made of the candidates: what is packaged, and what the package is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from specml import booster, conformal, treeshap
from specml import calibration as calibrations
from specml.graph import Graph
from specml.stages import train

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.calibration import Calibration
    from specml.conformal import Conformal
    from specml.data import Layout
    from specml.graph import Trees
    from specml.kinds import Model, Native
    from specml.preprocessing import Preprocessing
    from specml.stages.work import Work

ADDITIVE = ("prediction", "probability")
"""Spaces of explanation in which contributions add up to the answer itself."""


@dataclass(frozen=True)
class Member:
    """A trained candidate and its share of the answer."""

    preprocessing: Preprocessing
    model: Model
    weight: float = 1.0


@dataclass(frozen=True)
class Chosen:
    """The weighted mean of its members (of one alone, as a rule), what calibrates it, and its interval."""

    members: tuple[Member, ...]
    calibration: Calibration | None = None
    interval: Conformal | None = None
    """How far from the prediction the target lies; None where that was not asked for."""

    def predict(self, table: pl.DataFrame) -> np.ndarray:
        """float64 of rows of a prepared table: as ``Model.predict``."""
        import numpy as np

        parts = [one.model.predict(one.preprocessing.transform(table)) for one in self.members]
        mean: Any = parts[0]
        if len(parts) > 1:
            mean = sum(part * one.weight for part, one in zip(parts, self.members, strict=True))
        return self.calibration(mean) if self.calibration else np.asarray(mean)

    def to_onnx(self, graph: Graph) -> str:
        """Declare the columns as inputs; returns a float32 value [n, 1] or [n, k].

        What members do alike to a column is done once: see ``Graph.node``.
        """
        import numpy as np

        parts = [one.model.to_onnx(graph, one.preprocessing.to_onnx(graph)) for one in self.members]
        answer = parts[0]
        if len(parts) > 1:
            weights = [graph.constant(np.array(one.weight, np.float32)) for one in self.members]
            answer = graph.node("Sum", *(graph.node("Mul", *pair) for pair in zip(parts, weights, strict=True)))
        return self.calibration.to_onnx(graph, answer) if self.calibration else answer

    def graph_bytes(self, outputs: int, trees: Trees) -> int:
        """Bytes of its graph of so many ``outputs``, without what makes labels of its answer."""
        graph = Graph("model", trees)
        graph.output("answer", self.to_onnx(graph), "float32", outputs)
        return len(graph.to_bytes())

    def explained(self) -> tuple[tuple[Preprocessing, ...], Native] | None:
        """The numbers that explain it better than asking its graph does, and what makes their design; None: none do.

        Of a mean of trees whose sums are the answers themselves, contributions add up as the answers do; a mean of
        probabilities is not explained by contributions to log-odds. Nor are the steps of an isotonic calibration, or
        any calibration by contributions to a probability. A derived column is no input: what it moves is told apart
        by the inputs. In all these cases the graph is asked.
        """
        told = [one.model.native() for one in self.members]
        natives = [one for one in told if one is not None]
        if len(natives) < len(told) or any(one.preprocessing.derived for one in self.members):
            return None
        additive = natives[0].space in ADDITIVE
        if self.calibration and (additive or not self.calibration.affine):
            return None
        designs = tuple(one.preprocessing for one in self.members)
        if len(natives) == 1:
            return designs, natives[0]
        if not additive or any(one.method != "tree_shap" for one in natives):
            return None
        mean = self._merged(designs, natives)
        return (designs, mean) if mean else None

    def _merged(self, designs: tuple[Preprocessing, ...], natives: list[Native]) -> Native | None:
        order, outputs = joined(designs), booster.outputs(natives[0].content)
        places = {column: place for place, column in enumerate(order)}
        parts, start = [], 0
        for one, design, native in zip(self.members, designs, natives, strict=True):
            own = range(start, start + design.width)
            parts.append((native.content, one.weight, [places[column] for column in own]))
            start += design.width
        return treeshap.told(booster.merged(parts, len(order), outputs), natives[0].space)


def owned(designs: tuple[Preprocessing, ...]) -> dict[str, list[int]]:
    """Of each input: which columns of the designs, one after the other, come from it."""
    inputs = designs[0].inputs or designs[0].columns
    found: dict[str, list[int]] = {column.name: [] for column in inputs}
    start = 0
    for design in designs:
        for column, fitted in zip(design.columns, design.fitted, strict=True):
            found[column.name] += range(start, start + len(fitted.names))
            start += len(fitted.names)
    return found


def joined(designs: tuple[Preprocessing, ...]) -> list[int]:
    """The columns of several designs, one design after the other, in the order of the inputs that they come from."""
    return list(chain.from_iterable(owned(designs).values()))


def load(work: Work, layout: Layout, choice: dict[str, Any]) -> Chosen:
    """What ``select`` wrote as its choice, from the files of the candidates' stages."""
    weights = choice.get("members") or {choice["candidate"]: 1.0}
    found = []
    for name, weight in sorted(weights.items()):
        folder = train.OUT.replace("${key}", name)
        found.append(Member(*train.load_model(work, layout, work.spec.candidates[name], folder), weight))
    told = choice.get("calibration") or {}
    calibration = calibrations.restore({"method": told["method"], **told["state"]}) if told.get("method") else None
    interval = conformal.restore(one["state"]) if (one := choice.get("prediction_interval")) else None
    return Chosen(tuple(found), calibration, interval)
