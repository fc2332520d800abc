"""Networks as torch modules that are kept as data and told to the graph node by node; that of ``tabular_mlp``.

Importing this module imports torch: do so inside the function that needs it.

A design [n, d] is first *embedded* [n, width]: a number becomes its piecewise-linear encoding (where it lies between
quantiles of the training rows; Gorishniy et al. 2022, "On Embeddings for Numerical Features"), a robustly scaled and
smoothly clipped value (Holzmüller et al. 2024, "Better by Default", arXiv 2407.04491) and, for a column that lacked
values in training, a 0/1 for a missing one; a category becomes a learned vector. Then come dense layers.
"""

from __future__ import annotations

import io
import zipfile
from abc import abstractmethod
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional
from typing_extensions import override

from specml.files import canonical_json, read_json

if TYPE_CHECKING:
    from pathlib import Path

    from specml.graph import Graph

Link = Literal["identity", "sigmoid", "softmax"]
Count = Annotated[int, Field(ge=0)]
MOST_LAYERS = 64
"""Thousands of narrow ones are a small file that takes seconds to build."""
Layers = Annotated[tuple[Count, ...], Field(max_length=MOST_LAYERS)]

SHAPE = "shape"
"""What the shape is called among the arrays."""

UNSEEN = 0.02
"""Share of categories that training takes for never seen, so that the vector of those is learned too."""

NARROWEST = 1e-30
"""Neighbouring edges closer than this are one: the slope between them would overflow float32."""

FARTHEST = float(np.finfo(np.float32).max)
"""Infinite distances from the median are taken for this: times the 0 of a constant column they are 0, not NaN."""

CLIP = 3.0
"""Scaled values lie between -3 and 3, and are nearly as they were between -1 and 1."""

MOST_SCALED = 1e6
"""Scaled values beyond are taken for this, 3 when clipped: the square of a larger one might overflow float32."""


class Shape(BaseModel):
    """What has to be known to build a network that weights fit into."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cardinalities: tuple[Count, ...]
    """Of each design column: how many categories its codes tell apart; 0 for a number."""
    bins: tuple[Count, ...]
    """Of each design column: pieces of its encoding; 0 for a category."""
    flagged: tuple[bool, ...]
    """Of each design column: whether a missing value is told apart from the median."""
    embedding: Count
    """Length of a category's vector."""
    hidden: Layers
    outputs: Count
    """1 for binary problems and regressions, else the number of classes."""
    link: Link

    @model_validator(mode="after")
    def _of_the_same_columns(self) -> Self:
        if not len(self.cardinalities) == len(self.bins) == len(self.flagged):
            raise ValueError("its lists are of different columns")
        return self

    @property
    def columns(self) -> int:
        """Columns of the design."""
        return len(self.bins)

    @property
    def numbers(self) -> list[int]:
        """Places of the columns that are numbers."""
        return [place for place, codes in enumerate(self.cardinalities) if not codes]

    @property
    def categories(self) -> list[int]:
        """Places of the columns that are categories."""
        return [place for place, codes in enumerate(self.cardinalities) if codes]

    @property
    def flags(self) -> list[int]:
        """Places of the columns that have a 0/1 for a missing value."""
        return [place for place in self.numbers if self.flagged[place]]

    @property
    def owners(self) -> list[int]:
        """Of each embedded value [width]: the design column that it comes from."""
        encoded = [place for place in self.numbers for _ in range(self.bins[place])]
        vectors = [place for place in self.categories for _ in range(self.embedding)]
        return [*encoded, *self.numbers, *self.flags, *vectors]

    @property
    def size(self) -> int:
        """How many numbers the arrays hold, at least."""
        encoded = sum(self.bins) + len(self.numbers) + len(self.flags) + self.embedding * len(self.categories)
        widths = [encoded, *self.hidden, self.outputs]
        vectors = self.embedding * sum(codes + 1 for codes in self.cardinalities if codes)
        return sum(self.bins) + vectors + sum(a * b for a, b in pairwise(widths))


