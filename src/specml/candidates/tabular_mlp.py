"""A small neural network, trained by PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.kinds import Preference
from specml.neural import LINK, Neural, Widths
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from specml.data import Design
    from specml.network import Network, Shape


class TabularMlp(Neural):
    """Dense layers over encodings and robustly scaled values of the numbers and a learned vector for each category.

    The learning rate falls to 0 over ``epochs``, so few of them suffice and the last is nearly always the best: all
    rows train, none are held back to tell when to stop. Trained on the CPU, with one thread: the same model everywhere.
    """

    prefers: ClassVar[Preference] = Preference(missing="native", scale="standard", encode="ordinal")
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
    hidden: Widths = (128, 128)
    """Width of each dense layer; between them stand ELUs."""
    bins: Annotated[int, Field(ge=1, le=256)] = 16
    """Most pieces of a number's encoding: quantiles of the training rows part them. Few suffice, as the scaled value
    stands beside them."""
    embedding: Annotated[int, Field(ge=1, le=256)] = 8
    """Length of a category's vector."""

    @override
    def opened(self, folder: Path) -> Network:
        from specml.network import Network

        return Network.load(folder)

    @override
    def network(self, train: Design) -> Network:
        import numpy as np
        import torch

        from specml.network import Network, pieces, scaling

        network = Network(self._shape(train), self.dropout)
        numbers = train.X.T[network.shape.numbers]
        cuts = [pieces(x, self.bins) for x in numbers]
        medians, factors = np.array([scaling(x) for x in numbers]).reshape(-1, 2).T
        with torch.no_grad():
            if cuts:
                network.fill.copy_(torch.from_numpy(medians))
                network.factor.copy_(torch.from_numpy(factors))
                network.low.copy_(torch.from_numpy(np.concatenate([low for low, _ in cuts])))
                network.slope.copy_(torch.from_numpy(np.concatenate([slope for _, slope in cuts])))
        return network

    def _shape(self, train: Design) -> Shape:
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
