"""A LightningModule of a user's own."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional


class Net(LightningModule):
    """Normalised layers; ``forward`` answers with probabilities or a number."""

    batch_size = 64

    def __init__(
        self, task: str, inputs: int, outputs: int, width: int = 16, max_epochs: int = 8, logits: bool = False
    ):
        super().__init__()
        self.task, self.max_epochs, self.logits = task, max_epochs, logits
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, outputs)
        )

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = self.layers(X)
        if self.task == "regression" or self.logits:
            return score[:, 0]
        return torch.softmax(score, 1) if self.task == "multiclass" else torch.sigmoid(score[:, 0])

    def training_step(self, batch: tuple[torch.Tensor, ...], _: int) -> torch.Tensor:
        X, y, weight = batch
        score = self.layers(X)
        if self.task == "multiclass":
            losses = functional.cross_entropy(score, y, reduction="none")
        elif self.task == "binary":
            losses = functional.binary_cross_entropy_with_logits(score[:, 0], y, reduction="none")
        else:
            losses = (score[:, 0] - y) ** 2
        return (losses * weight).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)