class Kept(nn.Module):
    """A network ``answer(score(embed(X)))`` that is kept as data: its shape and its arrays; float32 throughout."""

    shapes: ClassVar[type[Any]]
    """What its shape is."""
    explained_by: ClassVar[Literal["deep_lift", "integrated_gradients"]] = "deep_lift"
    """What tells the columns apart."""

    shape: Any
    """It has ``outputs``, ``link``, ``owners`` (of each embedded value: the design column that it comes from, -1 where
    from none), ``columns`` (how many of those there are) and ``size`` (how many numbers the arrays hold, at least)."""
    dense: nn.ModuleList
    last: nn.Linear
    centre: torch.Tensor
    """[outputs] Mean of a regression's target, else 0."""
    spread: torch.Tensor
    """[outputs] Standard deviation of a regression's target, else 1."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centre", torch.zeros(shape.outputs))
        self.register_buffer("spread", torch.ones(shape.outputs))

    @abstractmethod
    def embed(self, X: torch.Tensor) -> torch.Tensor:
        """``X`` [n, d] as [n, width]: every value between -inf and inf; ``shape.owners`` says whose it is."""

    @abstractmethod
    def standard_score(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embedded rows [n, width] as log-odds [n, 1], logits [n, k] or the standardised prediction [n, 1]."""

    @abstractmethod
    def score_to_onnx(self, graph: Graph, X: str) -> str:
        """``standard_score(embed(X))`` as nodes of ``graph``."""

    def score(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embedded rows [n, width] as log-odds [n, 1], logits [n, k] or the prediction [n, 1]."""
        return self.standard_score(embedded) * self.spread + self.centre

    def answer(self, score: torch.Tensor) -> torch.Tensor:
        """A score as a probability [n, 1] or [n, k], or the prediction [n, 1]."""
        if self.shape.link == "softmax":
            return torch.softmax(score, dim=1)
        return torch.sigmoid(score) if self.shape.link == "sigmoid" else score

    @override
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.answer(self.score(self.embed(X)))

    def to_onnx(self, graph: Graph, X: str) -> str:
        """The same as nodes of ``graph``."""
        value = self.score_to_onnx(graph, X)
        if self.shape.link == "softmax":
            return graph.node("Softmax", value, axis=1)
        if self.shape.link == "sigmoid":
            return graph.node("Sigmoid", value)
        value = graph.node("Mul", value, graph.constant(array(self.spread)))
        return graph.node("Add", value, graph.constant(array(self.centre)))

    def _dense_to_onnx(self, graph: Graph, value: str, between: Literal["Elu", "Relu"]) -> str:
        """The dense layers and the last one; what stands ``between`` them follows each of the former."""
        for layer in [*self.dense, self.last]:
            weight, bias = (graph.constant(array(one)) for one in (layer.weight, layer.bias))
            value = graph.node("Gemm", value, weight, bias, transB=1)
            value = value if layer is self.last else graph.node(between, value)
        return value

    def save(self, folder: Path) -> None:
        """Write ``network.json`` (the shape) and ``network.npz`` (the arrays): the same network, the same bytes."""
        buffer = io.BytesIO()
        arrays = {name: array(value) for name, value in sorted(self.state_dict().items())}
        np.savez(buffer, allow_pickle=False, **arrays)
        (folder / "network.npz").write_bytes(buffer.getvalue())
        (folder / "network.json").write_bytes(canonical_json(self.shape.model_dump(mode="json")))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The network that ``save`` wrote, ready to answer."""
        network = cls(cls.shapes.model_validate(read_json(folder / "network.json")))
        with np.load(folder / "network.npz", allow_pickle=False) as arrays:
            network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        return network.eval()

    def to_bytes(self) -> bytes:
        """Shape and arrays in one npz, for a bundle: the same network, the same bytes."""
        buffer = io.BytesIO()
        shape = np.frombuffer(canonical_json(self.shape.model_dump(mode="json")), dtype=np.uint8)
        arrays = {name: array(value) for name, value in sorted(self.state_dict().items())}
        np.savez(buffer, allow_pickle=False, **{SHAPE: shape}, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The network that ``to_bytes`` told, ready to answer.

        Raises:
            ValueError: it is none, or its shape is not that of its arrays.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > len(raw):
                raise ValueError("it is packed")
            with np.load(io.BytesIO(raw), allow_pickle=False) as found:
                arrays = {name: np.asarray(found[name]) for name in found.files}
            shape = cls.shapes.model_validate_json(arrays.pop(SHAPE).tobytes())
            if 4 * shape.size > len(raw):
                raise ValueError("its shape is larger than its arrays")
            network = cls(shape)
            network.load_state_dict({name: torch.from_numpy(one.copy()) for name, one in arrays.items()})
        except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(str(error).partition("\n")[0]) from None
        return network.eval()


class Network(Kept):
    """The network of ``tabular_mlp``. Categories and missing values have no gradient."""

    shapes = Shape

    fill: torch.Tensor
    """[numbers] What stands for a missing value: the median."""
    factor: torch.Tensor
    """[numbers] What a distance from the median is multiplied by; 0 for a constant, of which nothing was learned."""
    low: torch.Tensor
    """[sum of bins] Lower edge of each piece."""
    slope: torch.Tensor
    """[sum of bins] 1 / (upper edge - lower edge)."""
    _numbers: torch.Tensor
    _piece_of: torch.Tensor
    _flag_of: torch.Tensor
    _categories: torch.Tensor
    _sizes: torch.Tensor
    _first: torch.Tensor

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__(shape)
        count = sum(shape.bins)
        self.register_buffer("fill", torch.zeros(len(shape.numbers)))
        self.register_buffer("factor", torch.zeros(len(shape.numbers)))
        self.register_buffer("low", torch.zeros(count))
        self.register_buffer("slope", torch.ones(count))
        sizes = [shape.cardinalities[place] for place in shape.categories]
        # The first vector of each column stands for a category that was never seen.
        starts = np.cumsum([0, *(size + 1 for size in sizes)])
        self.vectors = nn.Embedding(int(starts[-1]), shape.embedding)
        with torch.no_grad():
            self.vectors.weight.mul_(0.3)
            self.vectors.weight[starts[:-1]] = 0.0
        widths = [len(shape.owners), *shape.hidden]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], shape.outputs)
        self.dropout = nn.Dropout(dropout)
        places = {
            "_numbers": shape.numbers,
            "_piece_of": [number for number, place in enumerate(shape.numbers) for _ in range(shape.bins[place])],
            "_flag_of": [number for number, place in enumerate(shape.numbers) if shape.flagged[place]],
            "_categories": shape.categories,
            "_sizes": sizes,
            "_first": (starts[:-1] + 1).tolist(),
        }
        for name, values in places.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    @override
    def embed(self, X: torch.Tensor) -> torch.Tensor:
        numbers, codes = X[:, self._numbers], X[:, self._categories]
        lacking = torch.isnan(numbers)
        filled = torch.where(lacking, self.fill, numbers)
        encoded = ((filled[:, self._piece_of] - self.low) * self.slope).clamp(0.0, 1.0)
        far = (filled - self.fill).clamp(-FARTHEST, FARTHEST) * self.factor
        scaled = far.clamp(-MOST_SCALED, MOST_SCALED)
        scaled = scaled / torch.sqrt((scaled / CLIP) * (scaled / CLIP) + 1.0)
        flags = lacking[:, self._flag_of].to(X.dtype)
        known = (codes >= 0) & (codes < self._sizes)
        if self.training:
            known &= torch.rand_like(codes) >= UNSEEN
        index = torch.where(known, codes, -1.0).long() + self._first
        return torch.cat([encoded, scaled, flags, self.vectors(index).flatten(1)], dim=1)

    @override
    def standard_score(self, embedded: torch.Tensor) -> torch.Tensor:
        value = embedded
        for layer in self.dense:
            value = self.dropout(functional.elu(layer(value)))
        last: torch.Tensor = self.last(value)
        return last

    def layers(self) -> nn.Module:
        """``standard_score`` as modules, each used once: captum follows those, not functions of torch."""
        return nn.Sequential(*(one for dense in self.dense for one in (dense, nn.ELU())), self.last)

    @override
    def score_to_onnx(self, graph: Graph, X: str) -> str:
        parts = [*self._numbers_to_onnx(graph, X), *self._categories_to_onnx(graph, X)]
        value = parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)
        return self._dense_to_onnx(graph, value, "Elu")

    def _numbers_to_onnx(self, graph: Graph, X: str) -> list[str]:
        shape = self.shape
        if not shape.numbers:
            return []
        columns = graph.node("Gather", X, graph.constant(array(self._numbers)), axis=1)
        lacking = graph.node("IsNaN", columns)
        columns = graph.node("Where", lacking, graph.constant(array(self.fill)), columns)
        value = graph.node("Gather", columns, graph.constant(array(self._piece_of)), axis=1)
        value = graph.node("Sub", value, graph.constant(array(self.low)))
        value = graph.node("Mul", value, graph.constant(array(self.slope)))
        parts = [_clip(graph, value, 0.0, 1.0), self._scaled_to_onnx(graph, columns)]
        if shape.flags:
            flags = graph.node("Gather", lacking, graph.constant(array(self._flag_of)), axis=1)
            parts.append(graph.node("Cast", flags, to=1))
        return parts

    def _scaled_to_onnx(self, graph: Graph, filled: str) -> str:
        value = graph.node("Sub", filled, graph.constant(array(self.fill)))
        value = graph.node("Mul", _clip(graph, value, -FARTHEST, FARTHEST), graph.constant(array(self.factor)))
        value = _clip(graph, value, -MOST_SCALED, MOST_SCALED)
        part = graph.node("Div", value, graph.constant(np.array(CLIP, dtype=np.float32)))
        squared = graph.node("Add", graph.node("Mul", part, part), graph.constant(np.array(1.0, dtype=np.float32)))
        return graph.node("Div", value, graph.node("Sqrt", squared))

    def _categories_to_onnx(self, graph: Graph, X: str) -> list[str]:
        shape = self.shape
        if not shape.categories:
            return []
        codes = graph.node("Gather", X, graph.constant(array(self._categories)), axis=1)
        sizes = graph.constant(array(self._sizes.float()))
        zero, unknown = (graph.constant(np.array(one, dtype=np.float32)) for one in (0.0, -1.0))
        known = graph.node("And", graph.node("GreaterOrEqual", codes, zero), graph.node("Less", codes, sizes))
        index = graph.node("Cast", graph.node("Where", known, codes, unknown), to=7)
        index = graph.node("Add", index, graph.constant(array(self._first)))
        vectors = graph.node("Gather", graph.constant(array(self.vectors.weight)), index, axis=0)
        width = np.array([-1, len(shape.categories) * shape.embedding], dtype=np.int64)
        return [graph.node("Reshape", vectors, graph.constant(width))]


