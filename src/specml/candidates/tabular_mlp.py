"""A small neural network, trained by PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.kinds import Candidate, Model, Native, Preference
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch

    from specml.bundle import Space
    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.network import Link, Network

LINK: dict[str, Link] = {"binary": "sigmoid", "multiclass": "softmax", "regression": "identity"}
SPACE: dict[Link, Space] = {"sigmoid": "log_odds", "softmax": "score", "identity": "prediction"}

ROWS = 8192
"""Rows answered at once, which bounds the memory."""


class TabularMlp(Candidate):
    """Dense layers over encodings and robustly scaled values of the numbers and a learned vector for each category.

    The learning rate falls to 0 over ``epochs``, so few of them suffice and the last is nearly always the best: all
    rows train, none are held back to tell when to stop. Trained on the CPU, with one thread: the same model everywhere.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="native", scale="standard", encode="ordinal")
    complexity: ClassVar[int] = 3
    stops_early: ClassVar[bool] = True
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "learning_rate": Dimension(low=1e-3, high=1e-2, log=True),
        "weight_decay": Dimension(low=1e-3, high=0.5, log=True),
        "dropout": Dimension(low=0.1, high=0.5),
        "bins": Dimension(low=4, high=48, log=True),
        "epochs": Dimension(low=10, high=50, log=True),
    }
    # The regularisation of RealMLP (arXiv 2407.04491), then large steps over few pieces.
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"weight_decay": 0.02, "dropout": 0.15},
        {"learning_rate": 0.008, "dropout": 0.2, "bins": 8},
    )

    type: Literal["tabular_mlp"] = "tabular_mlp"
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (128, 128)
    """Width of each dense layer; between them stand ELUs."""
    bins: Annotated[int, Field(ge=1, le=256)] = 16
    """Most pieces of a number's encoding: quantiles of the training rows part them. Few suffice, as the scaled value
    stands beside them."""
    embedding: Annotated[int, Field(ge=1, le=256)] = 8
    """Length of a category's vector."""
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

    @property
    @override
    def watches(self) -> bool:
        return self.early_stopping > 0

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import torch

        from specml.network import Network
        from specml.training import quiet

        stop_on = stop_on if self.early_stopping else None
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(self._shape(train), self.dropout)
            self._prepare(network, train)
            stop_after = self._train(network, train, stop_on, seed)
        return MlpModel(network.eval(), stop_after)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        from specml.network import Network

        return MlpModel(Network.load(folder))

    def _shape(self, train: Design) -> Any:
        import numpy as np

        from specml.network import Shape, pieces

        codes = train.cardinalities or (0,) * train.X.shape[1]
        columns = train.X.T
        return Shape(
            cardinalities=codes,
            bins=tuple(0 if k else len(pieces(x, self.bins)[0]) for x, k in zip(columns, codes, strict=True)),
            flagged=tuple(not k and bool(np.isnan(x).any()) for x, k in zip(columns, codes, strict=True)),
            embedding=self.embedding,
            hidden=self.hidden,
            outputs=train.n_classes if train.task == "multiclass" else 1,
            link=LINK[train.task],
        )

    def _prepare(self, network: Network, train: Design) -> None:
        """What the network takes from the rows before it learns: medians, edges, and the prior as the last bias."""
        import numpy as np
        import torch

        from specml.network import pieces, scaling

        numbers = train.X.T[network.shape.numbers]
        cuts = [pieces(x, self.bins) for x in numbers]
        medians, factors = np.array([scaling(x) for x in numbers]).reshape(-1, 2).T
        weight = self._weight(train)
        with torch.no_grad():
            if cuts:
                network.fill.copy_(torch.from_numpy(medians))
                network.factor.copy_(torch.from_numpy(factors))
                network.low.copy_(torch.from_numpy(np.concatenate([low for low, _ in cuts])))
                network.slope.copy_(torch.from_numpy(np.concatenate([slope for _, slope in cuts])))
            if train.task == "regression":
                centre = np.average(train.y, weights=weight)
                spread = np.sqrt(np.average((train.y - centre) ** 2, weights=weight))
                network.centre.fill_(centre)
                network.spread.fill_(spread if spread > 0 else 1.0)
                network.last.bias.zero_()
            else:
                shares = np.bincount(train.y, weights=weight, minlength=train.n_classes) / weight.sum()
                logits = np.log(np.maximum(shares, 1e-6))
                prior = logits[1:] - logits[:1] if train.task == "binary" else logits
                network.last.bias.copy_(torch.from_numpy(prior))

    def _weight(self, design: Design) -> np.ndarray:
        """Of each row [n], with mean 1."""
        import numpy as np

        weight = np.ones(len(design.y)) if design.weight is None else design.weight
        if self.class_weight and design.task != "regression":
            counts = np.bincount(design.y, weights=weight, minlength=design.n_classes)
            weight = weight / np.maximum(counts, 1e-12)[design.y]
        return np.asarray(weight / weight.mean())

    def _train(self, network: Network, train: Design, stop_on: Design | None, seed: int) -> int | None:
        """Train ``network`` in place; returns the epochs after which it stopped, None for the end of the schedule."""
        import numpy as np
        import torch

        from specml.training import Fitting, batches, descend

        def loader(design: Design, size: int, order: torch.Generator | None) -> Any:
            y = design.y
            if design.task == "regression":
                y = (y - float(network.centre)) / float(network.spread)
            y = y if design.task == "multiclass" else y.astype(np.float32)
            return batches(design.X, y, self._weight(design), size, order)

        rows = loader(train, self.batch_size, torch.Generator().manual_seed(seed))
        fitting = Fitting(network, self.learning_rate, self.weight_decay, self.epochs * len(rows))
        watched = loader(stop_on, ROWS, None) if stop_on else None
        epochs = min(self.epochs, self.stop_after or self.epochs)
        descend(fitting, rows, epochs, watched, self.early_stopping)
        return fitting.best_epoch if stop_on else self.stop_after


class MlpModel(Model):
    """A trained network."""

    def __init__(self, network: Network, stop_after: int | None = None) -> None:
        self.network = network
        self.learned = {"stop_after": stop_after} if stop_after else {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np
        import torch

        with torch.inference_mode():
            parts = [self.network(torch.from_numpy(part)) for part in np.split(X, range(ROWS, len(X), ROWS))]
        answer = torch.cat(parts).double().numpy()
        return answer[:, 0] if answer.shape[1] == 1 else answer

    @override
    def save(self, folder: Path) -> None:
        self.network.save(folder)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        return self.network.to_onnx(graph, X)

    @override
    def native(self) -> Native:
        return Native("deep_lift", SPACE[self.network.shape.link], self.network.to_bytes())
