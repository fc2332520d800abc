"""How PyTorch Lightning trains a network.

Importing this module imports Lightning and torch: do so inside the function that needs it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, TensorDataset
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from pytorch_lightning.utilities.types import OptimizerLRScheduler

    from specml.network import Kept

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Rows [n, d], targets [n] (class indices, 0/1, or a standardised number), weights [n]."""


class Fitting(LightningModule):
    """Weighted log loss, or squared error in units of the target's variance, descended by AdamW.

    With a ``quantile``, the pinball loss of it in units of the target's spread (Koenker & Bassett 1978).

    The learning rate falls to 0 over ``steps``, along a cosine (Loshchilov & Hutter 2017, "SGDR"). With validation
    rows, the network ends as it was after its best epoch.
    """

    def __init__(
        self, network: Kept, learning_rate: float, weight_decay: float, steps: int, quantile: float | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = steps
        self.quantile = quantile
        self.best_epoch = 0
        self._best_loss = math.inf
        self._best: dict[str, torch.Tensor] = {}

    def loss(self, batch: Batch) -> torch.Tensor:
        """Weighted sum by the number of rows: the weights' mean over all batches is 1, over one it may be 0."""
        X, y, weight = batch
        network = self.network
        score = network.standard_score(network.embed(X))
        if network.shape.link == "softmax":
            losses = functional.cross_entropy(score, y, reduction="none")
        elif network.shape.link == "sigmoid":
            losses = functional.binary_cross_entropy_with_logits(score[:, 0], y, reduction="none")
        elif self.quantile is not None:
            missed = y - score[:, 0]
            losses = torch.maximum(self.quantile * missed, (self.quantile - 1) * missed)
        else:
            losses = (score[:, 0] - y) ** 2
        return (losses * weight).mean()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("loss", self.loss(batch), batch_size=len(batch[1]))

    @override
    def on_validation_epoch_end(self) -> None:
        loss = float(self.trainer.callback_metrics["loss"])
        if loss < self._best_loss:
            self._best_loss, self.best_epoch = loss, self.current_epoch + 1
            self._best = {name: value.clone() for name, value in self.network.state_dict().items()}

    @override
    def on_fit_end(self) -> None:
        if self._best:
            self.network.load_state_dict(self._best)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        # The second moment of few steps is forgotten sooner than in long trainings, as RealMLP does.
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, betas=(0.9, 0.95)
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def batches(
    X: np.ndarray, y: np.ndarray, weight: np.ndarray, size: int, order: torch.Generator | None = None
) -> DataLoader[Any]:
    """``Batch`` after ``Batch`` of ``size`` rows: in a random ``order``, another each time, or as they come."""
    rows = TensorDataset(torch.from_numpy(X), torch.tensor(y), torch.from_numpy(weight).float())
    sampler = RandomSampler(rows, generator=order) if order else SequentialSampler(rows)
    # A loader without a generator draws from the one that dropout uses: watched rows would change the training.
    own = order or torch.Generator()
    return DataLoader(rows, sampler=BatchSampler(sampler, size, drop_last=False), batch_size=None, generator=own)


class Share(IterableDataset[Batch]):
    """What one of several workers learns of each batch; all of them draw the same order."""

    def __init__(self, rows: Batch, size: int, order: torch.Generator, rank: int, workers: int) -> None:
        self._rows, self._size, self._order = rows, size, order
        self._rank, self._workers = rank, workers

    def __len__(self) -> int:
        return math.ceil(len(self._rows[1]) / self._size)

    @override
    def __iter__(self) -> Iterator[Batch]:
        X, y, weight = self._rows
        for batch in torch.split(torch.randperm(len(y), generator=self._order), self._size):
            mine = torch.tensor_split(batch, self._workers)[self._rank]
            # The workers' means are averaged: weighed so, that is the mean over the whole batch.
            scale = self._workers * max(1, len(mine)) / len(batch)
            if len(mine):
                yield X[mine], y[mine], weight[mine] * scale
            else:
                yield X[batch[:1]], y[batch[:1]], torch.zeros(1)


def shares(
    X: np.ndarray, y: np.ndarray, weight: np.ndarray, size: int, *, order: torch.Generator, rank: int, workers: int
) -> DataLoader[Any]:
    """``Batch`` after ``Batch``, of each one ``rank``'s share among ``workers``; ``size`` rows in all."""
    rows = (torch.from_numpy(X), torch.tensor(y), torch.from_numpy(weight).float())
    return DataLoader(Share(rows, size, order, rank, workers), batch_size=None, generator=torch.Generator())


def descend(
    module: LightningModule,
    train: DataLoader[Any],
    epochs: int,
    watched: DataLoader[Any] | None = None,
    patience: int = 0,
    *,
    shared: bool = False,
) -> None:
    """Let Lightning train ``module`` on the CPU; with ``watched`` rows until their ``loss`` gets no better.

    ``shared``: with the other workers of Ray Train, whose gradients are averaged.
    """
    together: dict[str, Any] = {}
    if shared:
        from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

        strategy = RayDDPStrategy(find_unused_parameters=False)
        together = {"strategy": strategy, "plugins": [RayLightningEnvironment()], "use_distributed_sampler": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=EarlyStopping("loss", patience=patience) if watched else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **together,
    )
    trainer.fit(module, train, watched)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, which sums in the same order everywhere, and none of Lightning's advice and advertisements."""
    threads = torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [one.level for one in loggers]
    torch.set_num_threads(1)
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        torch.set_num_threads(threads)
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