def pieces(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower edges and slopes of at most ``bins`` pieces that hold equally many of the finite ``values``; float32.

    A constant, or a column without values, has one piece that is 0 for whatever comes: nothing was learned of it.
    """
    distinct, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    kept: list[float] = []
    if len(distinct):
        # A value as common as a whole piece, as the 0 of most amounts, leaves the other pieces to the rest.
        below = np.cumsum(np.minimum(counts, max(1.0, counts.sum() / bins)))
        cuts = distinct[np.searchsorted(below, np.linspace(0, below[-1], bins + 1).clip(below[0], below[-1]))]
        for cut in cuts.astype(np.float32).tolist():
            if not kept or cut - kept[-1] > NARROWEST:
                kept.append(cut)
    if len(kept) < 2:
        return np.array([np.finfo(np.float32).max]), np.ones(1, dtype=np.float32)
    ends = np.array(kept, dtype=np.float32)
    return ends[:-1], 1 / np.diff(ends)


def scaling(values: np.ndarray) -> tuple[float, float]:
    """Median of the finite ``values``, and the factor that makes the distance between their quartiles 1.

    Where that distance is 0, the factor makes the range 2; where there is no range either, or no value, it is 0.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return 0.0, 0.0
    lowest, first, median, third, highest = np.quantile(finite, [0, 0.25, 0.5, 0.75, 1])
    width = next((one for one in (third - first, (highest - lowest) / 2) if one > NARROWEST), np.inf)
    return float(median), float(1 / width)


def _clip(graph: Graph, value: str, low: float, high: float) -> str:
    ends = (graph.constant(np.array(end, dtype=np.float32)) for end in (low, high))
    return graph.node("Clip", value, *ends)


def array(value: torch.Tensor) -> np.ndarray:
    """As a constant of a graph, or among the arrays of a file."""
    return np.ascontiguousarray(value.detach().numpy())
