"""Neural networks by PyTorch Lightning: what ``tabular_mlp`` and ``image_cnn`` share, and a trained one."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.kinds import Candidate, Model, Native

if TYPE_CHECKING:
    import numpy as np

    from specml.bundle import Space
    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.network import Kept, Link
    from specml.training import Fitting

LINK: dict[str, Link] = {"binary": "sigmoid", "multiclass": "softmax", "regression": "identity"}
SPACE: dict[Link, Space] = {"sigmoid": "log_odds", "softmax": "score", "identity": "prediction"}

Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=64)]
"""Of dense layers: as many as ``network.MOST_LAYERS``, which is not imported, for that imports torch."""

ROWS = 8192
"""Rows answered at once, which bounds the memory."""


class Neural(Candidate):
    """A network; a family says which, from its first weights on."""

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    complexity: ClassVar[int] = 3
    stops_early: ClassVar[bool] = True
    predicts_quantiles: ClassVar[bool] = True
    shares: ClassVar[bool] = True
    at_once: ClassVar[int] = ROWS
    """Rows answered at once."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the dense layers' values that each step leaves out."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.004
    """Of AdamW, at first; it falls to 0 over ``epochs``, along a cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Of AdamW."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Rows in a step."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Passes over the rows in which the learning rate falls to 0."""
    stop_after: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How many of these epochs are trained, at most; null: all. Early stopping learns it on the folds for the refit,
    which keeps to the same schedule."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """0: all epochs are trained, on all rows. Else some rows of each fold are watched, and it ends as after the epoch
    with the best loss on them; it stops after this many epochs without a better one."""
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency; no effect on regression."""

    @abstractmethod
    def network(self, train: Design) -> Kept:
        """The network before it learns, with what it takes from the rows; torch is seeded."""

    @abstractmethod
    def opened(self, folder: Path) -> Kept:
        """The network that ``Kept.save`` wrote."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import torch

        from specml.training import quiet

        stop_on = stop_on if self.early_stopping else None
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.begun(train)
            stop_after = self._descended(network, train, stop_on, seed)
        return NeuralModel(network.eval(), stop_after, self.at_once)

    @override
    def fit_share(self, train: Design, *, seed: int, rank: int, workers: int) -> Model:
        import torch

        from specml.training import descend, quiet, shares

        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.begun(train)
            if rank:  # what dropout leaves out is each worker's own
                torch.manual_seed(seed + rank * 2**32)
            order = torch.Generator().manual_seed(seed)
            rows = (train.X, self._targets(network, train), self.weight(train))
            loader = shares(*rows, self.batch_size, order=order, rank=rank, workers=workers)
            descend(self._fitting(network, train, len(loader)), loader, self._trained, shared=True)
        return NeuralModel(network.eval(), self.stop_after, self.at_once)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return NeuralModel(self.opened(folder), None, self.at_once)

    def begun(self, train: Design) -> Kept:
        """The network before it learns: it answers with the prior, or near the target's mean or quantile."""
        import numpy as np
        import torch

        network, weight = self.network(train), self.weight(train)
        with torch.no_grad():
            if train.task == "regression":
                centre = np.average(train.y, weights=weight)
                spread = np.sqrt(np.average((train.y - centre) ** 2, weights=weight))
                if train.quantile is not None:
                    centre = float(np.quantile(train.y, train.quantile, weights=weight, method="inverted_cdf"))
                network.centre.fill_(centre)
                network.spread.fill_(spread if spread > 0 else 1.0)
                network.last.bias.zero_()
            else:
                shares = np.bincount(train.y, weights=weight, minlength=train.n_classes) / weight.sum()
                logits = np.log(np.maximum(shares, 1e-6))
                prior = logits[1:] - logits[:1] if train.task == "binary" else logits
                network.last.bias.copy_(torch.from_numpy(prior))
        return network

    def weight(self, design: Design) -> np.ndarray:
        """Of each row [n], with mean 1."""
        import numpy as np

        weight = np.ones(len(design.y)) if design.weight is None else design.weight
        if self.class_weight and design.task != "regression":
            counts = np.bincount(design.y, weights=weight, minlength=design.n_classes)
            weight = weight / np.maximum(counts, 1e-12)[design.y]
        return np.asarray(weight / weight.mean())

    def _descended(self, network: Kept, train: Design, stop_on: Design | None, seed: int) -> int | None:
        """Train ``network`` in place; returns the epochs after which it stopped, None for the end of the schedule."""
        import torch

        from specml.training import batches, descend

        def loader(design: Design, size: int, order: torch.Generator | None) -> Any:
            return batches(design.X, self._targets(network, design), self.weight(design), size, order)

        rows = loader(train, self.batch_size, torch.Generator().manual_seed(seed))
        fitting = self._fitting(network, train, len(rows))
        watched = loader(stop_on, self.at_once, None) if stop_on else None
        descend(fitting, rows, self._trained, watched, self.early_stopping)
        return fitting.best_epoch if stop_on else self.stop_after

    @property
    def _trained(self) -> int:
        """Epochs that are trained, at most."""
        return min(self.epochs, self.stop_after or self.epochs)

    def _fitting(self, network: Kept, train: Design, steps: int) -> Fitting:
        """``steps``: of an epoch."""
        from specml.training import Fitting

        return Fitting(network, self.learning_rate, self.weight_decay, self.epochs * steps, train.quantile)

    def _targets(self, network: Kept, design: Design) -> np.ndarray:
        """What the network learns [n]: class indices, 0 and 1, or standardised numbers."""
        import numpy as np

        y = design.y
        if design.task == "regression":
            y = (y - float(network.centre)) / float(network.spread)
        return y if design.task == "multiclass" else y.astype(np.float32)


class NeuralModel(Model):
    """A trained network."""

    def __init__(self, network: Kept, stop_after: int | None = None, at_once: int = ROWS) -> None:
        self.network = network
        self.learned = {"stop_after": stop_after} if stop_after else {}
        self.at_once = at_once

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np
        import torch

        with torch.inference_mode():
            parts = np.split(X, range(self.at_once, len(X), self.at_once))
            answer = torch.cat([self.network(torch.from_numpy(part)) for part in parts]).double().numpy()
        return answer[:, 0] if answer.shape[1] == 1 else answer

    @override
    def save(self, folder: Path) -> None:
        self.network.save(folder)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        return self.network.to_onnx(graph, X)

    @override
    def native(self) -> Native:
        return Native(self.network.explained_by, SPACE[self.network.shape.link], self.network.to_bytes())
