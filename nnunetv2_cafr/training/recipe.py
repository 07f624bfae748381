"""How CAFR-Net is trained by default: AdamW, warm-up and cosine decay per iteration; and the paper's recipe.

With the paper's Adam at 1e-4 CAFR-Net lost ten points of Dice to nnU-Net on Hippocampus (benchmarks/results/0.1). Both
recipes are mixins that know nothing of the network, so that nnU-Net's own can be trained by the same one.
"""

import math
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nnunetv2_cafr.training.cosine_lr import CosineLRScheduler


class WarmupCosineLR(LRScheduler):
    """Rises linearly to `peak_lr` over the first iterations, then falls to 0 as half a cosine.

    nnU-Net calls `step(epoch)` at each epoch's start and saves no scheduler state; every step of the optimiser moves on
    by one iteration. So the rate follows from epoch and iteration alone, and a continued training is exact.

    Args:
        optimizer: its groups all get this rate.
        peak_lr: at the end of the warm-up.
        num_epochs, iterations_per_epoch: the length of the training.
        warmup_share: of all iterations, 0 to 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        peak_lr: float,
        num_epochs: int,
        iterations_per_epoch: int,
        warmup_share: float,
    ) -> None:
        self.peak_lr = peak_lr
        self.iterations_per_epoch = iterations_per_epoch
        self.num_iterations = num_epochs * iterations_per_epoch
        self.warmup_iterations = max(1, round(warmup_share * self.num_iterations))
        self.iteration = 0
        super().__init__(optimizer)
        optimizer.register_step_post_hook(lambda *_: self._move_to(self.iteration + 1))

    def step(self, epoch: int | None = None) -> None:
        self._move_to((epoch or 0) * self.iterations_per_epoch)

    def _move_to(self, iteration: int) -> None:
        self.iteration = iteration
        if iteration < self.warmup_iterations:
            share = (iteration + 1) / self.warmup_iterations
        else:
            decay = max(1, self.num_iterations - self.warmup_iterations)
            progress = min(1.0, (iteration - self.warmup_iterations) / decay)
            share = (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.peak_lr
        self._last_lr = [share * self.peak_lr for _ in self.optimizer.param_groups]


def decayed_and_not(network: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weights with decay; norms, biases and other vectors without."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class OwnRate(nnUNetTrainer):
    """Mixin: the learning rate and the weight decay that a class gives, in place of nnU-Net's."""

    learning_rate: float
    decay: float

    def initialize(self) -> None:
        self.initial_lr, self.weight_decay = self.learning_rate, self.decay
        super().initialize()


class AdamWRecipe(OwnRate):
    """Mixin: AdamW with decoupled decay, a rate that warms up and decays per iteration, gradients clipped at 1.

    All values are ours. documentation/recipe.md has what was measured, and which of them were not varied.
    """

    learning_rate = 3e-3
    decay = 1e-2
    betas = (0.9, 0.98)
    warmup_share = 0.05
    clip_norm = 1.0  # nnU-Net clips at 12, before this

    def configure_optimizers(self) -> tuple[Optimizer, LRScheduler]:
        parameters = list(self.network.parameters())
        optimizer = AdamW(
            decayed_and_not(self.network, self.weight_decay),
            self.initial_lr,
            betas=self.betas,
            fused=has_fused_adam(self.device),
        )
        optimizer.register_step_pre_hook(lambda *_: clip(parameters, self.clip_norm))
        scheduler = WarmupCosineLR(
            optimizer, self.initial_lr, self.num_epochs, self.num_iterations_per_epoch, self.warmup_share
        )
        return optimizer, scheduler


class PaperRecipe(OwnRate):
    """Mixin: Adam from 1e-4 to 1e-6 by cosine annealing, weight decay 1e-5 (paper, training section)."""

    learning_rate = 1e-4
    final_lr = 1e-6
    decay = 1e-5

    def configure_optimizers(self) -> tuple[Optimizer, LRScheduler]:
        optimizer = Adam(
            self.network.parameters(),
            self.initial_lr,
            weight_decay=self.weight_decay,
            fused=has_fused_adam(self.device),
        )
        return optimizer, CosineLRScheduler(optimizer, self.initial_lr, self.final_lr, self.num_epochs)


def has_fused_adam(device: torch.device) -> bool:
    """One pass over the weights instead of ten: on a CPU the plain update took a sixth of a small step."""
    return device.type in ("cuda", "cpu")


def clip(parameters: list[torch.nn.Parameter], norm: float) -> None:
    """As torch's, without the norm that it returns: of an optimiser's hook that would be new arguments."""
    torch.nn.utils.clip_grad_norm_(parameters, norm)
