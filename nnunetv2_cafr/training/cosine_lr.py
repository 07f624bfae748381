"""Cosine annealing as a function of the epoch alone, in the manner of nnU-Net's PolyLRScheduler."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class CosineLRScheduler(LRScheduler):
    """Learning rate from `initial_lr` in the first epoch to `final_lr` in the last.

    nnU-Net calls `step(epoch)` at each epoch's start and saves no scheduler state. A learning rate that follows from
    the epoch alone makes a continued training exact. (torch's own CosineAnnealingLR deprecates that argument.)
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, final_lr: float, num_epochs: int) -> None:
        self.initial_lr = initial_lr
        self.final_lr = final_lr
        self.num_epochs = num_epochs
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        progress = min(1.0, (epoch or 0) / max(1, self.num_epochs - 1))
        lr = self.final_lr + (self.initial_lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._last_lr = [lr for _ in self.optimizer.param_groups]
