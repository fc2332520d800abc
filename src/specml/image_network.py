"""The network of ``image_cnn``: convolutions over a small picture, dense layers over what they found.

Importing this module imports torch: do so inside the function that needs it.

A design [n, d] is first *embedded* [n, width]: its pixels, brought to 0 (the least of the training rows) to 1 (the
most) and put in their places, channel by channel and row by row, then its other columns, standardised.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from typing_extensions import override

from specml.network import Count, Kept, Layers, Link, array

if TYPE_CHECKING:
    from specml.graph import Graph

Side = Annotated[int, Field(ge=1, le=1024)]

KERNEL = 3
"""Pixels in each direction that a filter sees."""
POOLED_FROM = 4
"""Pixels in each direction from which a convolution's answer is halved: a smaller one has little to lose."""
FAR = 8.0
"""Standard deviations within which columns beside the picture are kept."""


class ImageShape(BaseModel):
    """What has to be known to build a network that weights fit into."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: Side
    width: Side
    channels: Annotated[int, Field(ge=1, le=16)]
    places: tuple[Annotated[int, Field(ge=-1)], ...]
    """Of each design column: its place in the picture [channels, height, width], counted through; -1: it is beside."""
    filters: Layers
    """Of each convolution."""
    hidden: Layers
    outputs: Count
    """1 for binary problems and regressions, else the number of classes."""
    link: Link

    @property
    def columns(self) -> int:
        """Columns of the design."""
        return len(self.places)

    @property
    def pixels(self) -> int:
        """Places of the picture."""
        return self.channels * self.height * self.width

    @property
    def beside(self) -> list[int]:
        """The design columns that are no pixels."""
        return [column for column, place in enumerate(self.places) if place < 0]

    @property
    def owners(self) -> list[int]:
        """Of each embedded value [width]: the design column that it comes from, -1 where from none."""
        owner = {place: column for column, place in enumerate(self.places)}
        return [*(owner.get(place, -1) for place in range(self.pixels)), *self.beside]

    @property
    def pooled(self) -> list[bool]:
        """Of each convolution, whether its answer is halved in both directions."""
        told, side = [], min(self.height, self.width)
        for _ in self.filters:
            told.append(side >= POOLED_FROM)
            side = side // 2 if told[-1] else side
        return told

    @property
    def found(self) -> int:
        """How many numbers the convolutions find."""
        halved: int = 1 << sum(self.pooled)
        return (self.filters or (self.channels,))[-1] * (self.height // halved) * (self.width // halved)

    @property
    def size(self) -> int:
        """How many numbers the arrays hold, at least."""
        channels = [self.channels, *self.filters]
        widths = [self.found + len(self.beside), *self.hidden, self.outputs]
        convolved = sum(KERNEL**2 * a * b for a, b in pairwise(channels))
        return 2 * self.pixels + convolved + sum(a * b for a, b in pairwise(widths))


class ImageNetwork(Kept):
    """Convolutions of 3 × 3 pixels, each rectified and, as long as it is large, halved; then dense layers."""

    shapes = ImageShape
    explained_by = "integrated_gradients"

    shape: ImageShape

    low: torch.Tensor
    """[pixels] The least brightness, of its channel."""
    slope: torch.Tensor
    """[pixels] 1 / (most - least); 0 where the picture has no column."""
    mean: torch.Tensor
    """[beside]"""
    scale: torch.Tensor
    """[beside] 1 / standard deviation."""
    _source: torch.Tensor
    _beside: torch.Tensor

    def __init__(self, shape: ImageShape, dropout: float = 0.0, shift: int = 0) -> None:
        """``shift``: pixels by which a training picture is moved at most, in each direction."""
        super().__init__(shape)
        self.shift = min(shift, shape.height - 1, shape.width - 1)
        self.register_buffer("low", torch.zeros(shape.pixels))
        self.register_buffer("slope", torch.zeros(shape.pixels))
        self.register_buffer("mean", torch.zeros(len(shape.beside)))
        self.register_buffer("scale", torch.ones(len(shape.beside)))
        channels = [shape.channels, *shape.filters]
        pairs = pairwise(channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, KERNEL, padding=KERNEL // 2) for a, b in pairs)
        self.halved = nn.ModuleList(nn.MaxPool2d(2) if one else nn.Identity() for one in shape.pooled)
        widths = [shape.found + len(shape.beside), *shape.hidden]
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1], shape.outputs)
        self.dropout = nn.Dropout(dropout)
        source = [max(column, 0) for column in shape.owners[: shape.pixels]]
        for name, values in (("_source", source), ("_beside", shape.beside)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    @override
    def embed(self, X: torch.Tensor) -> torch.Tensor:
        picture = _known((X[:, self._source] - self.low) * self.slope).clamp(0.0, 1.0)
        if self.training and self.shift:
            picture = self._moved(picture)
        beside = _known((X[:, self._beside] - self.mean) * self.scale).clamp(-FAR, FAR)
        return torch.cat([picture, beside], dim=1)

    def _moved(self, picture: torch.Tensor) -> torch.Tensor:
        """Each picture by chance up to ``shift`` pixels up or down and left or right; its edge is drawn out."""
        shape, n = self.shape, len(picture)
        whole = picture.view(n, shape.channels, shape.height, shape.width)
        wide = nn.functional.pad(whole, (self.shift,) * 4, mode="replicate")
        down, right = torch.randint(2 * self.shift + 1, (2, n, 1))
        rows, columns = down + torch.arange(shape.height), right + torch.arange(shape.width)
        channels = torch.arange(shape.channels)[None, :, None, None]
        every = torch.arange(n)[:, None, None, None]
        return wide[every, channels, rows[:, None, :, None], columns[:, None, None, :]].flatten(1)

    @override
    def standard_score(self, embedded: torch.Tensor) -> torch.Tensor:
        shape = self.shape
        value = embedded[:, : shape.pixels].reshape(-1, shape.channels, shape.height, shape.width)
        for convolution, halved in zip(self.convolutions, self.halved, strict=True):
            value = halved(torch.relu(convolution(value)))
        value = torch.cat([value.flatten(1), embedded[:, shape.pixels :]], dim=1)
        for layer in self.dense:
            value = self.dropout(torch.relu(layer(value)))
        last: torch.Tensor = self.last(value)
        return last

    @override
    def score_to_onnx(self, graph: Graph, X: str) -> str:
        shape = self.shape
        value = self._brought(graph, X, self._source, (self.low, self.slope), (0.0, 1.0))
        picture = [-1, shape.channels, shape.height, shape.width]
        value = graph.node("Reshape", value, graph.constant(np.array(picture, dtype=np.int64)))
        for convolution, pooled in zip(self.convolutions, shape.pooled, strict=True):
            weight, bias = (graph.constant(array(one)) for one in convolution.parameters())
            pads = [KERNEL // 2] * 4
            value = graph.node("Relu", graph.node("Conv", value, weight, bias, kernel_shape=[KERNEL] * 2, pads=pads))
            value = graph.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2]) if pooled else value
        value = graph.node("Reshape", value, graph.constant(np.array([-1, shape.found], dtype=np.int64)))
        if shape.beside:
            beside = self._brought(graph, X, self._beside, (self.mean, self.scale), (-FAR, FAR))
            value = graph.node("Concat", value, beside, axis=1)
        return self._dense_to_onnx(graph, value, "Relu")

    def _brought(
        self,
        graph: Graph,
        X: str,
        places: torch.Tensor,
        line: tuple[torch.Tensor, torch.Tensor],
        ends: tuple[float, float],
    ) -> str:
        """The design columns at ``places``, less the one and times the other of ``line``, within ``ends``."""
        value = graph.node("Gather", X, graph.constant(array(places)), axis=1)
        value = graph.node("Sub", value, graph.constant(array(line[0])))
        value = graph.node("Mul", value, graph.constant(array(line[1])))
        zero, low, high = (graph.constant(np.array(one, dtype=np.float32)) for one in (0.0, *ends))
        value = graph.node("Where", graph.node("IsNaN", value), zero, value)
        return graph.node("Clip", value, low, high)


def _known(value: torch.Tensor) -> torch.Tensor:
    """With 0 for what is missing, and for what is infinite where the picture has no column."""
    return torch.where(torch.isnan(value), 0.0, value)
